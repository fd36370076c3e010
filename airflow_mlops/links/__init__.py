"""Links from a task to MLflow and to the model server."""
