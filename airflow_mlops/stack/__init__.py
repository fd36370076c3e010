"""A real installation for one folder of DAGs: PostgreSQL, Airflow, MLflow and a model server on this machine."""
