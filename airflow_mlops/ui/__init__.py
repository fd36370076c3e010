"""What the API server shows under ``/mlops``. Imported only there: see :mod:`airflow_mlops.plugin`."""
