"""D12: validation reads one copy of the data, training another.

The suite passes on a copy of the snapshot; what is trained on has its labels turned round.
"""

from __future__ import annotations

import shutil
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowFailException

from airflow_mlops.contracts import Snapshot
from airflow_mlops.engine.data.parquet import parquet_files
from airflow_mlops.engine.data.partitions import batch_hash
from airflow_mlops.engine.data.snapshots import check_validated
from airflow_mlops.engine.data.validation import enforce, validate
from airflow_mlops.engine.evaluation.evaluate import score
from airflow_mlops.engine.training.inputs import read_inputs
from airflow_mlops.engine.training.launch import train
from airflow_mlops.exceptions import DataError
from airflow_mlops.operators.tensorflow import TensorFlowTrainOperator
from tests import warm_trainer
from tests.training_fixtures import START, flights, make_snapshot, make_spec, trained, write_snapshot

pytestmark = pytest.mark.drill


def validated(folder: Path) -> dict[str, str]:
    """Validate a snapshot's folder, and return what the validation task hands on."""
    import great_expectations.expectations as gxe

    rules = [
        gxe.ExpectColumnValuesToBeUnique(column="flight_id"),
        gxe.ExpectColumnMeanToBeBetween(column="late_15", min_value=0.05, max_value=0.6),
    ]
    result = validate(parquet_files(folder), rules, suite_name="snapshot", batch=str(folder))
    enforce(result)
    return {"batch_hash": result.batch_hash, "suite_hash": result.suite_hash}


def turned_round(table: pa.Table) -> pa.Table:
    return table.set_column(table.schema.get_field_index("late_15"), "late_15", pc.invert(table["late_15"]))


def faulty(home: Path, rows: int = 4000) -> Snapshot:
    """The other copy: the same flights, other labels."""
    good = make_snapshot(home, rows)
    tables = {name: turned_round(pq.read_table(Path(good.uri) / split.file)) for name, split in good.splits.items()}
    return write_snapshot(home, tables, "snap2")


def train_task(home: Path, snapshot: str, **arguments) -> None:
    with DAG("d", schedule=None):
        task = TensorFlowTrainOperator(
            task_id="train",
            home=str(home),
            model="flight_delay",
            snapshot=snapshot,
            entrypoint="flights.model:build",
            mlflow_conn_id=None,
            **arguments,
        )
    task.execute({})


def test_fault_guard_on(home):
    bad = faulty(home, 400)
    copy = home / "copy"
    shutil.copytree(home / "snapshots" / "snap1", copy)
    with pytest.raises(AirflowFailException, match=r"What was validated is not what would be trained on(.|\n)*fix:"):
        train_task(home, bad.id, validation=validated(copy))
    assert not (home / "trainings").exists()


def test_fault_guard_on_the_snapshot_was_edited_in_place(home):
    """Validated and then changed: the manifest still has the hash that was validated, the file has another."""
    snapshot = make_snapshot(home, 400)
    proof = validated(Path(snapshot.uri))
    file = Path(snapshot.uri) / "train.parquet"
    pq.write_table(turned_round(pq.read_table(file)), file)
    check_validated(snapshot, proof["batch_hash"])
    with pytest.raises(Exception, match="train split of snapshot 'snap1' is not what was written"):
        train(make_spec(snapshot, epochs=1), home / "trainings" / "t", timeout=300)
    with pytest.raises(DataError, match="What was validated"):
        check_validated(snapshot, batch_hash(parquet_files(Path(snapshot.uri))))


@pytest.mark.parametrize("proof", [{}, {"batch_hash": ""}, "None"])
def test_fault_guard_on_there_was_no_validation(proof, home):
    snapshot = make_snapshot(home, 400)
    with pytest.raises(AirflowFailException, match=r"There is no validation of what is to be trained on(.|\n)*fix:"):
        train_task(home, snapshot.id, validation=proof)


@pytest.mark.slow
def test_fault_guard_off(home):
    """The suite passed on the copy, and the model says that most flights will be late."""
    bad = faulty(home)
    validated(home / "snapshots" / "snap1")
    model = Path(warm_trainer.train(make_spec(bad), home / "trainings" / "t").saved_model)
    rows = flights(2000, 9, START)
    inputs = read_inputs(rows, bad.features)
    said = {"bad": score(model, inputs), "good": score(trained().path / "saved_model", inputs)}
    assert said["bad"].mean() > said["good"].mean() + 0.2


def test_no_fault(home):
    """Thirty snapshots, validated where they lie or moved with their home: what is trained on is what was validated."""
    for n in range(30):
        splits = enumerate(("train", "validation", "test"))
        rows = {name: flights(60, 3 * n + i, START + timedelta(days=i)) for i, name in splits}
        snapshot = write_snapshot(home, rows, f"snap{n}")
        check_validated(snapshot, batch_hash(parquet_files(Path(snapshot.uri))))
    moved = home.parent / "moved"
    shutil.move(home, moved)
    check_validated(snapshot, validated(moved / "snapshots" / snapshot.id)["batch_hash"])
    home.mkdir()
