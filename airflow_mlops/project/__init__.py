"""A project of one's own: what ``airflow-mlops new`` decides, and the files that it writes."""
