"""MLflow: runs, versions, aliases, and where each model comes from."""
