"""The environment that every process of a stack gets: Airflow's settings, connections, telemetry off."""

from __future__ import annotations

import base64
import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from airflow_mlops.stack.ports import HOST, Ports
from airflow_mlops.stack.postgres import Postgres

FEAST_POOL = "feast"
BACKFILL_POOL = "backfill"
"""Airflow pool of one slot: two applies at once would undo each other in Feast's registry."""

# Settings of the user's shell must not leak into the stack; a proxy must not stand between its parts.
_STRIPPED = ("AIRFLOW", "MLFLOW", "_AIRFLOW", "_MLFLOW", "FEAST_", "PYTHONDONTWRITEBYTECODE", "VIRTUAL_ENV")

_NO_TELEMETRY = {
    "DO_NOT_TRACK": "1",
    "FEAST_TELEMETRY": "False",
    "FEAST_USAGE": "False",
    "GX_ANALYTICS_ENABLED": "False",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "SCARF_NO_ANALYTICS": "true",
    "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
}


@dataclass(frozen=True)
class Layout:
    """Where things lie below one home folder."""

    home: Path

    @property
    def airflow(self) -> Path:
        """``AIRFLOW_HOME``."""
        return self.home / "airflow"

    @property
    def database(self) -> Path:
        """PostgreSQL's data folder."""
        return self.home / "postgres"

    @property
    def artifacts(self) -> Path:
        """MLflow's artifacts."""
        return self.home / "mlflow" / "artifacts"

    @property
    def models(self) -> Path:
        """The model store that the server reads."""
        return self.home / "models"

    @property
    def model_config(self) -> Path:
        """The server's ``--model_config_file``."""
        return self.home / "serving" / "models.config"

    @property
    def run(self) -> Path:
        """What is running: state, secrets, lock."""
        return self.home / "run"

    @property
    def state(self) -> Path:
        """The processes that were started."""
        return self.run / "state.json"

    @property
    def logs(self) -> Path:
        """The processes' own output; the logs of tasks are Airflow's."""
        return self.home / "logs"

    def log(self, name: str) -> Path:
        """Return the log of a process."""
        return self.logs / f"{name}.log"


def process_environment(
    layout: Layout, ports: Ports, database: Postgres, *, dags: Path, feature_repo: Path
) -> dict[str, str]:
    """Return the environment of the stack's processes.

    :param dags: Folder with the DAG files.
    :param feature_repo: The Feast repository; without one there is no connection ``feast_default``.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(_STRIPPED)}
    no_proxy = ",".join(filter(None, [inherited.get("NO_PROXY", inherited.get("no_proxy", "")), HOST, "localhost"]))
    return {
        **inherited,
        **_NO_TELEMETRY,
        **_airflow(layout, ports, database, dags),
        **_connections(layout, ports, database, feature_repo),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "NO_PROXY": no_proxy,
        "no_proxy": no_proxy,
        "PYTHONUNBUFFERED": "1",
        # TensorFlow's INFO lines go to stderr, which task logs show as errors.
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }


def _airflow(layout: Layout, ports: Ports, database: Postgres, dags: Path) -> dict[str, str]:
    keys = _secrets(layout.run / "secrets.json")
    address = f"http://{HOST}:{ports.airflow}"
    plugins = dags.parent / "plugins"
    settings = {
        "CORE__DAGS_FOLDER": str(dags),
        "CORE__PLUGINS_FOLDER": str(plugins if plugins.is_dir() else layout.airflow / "plugins"),
        "CORE__LOAD_EXAMPLES": "False",
        "CORE__EXECUTOR": "LocalExecutor",
        "CORE__PARALLELISM": "4",
        "CORE__FERNET_KEY": keys["fernet_key"],
        "CORE__EXECUTION_API_SERVER_URL": f"{address}/execution/",
        "CORE__DAGBAG_IMPORT_TIMEOUT": "120",
        # Airflow's default. It is asked for with each templated field that is parsed, and the environment answers in a
        # quarter of the time.
        "CORE__MAX_TEMPLATED_FIELD_LENGTH": "4096",
        # Login-free, and therefore on the loopback interface only.
        "CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "DATABASE__SQL_ALCHEMY_CONN": database.url("airflow"),
        "DATABASE__SQL_ALCHEMY_CONN_ASYNC": database.url("airflow", "asyncpg"),
        "API__HOST": HOST,
        "API__PORT": str(ports.airflow),
        "API__BASE_URL": address,
        "API__WORKERS": "1",
        "API__SECRET_KEY": keys["api_secret_key"],
        "API_AUTH__JWT_SECRET": keys["jwt_secret"],
        # Look for work three times a second instead of once: ten times would keep a quarter of a core busy.
        "SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.3",
        "WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
        "API__EXPOSE_STACKTRACE": "True",  # to whom it runs for
        # What a killed scheduler or worker left is taken up again in half a minute, not in five. An API server that is
        # started again and back within this time costs no task.
        "WORKERS__MAX_FAILED_HEARTBEATS": "30",
        "WORKERS__EXECUTION_API_RETRIES": "12",
        "WORKERS__EXECUTION_API_RETRY_WAIT_MAX": "5",
        "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "25",
        "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "5",
        "SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "15",
        "SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "5",
        "DAG_PROCESSOR__REFRESH_INTERVAL": "10",
        "LOGGING__BASE_LOG_FOLDER": str(layout.airflow / "logs"),
        "LOGGING__WORKER_LOG_SERVER_PORT": str(ports.logs),
        "LOGGING__TRIGGER_LOG_SERVER_PORT": str(ports.logs),
        "CORE__HOSTNAME_CALLABLE": "airflow_mlops.stack.ports.loopback",
        "OPERATORS__DEFAULT_DEFERRABLE": "True",
        "MLOPS__HOME": str(layout.home),
        "MLOPS__FEAST_POOL": FEAST_POOL,
        "MLOPS__BACKFILL_POOL": BACKFILL_POOL,
    }
    return {"AIRFLOW_HOME": str(layout.airflow), **{f"AIRFLOW__{name}": value for name, value in settings.items()}}


def _connections(layout: Layout, ports: Ports, database: Postgres, feature_repo: Path) -> dict[str, str]:
    connections: Mapping[str, Mapping[str, object]] = {
        "mlflow_default": {"conn_type": "mlflow", "host": f"http://{HOST}:{ports.mlflow}"},
        **({"feast_default": {"conn_type": "feast", "host": str(feature_repo)}} if feature_repo.is_dir() else {}),
        "mlops_ledger_default": {"conn_type": "mlops_ledger", "host": database.url("mlops_ledger")},
        "tf_serving_default": {
            "conn_type": "tf_serving",
            "host": HOST,
            "port": ports.serving_rest,
            "extra": {
                "grpc_port": ports.serving_grpc,
                "model_base_path": str(layout.models),
                "model_config_file": str(layout.model_config),
            },
        },
    }
    return {f"AIRFLOW_CONN_{name.upper()}": json.dumps(value) for name, value in connections.items()}


def _secrets(path: Path) -> dict[str, str]:
    """Return this home's own keys, made on first use and readable by their owner only."""
    if path.exists():
        return dict(json.loads(path.read_text()))
    keys = {
        "fernet_key": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
        "api_secret_key": secrets.token_urlsafe(64),
        "jwt_secret": secrets.token_urlsafe(64),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(".tmp-secrets.json")
    staged.touch(mode=0o600)
    staged.write_text(json.dumps(keys))
    staged.replace(path)
    return keys
