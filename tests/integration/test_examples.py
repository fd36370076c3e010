"""The example DAGs of the reference, run one after the other on the orders of the guide's shop."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import great_expectations as gx
import great_expectations.expectations as gxe
import pytest

from airflow_mlops.engine.ledger import Ledger
from tests.airflow_home import airflow_home
from tests.conftest import ROOT
from tests.saved_models import make_saved_model
from tests.serving_fixtures import running_server
from tests.shop import connections, write_shop
from tests.training_fixtures import mlflow_server

EXAMPLES = ROOT / "docs" / "examples"
PARSED_ONLY = {
    "forward": "starts a DAG of a whole pipeline: tests/unit/test_runbook.py runs its task",
    "elsewhere_trained": "needs a cluster: tests/kubernetes and test_remote_training.py run its tasks",
}


@pytest.fixture(scope="module")
def states(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """What became of each task of each example."""
    shop = tmp_path_factory.mktemp("shop")
    write_shop(shop, days=45)
    (shop / "dags" / ".airflowignore").write_text("shop.py\n")
    make_saved_model(shop / "bought", 2.0)
    for file in (shop / "lake").rglob("*.csv"):
        os.utime(file, (0, 0))  # long at rest
    _payments(shop / "shop.db")
    _checkpoint(shop)
    ledger = Ledger(f"sqlite:///{shop}/ledger.db")
    with running_server(shop / "server") as server:
        environment = {
            **os.environ,
            **connections(shop, ledger.url),
            "AIRFLOW_CONN_TF_SERVING_DEFAULT": server.connection(),
            "AIRFLOW_CONN_MLFLOW_DEFAULT": json.dumps({"conn_type": "mlflow", "host": mlflow_server("examples")}),
            "AIRFLOW_CONN_SHOP_DB": json.dumps({"conn_type": "sqlite", "host": f"{shop}/shop.db"}),
            "AIRFLOW_HOME": str(airflow_home(shop / "airflow")),
            "AIRFLOW__CORE__DAGS_FOLDER": str(shop / "dags"),
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(shop / "dags")]),
        }
        with (shop / "output.txt").open("w") as output:
            done = subprocess.run(
                [sys.executable, str(ROOT / "tests" / "run_examples.py"), str(EXAMPLES)],
                cwd=shop, env=environment, stdout=output, stderr=output, timeout=900, check=False,
            )  # fmt: skip
    assert done.returncode == 0, (shop / "output.txt").read_text()[-8000:]
    return json.loads((shop / "states.json").read_text())


def test_every_example_runs(states: Mapping[str, str]):
    assert {task: state for task, state in states.items() if state != "success"} == {}


def test_every_example_is_run_or_said_why_not(states: Mapping[str, str]):
    assert {task.partition(".")[0] for task in states} | PARSED_ONLY.keys() == {
        example.stem for example in EXAMPLES.glob("*.py")
    }


def _payments(database: Path) -> None:
    with sqlite3.connect(database) as connection:
        connection.execute("CREATE TABLE payments (order_id TEXT, paid_at TIMESTAMP, amount REAL)")
        rows = [(f"0-{n}", f"2024-01-01T{n // 2:02}:30:00+00:00", 10.0 * n) for n in range(40)]
        connection.executemany("INSERT INTO payments VALUES (?, ?, ?)", rows)


def _checkpoint(shop: Path) -> None:
    """Make a project as Great Expectations itself makes it."""
    context = gx.get_context(mode="file", project_root_dir=shop / "project")
    lake = context.data_sources.add_pandas_filesystem("lake", base_directory=shop / "lake" / "orders")
    day = lake.add_csv_asset("orders").add_batch_definition_path("first", path="dt=2024-01-01/orders.csv")
    suite = context.suites.add(gx.ExpectationSuite("orders", [gxe.ExpectColumnValuesToNotBeNull(column="order_id")]))
    definition = context.validation_definitions.add(gx.ValidationDefinition(name="orders", data=day, suite=suite))
    context.checkpoints.add(gx.Checkpoint(name="orders", validation_definitions=[definition]))
