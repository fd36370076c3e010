"""What must be there before anything starts: secrets, folders, databases. Every step may be repeated.

``prepare.py secrets`` runs as root, before all others, without a network: it makes what is missing and gives it to
whoever reads it. ``prepare.py migrate`` runs as everybody else, once the database answers.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from urllib.parse import quote

SECRETS = Path("/secrets")
"""A volume for each service that reads some: none sees those of another."""

MLOPS = 50000
"""User of the images that are built here."""

DATABASES = ("airflow", "mlflow", "mlops_ledger")


def make_secrets() -> None:
    """Write each secret that is not there yet. What somebody put there stays."""
    password = lambda: secrets.token_urlsafe(24)  # noqa: E731
    long = lambda: secrets.token_urlsafe(64)  # noqa: E731
    fernet = lambda: base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()  # noqa: E731
    superuser, broker = _once("postgres/password", password), _once("redis/password", password)
    passwords = {name: _once(f"airflow/postgres_{name}", password) for name in DATABASES}
    access, key = _once("storage/access_key", lambda: secrets.token_hex(10)), _once("storage/secret_key", password)
    tracking = _once("mlflow/admin_password", password)
    _once("mlflow/flask_key", long)
    for name, kind in (("fernet_key", fernet), ("api_secret_key", long), ("jwt_secret", long), ("home_id", password)):
        _once(f"airflow/{name}", kind)
    admin = _once("airflow/admin_password", password)

    # Made of the others, and therefore anew each time.
    postgres, redis = os.environ["POSTGRES"], os.environ["REDIS"]
    urls = {name: f"//{name}:{quote(passwords[name], safe='')}@{postgres}/{name}" for name in DATABASES}
    _write("airflow/postgres_superuser", superuser)
    _write("airflow/database_url", f"postgresql+psycopg2:{urls['airflow']}")
    _write("airflow/database_url_async", f"postgresql+asyncpg:{urls['airflow']}")
    _write("airflow/result_backend", f"db+postgresql+psycopg2:{urls['airflow']}")
    _write("airflow/broker_url", f"redis://:{quote(broker, safe='')}@{redis}/0")
    _write("airflow/connections.json", json.dumps(_connections(urls["mlops_ledger"], tracking), indent=2))
    if not (SECRETS / "airflow/passwords.json").exists():
        _write("airflow/passwords.json", json.dumps({"admin": admin}), mode=0o600)
    _write("mlflow/database_url", f"postgresql+psycopg2:{urls['mlflow']}")
    _write("mlflow/access_key", access)
    _write("mlflow/secret_key", key)
    _write("mlflow/auth.ini", _mlflow_auth(urls["mlflow"], tracking))
    # These run as users of images of their own.
    for public in ("postgres/password", "redis/password", "storage/access_key", "storage/secret_key"):
        (SECRETS / public).chmod(0o444)


def make_folders() -> None:
    """Make the shared folders, and give them to the user that writes there."""
    home = Path(os.environ["AIRFLOW__MLOPS__HOME"])
    config = home / "serving" / "models.config"
    for folder in (
        home,
        home / "models",
        config.parent,
        home / "run",
        home / "run" / "hosts",
        Path("/opt/airflow/logs"),
    ):
        folder.mkdir(parents=True, exist_ok=True)
        os.chown(folder, MLOPS, 0)
    os.chown("/storage", MLOPS, 0)
    # The server reads it at its start; the first deployment writes it.
    config.touch()
    marker = home / "run" / "home_id"
    marker.write_text((SECRETS / "airflow/home_id").read_text())
    for file in (config, marker):
        os.chown(file, MLOPS, 0)


def migrate() -> None:
    """Make the databases and their users, bring Airflow's tables up to date, make the pools."""
    _make_databases()
    marker = SECRETS / "airflow/migrated"
    now = version("apache-airflow-core")
    if marker.exists() and marker.read_text() == now:
        return
    marker.unlink(missing_ok=True)
    _run("airflow", "db", "migrate")
    for name, slots, about in POOLS:
        if subprocess.run(["airflow", "pools", "get", name], capture_output=True, check=False).returncode != 0:
            _run("airflow", "pools", "set", name, slots, about)
    marker.write_text(now)


POOLS = (
    ("feast", "1", "One apply to Feast's registry at a time"),
    ("backfill", "2", "Backfills, of all models"),
    ("gpu", "1", "A slot for each GPU"),
)


def _make_databases() -> None:
    import psycopg2
    from psycopg2 import sql

    host, _, port = os.environ["POSTGRES"].partition(":")
    password = (SECRETS / "airflow/postgres_superuser").read_text()
    deadline = time.monotonic() + 120
    while True:
        try:
            server = psycopg2.connect(host=host, port=port, user="postgres", password=password, dbname="postgres")
            break
        except psycopg2.OperationalError as error:
            if time.monotonic() > deadline:
                raise SystemExit(
                    f"PostgreSQL at {host}:{port} lets nobody in: {error}\nIf its volume is older than the secrets, "
                    "put its password into the file /secrets/postgres/password, or remove both volumes."
                ) from None
            time.sleep(1)
    server.autocommit = True
    with server.cursor() as cursor:
        for name in DATABASES:
            own = (SECRETS / f"airflow/postgres_{name}").read_text()
            cursor.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (name,))
            verb = "ALTER" if cursor.fetchone() else "CREATE"
            role = sql.SQL(verb + " ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(name), sql.Literal(own))
            cursor.execute(role)
            cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,))
            if not cursor.fetchone():
                cursor.execute(sql.SQL("CREATE DATABASE {0} OWNER {0}").format(sql.Identifier(name)))
    server.close()


def _connections(ledger: str, tracking_password: str) -> dict[str, dict[str, object]]:
    home = os.environ["AIRFLOW__MLOPS__HOME"]
    return {
        "mlflow_default": {
            "conn_type": "mlflow",
            "host": os.environ["MLFLOW"],
            "login": "admin",
            "password": tracking_password,
        },
        "feast_default": {"conn_type": "feast", "host": "/opt/airflow/feature_repo"},
        "mlops_ledger_default": {"conn_type": "mlops_ledger", "host": f"postgresql+psycopg2:{ledger}"},
        "tf_serving_default": {
            "conn_type": "tf_serving",
            "host": "serving",
            "port": 8501,
            "extra": {
                "grpc_port": 8500,
                "model_base_path": f"{home}/models",
                "model_config_file": f"{home}/serving/models.config",
            },
        },
    }


def _mlflow_auth(database: str, password: str) -> str:
    settings = {
        "default_permission": "READ",
        "database_uri": f"postgresql+psycopg2:{database}",
        "admin_username": "admin",
        "admin_password": password,
        "authorization_function": "mlflow.server.auth:authenticate_request_basic_auth",
    }
    return "\n".join(["[mlflow]", *(f"{name} = {value.replace('%', '%%')}" for name, value in settings.items())])


def _once(name: str, make: Callable[[], str]) -> str:
    """Return a secret; make it if nobody did."""
    path = SECRETS / name
    if not path.exists():
        _write(name, make())
    return path.read_text().strip()


def _write(name: str, value: str, mode: int = 0o400) -> None:
    path = SECRETS / name
    staged = path.with_name(f".{path.name}")
    staged.unlink(missing_ok=True)
    staged.touch(mode=0o600)
    staged.write_text(value)
    os.chown(staged, MLOPS, 0)
    staged.chmod(mode)
    staged.replace(path)


def _run(*command: str) -> None:
    done = subprocess.run(command, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} exited with {done.returncode}: see above.")


if __name__ == "__main__":
    if sys.argv[1:] == ["secrets"]:
        for folder in SECRETS.iterdir():
            os.chown(folder, MLOPS, 0)
        make_secrets()
        make_folders()
    elif sys.argv[1:] == ["migrate"]:
        migrate()
    else:
        raise SystemExit("prepare.py secrets, or prepare.py migrate")
