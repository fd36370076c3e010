"""Long-running processes: started in sessions of their own, found again from another shell, stopped whole."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

# psutil derives the start time from the boot time, which follows corrections of the clock.
_SAME_START = 5.0


@dataclass(frozen=True)
class ProcessRecord:
    """A process that was started once. Pid **and** start time identify it: pids are reused.

    :param started: Seconds since the epoch.
    """

    name: str
    pid: int
    started: float

    @property
    def alive(self) -> bool:
        """Whether exactly this process still runs."""
        try:
            process = psutil.Process(self.pid)
            return abs(process.create_time() - self.started) < _SAME_START and _runs(process)
        except psutil.NoSuchProcess:
            return False


def record_of(name: str, pid: int) -> ProcessRecord:
    """Return the record of a process that runs now."""
    return ProcessRecord(name, pid, psutil.Process(pid).create_time())


def spawn(name: str, argv: Sequence[str], *, env: Mapping[str, str], cwd: Path, log: Path) -> ProcessRecord:
    """Start a process in a session of its own; its output goes to ``log``, the log before it to ``log.1``."""
    log.parent.mkdir(parents=True, exist_ok=True)
    if log.exists():
        log.replace(log.with_name(f"{log.name}.1"))
    with log.open("wb") as output:
        child = subprocess.Popen(
            argv,
            env=dict(env),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    _children.append(child)
    return record_of(name, child.pid)


_children: list[subprocess.Popen[bytes]] = []


def reap() -> None:
    """Collect children of this program that have ended, so that they do not stay as zombies."""
    _children[:] = [child for child in _children if child.poll() is None]


def stop(records: Iterable[ProcessRecord], *, sig: signal.Signals = signal.SIGTERM, grace: float) -> list[str]:
    """Stop whole sessions: ask the leaders' groups, wait, then kill what is left.

    :param grace: Seconds to wait before killing.
    :returns: Names of those that had to be killed.
    """
    records = list(records)
    for record in records:
        if record.alive:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(record.pid, sig)
    deadline = time.monotonic() + grace
    while time.monotonic() < deadline and any(record.alive for record in records):
        reap()
        time.sleep(0.05)
    killed = [record.name for record in records if record.alive]
    left = _session_members(records)
    for process in left:
        with contextlib.suppress(psutil.Error):
            process.kill()
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and any(_runs(process) for process in left):
        time.sleep(0.02)
    reap()
    return killed


def _runs(process: psutil.Process) -> bool:
    """Whether it is more than a zombie, which its parent may be slow to collect."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _session_members(records: Iterable[ProcessRecord]) -> list[psutil.Process]:
    """Return the living processes of the records' sessions, also of those whose leader is gone.

    A session id is not given to a new process while the session has members. So when the leader is gone, the
    members are ours, unless the pid now belongs to a leader that we did not start.
    """
    by_session: dict[int, list[psutil.Process]] = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError, PermissionError):
            if _runs(process):
                by_session.setdefault(os.getsid(process.pid), []).append(process)
    ours = []
    for record in records:
        members = by_session.get(record.pid, [])
        if record.alive or all(process.pid != record.pid for process in members):
            ours += members
    return ours


def tail(log: Path, lines: int = 30) -> str:
    """Return the last lines of a log, indented; says so when there is none."""
    if not log.exists():
        return "  (no log)"
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 200 * lines))
        text = file.read().decode(errors="replace").splitlines()[-lines:]
    return "\n".join(f"  {line}" for line in text) or "  (the log is empty)"
