"""Projects as `airflow-mlops new` writes them, from orders in a file, in a bucket, in a database."""

from __future__ import annotations

import csv
import importlib
import json
import re
import shlex
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from types import ModuleType

import pytest

from airflow_mlops import cli
from airflow_mlops.commands.history import load_pipeline
from airflow_mlops.contracts import Snapshot
from airflow_mlops.engine.data.snapshots import load_snapshot
from airflow_mlops.engine.features.governance.consumers import record_model
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.engine.serving.model_store import publish
from airflow_mlops.engine.serving.rollout import Rollout
from tests.serving_fixtures import put_into_service, rollout_of, running_server
from tests.shop import connections, write_shop
from tests.training_fixtures import make_spec
from tests.warm_trainer import train

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


class TaskInstance:
    """As much of a running task as the operators look at."""

    def xcom_push(self, key: str, value: object) -> None:
        """Take the link that the task pushes."""


def run_to_a_prediction(
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    then: Callable[[list[str], Rollout, Path], None] = lambda *_: None,
    *,
    ask: Sequence[str] = (),
) -> Snapshot:
    """Do what the project's README says up to a prediction, and return what was trained on.

    :param then: Called while it serves, with the options of where all is, the rollout and the model that was trained.
    :param ask: The command that asks for it; default is that of the README.
    """
    name, home, ledger = project.name, project / ".mlops", Ledger(f"sqlite:///{project}/ledger.db")
    monkeypatch.chdir(project)
    for variable, value in connections(project, ledger.url).items():
        monkeypatch.setenv(variable, value)
    place = ["--home", str(home), "--ledger", ledger.url]
    with importable(project):
        for command in commands(project, "history", "features"):
            assert cli.main([*command, *place]) == 0
        _, pipeline = load_pipeline(f"dags/{name}.py:{name}")
        task = pipeline.dags()[f"{name}_train"].get_task("snapshot")
        [trigger] = [one for one in commands(project, "stack") if "--conf" in one]
        task.as_of, task.window, task.exclude = json.loads(trigger[-1])["as_of"], pipeline.train.window, ""
        task.weight, task.without_slices, task.entities = pipeline.label.weight, {}, ""
        snapshot = load_snapshot(home, task.execute({"ti": TaskInstance()})["id"])
        record_model(ledger, name, 1, snapshot)
        entry = {"fit": pipeline.train.fit} if pipeline.train.fit else {"entrypoint": pipeline.train.entrypoint}
        code = {"code_path": str(project / "dags"), "entrypoint": "", **entry}
        spec = make_spec(snapshot, model=name, epochs=3, batch_size=pipeline.train.batch_size, **code)
        trained = train(spec, home / "trainings" / spec.hash[:16])
        with running_server(project / "server") as server, rollout_of(server, name, ledger) as rollout:
            monkeypatch.setenv("AIRFLOW_CONN_TF_SERVING_DEFAULT", server.connection())
            publish(Path(trained.saved_model), rollout.base, 1)
            put_into_service(rollout, 1)
            assert cli.main([*(ask or commands(project, "ask")[0]), *place]) == 0
            then(place, rollout, Path(trained.saved_model))
    return snapshot
