"""The engine: plain Python that never imports Airflow and works in a notebook."""
