"""Parse time is sacred: nothing heavy is imported and nothing is looked up when a DAG file is read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.contract.classes import public_modules

HEAVY = (
    "tensorflow", "keras", "feast", "great_expectations", "mlflow", "grpc", "pandas", "numpy", "pyarrow", "duckdb",
    "boto3", "kubernetes", "sklearn", "fastapi", "alembic", "airflow_mlops.engine",
)  # fmt: skip
DAG_FILES = sorted((ROOT / "dags").glob("*.py"))

PROBE = """
import importlib, json, runpy, sys
before = set(sys.modules)
for name in {modules!r}:
    importlib.import_module(name)
for path in {files!r}:
    runpy.run_path(path)
heavy = {heavy!r}
print(json.dumps(sorted(m for m in set(sys.modules) - before
                        if m in heavy or m.startswith(tuple(h + "." for h in heavy)))))
"""


def probe(modules: list[str], files: list[str]) -> list[str]:
    """Import in a process of its own that cannot open a connection; return the heavy modules it loaded."""
    code = PROBE.format(modules=modules, files=files, heavy=HEAVY)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("AIRFLOW_CONN_")}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_public_modules_and_dag_files_load_nothing_heavy():
    assert probe(public_modules(), [str(path) for path in DAG_FILES]) == []


def test_the_probe_would_notice():
    assert "pandas" in probe(["pandas"], [])


@pytest.mark.parametrize("path", DAG_FILES, ids=lambda path: path.stem)
def test_dag_file_parses_without_any_connection(path: Path, monkeypatch):
    from airflow.dag_processing.dagbag import DagBag

    for name in [name for name in os.environ if name.startswith("AIRFLOW_CONN_")]:
        monkeypatch.delenv(name)
    bag = DagBag(dag_folder=str(path))
    assert bag.import_errors == {}
    assert bag.dags


def test_the_pipeline_gives_its_dags():
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(dag_folder=str(ROOT / "dags" / "flight_delay.py"))
    assert set(bag.dags) == {
        f"flight_delay.{name}"
        for name in (
            "features",
            "history",
            "backfill",
            "train",
            "deploy",
            "runbook",
            "rollback",
            "roll_through",
            "exclude",
            "rerun",
            "sources",
        )
    }
    for dag in bag.dags.values():
        several = {"flight_delay.train": 4, "flight_delay.runbook": 16, "flight_delay.backfill": 16}
        assert dag.max_active_runs == several.get(dag.dag_id, 1)
        for task in dag.tasks:
            assert task.execution_timeout or getattr(task, "deferrable", False), task.task_id
