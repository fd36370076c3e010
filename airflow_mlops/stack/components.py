"""The nine components of a stack: what each runs, and on which ports it listens."""

from __future__ import annotations

from airflow_mlops.stack.environment import Layout
from airflow_mlops.stack.ports import HOST, Ports
from airflow_mlops.stack.postgres import Postgres

AIRFLOW = ("api-server", "scheduler", "dag-processor", "triggerer")
COMPONENTS = ("postgres", "mlflow", "serving", "logs", *AIRFLOW, "watch")
LISTENS: dict[str, tuple[str, ...]] = {
    "api-server": ("airflow",),
    "mlflow": ("mlflow",),
    "serving": ("serving_grpc", "serving_rest"),
    "logs": ("logs",),
}


def module_and_flags(name: str, layout: Layout, ports: Ports, database: Postgres) -> list[str]:
    """Return what ``python -m`` runs as a component (PostgreSQL is no Python program)."""
    if name == "mlflow":
        return [
            "mlflow",
            "server",
            f"--host={HOST}",
            f"--port={ports.mlflow}",
            "--workers=1",
            f"--backend-store-uri={database.url('mlflow')}",
            f"--artifacts-destination={layout.artifacts}",
        ]
    if name == "serving":
        return [
            "airflow_mlops.cli",
            "serve",
            f"--port={ports.serving_grpc}",
            f"--rest_api_port={ports.serving_rest}",
            f"--model_config_file={layout.model_config}",
            "--model_config_file_poll_wait_seconds=10",
            "--allow_version_labels_for_unavailable_models=true",
            "--num_load_threads=2",
            "--num_unload_threads=2",
            "--max_num_load_retries=1",
            "--load_retry_interval_micros=2000000",
        ]
    if name == "logs":
        # Airflow asks a log server about tasks that run or wait, though it reads their logs on the disk that all share.
        # Those of its own components would listen on every interface.
        return [
            "uvicorn",
            "--factory",
            "airflow.utils.serve_logs.log_server:get_app",
            f"--host={HOST}",
            f"--port={ports.logs}",
        ]
    if name == "watch":
        return ["airflow_mlops.stack.watch", str(layout.home)]
    quiet = ["--skip-serve-logs"] if name in ("scheduler", "triggerer") else []
    return ["airflow", name, *quiet]
