"""A real stack for end-to-end tests: on free ports, below a temporary folder, with the example's own code."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_mlops.demo import environment
from airflow_mlops.demo.airflow_api import AirflowApi
from airflow_mlops.demo.ports import Ports
from airflow_mlops.demo.stack import Stack
from airflow_mlops.demo.watch import Watcher

ROOT = Path(__file__).parent.parent.parent
SECRET = "planted-secret-9b1e"
"""Password of the connection to MLflow."""


@pytest.fixture(scope="module")
def dags(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example's DAG folder, with a pipeline that a month of data is enough for."""
    folder = tmp_path_factory.mktemp("e2e") / "dags"
    shutil.copytree(ROOT / "dags", folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(Path(__file__).parent / "dags", folder, dirs_exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def stack(dags: Path) -> Iterator[Stack]:
    """A stack that is not started yet; it is stopped, whatever happens."""
    with pytest.MonkeyPatch.context() as patch:
        connections = environment._connections

        def with_a_secret(*arguments: Any) -> dict[str, str]:
            made = connections(*arguments)
            mlflow = json.loads(made["AIRFLOW_CONN_MLFLOW_DEFAULT"])
            return made | {"AIRFLOW_CONN_MLFLOW_DEFAULT": json.dumps({**mlflow, "login": "me", "password": SECRET})}

        patch.setattr(environment, "_connections", with_a_secret)
        stack = Stack(dags.parent / "home", Ports.free(), dags=dags, feature_repo=ROOT / "feature_repo")
        yield stack
        stack.down()


@pytest.fixture(scope="module")
def watcher(stack: Stack) -> Iterator[Watcher]:
    """Runs DAGs on the stack."""
    with AirflowApi(stack.airflow_url) as airflow:
        yield Watcher(airflow, stack)
