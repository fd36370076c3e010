"""What runs in the containers before their component does: start.sh and prepare.py, without a container."""

from __future__ import annotations

import configparser
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from sqlalchemy.engine import make_url

DOCKER = Path(__file__).parent.parent.parent / "docker"


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    folder = tmp_path / "secrets"
    for service in ("airflow", "mlflow", "postgres", "redis", "storage"):
        (folder / service).mkdir(parents=True)
    return folder


# --- start.sh -----------------------------------------------------------------------------------------------------


def start(secrets: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run start.sh with ``/secrets`` elsewhere, and ``env`` as the component."""
    script = (DOCKER / "start.sh").read_text().replace("/secrets", str(secrets))
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # as the image has it
    given = {"PATH": path, "MIGRATED": "no", "WAIT_SECONDS": "-1", **environment}
    return subprocess.run(
        ["bash", "-c", script, "start.sh", "env"], env=given, capture_output=True, text=True, check=False
    )


def test_what_it_waits_for_in_vain_is_said_with_where_to_look(secrets: Path) -> None:
    without_secret = start(secrets, NEEDS="airflow/connections.json")
    assert without_secret.returncode == 1
    assert "connections.json is still missing. The service 'secrets' writes it: see its log." in without_secret.stderr
    without_server = start(secrets, WAIT_FOR="127.0.0.1:1")
    assert without_server.returncode == 1
    assert "gave up: 127.0.0.1:1 is still missing. See the log of that service." in without_server.stderr
    without_tables = start(secrets, MIGRATED="yes")
    assert without_tables.returncode == 1
    assert "is still missing. The service 'migrate' prepares it: see its log." in without_tables.stderr


def test_a_home_that_is_not_shared_is_refused_in_words(secrets: Path, tmp_path: Path) -> None:
    (secrets / "airflow" / "home_id").write_text("ours")
    home = tmp_path / "home"
    (home / "run").mkdir(parents=True)
    alone = start(secrets, AIRFLOW__MLOPS__HOME=str(home))
    assert alone.returncode == 1
    assert f"{home} is not the volume that the other services have as their home." in alone.stderr
    assert "Mount the same volume there in every service" in alone.stderr
    (home / "run" / "home_id").write_text("ours")
    assert start(secrets, AIRFLOW__MLOPS__HOME=str(home)).returncode == 0
    assert len(list((home / "run" / "hosts").iterdir())) == 1, "the mark by which doctor knows who shares it"


def test_secrets_by_file_become_variables_of_the_component_alone(secrets: Path) -> None:
    (secrets / "mlflow" / "flask_key").write_text("abc")
    said = start(secrets, KEY_FILE=f"{secrets}/mlflow/flask_key", OTHER_FILE="/somewhere/else").stdout.splitlines()
    assert "KEY=abc" in said
    assert not [line for line in said if line.startswith("OTHER=")]


# --- prepare.py ---------------------------------------------------------------------------------------------------


@pytest.fixture
def prepare(secrets: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("prepare", DOCKER / "prepare.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "SECRETS", secrets)
    monkeypatch.setattr(os, "chown", lambda *_: None)  # that is root's
    places = {"POSTGRES": "postgres:5432", "REDIS": "redis:6379", "MLFLOW": "http://mlflow:5000"}
    for name, value in {**places, "AIRFLOW__MLOPS__HOME": "/srv/mlops"}.items():
        monkeypatch.setenv(name, value)
    return module


def written(secrets: Path) -> dict[str, str]:
    return {str(file.relative_to(secrets)): file.read_text() for file in secrets.rglob("*") if file.is_file()}


def test_secrets_are_made_once_and_no_two_are_the_same(prepare: ModuleType, secrets: Path) -> None:
    prepare.make_secrets()
    first = written(secrets)
    prepare.make_secrets()
    assert written(secrets) == first
    passwords = [first[name] for name in first if "password" in name or name.startswith("airflow/postgres_")]
    made = {*passwords, *(first[f"airflow/{name}"] for name in ("fernet_key", "api_secret_key", "jwt_secret"))}
    assert len(made) >= 9
    assert min(map(len, made)) >= 32
    assert all(not file.stat().st_mode & 0o022 for file in secrets.rglob("*") if file.is_file())


def test_a_secret_of_ones_own_may_have_what_means_something_in_a_url(prepare: ModuleType, secrets: Path) -> None:
    own = "p@ss/w%rd:1,#2"
    for name in ("airflow/postgres_airflow", "airflow/postgres_mlflow", "redis/password", "mlflow/admin_password"):
        (secrets / name).write_text(own)
    prepare.make_secrets()
    made = written(secrets)
    for name in ("airflow/database_url", "airflow/database_url_async", "mlflow/database_url"):
        url = make_url(made[name])
        assert (url.password, url.host, url.port) == (own, "postgres", 5432)
    assert make_url(made["airflow/broker_url"]).password == own
    auth = configparser.ConfigParser()
    auth.read_string(made["mlflow/auth.ini"])
    assert auth["mlflow"]["admin_password"] == own
    assert make_url(auth["mlflow"]["database_uri"]).password == own
    connections: dict[str, Any] = json.loads(made["airflow/connections.json"])
    assert connections["mlflow_default"]["password"] == own
