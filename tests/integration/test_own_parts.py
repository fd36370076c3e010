"""Parts of a stage that are somebody's own: validation, training, no Feast. The guide's example runs as printed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowFailException

from airflow_mlops.engine.data.partitions import PartitionStore
from airflow_mlops.engine.evaluation.approvals import last_verdicts
from airflow_mlops.engine.evaluation.evaluate import evaluate
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.engine.serving.golden import Golden
from airflow_mlops.engine.training.workdir import finished_training
from airflow_mlops.operators.tensorflow_adopt import TensorFlowAdoptModelOperator
from tests.airflow_home import airflow_home
from tests.conftest import ROOT
from tests.saved_models import INPUTS, make_saved_model
from tests.training_fixtures import make_snapshot, mlflow_server

CODE = """
import great_expectations as gx
import keras

def training_set():
    return [gx.expectations.ExpectColumnValuesToNotBeNull(column="price")]

def fit(data, spec, report):
    inputs = {name: keras.Input((), name=name) for name in data.inputs}
    numbers = keras.ops.stack(list(inputs.values()), axis=1)
    model = keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid")(numbers))
    model.compile(optimizer=keras.optimizers.Adam(0.1), loss="binary_crossentropy")
    losses = model.fit(data.train.tf_dataset(64, shuffle=spec.seed), epochs=spec.epochs, verbose=0).history["loss"]
    for epoch, loss in enumerate(losses):
        report(epoch=epoch + 1, loss=loss)
    return model
"""
RUN = """

if __name__ == "__main__":
    import sys
    from airflow.dag_processing.bundles.manager import DagBundlesManager
    from airflow.dag_processing.dagbag import DagBag, sync_bag_to_db

    DagBundlesManager().sync_bundles_to_db()
    bag = DagBag(__file__)
    assert not bag.import_errors, bag.import_errors
    sync_bag_to_db(bag, "dags-folder", None)
    for day in ("2024-01-01", "2024-01-02"):
        made = DagBag(__file__).dags["orders_nightly"].test(run_conf={"day": day})
        states = {ti.task_id: str(ti.state) for ti in made.get_task_instances()}
        Path(sys.argv[1], day).write_text(__import__("json").dumps(states))
"""


def land(home: Path, day: str, *, free: int) -> None:
    rng = np.random.default_rng(3)
    count = 400
    price = rng.uniform(1, 3, count)
    price[:free] = 0
    items = rng.integers(1, 9, count)
    at = np.datetime64(day, "us") + (np.arange(count) * 60_000_000).astype("timedelta64[us]")
    table = {
        "order_id": [f"{day}/{n}" for n in range(count)],
        "ordered_at": pa.array(at, pa.timestamp("us", "UTC")),
        "price": price,
        "items": items,
        "returned": rng.random(count) < 1 / (1 + np.exp(-(items - 4.5))),
        "decided_at": pa.array(at + np.timedelta64(1, "D"), pa.timestamp("us", "UTC")),
    }
    folder = home / "lake" / "orders" / day
    folder.mkdir(parents=True)
    pq.write_table(pa.table(table), folder / "orders.parquet")
    (folder / "_SUCCESS").touch()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    home, dags = folder / "home", folder / "dags"
    dags.mkdir()
    land(home, "2024-01-01", free=0)
    land(home, "2024-01-02", free=3)
    [example] = [
        block
        for block in re.findall(
            r"^```python\n(.*?)^```$", (ROOT / "docs" / "pipelines" / "stages.md").read_text(), re.M | re.S
        )
        if "orders_nightly" in block
    ]
    (dags / "orders_nightly.py").write_text(example + RUN)
    (dags / "code.py").write_text(CODE)
    environment = {
        **{name: value for name, value in os.environ.items() if "FEAST" not in name},
        "PYTHONPATH": str(ROOT),
        "AIRFLOW_HOME": str(airflow_home(folder / "airflow")),
        "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__MLOPS__HOME": str(home),
        "AIRFLOW_CONN_MLOPS_LEDGER_DEFAULT": json.dumps(
            {"conn_type": "mlops_ledger", "host": f"sqlite:///{home}/ledger.db"}
        ),
        "AIRFLOW_CONN_MLFLOW_DEFAULT": json.dumps({"conn_type": "mlflow", "host": mlflow_server()}),
    }
    command = [sys.executable, dags / "orders_nightly.py", folder]
    done = subprocess.run(
        command, env=environment, cwd=folder, capture_output=True, text=True, timeout=400, check=False
    )
    (folder / "log").write_text(done.stdout + done.stderr)
    assert (folder / "2024-01-02").exists(), (folder / "log").read_text()[-6000:]
    return home


def states(home: Path, day: str) -> dict[str, str]:
    return json.loads((home.parent / day).read_text())


@pytest.mark.slow
def test_the_example_makes_a_judged_model_without_feast(home: Path):
    found = states(home, "2024-01-01")
    assert set(found.values()) == {"success"}, (found, (home.parent / "log").read_text()[-6000:])
    assert {"partitions.orders.prices_are_paid", "partitions.orders.record_validation", "training_set", "tell"} <= set(
        found
    )
    assert not [task for task in found if "feature" in task or "materialize" in task]
    ledger = Ledger(f"sqlite:///{home}/ledger.db")
    [[version, verdict]] = last_verdicts(ledger, "orders").items()
    assert (version, verdict["status"]) == (1, "PASS")
    [sealed] = ledger.facts("validation", "orders", key="2024-01-01", limit=None)[-1:]
    assert sealed.payload["suite"] == "task partitions.orders.prices_are_paid"
    assert sealed.payload["rows"] == 400


@pytest.mark.slow
def test_what_an_own_validation_refuses_is_not_sealed(home: Path):
    found = states(home, "2024-01-02")
    assert found["partitions.orders.prices_are_paid"] == "failed"
    assert found["partitions.orders.seal"] == found["tell"] == "upstream_failed"
    assert PartitionStore.under(home).keys("orders") == ["2024-01-01"]


class TaskInstance(SimpleNamespace):
    """As much of a running task as the operator looks at."""

    def xcom_push(self, key: str, value: object) -> None:
        """Take what is pushed."""


def test_a_model_of_ones_own_task_is_a_training_like_any_other(tmp_path: Path):
    snapshot = make_snapshot(tmp_path, rows=200)
    inputs = {name: kind for name, kind in INPUTS.items() if name in snapshot.features}
    model = make_saved_model(tmp_path / "mine", 0.5, inputs)

    def adopted(folder: Path) -> dict:
        with DAG("d", schedule=None):
            task = TensorFlowAdoptModelOperator(
                task_id="adopt",
                model="m",
                snapshot=snapshot.id,
                saved_model=str(folder),
                home=str(tmp_path),
                ledger_conn_id=None,
                mlflow_conn_id=None,
            )
        return task.execute({"ti": TaskInstance(run_id="r", dag_id="d")})

    first = adopted(model)
    spec, result = finished_training(Path(first["training"]))
    assert Golden.read(Path(result.saved_model))
    assert evaluate(spec.snapshot, Path(result.saved_model)).metrics["challenger"]["auc"] is not None
    assert adopted(model)["training"] == first["training"], "the same files are the same training"
    other = adopted(make_saved_model(tmp_path / "other", 0.7, inputs))
    assert other["spec_hash"] != first["spec_hash"]
    wrong = make_saved_model(tmp_path / "wrong", 0.5, {"nonsense": "float32"})
    with pytest.raises(AirflowFailException, match="takes an input 'nonsense'"):
        adopted(wrong)
