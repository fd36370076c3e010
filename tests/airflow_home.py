"""A home of Airflow with a database of its own, which was migrated once for all tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from airflow_mlops.engine.data.files import temporary_sibling
from airflow_mlops.engine.locks import locked
from tests.conftest import ROOT


def airflow_home(folder: Path) -> Path:
    """Make ``folder`` a home of Airflow and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(_migrated(), folder / "airflow.db")
    return folder


def _migrated() -> Path:
    database = ROOT / ".mlops" / "tests-airflow" / f"migrated-{version('apache-airflow')}.db"
    with locked(database.with_suffix(".lock")):
        if not database.exists():
            home = temporary_sibling(database)
            environment = {**os.environ, "AIRFLOW_HOME": str(home)}
            command = [Path(sys.executable).with_name("airflow"), "db", "migrate"]
            subprocess.run(command, env=environment, check=True, capture_output=True, timeout=400)
            (home / "airflow.db").rename(database)
            shutil.rmtree(home)
    return database
