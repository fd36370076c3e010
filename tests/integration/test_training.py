"""Training in a real child process: what it leaves, that it repeats, and how it fails."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from airflow_mlops.contracts import TrainingResult
from airflow_mlops.engine.evaluation.evaluate import score
from airflow_mlops.engine.serving.golden import Golden
from airflow_mlops.engine.serving.saved_model import SavedModel
from airflow_mlops.engine.training.environment import environment
from airflow_mlops.engine.training.launch import TrainingProcess, train
from airflow_mlops.engine.training.workdir import Workdir, read_spec
from airflow_mlops.exceptions import ConfigError, DataError, TrainingError, TransientError
from tests.training_fixtures import FEATURES, copy_of, golden_of, make_snapshot, make_spec, trained

WEIGHTS = "variables/variables.data-00000-of-00001"


def weights_hash(saved_model: Path) -> str:
    """Hash every weight. The file itself lists some of them in the order of a Python set."""
    import tensorflow as tf

    reader = tf.train.load_checkpoint(str(saved_model / "variables" / "variables"))
    names = [name for name in sorted(reader.get_variable_to_shape_map()) if name.startswith("variables/")]
    assert len(names) > 8
    return hashlib.sha256(b"".join(reader.get_tensor(name).tobytes() for name in names)).hexdigest()


@pytest.fixture(scope="module")
def result() -> TrainingResult:
    workdir = trained()
    found = workdir.finished(read_spec(workdir.path).hash)
    assert found is not None
    return found


def test_signature_takes_raw_values_and_gives_a_probability(result: TrainingResult):
    with contextlib.closing(SavedModel(Path(result.saved_model))) as model:
        assert list(model.signatures) == ["serving_default"]
        assert model.signature.inputs == {name: result.signature.inputs[name] for name in sorted(FEATURES)}
        assert model.signature.outputs == result.signature.outputs
    kinds = {"string": "string", "double": "float32", "int64": "int64"}
    assert {name: spec.dtype for name, spec in result.signature.inputs.items()} == {
        name: kinds[kind] for name, kind in FEATURES.items()
    }
    assert all(spec.shape == (-1,) for spec in (*result.signature.inputs.values(), *result.signature.outputs.values()))


def test_saved_model_repeats_the_golden_predictions(result: TrainingResult):
    inputs, expected = golden_of(Path(result.saved_model))
    assert len(expected) == 32
    assert 0 < expected.min() < expected.max() < 1
    assert any(np.isnan(values).any() for values in inputs.values() if values.dtype == np.float32)
    np.testing.assert_allclose(score(Path(result.saved_model), inputs, "probability"), expected, rtol=0, atol=1e-6)


def test_values_never_seen_and_missing_ones_are_scored(result: TrainingResult):
    inputs, _ = golden_of(Path(result.saved_model))
    odd = {
        name: np.array([""] * 2, dtype=object)
        if values.dtype == object
        else (np.full(2, np.nan, np.float32) if values.dtype == np.float32 else np.full(2, 10**6))
        for name, values in inputs.items()
    }
    assert np.isfinite(score(Path(result.saved_model), odd, "probability")).all()


def test_record_of_how_it_went(result: TrainingResult):
    spec = read_spec(trained().path)
    assert result.snapshot_id == spec.snapshot.id
    assert set(result.history) == {"auc", "loss", "val_auc", "val_loss"}
    assert result.examples == 4000 * len(result.history["loss"])
    assert result.oldest_event_time == spec.snapshot.splits["train"].start
    assert result.newest_event_time < spec.snapshot.splits["train"].end
    assert {"tensorflow", "keras", "numpy", "python"} <= set(result.versions)
    assert not list(trained().path.glob(".tmp-*"))


def test_same_spec_is_not_trained_twice(tmp_path: Path, result: TrainingResult):
    copy = copy_of(trained(), tmp_path / "t")
    started = time.monotonic()
    again = train(read_spec(copy.path), copy.path, timeout=60)
    assert time.monotonic() - started < 2  # no child could have imported TensorFlow by now
    assert again == result.model_copy(update={"saved_model": str(copy.saved_model)})


def test_damage_is_healed_and_same_seed_gives_the_same_weights(tmp_path: Path, result: TrainingResult):
    copy = copy_of(trained(), tmp_path / "t")
    (copy.saved_model / WEIGHTS).write_bytes(b"half")
    (copy.path / ".tmp-saved_model-1").mkdir()
    again = train(read_spec(copy.path), copy.path, timeout=300)  # another process
    assert weights_hash(copy.saved_model) == weights_hash(trained().saved_model)
    assert again.history == result.history
    assert golden_of(copy.saved_model)[1].tolist() == golden_of(trained().saved_model)[1].tolist()
    assert not list(copy.path.glob(".tmp-*"))


# --- failing ----------------------------------------------------------------------------------------------

BROKEN = """
import os, time
import keras

def _model(names, **compile):
    inputs = {name: keras.Input((), name=name) for name in names}
    hidden = keras.layers.Dense(1)(keras.ops.stack(list(inputs.values()), axis=1))
    model = keras.Model(inputs, hidden)
    if compile:
        model.compile(**compile)
    return model

def raises(train, seed):
    return helper(train)

def helper(train):
    names = sorted(name for name in os.environ if name.lstrip("_").startswith("AIRFLOW"))
    raise KeyError(f"no such column; Airflow's variables here: {names}")

def lacks_memory(train, seed):
    raise MemoryError("cannot allocate")

def unreachable(train, seed):
    raise ConnectionResetError("the vocabulary's server went away")

def no_model(train, seed):
    return "a model"

def wrong_inputs(train, seed):
    return _model(["distance_miles", "wind"], loss="mse")

def subclassed(train, seed):
    class Model(keras.Model):
        pass
    return Model()

def not_compiled(train, seed):
    return _model([name for name in train if train[name].dtype == "float32"])

def nan_loss(train, seed):
    return _model([name for name in train if train[name].dtype == "float32"], loss="mse", optimizer="sgd")

def sleeps(train, seed):
    time.sleep(600)

def closed_vocabulary(train, seed):
    text = keras.Input((), name="carrier", dtype="string")
    index = keras.layers.StringLookup(vocabulary=sorted(set(train["carrier"])), num_oov_indices=0)(text)
    carrier = keras.layers.Flatten()(keras.layers.Embedding(5, 1)(keras.ops.expand_dims(index, 1)))
    model = keras.Model({"carrier": text}, keras.layers.Dense(1, activation="sigmoid")(carrier))
    model.compile(loss="binary_crossentropy")
    return model

def free_rows(test):
    return {"carrier": ["AA", "UA", "AA"]}

def no_rows(test):
    return {"carier": ["AA"]}
"""


@pytest.fixture
def broken(tmp_path: Path):
    """Return a function that makes a spec whose model function misbehaves."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "broken_models.py").write_text(BROKEN)
    snapshot = make_snapshot(tmp_path, rows=100)
    floats = {name: kind for name, kind in snapshot.features.items() if kind == "double"}

    def spec(function: str, **changes: object):
        return make_spec(
            snapshot.model_copy(update={"features": floats}),
            entrypoint=f"broken_models:{function}",
            code_path=str(tmp_path / "code"),
            **changes,
        )

    return spec


def test_a_model_function_whose_server_does_not_answer_is_tried_again(broken, tmp_path: Path):
    with pytest.raises(TransientError, match=r"raised ConnectionResetError(.|\n)*in unreachable(.|\n)*tried again"):
        train(broken("unreachable"), tmp_path / "t", timeout=120)


def test_model_function_that_raises_is_shown_where(broken, tmp_path: Path, monkeypatch, caplog):
    monkeypatch.setenv("AIRFLOW__CORE__FERNET_KEY", "secret")
    caplog.set_level(logging.INFO)
    with pytest.raises(TrainingError) as caught:
        train(broken("raises"), tmp_path / "t", timeout=120, log=logging.getLogger("task"))
    error = caught.value
    assert error.headline.startswith("The model function raised KeyError")
    assert "Airflow's variables here: []" in error.headline
    assert "broken_models.py:14 in raises: return helper(train)" in error.detail
    assert "in helper: raise KeyError(" in error.detail
    assert "'broken_models:raises'" in error.hint
    assert "Traceback (most recent call last):" in caplog.text
    assert {path.name for path in (tmp_path / "t").iterdir()} == {".lock", "spec.json", "error.json"}


@pytest.mark.parametrize(
    ("function", "says"),
    [
        ("no_model", "did not return a Keras model but str"),
        ("wrong_inputs", r"inputs are not the snapshot's features(.|\n)*not among these: \['wind'\]"),
        ("subclassed", "inputs are not the snapshot's features(.|\n)*Build a functional model"),
        ("not_compiled", "not compiled"),
        ("nan_loss", "loss is not a finite number after epoch 1"),
        ("lacks_memory", r"The model function ran out of memory(.|\n)*cannot allocate(.|\n)*Lower batch_size"),
        ("rises", "Did you mean 'raises'"),
    ],
)
def test_unusable_model_is_explained_and_leaves_nothing(broken, tmp_path: Path, function: str, says: str):
    from airflow_mlops.engine.training.fit import fit
    from airflow_mlops.exceptions import MlopsError

    (tmp_path / "t").mkdir()
    with pytest.raises(MlopsError, match=says):
        fit(broken(function), Workdir(tmp_path / "t"))
    assert {path.name for path in (tmp_path / "t").iterdir()} <= {"progress.json"}


@pytest.fixture
def closed(broken):
    """A spec whose model knows the carriers of its training and fails on any other."""
    spec = broken("closed_vocabulary", epochs=1)
    return spec.model_copy(update={"snapshot": spec.snapshot.model_copy(update={"features": {"carrier": "string"}})})


def test_a_model_of_a_closed_vocabulary_trains_and_the_log_says_what_it_cannot_answer(closed, tmp_path, caplog):
    from airflow_mlops.engine.training.fit import fit

    (tmp_path / "t").mkdir()
    result = fit(closed, Workdir(tmp_path / "t"))
    golden = Golden.read(Path(result.saved_model))
    assert set(golden.inputs["carrier"]) == {"AA", "B6", "DL", "EV", "UA"}
    assert len(golden.outputs["probability"]) == 31
    assert "cannot answer a text that it never saw" in caplog.text


def test_golden_rows_of_the_users_choice(closed, tmp_path: Path):
    from airflow_mlops.engine.training.fit import fit

    (tmp_path / "t").mkdir()
    chosen = closed.model_copy(update={"golden": "broken_models:free_rows"})
    assert chosen.hash != closed.hash
    golden = Golden.read(Path(fit(chosen, Workdir(tmp_path / "t")).saved_model))
    assert golden.inputs == {"carrier": ["AA", "UA", "AA"]}
    assert len(golden.outputs["probability"]) == 3
    with pytest.raises(ConfigError, match=r"not rows of the model's inputs(.|\n)*each of: carrier"):
        fit(closed.model_copy(update={"golden": "broken_models:no_rows"}), Workdir(tmp_path / "t"))


def test_changed_snapshot_is_refused(broken, tmp_path: Path):
    from airflow_mlops.engine.training.fit import fit

    spec = broken("no_model")
    (Path(spec.snapshot.uri) / "train.parquet").write_bytes(b"changed")
    with pytest.raises(DataError):
        fit(spec, Workdir(tmp_path / "t"))


def children_of(pid: int) -> list[psutil.Process]:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        found = psutil.Process(pid).children(recursive=True)
        with contextlib.suppress(psutil.Error):  # one that has just ended
            found = [process for process in found if "airflow_mlops.engine.training.runner" in process.cmdline()]
            if found:
                return found
        time.sleep(0.05)
    raise AssertionError("no training process came up")


def test_timeout_ends_the_child(broken, tmp_path: Path):
    process = TrainingProcess(broken("sleeps"), tmp_path / "t")
    started = time.monotonic()
    with pytest.raises(TrainingError, match=r"did not end within 1 s(.|\n)*Raise the timeout"):
        process.run(timeout=1)
    assert time.monotonic() - started < 10
    assert process._child is not None
    assert process._child.returncode in (-signal.SIGTERM, -signal.SIGKILL)


def test_stop_ends_the_child_and_what_a_retry_may_cure_is_said_so(broken, tmp_path: Path):
    process = TrainingProcess(broken("sleeps"), tmp_path / "t")
    caught: list[BaseException] = []

    def run() -> None:
        try:
            process.run(timeout=120)
        except TransientError as error:
            caught.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    (child,) = children_of(os.getpid())
    process.stop()
    thread.join(20)
    assert not child.is_running()
    assert "killed by SIG" in str(caught[0])
    process.stop()  # nothing left to end


def test_child_dies_with_its_parent(broken, tmp_path: Path):
    (tmp_path / "wanted.json").write_text(broken("sleeps").to_json())
    code = (
        "import sys; from pathlib import Path; from airflow_mlops.contracts import TrainingSpec;"
        "from airflow_mlops.engine.training.launch import train;"
        "train(TrainingSpec.from_json(Path(sys.argv[1]).read_text()), Path(sys.argv[2]), 120)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "wanted.json"), str(tmp_path / "t")])
    (child,) = children_of(parent.pid)
    parent.kill()
    parent.wait()
    _, alive = psutil.wait_procs([child], timeout=20)
    assert not alive


def test_one_process_at_a_time_trains_in_a_folder(broken, tmp_path: Path):
    (tmp_path / "t").mkdir()
    with (tmp_path / "t" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(TransientError, match="Another process has been training the same spec"):
            train(broken("raises"), tmp_path / "t", timeout=1)
    assert not (tmp_path / "t" / "spec.json").exists()


def test_identity_follows_data_seed_parameters_and_code_but_not_places(tmp_path: Path):
    spec = make_spec(make_snapshot(tmp_path, rows=20))
    moved = spec.model_copy(
        update={"code_path": "/elsewhere", "snapshot": spec.snapshot.model_copy(update={"uri": "/mnt"})}
    )
    assert moved.hash == spec.hash
    for change in ({"seed": 8}, {"params": {"dropout": 0.2}}, {"code_hash": "edited"}, {"epochs": 3}):
        assert spec.model_copy(update=change).hash != spec.hash


def test_it_is_not_trained_under_the_name_of_another_environment(home, tmp_path):
    spec = make_spec(make_snapshot(home, 200), epochs=1, environment={**environment(), "tensorflow": "1.0.0"})
    with pytest.raises(TrainingError, match=r"other versions than it was asked for(.|\n)*asked 1\.0\.0, here"):
        train(spec, tmp_path / "t", timeout=120)
