"""Projects as `airflow-mlops new` writes them, from orders in a file, in a bucket, in a database."""

from __future__ import annotations

import csv
import importlib
import re
import shlex
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import ModuleType

from tests.shop import write_shop

RUFF = Path(sys.executable).with_name("ruff")
OPTIONS = ["--time", "ordered_at", "--entity", "order_id"]


def write_orders(folder: Path, *, days: int = 60, orders: int = 40) -> Path:
    """Write the orders of a shop into one CSV file, and return it."""
    (folder / "shop").mkdir()
    write_shop(folder / "shop", more=True, days=days, orders=orders)
    file = folder / "orders.csv"
    with file.open("w", newline="") as target:
        for n, landed in enumerate(sorted((folder / "shop" / "lake").rglob("*.csv"))):
            lines = landed.read_text().splitlines(keepends=True)
            target.writelines(lines[bool(n) :])
    return file


def into_database(file: Path, database: Path) -> None:
    """Put orders into table ``orders`` of a SQLite file."""
    with closing(sqlite3.connect(database)) as connection, file.open() as rows:
        connection.execute(
            "CREATE TABLE orders (order_id TEXT, customer TEXT, ordered_at TEXT, price REAL, returned INTEGER, "
            "decided_at TEXT, refund REAL, reason TEXT, weight INTEGER)"
        )
        for row in csv.DictReader(rows):
            row["returned"], row["refund"] = row["returned"] == "True", row["refund"] or None
            connection.execute(f"INSERT INTO orders VALUES ({', '.join('?' * len(row))})", list(row.values()))
        connection.commit()


def commands(project: Path, *verbs: str) -> list[list[str]]:
    """Return the arguments of the commands in a project's README that begin with one of these verbs."""
    text = (project / "README.md").read_text()
    return [
        shlex.split(line) for line in re.findall(rf"^\$ airflow-mlops ((?:{'|'.join(verbs)}) .*)$", text, re.MULTILINE)
    ]


@contextmanager
def importable(project: Path) -> Iterator[None]:
    """Let the modules of a project be imported, and forget them after."""
    folders = [str(project / name) for name in ("dags", "feature_repo", "tests")]
    names = {file.stem for folder in folders for file in Path(folder).glob("*.py")}
    sys.path[:0] = folders
    try:
        yield
    finally:
        for folder in folders:
            sys.path.remove(folder)
        for name in names:
            sys.modules.pop(name, None)


def check_project(project: Path) -> ModuleType:
    """See that the files of a project are clean, that its DAGs can be made, and that its own tests pass."""
    for check in (["check"], ["format", "--check"]):
        done = subprocess.run([RUFF, *check, "."], cwd=project, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout
    with importable(project):
        tests = importlib.import_module(f"test_{project.name}")
        run = [getattr(tests, name) for name in dir(tests) if name.startswith("test_")]
        assert len(run) == 2
        for test in run:
            test()
        return importlib.import_module(f"{project.name}_data")
