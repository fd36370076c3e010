"""Who has which GPU: a lock on a file for each of them, in a folder of this machine.

The lock belongs to an open file, which the process that uses the GPU inherits. So it is free again when the last of
them is gone, however it went, and not before: a worker that is killed does not free the GPU of a child that lives on.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import stat
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from airflow_mlops.engine.devices.nvml import Device

FOLDER = "MLOPS_GPU_LEASES"
"""Environment variable with the folder of the locks, for containers that share GPUs and no ``/tmp``."""


def lease_folder() -> Path:
    """Return the folder of the locks, made if need be, writable for every user of this machine."""
    folder = Path(os.environ.get(FOLDER) or Path(tempfile.gettempdir()) / "airflow-mlops-gpus")
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(stat.S_ISVTX | 0o777)
    return folder


class Lease:
    """GPUs that are this process's, or shared with it; and its children's that inherit ``fds``."""

    def __init__(self, devices: Sequence[Device], fds: Sequence[int], task: str) -> None:
        self.devices = list(devices)
        self.fds = tuple(fds)
        self._task = task

    def held_by(self, pid: int) -> None:
        """Write down which process has the GPUs: whoever waits for them is told."""
        for fd in self.fds:
            os.write(fd, (json.dumps({"pid": pid, "task": self._task, "since": time.time()}) + "\n").encode())

    def release(self) -> None:
        """Let go of the GPUs. A child that inherited them keeps them."""
        for fd in self.fds:
            os.close(fd)


def take(devices: Sequence[Device], count: int, task: str, *, shared: bool = False) -> Lease | None:
    """Take ``count`` of the devices, or none of them when so many are not free.

    :param task: Who takes them, in words.
    :param shared: Together with others that share. Those with most memory free come first.
    """
    taken: list[Device] = []
    fds: list[int] = []
    for device in sorted(devices, key=lambda one: -one.free) if shared else devices:
        if len(taken) == count:
            break
        fd = _locked(device, shared=shared)
        if fd is not None:
            taken.append(device)
            fds.append(fd)
    lease = Lease(taken, fds, task)
    if len(taken) < count:
        lease.release()
        return None
    lease.held_by(os.getpid())
    return lease


def _locked(device: Device, *, shared: bool) -> int | None:
    fd = _open(lease_folder() / f"{device.uuid}.lock")
    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    if not shared:
        os.ftruncate(fd, 0)  # what it says of those before is over
    return fd


def _open(path: Path) -> int:
    flags = os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    try:  # the kernel may refuse to "create" another user's file in such a folder
        return os.open(path, flags)
    except FileNotFoundError:
        fd = os.open(path, flags | os.O_CREAT, 0o666)
        os.fchmod(fd, 0o666)
        return fd


def holders(devices: Sequence[Device]) -> list[str]:
    """Return who has each device, in words; nothing of those that are free."""
    return [f"{device} is with {' and '.join(said)}" for device in devices if (said := list(_holders(device)))]


def _holders(device: Device) -> Iterator[str]:
    path = lease_folder() / f"{device.uuid}.lock"
    if not path.exists() or _is_free(path):
        return
    lines: list[dict[str, Any]] = []
    for line in path.read_text().splitlines():
        with contextlib.suppress(ValueError):
            lines.append(json.loads(line))
    alive = [line for line in lines if _is_alive(line["pid"])]
    last = {line["task"]: line for line in alive or lines[-1:]}
    for holder in last.values():
        minutes = (time.time() - holder["since"]) / 60
        seen = "" if alive else ", which cannot be seen from here"
        yield f"{holder['task']}, pid {holder['pid']}{seen}, for {minutes:.0f} min"
    if not last:
        yield "a process that does not say who it is"


def _is_free(path: Path) -> bool:
    fd = _open(path)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
