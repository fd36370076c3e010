"""Give a child process the GPUs that were asked for, and nobody else's."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from collections.abc import Iterator
from typing import Any

from airflow_mlops.contracts import Compute, TrainingSpec
from airflow_mlops.durations import parse_duration
from airflow_mlops.engine.devices.leases import Lease, holders, lease_folder, take
from airflow_mlops.engine.devices.nvml import VISIBLE, Found, find_gpus
from airflow_mlops.engine.devices.told import TOLD, Told
from airflow_mlops.exceptions import ConfigError, TrainingError, TransientError
from airflow_mlops.resources import GPU

_LOOK_AGAIN = 0.5
_SAY_AGAIN = 60.0


def compute_of(gpu: GPU | None) -> Compute:
    """Return how a training on such GPUs computes."""
    if gpu is None:
        return Compute()
    return Compute(precision=gpu.precision, xla=gpu.xla, replicas=gpu.count, workers=gpu.workers)


def check_divisible(spec: TrainingSpec) -> None:
    """Refuse a training over several GPUs or workers that cannot be divided among them.

    :raises TrainingError: saying why.
    """
    if spec.compute.workers > 1 and not spec.fit:
        raise TrainingError(
            f"Only a fit function trains with {spec.compute.workers} workers.",
            detail=spec.named,
            hint="Write one with a loop under tf.distribute.MultiWorkerMirroredStrategy(), or train in one process: "
            "GPU(2).",
        )
    if spec.compute.replicas == 1 or not spec.entrypoint:
        return
    if texts := [name for name, kind in spec.snapshot.features.items() if "string" in kind or "binary" in kind]:
        raise TrainingError(
            f"TensorFlow cannot train on texts over {spec.compute.replicas} GPUs.",
            detail=f"{spec.named}; texts: {', '.join(texts)}",
            hint="Train on one, GPU(1); or look the texts up before: in the feature code, or in a fit function.",
        )


class Assigned:
    """What a child process is started with.

    :param environment: Variables that say which GPUs are its own, and how it uses them.
    :param fds: Open files that it inherits: as long as one of them is open, the GPUs are taken.
    """

    def __init__(self, environment: dict[str, str], lease: Lease | None = None) -> None:
        self.environment = environment
        self.fds = lease.fds if lease else ()
        self.gpus = lease.devices if lease else ()
        self._lease = lease

    def started(self, pid: int) -> None:
        """Say which process has the GPUs now."""
        if self._lease is not None:
            self._lease.held_by(pid)


@contextlib.contextmanager
def assigned(gpu: GPU | None, task: str, deadline: float, log: logging.Logger | Any) -> Iterator[Assigned]:
    """Take the GPUs that were asked for while the block runs.

    :param gpu: What was asked for. None: the child sees no GPU, whatever the machine has.
    :param task: Who asks, in words for those who wait.
    :param deadline: Until when to wait at most, by ``time.monotonic()``.
    :raises ConfigError: when this machine has not so many, at once.
    :raises TransientError: when others have them all the while.
    """
    found = find_gpus()
    if gpu is None:
        if found.devices:
            log.info("It computes on the CPU. There are GPUs here, %d: GPU(1) would take one.", len(found.devices))
        yield Assigned({VISIBLE: "-1"})
        return
    lease = _taken(gpu, found, task, deadline, log)
    try:
        yield Assigned(_environment(gpu, lease), lease)
    finally:
        if lease is not None:
            lease.release()


def _taken(gpu: GPU, found: Found, task: str, deadline: float, log: logging.Logger | Any) -> Lease | None:
    if len(found.devices) < gpu.all:
        if gpu.or_cpu:
            log.warning("%s, so it computes on the CPU: %s.", _too_few(gpu, found), found.why)
            return None
        raise ConfigError(
            f"{_too_few(gpu, found)}.",
            detail=f"{found.why or ', '.join(map(str, found.devices))}; asked: GPU({gpu.count})",
            hint=f"Let the task run where one is: on a worker of the queue that has GPUs (queue={gpu.queue!r}), with "
            f"NVIDIA's driver. GPU({gpu.count}, or_cpu=True) trains without.",
        )
    lease = _awaited(gpu, found, task, deadline, log)
    if lease is not None:
        log.info("It computes on %s", ", ".join(f"{device}, {device.uuid}" for device in lease.devices))
        return lease
    with_whom = "; ".join(holders(found.devices)) or "they were free for a moment only"
    if gpu.or_cpu:
        log.warning("No GPU became free within %s, so it computes on the CPU: %s.", gpu.free_within, with_whom)
        return None
    raise TransientError(
        f"{'No GPU was' if gpu.all == 1 else f'No {gpu.all} GPUs were'} free within {gpu.free_within}.",
        detail=f"{with_whom}; locks in {lease_folder()}",
        hint=f"Give the pool {gpu.pool!r} no more slots than the workers have GPUs, wait longer with free_within=, or "
        "share: GPU(1, shared=True).",
    )


def _awaited(gpu: GPU, found: Found, task: str, deadline: float, log: logging.Logger | Any) -> Lease | None:
    """Wait until so many are free, and take them; None when they were not in time."""
    until = min(deadline, time.monotonic() + parse_duration(gpu.free_within).total_seconds())
    say = time.monotonic()
    while (lease := take(found.devices, gpu.all, task, shared=gpu.shared)) is None:
        if time.monotonic() > until:
            return None
        if time.monotonic() >= say:
            log.info("Waiting for a free GPU: %s", "; ".join(holders(found.devices)))
            say += _SAY_AGAIN
        time.sleep(_LOOK_AGAIN)
    return lease


def _too_few(gpu: GPU, found: Found) -> str:
    if not found.devices:
        return "There is no GPU here"
    return f"There {'is 1 GPU' if len(found.devices) == 1 else f'are {len(found.devices)} GPUs'} here, not {gpu.all}"


def _environment(gpu: GPU, lease: Lease | None) -> dict[str, str]:
    told = Told(
        names=[device.name for device in lease.devices] if lease else [],
        fds=lease.fds if lease else (),
        or_cpu=gpu.or_cpu,
        memory_limit=gpu.memory_limit,
    )
    flags = os.environ.get("TF_XLA_FLAGS", "")
    return {
        VISIBLE: ",".join(device.uuid for device in lease.devices) if lease else "-1",
        TOLD: json.dumps(told._asdict()),
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
        **({"TF_XLA_FLAGS": f"{flags} --tf_xla_auto_jit=2 --tf_xla_cpu_global_jit".strip()} if gpu.xla else {}),
    }
