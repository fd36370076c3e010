"""A training that is ended anywhere and goes on: to the same weights, bit by bit."""

from __future__ import annotations

import errno
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from airflow_mlops.contracts import TrainingResult, TrainingSpec
from airflow_mlops.engine.training import checkpoints
from airflow_mlops.engine.training.checkpoints import Checkpoints, Position
from airflow_mlops.engine.training.following import Following
from airflow_mlops.engine.training.launch import train
from airflow_mlops.engine.training.options import Options
from airflow_mlops.engine.training.workdir import Workdir
from airflow_mlops.exceptions import TransientError
from tests.training_fixtures import golden_of, make_snapshot, make_spec

ROWS, BATCH, EPOCHS = 2000, 32, 4

CODE = """
import os, signal, time
from pathlib import Path
import keras
from airflow_mlops.engine.training import checkpoints

FAULTS = Path(__file__).parent / "faults"

def build(train, seed):
    faults = FAULTS.read_text().splitlines() if FAULTS.exists() else []
    if faults:
        FAULTS.write_text("\\n".join(faults[1:]))
        misbehave(*faults[0].split())
    inputs = {name: keras.Input((), name=name) for name in train}
    numbers = keras.ops.nan_to_num(keras.ops.stack(list(inputs.values()), axis=1))
    hidden = keras.layers.Dropout(0.2)(keras.layers.Dense(8, activation="relu")(numbers))
    model = keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid")(hidden))
    model.compile("adam", "binary_crossentropy", metrics=["auc"])
    return model

def stalls(data, spec, report):
    report(epoch=1, loss=0.5)
    time.sleep(600)

def misbehave(saves, whom, how):
    made, save = [], checkpoints.Checkpoints.save
    checkpoints._OFTEN, checkpoints._SHARE = 0, 1e9

    def saved(*given):
        made.append(save(*given))
        if len(made) == int(saves):
            os.kill(os.getppid() if whom == "parent" else os.getpid(), signal.Signals[how])
            time.sleep(60 if whom == "parent" else 0)  # until it is ended too
        return made[-1]

    checkpoints.Checkpoints.save = saved
"""


class Killed(BaseException):
    """As if the process ended here."""


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> TrainingSpec:
    tmp_path = tmp_path_factory.mktemp("durable")
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "durable_models.py").write_text(CODE)
    snapshot = make_snapshot(tmp_path, rows=ROWS)
    floats = {name: kind for name, kind in snapshot.features.items() if kind == "double"}
    return make_spec(
        snapshot.model_copy(update={"features": floats}),
        entrypoint="durable_models:build",
        code_path=str(tmp_path / "code"),
        epochs=EPOCHS,
        batch_size=BATCH,
    )


def weights(result: TrainingResult) -> dict[str, np.ndarray]:
    import tensorflow as tf

    reader = tf.train.load_checkpoint(f"{result.saved_model}/variables/variables")
    # All others are these once more, some in the order of a Python set.
    names = [name for name in reader.get_variable_to_shape_map() if name.startswith("variables/")]
    return {name: reader.get_tensor(name) for name in names}


def fit(spec: TrainingSpec, folder: Path) -> TrainingResult:
    from airflow_mlops.engine.training import fit as trainer

    folder.mkdir(exist_ok=True)
    return trainer.fit(spec, Workdir(folder))


@pytest.fixture(scope="module")
def whole(spec: TrainingSpec, tmp_path_factory: pytest.TempPathFactory) -> TrainingResult:
    """The training that nobody disturbed."""
    return fit(spec, tmp_path_factory.mktemp("whole"))


def check_same(ours: TrainingResult, theirs: TrainingResult) -> None:
    assert ours.history == theirs.history
    found, wanted = weights(ours), weights(theirs)
    assert found.keys() == wanted.keys()
    assert not [name for name in found if not np.array_equal(found[name], wanted[name])]
    assert golden_of(Path(ours.saved_model))[1].tolist() == golden_of(Path(theirs.saved_model))[1].tolist()


def killed_after(monkeypatch: pytest.MonkeyPatch, saves: int) -> list[Position]:
    """Let a training die after some checkpoints; it saves whenever it can."""
    made: list[Position] = []
    save = Checkpoints.save

    def saved(self: Checkpoints, position: Position, *rest: object) -> bool:
        done = save(self, position, *rest)  # type: ignore[arg-type]
        made.append(position)
        if len(made) == saves:
            raise Killed
        return done

    monkeypatch.setattr(checkpoints, "_OFTEN", 0)
    monkeypatch.setattr(checkpoints, "_SHARE", 1e9)
    monkeypatch.setattr(Checkpoints, "save", saved)
    return made


def test_it_goes_on_bit_by_bit_from_the_middle_and_from_the_end_of_an_epoch(
    spec: TrainingSpec, whole: TrainingResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog
):
    caplog.set_level(logging.INFO)
    for name, value in Options(tensorboard=True).as_environment().items():
        monkeypatch.setenv(name, value)
    for saves, position in ((6, Position(1, 32)), (2, Position(2))):
        with monkeypatch.context() as patch:
            made = killed_after(patch, saves)
            with pytest.raises(Killed):
                fit(spec, tmp_path)
        assert made[-1] == position
        assert len(list((tmp_path / "checkpoints").glob("*.npz"))) == 2
    again = fit(spec, tmp_path)
    assert "Going on from a checkpoint: epoch 2, step 32 of 4" in caplog.text
    assert "Going on from a checkpoint: epoch 3 of 4" in caplog.text
    check_same(again, whole)
    logs = tmp_path / "checkpoints" / "tensorboard"
    told = {name: scalars(logs / name) for name in ("train", "validation")}
    assert told["train"].keys() == {"epoch_loss", "epoch_auc", "epoch_learning_rate"}
    assert told["train"]["epoch_loss"] == pytest.approx(dict(enumerate(again.history["loss"]))), "of all tries"
    assert told["validation"]["epoch_auc"] == pytest.approx(dict(enumerate(again.history["val_auc"])))


def scalars(folder: Path) -> dict[str, dict[int, float]]:
    """Return tag → step → value, as TensorBoard reads them: the last counts."""
    import tensorflow as tf

    found: dict[str, dict[int, float]] = {}
    for file in sorted(folder.iterdir()):
        for record in tf.data.TFRecordDataset(str(file)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for value in event.summary.value:
                assert value.metadata.plugin_data.plugin_name == "scalars"
                found.setdefault(value.tag, {})[event.step] = float(tf.make_ndarray(value.tensor))
    return found


def test_killed_with_its_worker_and_then_asked_to_end_it_is_the_same_training(
    spec: TrainingSpec, whole: TrainingResult, tmp_path: Path, caplog
):
    caplog.set_level(logging.INFO)
    assert spec.code_path
    (Path(spec.code_path) / "faults").write_text("5 parent SIGKILL\n2 child SIGTERM\n")
    (tmp_path / "wanted.json").write_text(spec.to_json())
    folder = tmp_path / "trainings" / "t"
    code = (
        "import sys; from pathlib import Path; from airflow_mlops.contracts import TrainingSpec;"
        "from airflow_mlops.engine.training.launch import train;"
        "train(TrainingSpec.from_json(Path(sys.argv[1]).read_text()), Path(sys.argv[2]), 300)"
    )
    worker = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "wanted.json"), str(folder)])
    child = runner_of(worker.pid)
    assert worker.wait(200) == -signal.SIGKILL
    psutil.wait_procs([child], timeout=20)
    assert not child.is_running()
    assert len(list((tmp_path / "checkpoints" / "t").glob("*.npz"))) == 2, "beside the trainings of a home"

    again = train(spec, folder, timeout=400)
    said = caplog.text
    assert "Going on from a checkpoint: epoch 2, step 16 of 4" in said
    assert "Asked to end, and saved: epoch 2, step 48" in said
    assert "killed by SIGTERM. It got further than before" in said
    assert "Going on from a checkpoint: epoch 2, step 48 of 4" in said
    check_same(again, whole)
    assert not (tmp_path / "checkpoints" / "t").exists(), "nobody goes on from a training that is done"
    assert train(spec, folder, timeout=1) == again


def test_one_that_stands_still_is_ended_and_may_be_tried_again(spec: TrainingSpec, tmp_path: Path):
    stalling = spec.model_copy(update={"entrypoint": "", "fit": "durable_models:stalls"})
    with pytest.raises(TransientError, match=r"made no progress for \d s and was stopped(.|\n)*epoch 1/4"):
        train(stalling, tmp_path / "t", timeout=300, patience=1)


def runner_of(pid: int) -> psutil.Process:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        for process in psutil.Process(pid).children():
            if "airflow_mlops.engine.training.runner" in process.cmdline():
                return process
        time.sleep(0.05)
    raise AssertionError("no training process came up")


# --- checkpoints that cannot be used ----------------------------------------------------------------------


@pytest.fixture
def kept(tmp_path: Path) -> Checkpoints:
    """Three were saved, of which two are there."""
    made = Checkpoints(tmp_path / "checkpoints", "spec")
    for epoch in (1, 2, 3):
        assert made.save(Position(epoch), {"model0": np.full(1000, epoch, np.float32)}, {"seconds": epoch})
    assert [path.name[:8] for path in sorted(made.folder.iterdir())] == ["00000002", "00000003"]
    return made


def test_the_newest_checkpoint_is_found(kept: Checkpoints):
    found = kept.newest()
    assert found is not None
    assert (found.position, found.state) == (Position(3), {"seconds": 3})
    assert found.arrays["model0"].tolist() == [3.0] * 1000


@pytest.mark.parametrize("damage", ["cut in half", "a byte is another", "empty"])
def test_a_checkpoint_that_is_not_whole_is_passed_over_for_the_one_before(kept: Checkpoints, damage: str, caplog):
    newest = sorted(kept.folder.iterdir())[-1]
    content = bytearray(newest.read_bytes())
    content[2000] ^= 1
    newest.write_bytes({"cut in half": content[: len(content) // 2], "empty": b""}.get(damage, bytes(content)))
    found = kept.newest()
    assert found is not None
    assert found.position == Position(2)
    assert f"Checkpoint {newest.name} is passed over: it is not whole" in caplog.text


def test_a_checkpoint_of_another_seed_or_model_is_passed_over(kept: Checkpoints, caplog):
    assert Checkpoints(kept.folder, "another").newest() is None
    assert caplog.text.count("is passed over: another model, data or seed made it") == 2


def test_a_full_disk_ends_no_training(kept: Checkpoints, monkeypatch: pytest.MonkeyPatch, caplog):
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(np, "savez", full)
    assert not kept.save(Position(4), {}, {})
    assert "goes on without: No space left on device" in caplog.text
    assert len(list(kept.folder.iterdir())) == 2, "nothing half-written stays"
    found = kept.newest()
    assert found is not None
    assert found.position == Position(3)


def test_a_training_on_a_full_disk_goes_on_to_the_same_weights(
    spec: TrainingSpec, whole: TrainingResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog
):
    """Full while it trains: at the end there must be room for the model."""

    def full(path: Path, *_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def room(self: keras.callbacks.Callback, logs: object = None) -> None:
        monkeypatch.undo()

    import keras

    monkeypatch.setattr(checkpoints, "_OFTEN", 0)
    monkeypatch.setattr(np, "savez", full)
    monkeypatch.setattr(Path, "write_text", full)
    monkeypatch.setattr(Following, "on_train_end", room)
    check_same(fit(spec, tmp_path), whole)
    assert "No checkpoint can be saved, and the training goes on without: No space left on device" in caplog.text
    assert caplog.text.count("How far it is cannot be written, and the training goes on: No space left") == 1
    assert not list(tmp_path.rglob(".tmp-*"))


def test_a_checkpoint_that_does_not_fit_the_model_is_passed_over(spec: TrainingSpec, tmp_path: Path, caplog):
    """The spec says nothing of a function that makes another model each time it is called."""
    short = spec.model_copy(update={"epochs": 1})
    Checkpoints(tmp_path / "checkpoints", short.hash).save(Position(1), {"model0": np.zeros(3)}, {})
    assert len(fit(short, tmp_path).history["loss"]) == 1
    assert "passed over: the model function has made another model" in caplog.text
