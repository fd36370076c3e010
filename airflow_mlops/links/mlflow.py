"""Links to MLflow's pages."""

from __future__ import annotations

from airflow_mlops.links.base import XComLink


class MLflowRunLink(XComLink):
    """To the run that keeps what a training was told and what came out."""

    name = "MLflow run"
    key = "mlflow_run_link"


class MLflowModelVersionLink(XComLink):
    """To the registered version, its aliases and its verdict."""

    name = "MLflow model version"
    key = "mlflow_model_version_link"
