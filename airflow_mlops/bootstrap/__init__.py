"""From an empty stack to a served prediction: what ``airflow-mlops stack up --until-served`` does, and the demo."""
