"""GPUs of a worker: found by the driver, taken by one process at a time. Real locks and processes, a made-up driver."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from airflow.sdk import DAG

from airflow_mlops import GPU, Resources, Trainer
from airflow_mlops.contracts import Compute
from airflow_mlops.decorators.tensorflow import tensorflow_task
from airflow_mlops.engine.devices.assign import Assigned, assigned, compute_of
from airflow_mlops.engine.devices.leases import Lease, holders, lease_folder, take
from airflow_mlops.engine.devices.nvml import find_gpus
from airflow_mlops.engine.devices.peers import TF_CONFIG, _environment, free_ports
from airflow_mlops.engine.devices.told import TOLD
from airflow_mlops.engine.training.runner import _write
from airflow_mlops.exceptions import ConfigError, TrainingError, TransientError
from airflow_mlops.operators.tensorflow import TensorFlowTrainOperator
from tests.fake_nvml import fake_nvml, with_gpus

log = logging.getLogger(__name__)


@pytest.fixture(autouse=True)
def _leases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLOPS_GPU_LEASES", str(tmp_path / "leases"))


def numbers(visible: str | None, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    return [device.number for device in find_gpus().devices]


def wanted(gpu: GPU | None, task: str = "a task", within: float = 60) -> Assigned:
    """Ask for GPUs, and let go of them at once."""
    with assigned(gpu, task, time.monotonic() + within, log) as devices:
        return devices


# --- which there are ------------------------------------------------------------------------------------------


def test_gpus_are_found_by_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    with_gpus(monkeypatch, "NVIDIA H200", "NVIDIA L4")
    (first, second), why = find_gpus()
    assert (first.number, first.name, first.uuid, why) == (0, "NVIDIA H200", "GPU-0000-uuid", "")
    assert str(second) == "GPU 1 (NVIDIA L4, 80 GiB)"


@pytest.mark.parametrize(
    ("visible", "left"),
    [
        (None, [0, 1, 2]),
        ("2,0", [2, 0]),
        ("GPU-11", [1]),
        ("GPU-2222-uuid,1", [2, 1]),
        ("0,7,1", [0]),  # as CUDA does: nothing counts from an unknown one on
        ("", []),
        ("-1", []),
        ("1,1", [1]),
    ],
)
def test_only_what_the_worker_may_use_is_found(
    visible: str | None, left: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    with_gpus(monkeypatch, "A", "B", "C")
    assert numbers(visible, monkeypatch) == left


def test_without_a_driver_there_is_none_and_it_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    with_gpus(monkeypatch, driver=False)
    assert find_gpus() == ([], "no driver of NVIDIA's answers: NVML Shared Library Not Found")
    with_gpus(monkeypatch)
    assert find_gpus() == ([], "the driver knows none")
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert "pip install" in find_gpus().why


def test_the_real_driver_library_is_asked() -> None:
    found = find_gpus()
    assert found.devices or "no driver of NVIDIA's answers" in found.why


def test_the_parts_of_a_gpu_are_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is cut by MIG can be used in its parts only."""
    with_gpus(monkeypatch, "A", "B", parts={1: ["B MIG 1g", "B MIG 2g"]})
    assert [(one.number, one.name, one.uuid) for one in find_gpus().devices] == [
        (0, "A", "GPU-0000-uuid"),
        (1, "B MIG 1g", "MIG-10-uuid"),
        (1, "B MIG 2g", "MIG-11-uuid"),
    ]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-11")
    assert [one.name for one in find_gpus().devices] == ["B MIG 2g"]
    assert wanted(GPU(1)).environment["CUDA_VISIBLE_DEVICES"] == "MIG-11-uuid"


def test_a_gpu_that_does_not_answer_is_left_out_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with_gpus(monkeypatch, "A", "B", "C", broken=1)
    found = find_gpus()
    assert [device.number for device in found.devices] == [0, 2]
    assert found.why == "GPU 1 does not answer: GPU is lost"


# --- who has which --------------------------------------------------------------------------------------------


def test_no_gpu_is_given_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    with_gpus(monkeypatch, "A", "B", "C")
    devices = find_gpus().devices
    two, one = take(devices, 2, "first"), take(devices, 1, "second")
    assert two is not None and one is not None
    assert {device.number for device in [*two.devices, *one.devices]} == {0, 1, 2}
    assert take(devices, 1, "third") is None
    two.release()
    assert take(devices, 3, "fourth") is None, "all or none"
    again = take(devices, 2, "fifth")
    assert again is not None
    again.release()
    one.release()


def test_a_share_is_given_beside_others_but_not_beside_a_whole_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with_gpus(monkeypatch, "A", "B")
    devices = find_gpus().devices
    whole = take(devices[1:], 1, "whole")
    assert whole is not None
    shares = [take(devices, 1, f"share {n}", shared=True) for n in range(3)]
    assert [share.devices[0].number for share in shares if share] == [0, 0, 0]
    assert take(devices[:1], 1, "whole") is None
    (said,) = holders(devices[:1])
    assert all(f"share {n}, pid {os.getpid()}" in said for n in range(3))
    for lease in [whole, *shares]:
        assert lease is not None
        lease.release()
    share = take(devices, 1, "most free", shared=True)
    assert share is not None and share.devices[0].number == 1
    share.release()


HOLD = """
import sys, time
sys.modules["pynvml"] = __import__("tests.fake_nvml", fromlist=["x"]).fake_nvml("A")
from airflow_mlops.engine.devices.leases import take
from airflow_mlops.engine.devices.nvml import find_gpus
import subprocess
lease = take(find_gpus().devices, 1, "flights.train")
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], pass_fds=lease.fds)
lease.held_by(child.pid)
print(child.pid, flush=True)
time.sleep(60)
"""


def test_a_lease_ends_with_the_last_process_that_has_it_however_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    with_gpus(monkeypatch, "A")
    devices = find_gpus().devices
    worker = subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True)
    assert worker.stdout is not None
    child = int(worker.stdout.readline())
    try:
        assert take(devices, 1, "mine") is None
        worker.kill()
        worker.wait()
        assert take(devices, 1, "mine") is None, "the child of a killed worker still computes"
        assert holders(devices) == [f"GPU 0 (A, 80 GiB) is with flights.train, pid {child}, for 0 min"]
    finally:
        os.kill(child, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while (lease := take(devices, 1, "mine")) is None:
        assert time.monotonic() < deadline
    assert "flights.train" not in (lease_folder() / "GPU-0000-uuid.lock").read_text(), "what is over is not told"
    lease.release()
    assert holders(devices) == []


def test_a_holder_that_cannot_be_seen_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """In another container: its number is nobody's here."""
    with_gpus(monkeypatch, "A")
    (lease, devices) = (take(find_gpus().devices, 1, "theirs"), find_gpus().devices)
    assert lease is not None
    (lease_folder() / "GPU-0000-uuid.lock").write_text(json.dumps({"pid": 2**30, "task": "theirs", "since": 0}) + "\n")
    assert "theirs, pid 1073741824, which cannot be seen from here" in holders(devices)[0]
    lease.release()


def test_locks_are_for_every_user_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    with_gpus(monkeypatch, "A")
    lease = take(find_gpus().devices, 1, "mine")
    assert lease is not None
    lease.release()
    assert oct(lease_folder().stat().st_mode)[-4:] == "1777"
    assert oct((lease_folder() / "GPU-0000-uuid.lock").stat().st_mode)[-3:] == "666"


# --- what a child is given ------------------------------------------------------------------------------------


def test_a_child_is_given_its_gpus_and_none_else(monkeypatch: pytest.MonkeyPatch) -> None:
    with_gpus(monkeypatch, "A", "B", "C")
    with assigned(GPU(1), "one", time.monotonic() + 5, log):
        given = wanted(GPU(2, memory_limit=4096)).environment
    assert given["CUDA_VISIBLE_DEVICES"] == "GPU-1111-uuid,GPU-2222-uuid"
    assert given["TF_FORCE_GPU_ALLOW_GROWTH"] == "true"
    assert json.loads(given[TOLD])["memory_limit"] == 4096
    assert "TF_XLA_FLAGS" not in given
    assert "auto_jit" in wanted(GPU(1, xla=True)).environment["TF_XLA_FLAGS"]


def test_who_did_not_ask_sees_no_gpu(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    with_gpus(monkeypatch, "A")
    caplog.set_level(logging.INFO)
    assert wanted(None).environment == {"CUDA_VISIBLE_DEVICES": "-1"}
    assert "There are GPUs here, 1: GPU(1) would take one" in caplog.text


def test_a_gpu_where_there_is_none_fails_at_once_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    with_gpus(monkeypatch, driver=False)
    started = time.monotonic()
    with pytest.raises(ConfigError) as failed:
        wanted(GPU(1))
    assert time.monotonic() - started < 5
    words = str(failed.value)
    assert "There is no GPU here" in words and "NVML Shared Library Not Found" in words
    assert "queue='gpu'" in words and "GPU(1, or_cpu=True)" in words
    with_gpus(monkeypatch, "A")
    with pytest.raises(ConfigError, match="There is 1 GPU here, not 2"):
        wanted(GPU(2))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(ConfigError, match="the driver knows 1, and CUDA_VISIBLE_DEVICES='' leaves 0"):
        wanted(GPU(1))


def test_or_cpu_computes_on_the_cpu_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with_gpus(monkeypatch, driver=False)
    assert wanted(GPU(1, or_cpu=True)).environment["CUDA_VISIBLE_DEVICES"] == "-1"
    assert "There is no GPU here, so it computes on the CPU" in caplog.text


def test_who_waits_is_told_for_whom_and_gives_up_in_time(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with_gpus(monkeypatch, "A")
    caplog.set_level(logging.INFO)
    with assigned(GPU(1), "flights.train", time.monotonic() + 5, log) as first:
        first.started(os.getpid())
        with pytest.raises(TransientError) as failed:
            wanted(GPU(1, free_within="1s"), "rides.train")
        assert f"flights.train, pid {os.getpid()}" in str(failed.value)
        assert "Waiting for a free GPU: GPU 0 (A, 80 GiB) is with flights.train" in caplog.text
        with pytest.raises(TransientError):
            wanted(GPU(1), within=0.5)
        assert wanted(GPU(1, or_cpu=True, free_within="1s")).environment["CUDA_VISIBLE_DEVICES"] == "-1"
    assert wanted(GPU(1)).environment["CUDA_VISIBLE_DEVICES"] == "GPU-0000-uuid"


def test_who_waits_gets_the_gpu_when_it_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    with_gpus(monkeypatch, "A")
    lease: Lease | None = take(find_gpus().devices, 1, "first")
    assert lease is not None
    code = "import os, sys, time; time.sleep(1)"
    child = subprocess.Popen([sys.executable, "-c", code], pass_fds=lease.fds)
    lease.release()
    started = time.monotonic()
    assert wanted(GPU(1, free_within="30s")).environment["CUDA_VISIBLE_DEVICES"] == "GPU-0000-uuid"
    assert child.poll() is not None or time.monotonic() - started > 0.5
    child.wait()


# --- where it is asked for ------------------------------------------------------------------------------------


def test_gpus_say_queue_and_pool_of_the_task() -> None:
    with DAG("d"):
        said = TensorFlowTrainOperator(task_id="a", model="m", snapshot="s", entrypoint="a:b", gpu=GPU(2))
        own = TensorFlowTrainOperator(
            task_id="b", model="m", snapshot="s", entrypoint="a:b", gpu=GPU(1, queue="h200"), pool="mine", retries=3
        )
        mapped = TensorFlowTrainOperator.partial(task_id="c", model="m", snapshot="s", **GPU(1).as_arguments()).expand(
            entrypoint=["a:b", "a:c"]
        )

        @tensorflow_task(gpu=GPU(1))
        def function(number: int) -> int:
            return number

        called = function(1).operator
        each = function.override(task_id="each").expand(number=[1, 2]).operator
    assert (said.queue, said.pool, said.pool_slots) == ("gpu", "gpu", 2)
    assert (own.queue, own.pool, own.retries) == ("h200", "mine", 3)
    assert {(task.queue, task.pool) for task in (mapped, called, each)} == {("gpu", "gpu")}


def test_the_queue_alone_asks_for_one() -> None:
    from airflow_mlops.resources import gpu_of

    arguments = {"model": "m", "snapshot": "s", "entrypoint": "a:b"}
    assert gpu_of(TensorFlowTrainOperator(task_id="a", queue="gpu", pool="gpu", **arguments)) == GPU(1)
    assert gpu_of(TensorFlowTrainOperator(task_id="b", **arguments)) is None


def test_what_is_no_gpu_is_refused_when_the_file_is_parsed() -> None:
    with pytest.raises(ConfigError, match="gpu=1 says no GPUs"):
        TensorFlowTrainOperator(task_id="a", model="m", snapshot="s", entrypoint="a:b", gpu=1)
    with pytest.raises(ConfigError, match=r"Did you mean 'or_cpu'"):
        GPU(1, or_cup=True)
    with pytest.raises(ConfigError, match="shares of several"):
        GPU(2, shared=True)
    assert Trainer("a:b", window="60d", resources=GPU(1)).resources.beside() == {}
    assert Trainer("a:b", window="60d", resources=Resources(queue="big")).resources.beside() == {"queue": "big"}


def test_what_changes_the_weights_belongs_to_the_training_and_which_gpu_does_not() -> None:
    assert compute_of(None) == compute_of(GPU(1)) == compute_of(GPU(1, or_cpu=True, memory_limit=1)) == Compute()
    different = [GPU(2), GPU(1, xla=True), GPU(1, precision="mixed_float16"), GPU(1)]
    assert len({compute_of(gpu).to_json() for gpu in different}) == 4


def test_every_worker_of_a_training_has_its_part_of_the_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    with_gpus(monkeypatch, "A", "B", "C", "D")
    given = wanted(GPU(2, workers=2)).environment
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    told = [_environment(compute_of(GPU(2, workers=2)), ["one:1", "two:2"], number) for number in range(2)]
    assert [one["CUDA_VISIBLE_DEVICES"] for one in told] == [
        "GPU-0000-uuid,GPU-1111-uuid",
        "GPU-2222-uuid,GPU-3333-uuid",
    ]
    assert [json.loads(one[TOLD])["names"] for one in told] == [["A", "B"], ["C", "D"]]
    configs = [json.loads(one[TF_CONFIG]) for one in told]
    assert [config["task"]["index"] for config in configs] == [0, 1]
    assert configs[0]["cluster"] == configs[1]["cluster"] == {"worker": ["one:1", "two:2"]}
    assert GPU(2, workers=2).as_arguments()["pool_slots"] == 4


def test_ports_that_are_taken_are_not_given() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert taken.getsockname()[1] not in free_ports(20)
    assert len(set(free_ports(20))) == 20


def test_a_port_that_was_taken_since_is_tried_again_with_another(tmp_path: Path) -> None:
    _write(tmp_path, TrainingError("The fit function raised UnknownError: Could not start gRPC server"))
    assert json.loads((tmp_path / "error.json").read_text())["retryable"] is True
    _write(tmp_path, TrainingError("The fit function raised ValueError"))
    assert json.loads((tmp_path / "error.json").read_text())["retryable"] is False


def test_what_the_made_up_driver_offers_the_real_library_does_too() -> None:
    import pynvml

    assert [name for name in vars(fake_nvml()) if name.startswith("nvml") and not hasattr(pynvml, name)] == []
    assert issubclass(pynvml.NVMLError_LibraryNotFound, pynvml.NVMLError)
