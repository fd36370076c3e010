"""A real triggerer tells of the moves of an alias, over a restart, and keeps in Airflow's database what it told."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from tests.integration.test_registry_versions import Plain
from tests.training_fixtures import mlflow_server

pytestmark = pytest.mark.slow

DAG = """
from airflow.sdk import DAG, Asset, AssetWatcher, task

from airflow_mlops.triggers.mlflow import MLflowAliasEventTrigger

moved = Asset(
    "moved", watchers=[AssetWatcher(name="alias", trigger=MLflowAliasEventTrigger(model="{}", poll_interval=0.3))]
)
with DAG("woken", schedule=[moved]):

    @task
    def look() -> None:
        pass

    look()
"""


class Airflow:
    """A database of Airflow's, and commands on it."""

    def __init__(self, folder: Path, dags: Path) -> None:
        self.folder = folder
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "_AIRFLOW"))}
        self.environment = {
            **inherited,
            "AIRFLOW_HOME": str(folder),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
            "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
            "AIRFLOW__API_AUTH__JWT_SECRET": "j" * 64,
            "AIRFLOW_CONN_MLFLOW_DEFAULT": json.dumps({"conn_type": "mlflow", "host": mlflow_server()}),
        }

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "airflow", *words]

    def call(self, *words: str) -> None:
        done = subprocess.run(
            self.command(*words), env=self.environment, capture_output=True, text=True, check=False, timeout=180
        )
        assert done.returncode == 0, done.stderr

    @contextmanager
    def triggerer(self) -> Iterator[None]:
        log = self.folder / "triggerer.log"
        with log.open("ab") as out:
            process = subprocess.Popen(
                self.command("triggerer", "--skip-serve-logs"),
                env=self.environment,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        try:
            yield
        except AssertionError as error:
            raise AssertionError(log.read_text()[-4000:]) from error
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def rows(self, query: str) -> list[Any]:
        with closing(sqlite3.connect(self.folder / "airflow.db", timeout=30)) as database:
            return [json.loads(row[0]) for row in database.execute(query)]

    @property
    def told(self) -> list[int]:
        return [extra["payload"]["version"] for extra in self.rows("select extra from asset_event order by id")]

    @property
    def kept(self) -> list[int]:
        return [value["version"] for value in self.rows("select value from asset_state_store")]


def until(there: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not there():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_triggerer_tells_each_move_once_also_when_it_starts_again(tmp_path: Path):
    client = MlflowClient(mlflow_server(), mlflow_server())
    plain = Plain(client)
    for _ in range(3):
        plain.bare()
    plain.alias("champion", "1")
    (tmp_path / "dags").mkdir()
    (tmp_path / "dags" / "woken.py").write_text(DAG.format(plain.name))
    airflow = Airflow(tmp_path / "airflow", tmp_path / "dags")
    airflow.call("db", "migrate")
    airflow.call("dags", "reserialize")

    with airflow.triggerer():
        until(lambda: airflow.kept == [1])
        plain.alias("champion", "2")
        until(lambda: airflow.kept == [2])
        assert airflow.told == [2]
    plain.alias("champion", "3")
    with airflow.triggerer():
        until(lambda: airflow.kept == [3])
    assert airflow.told == [2, 3]
