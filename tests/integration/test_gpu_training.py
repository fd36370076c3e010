"""Trainings on GPUs that only a made-up driver knows, and what of it shows on a CPU: replicas, precision, XLA."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from airflow_mlops import GPU
from airflow_mlops.contracts import Compute, TrainingSpec
from airflow_mlops.engine.devices.assign import compute_of
from airflow_mlops.engine.devices.leases import take
from airflow_mlops.engine.devices.nvml import find_gpus
from airflow_mlops.engine.functions.run import FunctionProcess
from airflow_mlops.engine.registry.records import params_of
from airflow_mlops.engine.serving.golden import Golden
from airflow_mlops.engine.serving.saved_model import SavedModel
from airflow_mlops.engine.training.launch import TrainingProcess, train
from airflow_mlops.exceptions import TrainingError, TransientError
from tests.fake_nvml import with_gpus
from tests.training_fixtures import make_snapshot, make_spec

log = logging.getLogger(__name__)

MODEL = """
import keras

def build(train, seed):
    inputs = {name: keras.Input((), name=name, dtype="float32" if values.dtype == "float32" else "int64")
              for name, values in train.items()}
    known = [keras.ops.nan_to_num(keras.ops.cast(one, "float32")) for one in inputs.values()]
    hidden = keras.layers.Dense(16, activation="relu")(keras.ops.stack(known, axis=1) / 10)
    model = keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid", dtype="float32")(hidden))
    model.compile("adam", "binary_crossentropy", metrics=["auc"])
    print("computes in", hidden.dtype)
    return model
"""
SCRIPT = """
import os, sys, time
with open(sys.argv[1], "a") as file:
    print(os.environ["CUDA_VISIBLE_DEVICES"], os.getpid(), "begins", file=file, flush=True)
    time.sleep(float(sys.argv[2]))
    print(os.environ["CUDA_VISIBLE_DEVICES"], os.getpid(), "ends", file=file, flush=True)
sys.exit(3)
"""

Specs = Callable[..., TrainingSpec]


@pytest.fixture(autouse=True)
def _leases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLOPS_GPU_LEASES", str(tmp_path / "leases"))


@pytest.fixture(scope="module")
def specs(tmp_path_factory: pytest.TempPathFactory) -> Specs:
    """Make specs of small trainings on numbers alone."""
    home = tmp_path_factory.mktemp("gpus")
    (home / "gpu_model.py").write_text(MODEL)
    (home / "script.py").write_text(SCRIPT)
    snapshot = make_snapshot(home, 1000)
    numbers = {name: kind for name, kind in snapshot.features.items() if kind != "string"}
    few = snapshot.model_copy(update={"features": numbers})

    def made(**changes: object) -> TrainingSpec:
        return make_spec(few, **({"entrypoint": "gpu_model:build", "code_path": str(home)} | changes))

    return made


def script(folder: Path, seconds: float = 0.5) -> dict[str, object]:
    """A training by a script that says when it has which GPUs, and fails."""
    return {"entrypoint": "", "script": "script.py", "args": (str(folder / "said.txt"), str(seconds))}


def said(folder: Path, lines: int = 1, within: float = 30) -> list[list[str]]:
    """Return what scripts have said, once it is so many lines."""
    deadline = time.monotonic() + within
    while True:
        text = (folder / "said.txt").read_text() if (folder / "said.txt").exists() else ""
        if len(text.splitlines()) >= lines:
            return [line.split() for line in text.splitlines()]
        assert time.monotonic() < deadline, text
        time.sleep(0.05)


def test_over_two_gpus_on_a_cpu_it_is_divided_in_two_as_well(
    specs: Specs, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    gpu = GPU(2, or_cpu=True)
    result = train(specs(compute=compute_of(gpu), epochs=1), tmp_path / "t", timeout=200, log=log, gpu=gpu)
    assert "There is no GPU here, so it computes on the CPU" in caplog.text
    assert "2 replicas, each with a part of every batch" in caplog.text
    check_served(Path(result.saved_model))


def test_precision_and_xla_are_set_before_the_model_is_built(
    specs: Specs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """On a GPU that the driver knows and TensorFlow does not find."""
    with_gpus(monkeypatch, "NVIDIA H200")
    caplog.set_level(logging.INFO)
    gpu = GPU(1, or_cpu=True, precision="mixed_bfloat16", xla=True, memory_limit=1024)
    result = train(specs(compute=compute_of(gpu), epochs=1), tmp_path / "t", timeout=200, log=log, gpu=gpu)
    assert "TensorFlow finds none of the 1 GPUs that this training has, so it computes on the CPU" in caplog.text
    assert "computes in bfloat16" in caplog.text
    assert "CPU" in result.hardware
    assert {one.key: one.value for one in params_of(specs(compute=compute_of(gpu)))}["precision"] == "mixed_bfloat16"
    check_served(Path(result.saved_model))


def check_served(saved_model: Path) -> None:
    """What was trained so answers as it did then."""
    golden = Golden.read(saved_model)
    assert len({float(value) for value in golden.outputs["probability"]}) > 1
    with SavedModel(saved_model) as model:
        assert golden.check(model.run, model.signature, 1e-5).rows == 32


def test_a_gpu_that_tensorflow_does_not_find_is_no_gpu(
    specs: Specs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver is there, and the CUDA libraries are not: nobody trains on the CPU for it without a word."""
    with_gpus(monkeypatch, "NVIDIA H200")
    with pytest.raises(TrainingError, match="TensorFlow finds none of the 1 GPUs") as failed:
        train(specs(), tmp_path / "t", timeout=200, gpu=GPU(1))
    assert "tensorflow[and-cuda]" in str(failed.value)


def test_texts_cannot_be_divided_among_gpus_and_it_says_what_to_do(tmp_path: Path) -> None:
    spec = make_spec(make_snapshot(tmp_path, 20), compute=Compute(replicas=2))
    with pytest.raises(TrainingError, match="texts over 2 GPUs") as failed:
        train(spec, tmp_path / "t", timeout=10, gpu=GPU(2))
    assert "texts: carrier, origin, dest" in str(failed.value)
    assert "GPU(1)" in str(failed.value)


def test_two_trainings_on_one_gpu_are_one_after_the_other(
    specs: Specs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with_gpus(monkeypatch, "NVIDIA H200")
    caplog.set_level(logging.INFO)

    def one(name: str) -> None:
        process = TrainingProcess(
            specs(seed=int(name), **script(tmp_path)), tmp_path / name, log, gpu=GPU(1), task=f"d.t{name}"
        )
        with pytest.raises(TrainingError, match="ended with status 3"):
            process.run(60)

    threads = [threading.Thread(target=one, args=(name,)) for name in "12"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    lines = said(tmp_path, 4)
    assert [line[2] for line in lines] == ["begins", "ends", "begins", "ends"]
    assert {line[0] for line in lines} == {"GPU-0000-uuid"}
    assert any(f"GPU 0 (NVIDIA H200, 80 GiB) is with d.t{n}, pid" in caplog.text for n in (1, 2))


def test_a_gpu_is_taken_as_long_as_a_script_lives_that_uses_it(
    specs: Specs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own parent is killed, so hard that it cannot be ended with it."""
    with_gpus(monkeypatch, "NVIDIA H200")
    devices = find_gpus().devices
    process = TrainingProcess(specs(**script(tmp_path, 60)), tmp_path / "t", log, gpu=GPU(1))

    def run() -> None:
        with pytest.raises(TransientError, match="killed by SIGKILL"):
            process.run(60)

    thread = threading.Thread(target=run)
    thread.start()
    script_pid = int(said(tmp_path)[0][1])
    runner = psutil.Process(script_pid).parent()
    assert runner is not None
    os.kill(script_pid, signal.SIGSTOP)
    assert take(devices, 1, "other") is None
    inherited = [path for path in Path(f"/proc/{script_pid}/fd").iterdir() if str(path.readlink()).endswith(".lock")]
    assert inherited, "the script itself holds it"
    runner.kill()  # the launcher ends what is left, and with it the lease
    thread.join(30)
    deadline = time.monotonic() + 20
    while (lease := take(devices, 1, "other")) is None:
        assert time.monotonic() < deadline
    lease.release()


def test_a_function_has_the_gpus_that_it_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_gpus(monkeypatch, "A", "B")
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "gpu_functions.py").write_text(
        "def seen():\n    import os\n    return os.environ['CUDA_VISIBLE_DEVICES']\n"
    )
    from gpu_functions import seen

    assert FunctionProcess(seen, gpu=GPU(2)).call([], {}, 60) == "GPU-0000-uuid,GPU-1111-uuid"
    assert FunctionProcess(seen).call([], {}, 60) == "-1"


def test_what_changes_the_weights_is_another_training(specs: Specs) -> None:
    plain = specs()
    assert specs(compute=compute_of(GPU(1, or_cpu=True, shared=True, memory_limit=9))).hash == plain.hash
    assert TrainingSpec.from_json(plain.to_json()).hash == plain.hash
    others = [GPU(2), GPU(1, xla=True), GPU(1, precision="mixed_bfloat16")]
    assert len({plain.hash, *(specs(compute=compute_of(gpu)).hash for gpu in others)}) == 4


TOGETHER = """
import json
import os
import keras
import tensorflow as tf

def fit(data, spec, report):
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    me = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
    if spec.params.get("fails") == me:
        raise ValueError(f"worker {me} fails")
    print("worker", me, "of", strategy.num_replicas_in_sync, flush=True)
    with strategy.scope():
        inputs = {
            name: keras.Input((), name=name, dtype="float32" if kind == "double" else kind)
            for name, kind in data.inputs.items()
        }
        known = [keras.ops.nan_to_num(keras.ops.cast(one, "float32")) for one in inputs.values()]
        answer = keras.layers.Dense(1, activation="sigmoid")(keras.ops.stack(known, axis=1) / 10)
        model = keras.Model(inputs, answer)
    weights = [variable.value for variable in model.trainable_variables]
    size = spec.batch_size // strategy.num_replicas_in_sync

    def part(context):
        batches = data.train.tf_dataset(size, shuffle=spec.seed)
        return batches.shard(context.num_input_pipelines, context.input_pipeline_id).take(4)

    @tf.function
    def step(columns, labels):
        def mine(columns, labels):
            with tf.GradientTape() as tape:
                told = model(columns, training=True)
                loss = tf.reduce_mean(keras.losses.binary_crossentropy(labels, told))
            gradients = tape.gradient(loss, weights)
            context = tf.distribute.get_replica_context()
            for weight, gradient in zip(weights, context.all_reduce("mean", gradients)):
                weight.assign_sub(0.1 * gradient)
            return loss
        return strategy.reduce("mean", strategy.run(mine, args=(columns, labels)), axis=None)

    for epoch in range(spec.epochs):
        losses = [float(step(*batch)) for batch in strategy.distribute_datasets_from_function(part)]
        report(epoch=epoch + 1, loss=sum(losses) / len(losses))
    return model
"""


@pytest.fixture
def together(specs: Specs, tmp_path: Path) -> Specs:
    """Make specs of a training that two processes share."""
    (tmp_path / "together.py").write_text(TOGETHER)
    told = {"entrypoint": "", "fit": "together:fit", "code_path": str(tmp_path), "compute": compute_of(TWO)}
    return lambda **changes: specs(**(told | {"batch_size": 100} | changes))


TWO = GPU(1, workers=2, or_cpu=True)


def test_two_processes_train_one_model(together: Specs, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    result = train(together(), tmp_path / "t", timeout=300, log=log, gpu=TWO)
    assert "worker 0 of 2" in caplog.text
    assert "worker 1 of 2" in caplog.text
    assert result.history["loss"][1] < result.history["loss"][0]
    check_served(Path(result.saved_model))


@pytest.mark.slow
def test_a_worker_that_fails_ends_the_training_with_its_words(together: Specs, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="worker 1 fails"):
        train(together(params={"fails": 1}), tmp_path / "t", timeout=300, log=log, gpu=TWO)


def test_only_a_fit_function_trains_with_several_workers(specs: Specs, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="Only a fit function trains with 2 workers"):
        train(specs(compute=compute_of(TWO)), tmp_path / "t", timeout=10, gpu=TWO)
