"""Evaluation of real SavedModels on real splits."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from sklearn.metrics import roc_auc_score

from airflow_mlops.contracts import Evaluation, Snapshot
from airflow_mlops.engine.data.snapshots import read_split
from airflow_mlops.engine.evaluation.evaluate import evaluate, score
from airflow_mlops.engine.training.inputs import read_inputs
from airflow_mlops.engine.training.workdir import Workdir, read_evaluation, read_spec
from airflow_mlops.exceptions import ConfigError, DataError
from tests.training_fixtures import START, flights, trained, write_snapshot


@pytest.fixture(scope="module")
def snapshot() -> Snapshot:
    return read_spec(trained().path).snapshot


@pytest.fixture(scope="module")
def challenger() -> Path:
    return trained().saved_model


def saved_model(folder: Path, value: float = 0.5, **inputs: str) -> Path:
    """Export a model that says the same for every row."""
    import tensorflow as tf

    specs = {name: tf.TensorSpec([None], kind, name) for name, kind in inputs.items()}

    def serve(**columns: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"probability": tf.fill(tf.shape(next(iter(columns.values()))), tf.constant(value))}

    module = tf.Module()
    tf.saved_model.save(module, str(folder), signatures=tf.function(serve).get_concrete_function(**specs))
    return folder


def test_metrics_are_those_of_the_predictions(snapshot: Snapshot, challenger: Path):
    found = evaluate(snapshot, challenger, slices=["carrier"])
    test = read_split(snapshot, "test")
    labels = test["late_15"].to_numpy()
    predicted = score(challenger, read_inputs(test, snapshot.features), "probability")
    assert found.rows == 800
    assert found.metrics["challenger"]["auc"] == pytest.approx(roc_auc_score(labels, predicted))
    assert found.metrics["challenger"]["auc"] > 0.65
    rate = pc.mean(pc.cast(read_split(snapshot, "train")["late_15"], pa.float64())).as_py()
    assert found.metrics["baseline"]["auc"] == 0.5
    assert found.metrics["baseline"]["brier"] == pytest.approx(float(np.mean((labels - rate) ** 2)), abs=1e-6)
    assert "champion" not in found.metrics
    assert found.unevaluated == {}

    carriers = test["carrier"].to_numpy(zero_copy_only=False)
    assert set(found.slices["carrier"]) == {"AA", "B6", "DL", "EV", "UA"}
    assert sum(values["n"] for values in found.slices["carrier"].values()) == 800
    ua = carriers == "UA"
    assert found.slices["carrier"]["UA"]["auc"] == pytest.approx(roc_auc_score(labels[ua], predicted[ua]))


def test_batches_change_nothing(snapshot: Snapshot, challenger: Path, monkeypatch):
    inputs = read_inputs(read_split(snapshot, "test"), snapshot.features)
    whole = score(challenger, inputs, "probability")
    monkeypatch.setattr("airflow_mlops.engine.evaluation.evaluate._BATCH_ROWS", 333)
    np.testing.assert_allclose(score(challenger, inputs, "probability"), whole, rtol=0, atol=1e-6)


def test_champion_is_asked_by_its_own_signature(snapshot: Snapshot, challenger: Path, tmp_path: Path):
    champion = saved_model(tmp_path / "m", 0.25, distance_miles="float64", origin="string")
    found = evaluate(snapshot, challenger, champion, "3")
    assert found.champion_version == "3"
    assert found.metrics["champion"]["auc"] == 0.5
    labels = read_split(snapshot, "test")["late_15"].to_numpy()
    assert found.metrics["champion"]["brier"] == pytest.approx(float(np.mean((labels - 0.25) ** 2)), abs=1e-6)
    predicted = score(challenger, read_inputs(read_split(snapshot, "test"), snapshot.features), "probability")
    assert found.predicted["challenger"][""].mean == pytest.approx(float(np.mean(predicted)))
    assert (found.predicted["champion"][""].mean, found.predicted["champion"][""].std) == pytest.approx((0.25, 0.0))


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ({"distance_miles": "float32", "wind": "float32"}, "missing: wind"),
        ({"distance_miles": "string"}, "distance_miles"),
        (None, "cannot be loaded"),
    ],
)
def test_champion_that_cannot_be_scored_is_said_so(
    snapshot: Snapshot, challenger: Path, tmp_path: Path, inputs: dict[str, str] | None, says: str
):
    champion = tmp_path / "empty" if inputs is None else saved_model(tmp_path / "m", **inputs)
    found = evaluate(snapshot, challenger, champion, "3")
    assert says in found.unevaluated["champion"]
    assert "champion" not in found.metrics
    assert found.champion_version == "3"


def test_challenger_that_cannot_be_scored_is_an_error(snapshot: Snapshot, tmp_path: Path):
    with pytest.raises(DataError, match=r"inputs that the snapshot does not have(.|\n)*missing: wind"):
        evaluate(snapshot, saved_model(tmp_path / "m", wind="float32"))


def test_nan_predictions_have_no_metrics(snapshot: Snapshot, tmp_path: Path):
    found = evaluate(snapshot, saved_model(tmp_path / "m", float("nan"), distance_miles="float32"))
    assert all(np.isnan(value) for value in found.metrics["challenger"].values())


def test_slice_that_vanished_from_the_test_split_is_there_with_no_rows(challenger: Path, tmp_path: Path):
    def with_missing_origins(table: pa.Table) -> pa.Table:
        origins = [None if i % 10 == 0 else origin for i, origin in enumerate(table["origin"].to_pylist())]
        return table.set_column(table.column_names.index("origin"), "origin", pa.array(origins))

    tables: dict[str, Any] = {
        "train": with_missing_origins(flights(1000, 1, START, carriers="AA UA")),
        "validation": flights(100, 2, START),
        "test": with_missing_origins(flights(200, 3, START, carriers="AA F9")),
    }
    found = evaluate(write_snapshot(tmp_path, tables), challenger, slices=["carrier", "origin", "sched_hour"])
    carriers = found.slices["carrier"]
    assert carriers["UA"]["n"] == 0
    assert 80 < carriers["UA"]["expected_n"] < 120
    assert np.isnan(carriers["UA"]["auc"])
    assert carriers["F9"]["n"] > 0
    assert carriers["F9"]["expected_n"] == 0
    assert found.slices["origin"]["(missing)"]["n"] == 20
    assert "17" in found.slices["sched_hour"]


def test_unknown_slice_is_refused(snapshot: Snapshot, challenger: Path):
    with pytest.raises(ConfigError, match=r"no model input 'carier' to slice by. Did you mean 'carrier'"):
        evaluate(snapshot, challenger, slices=["carier"])


def test_kept_evaluation_is_found_again_whatever_is_in_it(tmp_path: Path):
    def found(auc: float) -> Evaluation:
        return Evaluation(snapshot_id="s", split="test", rows=1, metrics={"challenger": {"auc": auc}})

    workdir = Workdir(tmp_path)
    first, second = workdir.keep(found(float("nan"))), workdir.keep(found(0.7))
    assert first != second
    assert workdir.keep(found(0.7)) == second
    assert np.isnan(read_evaluation(first).metrics["challenger"]["auc"])
    with pytest.raises(DataError, match="no evaluation to work with"):
        read_evaluation(tmp_path / "evaluation-none.json")


def test_scoring_needs_no_tensorflow_import(snapshot: Snapshot, challenger: Path):
    code = (
        "import sys; from pathlib import Path; from airflow_mlops.contracts import Snapshot;"
        "from airflow_mlops.engine.evaluation.evaluate import evaluate;"
        "evaluate(Snapshot.from_json(sys.argv[1]), Path(sys.argv[2]));"
        "sys.exit('tensorflow' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, snapshot.to_json(), str(challenger)], check=True)
