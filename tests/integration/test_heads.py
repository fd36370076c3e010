"""A model of several labels: from Parquet to a snapshot, a SavedModel, golden answers, a verdict and predictions."""

from __future__ import annotations

import contextlib
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_mlops.contracts import Snapshot, Target, TensorSpec, TrainingSpec
from airflow_mlops.engine.data.partitions import PartitionStore
from airflow_mlops.engine.data.snapshots import read_split
from airflow_mlops.engine.evaluation.evaluate import evaluate, scores
from airflow_mlops.engine.evaluation.gates import judge
from airflow_mlops.engine.prediction.batch import predict_partition
from airflow_mlops.engine.prediction.plan import Plan
from airflow_mlops.engine.prediction.rows import rows_of_entities
from airflow_mlops.engine.prediction.scorers import InProcess
from airflow_mlops.engine.registry.manifest import pack_manifest
from airflow_mlops.engine.registry.records import data_of, metric_batches
from airflow_mlops.engine.serving.golden import Golden
from airflow_mlops.engine.serving.saved_model import SavedModel
from airflow_mlops.engine.training.fit import fit
from airflow_mlops.engine.training.inputs import read_inputs
from airflow_mlops.engine.training.own_data import OwnColumns, snapshot_of_files
from airflow_mlops.engine.training.script import _told
from airflow_mlops.engine.training.workdir import Workdir
from airflow_mlops.exceptions import GateError, TrainingError

CODE = """
import os
import tempfile

import keras


def model_of(names, ends):
    inputs = {name: keras.Input((), name=name, dtype="float32") for name in names}
    hidden = keras.layers.Dense(8, activation="relu")(keras.ops.stack(list(inputs.values()), axis=1))
    return keras.Model(inputs, {name: layer(hidden) for name, layer in ends.items()})


def ends(heads):
    dense = keras.layers.Dense
    return {
        "kind": dense(len(heads["kind"].classes), activation="softmax"),
        "returned": dense(1, activation="sigmoid"),
        "refund": dense(1),
    }


LOSSES = {"returned": "binary_crossentropy", "refund": "mse", "kind": "sparse_categorical_crossentropy"}


def build(train, seed, classes, heads):
    assert classes == []
    assert {name: head.problem for name, head in heads.items()} == {"refund": "regression", "kind": "multiclass"}
    model = model_of(train, ends(heads))
    model.compile(optimizer=keras.optimizers.Adam(0.05), loss=LOSSES, weighted_metrics={"returned": ["auc"]})
    return model


def compiled(losses, model_class=keras.Model):
    def build(train, seed, classes, heads):
        model = model_of(train, ends(heads))
        model = model_class(model.inputs, model.output)
        model.compile(optimizer="adam", loss=losses)
        return model

    return build


class OwnLoss(keras.Model):
    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return sum(keras.ops.mean(keras.ops.square(one)) for one in y_pred.values())


less = compiled({name: LOSSES[name] for name in ("returned", "refund")})
nothing = compiled({**LOSSES, "kind": None})
mistyped = compiled({"returned": "binary_crossentropy", "refnd": "mse", "kind": "sparse_categorical_crossentropy"})
no_label = compiled({name: LOSSES[name] for name in ("refund", "kind")})
listed = compiled(["sparse_categorical_crossentropy", None, "binary_crossentropy"])
own_loss = compiled({"returned": "mse"}, OwnLoss)
whole_list = compiled(["sparse_categorical_crossentropy", "mse", "binary_crossentropy"])


def own_fit(data, spec, report):
    model = model_of(data.inputs, ends(data.heads))
    loss_of = {"returned": keras.losses.BinaryCrossentropy(), "refund": keras.losses.MeanSquaredError(),
               "kind": keras.losses.SparseCategoricalCrossentropy()}
    optimizer = keras.optimizers.Adam(0.05)
    import tensorflow as tf

    for columns, labels, weights in data.train.tf_dataset(spec.batch_size, shuffle=spec.seed):
        with tf.GradientTape() as tape:
            said = model(columns, training=True)
            losses = [loss_of[name](labels[name], said[name], sample_weight=weights[name]) for name in said]
            loss = sum(losses)
        optimizer.apply(tape.gradient(loss, model.trainable_weights), model.trainable_weights)
    report(epoch=1, loss=loss)
    return model


def exported(data, spec, report, names=("probability", "refund_prediction", "kind_probabilities")):
    layers = ends(data.heads)
    model = model_of(data.inputs, dict(zip(names, (layers["returned"], layers["refund"], layers["kind"]))))
    folder = os.path.join(tempfile.mkdtemp(), "made")
    model.export(folder, verbose=False)
    return folder


def misnamed(data, spec, report):
    return exported(data, spec, report, ("probability", "refund", "kind_probabilities"))


def missing(data, spec, report):
    layers = ends(data.heads)
    return model_of(data.inputs, {"returned": layers["returned"], "refunds": layers["refund"]})


def extra(data, spec, report):
    return model_of(data.inputs, {**ends(data.heads), "colour": keras.layers.Dense(1)})


def unnamed(data, spec, report):
    model = model_of(data.inputs, ends(data.heads))
    return keras.Model(model.inputs, list(model.output.values()))


def width(data, spec, report):
    return model_of(data.inputs, {**ends(data.heads), "kind": keras.layers.Dense(2, activation="softmax")})


def classed(data, spec, report, order=(0, 1, 2), answer="{}"):
    import tensorflow as tf

    model, archive = model_of(data.inputs, ends(data.heads)), keras.export.ExportArchive()
    names = tf.constant([answer.format(data.heads["kind"].classes[place]) for place in order])
    if answer == "number":
        names = tf.constant(order)

    def serve(columns):
        said = model(columns)
        return {
            "probability": said["returned"][:, 0],
            "refund_prediction": said["refund"][:, 0],
            "kind_probabilities": said["kind"],
            "kind_class": tf.gather(names, tf.argmax(said["kind"], axis=1)),
        }

    archive.track(model)
    specs = {name: tf.TensorSpec([None], tf.float32, name=name) for name in data.inputs}
    archive.add_endpoint("serving_default", serve, input_signature=[specs])
    folder = os.path.join(tempfile.mkdtemp(), "made")
    archive.write_out(folder, verbose=False)
    return folder


def numbered(data, spec, report):
    return classed(data, spec, report, answer="number")


def backwards(data, spec, report):
    return classed(data, spec, report, order=(2, 1, 0))


def renamed(data, spec, report):
    return classed(data, spec, report, answer="kind {}")


def no_chances(data, spec, report):
    return model_of(data.inputs, {**ends(data.heads), "kind": keras.layers.Dense(3)})
"""
OUTPUTS = {"returned": "probability", "refund": "refund_prediction", "kind": "kind_probabilities"}


def rows(count: int, seed: int) -> pa.Table:
    """Return orders; what is paid back, and of which kind the fault was, is known of some of them only."""
    rng = np.random.default_rng(seed)
    price, age, turn = rng.normal(size=count), rng.normal(size=count), rng.normal(size=count)
    kind = np.select([turn + rng.normal(size=count) / 3 > 0.5, turn < -0.5], ["late", "size"], "colour").astype(object)
    return pa.table(
        {
            "order": [f"{seed}-{n}" for n in range(count)],
            "price": price,
            "age": age,
            "turn": turn,
            "returned": rng.random(count) < 1 / (1 + np.exp(-2 * age)),
            "refund": pa.array(np.where(rng.random(count) < 0.4, np.nan, 3 * price + rng.normal(size=count) / 2)),
            "kind": pa.array([None if rng.random() < 0.3 else one for one in kind], pa.string()),
        }
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("heads")
    (folder / "heads_code.py").write_text(CODE)
    pq.write_table(rows(3000, 1), folder / "orders.parquet")
    return folder


@pytest.fixture(scope="module")
def snapshot(place: Path) -> Snapshot:
    columns = OwnColumns("returned", entity="order", heads={"refund": "", "kind": "multiclass"})
    return snapshot_of_files(place / "home", "orders", place / "orders.parquet", columns)


@pytest.fixture(scope="module")
def trained(place: Path, snapshot: Snapshot) -> tuple[TrainingSpec, Workdir]:
    spec = spec_of(place, snapshot, entrypoint="heads_code:build", epochs=12)
    workdir = Workdir(place / "home" / "trainings" / "t")
    workdir.path.mkdir(parents=True)
    fit(spec, workdir)
    return spec, workdir


def spec_of(place: Path, snapshot: Snapshot, **more: Any) -> TrainingSpec:
    settings = {"model": "orders", "code_path": str(place), "seed": 1, "epochs": 1, "batch_size": 128, **more}
    return TrainingSpec(snapshot=snapshot, **settings)


def test_a_head_is_no_input_and_known_where_it_is(snapshot: Snapshot):
    assert list(snapshot.features) == ["price", "age", "turn"]
    assert {name: one.problem for name, one in snapshot.targets.items()} == {
        "returned": "binary", "refund": "regression", "kind": "multiclass",
    }  # fmt: skip
    assert snapshot.heads["kind"].classes == ("colour", "late", "size")
    train = read_split(snapshot, "train")
    told = snapshot.splits["train"].heads
    assert told["refund"].rows == train["refund"].drop_null().length() < train.num_rows
    assert sum(told["kind"].labels.values()) == told["kind"].rows == train["kind"].drop_null().length()


def test_one_output_a_head_is_served_as_it_was_trained(trained: tuple[TrainingSpec, Workdir], snapshot: Snapshot):
    _, workdir = trained
    one, classes = TensorSpec(dtype="float32", shape=(-1,)), TensorSpec(dtype="float32", shape=(-1, 3))
    golden = Golden.read(workdir.saved_model)
    with contextlib.closing(SavedModel(workdir.saved_model)) as model:
        assert model.signature.outputs == {
            "probability": one,
            "refund_prediction": one,
            "kind_probabilities": classes,
            "kind_class": TensorSpec(dtype="string", shape=(-1,)),
        }
        assert set(golden.outputs) == set(model.signature.outputs)
        golden.check(model.run, model.signature, 1e-5)
        golden.outputs["refund_prediction"][0] += 1
        with pytest.raises(GateError, match="refund_prediction"):
            golden.check(model.run, model.signature, 1e-5)


def test_a_batch_of_predictions_has_a_column_for_each(trained: tuple[TrainingSpec, Workdir], place: Path):
    home = place / "home"
    store = PartitionStore.under(home)
    with (
        rows_of_entities(place / "orders.parquet") as given,
        InProcess(trained[1].saved_model, model="orders") as model,
    ):
        plan = Plan(given, model, entity="order")
        predict_partition(plan, home=home, store=store, ledger=None, dataset="orders.predictions", key="2024-03-01")
    found = store.read([store.get("orders.predictions", "2024-03-01")])
    assert found.column_names[:6] == [
        "order", "event_time", "kind_class", "kind_probabilities", "probability", "refund_prediction",
    ]  # fmt: skip
    likeliest = np.stack(found["kind_probabilities"].to_numpy(zero_copy_only=False)).argmax(axis=1)
    assert np.array(["colour", "late", "size"])[likeliest].tolist() == found["kind_class"].to_pylist()
    assert np.corrcoef(found["refund_prediction"].to_numpy(), rows(3000, 1)["price"].to_numpy())[0, 1] > 0.9


def test_every_head_is_measured_where_it_is_known_and_judged(
    trained: tuple[TrainingSpec, Workdir], snapshot: Snapshot, tmp_path: Path
):
    spec, workdir = trained
    found = evaluate(snapshot, workdir.saved_model)
    test = read_split(snapshot, "test")
    known = test["refund"].is_valid().to_numpy()
    said = scores(workdir.saved_model, read_inputs(test, snapshot.features), list(OUTPUTS.values()))
    off = said["refund_prediction"][known] - test["refund"].drop_null().to_numpy()
    assert found.metrics["challenger"]["refund.rmse"] == pytest.approx(math.sqrt(np.mean(off**2)), rel=1e-4)
    assert (found.rows, found.heads["refund"].rows) == (test.num_rows, known.sum())
    assert found.metrics["challenger"]["auc"] > 0.8
    assert found.metrics["challenger"]["refund.r2"] > 0.8 > found.metrics["baseline"]["refund.r2"]
    assert found.metrics["challenger"]["kind.accuracy"] > 0.6

    verdict = judge("orders", [], found)
    assert verdict.status == "PASS", verdict
    assert {check.gate for check in verdict.checks} >= {
        "auc vs baseline min_gain", "refund.r2 vs baseline min_gain", "kind.log_loss vs baseline min_gain",
        "auc not too good", "refund.r2 not too good", "kind.accuracy not too good",
    }  # fmt: skip
    [of_refund] = [check for check in verdict.checks if check.gate == "refund.r2 vs baseline min_gain"]
    assert of_refund.n == known.sum()

    # A champion with all heads, of which one has another class; and one that never had any.
    workdir_of = Workdir(workdir.path)
    result = workdir_of.finished(spec.hash)
    assert result is not None
    manifest = pack_manifest(spec, result, parent_version=None, triggered_by="test")
    assert manifest.heads == snapshot.heads
    with_both = evaluate(snapshot, workdir.saved_model, workdir.saved_model, "1")
    assert with_both.metrics["champion"] == with_both.metrics["challenger"]
    logged = {one.key for batch in metric_batches(result, with_both, 0) for one in batch}
    assert {"auc", "refund.rmse", "champion_refund.rmse", "baseline_kind.f1"} <= logged
    [dataset] = data_of(snapshot)
    assert json.loads(dataset.dataset.schema)["heads"] == ["refund", "kind"]


def test_a_champion_without_a_head_is_compared_on_what_both_have(
    trained: tuple[TrainingSpec, Workdir], snapshot: Snapshot, tmp_path: Path
):
    import tensorflow as tf

    spec = tf.TensorSpec([None], tf.float32, "age")
    served = tf.function(lambda age: {"probability": tf.sigmoid(age)}).get_concrete_function(spec)
    tf.saved_model.save(tf.Module(), str(tmp_path / "m"), signatures=served)
    found = evaluate(snapshot, trained[1].saved_model, tmp_path / "m", "1")
    assert set(found.metrics["champion"]) == {"auc", "log_loss", "brier", "accuracy"}
    checks = {check.gate: check for check in judge("orders", [], found).checks}
    assert "champion: 0." in checks["auc vs champion max_drop"].reason
    assert checks["refund.r2 vs champion"].passed
    assert "the champion has no such head 'refund' yet" in checks["refund.r2 vs champion"].reason

    alone = snapshot.model_copy(update={"heads": {}})
    with_more = evaluate(alone, tmp_path / "m", trained[1].saved_model, "2")
    assert with_more.metrics["champion"]["auc"] == found.metrics["challenger"]["auc"], "a head was given up"
    with pytest.raises(Exception, match="no output 'refund_prediction', which is to predict 'refund'"):
        evaluate(snapshot, tmp_path / "m")


def test_the_function_of_the_docs_learns_all_of_them():
    guide = Path(__file__).parents[2] / "docs" / "models" / "several-labels.md"
    [code] = [one for one in re.findall(r"^```python\n(.*?)^```$", guide.read_text(), re.M | re.S) if "heads):" in one]
    made: dict[str, Any] = {}
    exec(code, made)
    reasons = Target(problem="multiclass", classes=("late", "size"))
    model = made["build"]({"price": None}, 1, {"refund": Target(problem="regression"), "reason": reasons})
    labels = {"returned": np.ones((4, 1)), "refund": np.ones((4, 1)), "reason": np.zeros(4, np.int64)}
    weights = {name: np.ones(4) for name in labels}
    before = model.evaluate({"price": np.ones(4)}, labels, sample_weight=weights, return_dict=True, verbose=0)
    assert set(before) == {"loss", "returned_loss", "refund_loss", "reason_loss"}


@pytest.mark.parametrize("function", ["own_fit", "exported", "classed", "numbered"])
def test_a_function_and_a_saved_model_of_ones_own(place: Path, snapshot: Snapshot, tmp_path: Path, function: str):
    spec = spec_of(place, snapshot, fit=f"heads_code:{function}")
    told = _told(spec, tmp_path, Workdir(tmp_path))
    assert told["heads"]["kind"] == {"problem": "multiclass", "classes": ["colour", "late", "size"]}
    result = fit(spec, Workdir(tmp_path))
    assert set(OUTPUTS.values()) <= set(result.signature.outputs)
    assert set(Golden.read(Path(result.saved_model)).outputs) == set(result.signature.outputs)
    assert set(evaluate(snapshot, Path(result.saved_model)).heads) == {"refund", "kind"}


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("missing", r"not the label and its heads. Did you mean 'refund'\?(.|\n)*missing: refund, kind; more: refunds"),
        ("extra", r"missing: none; more: colour"),
        ("unnamed", r"they have no names(.|\n)*\{'returned': ..., 'refund': ..., 'kind': ...\}"),
        ("width", r"one output for 'kind', 3 numbers an example(.|\n)*of the classes colour, late, size"),
        ("no_chances", r"predicts of 'kind' cannot be a multiclass prediction"),
        ("backwards", r"output 'kind_class' is not the likeliest class(.|\n)*the likeliest of colour, late, size"),
        ("renamed", r"output 'kind_class' is not the likeliest class(.|\n)*is answered 'kind "),
        ("misnamed", r"no output 'refund_prediction', which is to predict 'refund'(.|\n)*probability, refund\n"),
    ],
)
def test_a_model_without_a_fitting_output_is_refused(
    place: Path, snapshot: Snapshot, tmp_path: Path, function: str, words: str
):
    with pytest.raises(TrainingError, match=words):
        fit(spec_of(place, snapshot, fit=f"heads_code:{function}"), Workdir(tmp_path))


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("less", r"'kind' has no loss(.|\n)*without a loss: kind; with one: returned, refund"),
        ("nothing", "'kind' has no loss"),
        ("mistyped", r"'refund' has no loss, so nothing would be learned of it. Did you mean 'refund'"),
        ("no_label", "'returned' has no loss"),
        ("listed", "'refund' has no loss"),
    ],
)
def test_an_output_without_a_loss_is_refused(
    place: Path, snapshot: Snapshot, tmp_path: Path, function: str, words: str
):
    with pytest.raises(TrainingError, match=words):
        fit(spec_of(place, snapshot, entrypoint=f"heads_code:{function}"), Workdir(tmp_path))


@pytest.mark.parametrize("function", ["whole_list", "own_loss"])
def test_losses_that_are_a_list_or_ones_own_are_taken(place: Path, snapshot: Snapshot, tmp_path: Path, function: str):
    fit(spec_of(place, snapshot, entrypoint=f"heads_code:{function}"), Workdir(tmp_path))
