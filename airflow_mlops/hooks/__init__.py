"""Hooks: Airflow connections turned into clients."""
