"""Training on files that somebody brings along: frozen, guarded, trained on, judged and registered like any other."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from airflow.sdk.exceptions import AirflowFailException
from mlflow import MlflowClient

from airflow_mlops.contracts import Snapshot
from airflow_mlops.engine.data.partitions import batch_hash
from airflow_mlops.engine.data.snapshots import read_split
from airflow_mlops.engine.training import own_data
from airflow_mlops.engine.training.own_data import OwnColumns, snapshot_of_files
from airflow_mlops.exceptions import ConfigError, DataError, MlopsError
from airflow_mlops.operators.mlflow import MLflowJudgeModelOperator, MLflowRegisterModelOperator
from airflow_mlops.operators.tensorflow import TensorFlowEvaluateModelOperator, TensorFlowTrainOperator
from tests.integration.test_model_operators import Pipeline
from tests.training_fixtures import mlflow_server

FIT = """
import keras

def fit(data, spec, report):
    inputs = {name: keras.Input((), name=name, dtype="string" if kind == "string" else "float32")
              for name, kind in data.inputs.items()}
    texts = [keras.layers.StringLookup(vocabulary=["red", "blue"], output_mode="one_hot")(
        keras.ops.expand_dims(one, 1)) for name, one in inputs.items() if data.inputs[name] == "string"]
    numbers = [keras.ops.stack([one for name, one in inputs.items() if data.inputs[name] != "string"], axis=1)]
    both = keras.layers.Concatenate()(numbers + texts)
    model = keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid")(both))
    model.compile(optimizer=keras.optimizers.Adam(0.1), loss="binary_crossentropy")
    history = model.fit(data.train.tf_dataset(64, shuffle=spec.seed), epochs=spec.epochs, verbose=0).history
    for epoch, loss in enumerate(history["loss"]):
        report(epoch=epoch + 1, loss=loss)
    return model
"""


def rows(count: int, seed: int, **more: Any) -> pa.Table:
    rng = np.random.default_rng(seed)
    size, colour = rng.normal(size=count), rng.choice(["red", "blue"], count)
    chance = 1 / (1 + np.exp(-(2 * size + (colour == "red"))))
    columns = {
        "id": [f"{seed}-{n}" for n in range(count)], "size": size, "colour": pa.array(colour).dictionary_encode(),
        "many": rng.integers(0, 9, count), "sold": rng.random(count) < chance, "counts": rng.integers(1, 4, count),
    }  # fmt: skip
    return pa.table(columns | more)


def write(folder: Path, *tables: pa.Table) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for place, table in enumerate(tables):
        pq.write_table(table, folder / f"part-{place}.parquet")
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write(tmp_path / "data", rows(700, 1), rows(800, 2))


def made(tmp_path: Path, path: Path, columns: OwnColumns | None = None, **more: Any) -> Snapshot:
    return snapshot_of_files(tmp_path / "home", "m", path, columns or OwnColumns("sold", entity="id"), **more)


def test_from_files_to_a_registered_version(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, caplog):
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "own_fit.py").write_text(FIT)
    uri = mlflow_server()
    monkeypatch.setenv("AIRFLOW_CONN_MLFLOW_DEFAULT", json.dumps({"conn_type": "mlflow", "host": uri}))
    ledger = {"conn_type": "mlops_ledger", "host": f"sqlite:///{tmp_path}/ledger.db"}
    monkeypatch.setenv("AIRFLOW_CONN_MLOPS_LEDGER_DEFAULT", json.dumps(ledger))
    pipeline = Pipeline(tmp_path / "home", "own_files")
    pipeline.dag.fileloc = str(tmp_path / "code" / "dag.py")
    validation = {"batch_hash": batch_hash(sorted(data.iterdir()))}
    asked = {
        "data": f"{data}/*.parquet", "label_column": "sold", "weight": "counts", "entity": "id", "fit": "own_fit:fit",
        "epochs": 3, "validation": validation,
    }  # fmt: skip
    with caplog.at_level(logging.WARNING):
        training = pipeline.run(TensorFlowTrainOperator, **asked)
    assert "Whether a label was known by then is not checked" in caplog.text
    assert pipeline.run(TensorFlowTrainOperator, **asked) == training
    evaluated = pipeline.run(TensorFlowEvaluateModelOperator, training=training["training"], slices=["colour"])
    assert evaluated["metrics"]["challenger"]["auc"] > 0.75
    registered = pipeline.run(MLflowRegisterModelOperator, training=training["training"], evaluation=evaluated["uri"])
    gates = [{"metric": "auc", "vs": "baseline", "min_gain": 0.1}]
    judged = pipeline.run(
        MLflowJudgeModelOperator, version=registered["version"], evaluation=evaluated["uri"], gates=gates
    )
    assert judged["status"] == "PASS"
    run = MlflowClient(uri).get_run(registered["run_id"])
    [found] = run.inputs.dataset_inputs
    assert found.dataset.digest == training["snapshot"]
    assert json.loads(found.dataset.source)["files"] == {"train": f"{data}/*.parquet"}
    assert run.data.params["fit"] == "own_fit:fit"
    with pytest.raises(AirflowFailException, match="What was validated is not what would be trained on"):
        pipeline.run(TensorFlowTrainOperator, **(asked | {"validation": {"batch_hash": "another"}}))
    with pytest.raises(AirflowFailException, match="a snapshot to train on, and data of one's own"):
        pipeline.run(TensorFlowTrainOperator, **asked, snapshot="snap1")
    with pytest.raises(AirflowFailException, match=r"label_column is empty(.|\n)*Name the column of data="):
        pipeline.run(TensorFlowTrainOperator, **(asked | {"label_column": ""}))


def test_the_same_contents_are_the_same_snapshot_wherever_they_lie(tmp_path: Path, data: Path):
    one = made(tmp_path, data)
    moved = data.rename(tmp_path / "elsewhere")
    again = made(tmp_path, moved)
    assert again.id == one.id
    assert again.told({"uri"}) == one.told({"uri"})
    assert made(tmp_path, moved, OwnColumns("sold", entity="id", inputs=["size", "colour"])).id != one.id
    write(moved, rows(700, 3))
    assert made(tmp_path, moved).id != one.id


def test_what_is_in_a_snapshot_of_files(tmp_path: Path, data: Path):
    snapshot = made(tmp_path, data, OwnColumns("sold", weight="counts"))
    assert snapshot.features == {"id": "string", "size": "double", "colour": "string", "many": "int64"}
    assert (snapshot.problem, snapshot.weight, snapshot.entity) == ("binary", "counts", own_data.ROW)
    assert snapshot.files == {"train": str(data)}
    splits = {name: read_split(snapshot, name) for name in snapshot.splits}
    places = np.concatenate([split[own_data.ROW].to_numpy() for split in splits.values()])
    assert sorted(places) == list(range(1500))
    assert all(100 < splits[name].num_rows < 210 for name in ("validation", "test"))


def test_validation_and_test_of_ones_own(tmp_path: Path, data: Path):
    more = {name: write(tmp_path / name, rows(300, seed)) for seed, name in enumerate(("validation", "test"), 5)}
    snapshot = made(tmp_path, data, **more)
    assert {name: split.rows for name, split in snapshot.splits.items()} == {
        "train": 1500,
        "validation": 300,
        "test": 300,
    }
    assert read_split(snapshot, "test")["id"].to_pylist()[0].startswith("6-")


def test_groups_stay_together(tmp_path: Path):
    groups, graded = np.repeat(np.arange(150), 10), np.random.default_rng(0).integers(0, 4, 1500)
    data = write(tmp_path / "data", rows(1500, 1, query=groups, sold=graded))
    snapshot = made(tmp_path, data, OwnColumns("sold", problem="ranking", group="query"))
    seen = [set(read_split(snapshot, name)["query"].to_pylist()) for name in snapshot.splits]
    assert sum(map(len, seen)) == len(set.union(*seen)) == 150


def changed(column: str, values: pa.Array) -> pa.Table:
    table = rows(700, 1)
    return table.set_column(table.schema.get_field_index(column), column, values)


SOLD = rows(700, 1)["sold"].combine_chunks()
RNG = np.random.default_rng(0)
NUMBERS = RNG.normal(size=700)


@pytest.mark.parametrize(
    ("table", "columns", "says"),
    [
        (rows(700, 1), {"label": "solde"}, r"have no column 'solde'. Did you mean 'sold'(.|\n)*label='solde'"),
        (rows(700, 1), {"inputs": ["sise"]}, r"no column 'sise'. Did you mean 'size'"),
        (rows(700, 1), {"weight": "wait"}, r"no column 'wait'"),
        (rows(700, 1), {"weight": "colour"}, r"The weight 'colour' is no number"),
        (rows(700, 1), {"inputs": ["size", "sold"]}, r"do not make a training set"),
        (rows(700, 1), {"problem": "ranking"}, r"A ranking needs the column of its groups"),
        (rows(700, 1), {"problem": "binry"}, r"no problem type 'binry'. Did you mean 'binary'"),
        (rows(0, 1), {}, r"There are no rows to train on"),
        (changed("sold", pa.array([None, *SOLD[1:].to_pylist()])), {}, r"The label 'sold' is null in 1 rows"),
        (changed("sold", pa.array([True] * 700)), {}, r"train split has only one class"),
        (changed("sold", pa.array([7.5] * 700)), {}, r"train split has only one value: each label is 7.5"),
        (changed("sold", pa.array([np.inf, *NUMBERS[1:]])), {}, r"The label 'sold' is infinite in 1 of"),
        (changed("sold", pa.array(RNG.integers(0, 5, 700))), {}, r"whole numbers: are they classes, or amounts"),
        (changed("sold", pa.array(["once", *["a", "b", "c"] * 233])), {}, r"'once'"),
        (changed("size", pa.array([[1.0], *[[1.0, 2.0]] * 699])), {}, r"vectors of feature 'size' are of several"),
        (changed("size", pa.array([[np.inf, 1.0]] * 700)), {}, r"Features are infinite: size"),
        (changed("size", pa.array([{"a": 1}] * 700)), {}, r"'size' has a type that no model takes: struct"),
        (changed("size", SOLD), {}, r"A leak: size alone tells the label"),
        (changed("id", pa.array(["same"] * 700)), {"entity": "id"}, r"699|700 rows of the snapshot repeat an entity"),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_on_is_refused(tmp_path: Path, table: pa.Table, columns: dict[str, Any], says: str):
    path = write(tmp_path / "data", table)
    with pytest.raises(MlopsError, match=says):
        made(tmp_path, path, OwnColumns(**({"label": "sold"} | columns)))
    assert not list((tmp_path / "home").glob("snapshots/*"))


def test_files_that_do_not_fit_together(tmp_path: Path, data: Path):
    with pytest.raises(DataError, match="There are no Parquet files"):
        made(tmp_path, data / "day-*.parquet")
    with pytest.raises(DataError, match="The data is not there"):
        made(tmp_path, tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"to validate with or to test with, and not both"):
        made(tmp_path, data, test=data)
    with pytest.raises(DataError, match="The same file is in two splits"):
        made(tmp_path, data, validation=data, test=write(tmp_path / "test", rows(300, 5)))
    other = write(tmp_path / "other", rows(300, 5).drop_columns(["many"]))
    with pytest.raises(DataError, match=r"different columns(.|\n)*validation (.|\n)*no 'many'"):
        made(tmp_path, data, validation=other, test=write(tmp_path / "test", rows(300, 6)))
    (data / "part-9.parquet").write_bytes(b"PAR1 cut")
    with pytest.raises(DataError, match="A Parquet file cannot be read"):
        made(tmp_path, data)


def test_a_class_that_training_never_saw(tmp_path: Path):
    def classes(seed: int, names: list[str]) -> pa.Table:
        return rows(300, seed, sold=np.random.default_rng(seed).choice(names, 300))

    data = write(tmp_path / "data", classes(1, ["a", "b"]))
    validation, test = write(tmp_path / "v", classes(2, ["a", "c"])), write(tmp_path / "t", classes(3, ["a", "b"]))
    with pytest.raises(DataError, match=r"validation split has classes that the train split does not have: 'c'"):
        made(tmp_path, data, validation=validation, test=test)
