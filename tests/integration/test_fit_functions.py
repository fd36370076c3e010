"""Fit functions: a training loop of one's own, and the same export, checks and record as for any other."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from airflow_mlops import Trainer
from airflow_mlops.contracts import TensorSpec, TrainingSpec, content_hash
from airflow_mlops.engine.evaluation.evaluate import evaluate
from airflow_mlops.engine.registry.records import params_of
from airflow_mlops.engine.serving.golden import Golden
from airflow_mlops.engine.serving.saved_model import SavedModel
from airflow_mlops.engine.training import data as data_module
from airflow_mlops.engine.training.fit import fit
from airflow_mlops.engine.training.launch import train
from airflow_mlops.engine.training.workdir import Workdir
from airflow_mlops.exceptions import ConfigError, MlopsError
from tests.training_fixtures import START, flights, make_snapshot, make_spec, write_snapshot

FUNCTIONS = """
import os
import tempfile
import keras
import numpy as np
import tensorflow as tf

def _model(data, ending=1):
    numbers = [name for name, kind in data.inputs.items() if kind == "double"]
    inputs = {name: keras.Input((), name=name) for name in numbers}
    known = [keras.ops.where(keras.ops.isnan(one), 0.0, one) for one in inputs.values()]
    hidden = keras.layers.Dense(8, activation="relu")(keras.ops.stack(known, axis=1) / 10)
    return keras.Model(inputs, keras.layers.Dense(ending, activation="sigmoid")(hidden))

def own_loop(data, spec, report):
    model = _model(data)
    loss_of = keras.losses.BinaryCrossentropy()
    for phase, rate in enumerate(spec.params.get("rates", [0.05, 0.01])):
        optimizer = keras.optimizers.Adam(rate)
        batches = data.train.tf_dataset(spec.batch_size, shuffle=spec.seed)
        for epoch in range(spec.epochs):
            total = []
            for inputs, labels in batches:
                with tf.GradientTape() as tape:
                    loss = loss_of(labels, model(inputs, training=True))
                optimizer.apply(tape.gradient(loss, model.trainable_weights), model.trainable_weights)
                total.append(float(loss))
            report(epoch=phase * spec.epochs + epoch + 1, loss=np.mean(total), val_loss=tf.constant(0.5))
    return model

def goes_on(data, spec, report):
    model, optimizer, done = _model(data), keras.optimizers.Adam(0.01), tf.Variable(0)
    state = tf.train.Checkpoint(model=model, optimizer=optimizer, done=done)
    manager = tf.train.CheckpointManager(state, report.checkpoints, max_to_keep=2)
    state.restore(manager.latest_checkpoint)
    first = int(done.numpy())
    batches = data.train.tf_dataset(spec.batch_size, shuffle=spec.seed, first_epoch=first)
    for epoch in range(first, 4):
        total = []
        for inputs, labels in batches:
            with tf.GradientTape() as tape:
                loss = keras.losses.BinaryCrossentropy()(labels, model(inputs, training=True))
            optimizer.apply(tape.gradient(loss, model.trainable_weights), model.trainable_weights)
            total.append(float(loss))
        report(epoch=epoch + 1, loss=np.mean(total))
        if epoch + 1 == spec.params.get("dies_in"):
            raise KeyboardInterrupt
        done.assign(epoch + 1)
        manager.save()
    return model

def exported(data, spec, report):
    model = _model(data)
    model.compile(loss="binary_crossentropy")
    model.fit(data.train.tf_dataset(512, shuffle=spec.seed), verbose=0)
    folder = os.path.join(tempfile.mkdtemp(), "made")
    model.export(folder, verbose=False)
    return folder

def vectors(data, spec, report):
    face = keras.Input((3,), name="face")
    words = keras.Input((None,), name="words", dtype="string")
    index = keras.layers.StringLookup(vocabulary=["a", "b"])(words)
    known = keras.ops.where(keras.ops.isnan(face), 0.0, face)
    both = keras.ops.concatenate([known, keras.ops.mean(keras.layers.Embedding(3, 2)(index), axis=1)], axis=1)
    model = keras.Model([face, words], keras.layers.Dense(1, activation="sigmoid")(both))
    model.compile(loss="binary_crossentropy")
    model.fit(data.train.tf_dataset(64, shuffle=1), verbose=0)
    return model

def pictures(data, spec, report):
    photo = keras.Input((), name="photo", dtype="string")
    size = keras.layers.Lambda(lambda one: tf.cast(tf.strings.length(one), tf.float32)[:, None], (1,))(photo)
    model = keras.Model(photo, keras.layers.Dense(1, activation="sigmoid")(size))
    model.compile(loss="binary_crossentropy")
    model.fit(data.train.tf_dataset(64, shuffle=1), verbose=0)
    return model

def rows(test):
    return {name: values[:4] for name, values in test.items()}

def nothing(data, spec, report):
    _model(data)

def history(data, spec, report):
    model = _model(data)
    model.compile(loss="binary_crossentropy")
    return model.fit(data.train.tf_dataset(512), verbose=0)

def function(data, spec, report):
    return _model

def no_folder(data, spec, report):
    return "nowhere/model"

def empty_folder(data, spec, report):
    return tempfile.mkdtemp()

def not_finite(data, spec, report):
    report(epoch=1, loss=0.5)
    report(epoch=2, loss=float("nan"))

def no_number(data, spec, report):
    report(loss=[0.1, 0.2])

def raises(data, spec, report):
    raise KeyError("hidden")

def two_arguments(data, spec):
    pass

def other_names(data, spec, report):
    return keras.Model(one := keras.Input((), name="wind"), keras.layers.Dense(1)(keras.ops.expand_dims(one, 1)))

def other_ranks(data, spec, report):
    inputs = {name: keras.Input((1,), name=name) for name in data.inputs}
    return keras.Model(inputs, keras.layers.Dense(1)(keras.layers.Concatenate()(list(inputs.values()))))

def other_types(data, spec, report):
    inputs = {name: keras.Input((), name=name, dtype="int32") for name in data.inputs}
    stacked = keras.ops.cast(keras.ops.stack(list(inputs.values()), axis=1), "float32")
    return keras.Model(inputs, keras.layers.Dense(1)(stacked))

def other_outputs(data, spec, report):
    return _model(data, ending=2)

def not_a_probability(data, spec, report):
    inputs = {name: keras.Input((), name=name) for name in data.inputs}
    return keras.Model(inputs, list(inputs.values())[0] * 0 + 7)
"""


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("code")
    (folder / "fit_functions.py").write_text(FUNCTIONS)
    return folder


@pytest.fixture(scope="module")
def spec_of(code: Path) -> Callable[..., TrainingSpec]:
    snapshot = make_snapshot(code, rows=2000)
    floats = {name: kind for name, kind in snapshot.features.items() if kind == "double"}
    snapshot = snapshot.model_copy(update={"features": floats})

    def spec(function: str, **changes: object) -> TrainingSpec:
        named = {"entrypoint": "", "fit": f"fit_functions:{function}", "code_path": str(code), "snapshot": snapshot}
        return make_spec(**(named | changes))

    return spec


def fitted(spec: TrainingSpec, folder: Path):
    folder.mkdir(exist_ok=True)
    return fit(spec, Workdir(folder))


def test_a_loop_of_ones_own_in_the_child_process(spec_of, tmp_path: Path, caplog):
    spec = spec_of("own_loop", batch_size=64)
    with caplog.at_level(logging.INFO):
        result = train(spec, tmp_path / "t", timeout=200)
    assert set(result.history) == {"loss", "val_loss"}
    assert len(result.history["loss"]) == 4, "two phases"
    assert result.history["loss"][-1] < result.history["loss"][0]
    assert result.examples == 4 * 2000
    assert "epoch 1: loss 0." in caplog.text, "of those that follow within a second there is no line"
    saved_model = Path(result.saved_model)
    with SavedModel(saved_model) as model:
        assert model.signature.inputs == {
            name: result.signature.inputs[name] for name in sorted(spec.snapshot.features)
        }
        assert Golden.read(saved_model).check(model.run, model.signature, 1e-5).rows == 32
    assert evaluate(spec.snapshot, saved_model).metrics["challenger"]["auc"] > 0.55
    assert {one.key: one.value for one in params_of(spec)}["fit"] == "fit_functions:own_loop"
    assert train(spec, tmp_path / "t", timeout=1) == result, "not twice"


def test_the_same_seed_gives_the_same_model(spec_of, tmp_path: Path):
    one, other = (fitted(spec_of("own_loop", epochs=1), tmp_path / name) for name in "ab")
    assert one.history == other.history
    golden = [json.loads((Path(made.saved_model) / "assets.extra/golden.json").read_text()) for made in (one, other)]
    assert golden[0] == golden[1]
    assert fitted(spec_of("own_loop", epochs=1, seed=8), tmp_path / "c").history != one.history


def test_a_saved_model_is_taken_as_that_of_a_script(spec_of, tmp_path: Path):
    spec = spec_of("exported")
    result = fitted(spec, tmp_path / "t")
    assert Path(result.saved_model) == tmp_path / "t" / "saved_model"
    assert list(result.history) == ["seconds"], "it reported nothing"
    with SavedModel(Path(result.saved_model)) as model:
        assert Golden.read(Path(result.saved_model)).check(model.run, model.signature, 1e-5).rows == 32
    assert not list((tmp_path / "t").glob(".tmp-*"))


def test_vectors_from_the_snapshot_to_what_is_served(code: Path, tmp_path: Path):
    tables = {}
    for seed, name in enumerate(("train", "validation", "test")):
        rng = np.random.default_rng(seed)
        table = flights(300, seed, START)
        late = table["late_15"].to_numpy()
        known = rng.normal(late[:, None], 0.8, (300, 3)).astype("float32")
        table = table.append_column("face", pa.array([row if n % 9 else None for n, row in enumerate(known)]))
        tables[name] = table.append_column("words", pa.array([["a", "b", "c"][: n % 4] for n in range(300)]))
    snapshot = write_snapshot(tmp_path, tables)
    features = {"face": "list<element: float>", "words": "list<element: string>"}
    snapshot = snapshot.model_copy(update={"features": features})
    spec = make_spec(snapshot, entrypoint="", fit="fit_functions:vectors", code_path=str(code))
    result = fitted(spec, tmp_path / "t")
    assert result.signature.inputs == {
        "face": TensorSpec(dtype="float32", shape=(-1, 3)),
        "words": TensorSpec(dtype="string", shape=(-1, -1)),
    }
    with SavedModel(Path(result.saved_model)) as model:
        assert model.signature.inputs == result.signature.inputs
        assert Golden.read(Path(result.saved_model)).check(model.run, model.signature, 1e-5).rows == 32
    assert evaluate(snapshot, Path(result.saved_model)).metrics["challenger"]["auc"] > 0.6


def test_bytes_that_are_no_text(code: Path, tmp_path: Path):
    tables = {}
    for seed, name in enumerate(("train", "validation", "test")):
        photos = pa.array([b"\xff\xd8" * (n % 5) for n in range(300)])
        tables[name] = flights(300, seed, START).append_column("photo", photos)
    snapshot = write_snapshot(tmp_path, tables).model_copy(update={"features": {"photo": "binary"}})
    how = {"entrypoint": "", "fit": "fit_functions:pictures", "code_path": str(code)}
    result = fitted(make_spec(snapshot, **how, golden="fit_functions:rows"), tmp_path / "t")
    golden = Golden.read(Path(result.saved_model))
    assert golden.inputs["photo"][1] == {"b64": "/9g="}
    with SavedModel(Path(result.saved_model)) as model:
        assert golden.check(model.run, model.signature, 1e-5).rows == 4


@pytest.mark.parametrize(
    ("function", "says"),
    [
        ("nothing", r"fit function returned nothing(.|\n)*Return a keras.Model, or the folder of a SavedModel"),
        ("history", r"returned History, and no model: its training is over, and the model is in .model"),
        ("function", r"returned function, and no model"),
        ("no_folder", r"folder in which there is no SavedModel(.|\n)*nowhere/model is no folder"),
        ("empty_folder", r"folder in which there is no SavedModel(.|\n)*has no saved_model.pb"),
        ("not_finite", r"The training's loss is not a finite number after epoch 2"),
        ("no_number", r"report\(loss=...\) was given no number but list"),
        ("raises", r"The fit function raised KeyError(.|\n)*in raises: raise KeyError"),
        ("two_arguments", r"The fit function raised TypeError(.|\n)*two_arguments"),
        ("wons_loop", r"has no 'wons_loop'. Did you mean 'own_loop'"),
        ("other_names", r"inputs are not the snapshot's features(.|\n)*not among these: \['wind'\]"),
        ("other_ranks", r"as float32 of shape \(None, 1\), and is given float32 of shape \(None,\)"),
        ("other_types", r"as int32 of shape \(None,\), and is given float32(.|\n)*dtype='float32'\)"),
        ("other_outputs", r"must have one output, 1 number an example: probability"),
        ("not_a_probability", r"cannot be a binary prediction: a probability lies from 0 to 1"),
    ],
)
def test_what_is_not_usable_is_refused_in_words(spec_of, tmp_path: Path, function: str, says: str):
    with pytest.raises(MlopsError, match=says):
        fitted(spec_of(function), tmp_path / "t")
    left = {path.name for path in (tmp_path / "t").iterdir()}
    assert left <= {"progress.json", "checkpoints"}, "no model, and how far it got"


def test_a_loop_goes_on_from_checkpoints_of_its_own_and_its_history_is_one(spec_of, tmp_path: Path):
    spec = spec_of("goes_on").model_copy(update={"batch_size": 500})
    whole = fitted(spec, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        fitted(spec.model_copy(update={"params": {"dies_in": 3}}), tmp_path / "t")
    again = fitted(spec, tmp_path / "t")
    assert len(again.history["loss"]) == 4
    assert again.history == whole.history
    assert len(again.times) == 4


def test_the_names_of_trainings_without_one_stay(spec_of):
    spec = make_spec(spec_of("own_loop").snapshot)
    assert "fit" in spec.model_dump()
    assert spec_of("own_loop").hash not in (spec.hash, spec_of("exported").hash)
    of_before = spec.model_dump(mode="json", exclude={"code_path", "snapshot", "fit"})
    of_before["snapshot"] = spec.snapshot.told({"uri", "feature_files"})
    for name in ("golden", "environment", "script", "args", "python", "transform", "compute", "experimental"):
        del of_before[name]
    assert spec.hash == content_hash(of_before)


def test_a_trainer_has_one_of_three():
    assert Trainer(fit="code:fit", window="60d").fit == "code:fit"
    with pytest.raises(ConfigError, match="one of them only"):
        Trainer("code:build", fit="code:fit", window="60d")


def test_what_does_not_fit_in_memory_is_trained_on_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog):
    monkeypatch.setattr(data_module, "available_memory", lambda: 1_000_000)
    monkeypatch.setattr(data_module, "WINDOW_ROWS", 1000)
    spec = make_spec(make_snapshot(tmp_path, rows=3000))
    with caplog.at_level(logging.INFO):
        result = fitted(spec, tmp_path / "t")
    assert "rows are streamed" in caplog.text
    assert result.examples == 2 * 3000
    with SavedModel(Path(result.saved_model)) as model:
        assert Golden.read(Path(result.saved_model)).check(model.run, model.signature, 1e-5).rows == 32
    assert evaluate(spec.snapshot, Path(result.saved_model)).metrics["challenger"]["auc"] > 0.55
