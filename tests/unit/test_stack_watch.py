"""What dies of a stack is started again. Real processes, of a stack of two sleepers."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from airflow_mlops.exceptions import TransientError
from airflow_mlops.stack import processes
from airflow_mlops.stack import stack as stack_module
from airflow_mlops.stack.ports import Ports
from airflow_mlops.stack.stack import Stack
from airflow_mlops.stack.watch import MOST, watch

SLEEPS = "from time import sleep; sleep(600)"


@pytest.fixture
def stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stack]:
    """Two components that run, without a database."""
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "sleeper.py").write_text(SLEEPS)
    monkeypatch.setattr(stack_module, "COMPONENTS", ("one", "two"))
    monkeypatch.setattr(stack_module, "module_and_flags", lambda name, *_: ["sleeper", name])
    monkeypatch.setattr(Stack, "environment", {**os.environ, "PYTHONPATH": str(folder)})
    monkeypatch.setattr(Stack, "database", None)
    stack = Stack(tmp_path, Ports(), dags=tmp_path, feature_repo=tmp_path)
    stack.layout.run.mkdir()
    for name in ("one", "two"):
        stack._spawn(name)
    yield stack
    processes.stop(stack._state().processes, grace=1)


def pid_of(stack: Stack, name: str) -> int | None:
    record = stack.status()[name]
    return record and record.pid


def until(said: object, within: float = 20) -> None:
    deadline = time.monotonic() + within
    while not said():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_what_dies_is_started_again_until_the_stack_is_stopped(stack: Stack) -> None:
    why: list[str] = []
    watching = threading.Thread(target=lambda: why.append(watch(stack)))
    watching.start()
    one, two = pid_of(stack, "one"), pid_of(stack, "two")
    assert one is not None
    for _ in range(2):
        before = pid_of(stack, "one")
        os.kill(before, signal.SIGKILL)
        until(lambda before=before: pid_of(stack, "one") not in (None, before))
    assert pid_of(stack, "two") == two, "nothing else"
    stack.down(grace=2)
    watching.join(10)
    assert why == ["the stack was stopped"]
    assert not psutil.pid_exists(two) or psutil.Process(two).status() == psutil.STATUS_ZOMBIE
    assert not stack.is_started, "and nothing writes that it is"


def test_what_cannot_run_is_given_up_and_said(stack: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    waited: list[float] = []

    def wait(seconds: float) -> None:
        waited.append(seconds)
        os.kill(pid_of(stack, "two") or 0, signal.SIGKILL)
        until(lambda: pid_of(stack, "two") is None)

    assert watch(stack, wait) == f"two has ended again, after {MOST} starts: nothing is started again from now on"
    assert waited == [1, *(2**n for n in range(MOST))], "longer each time"
    assert "two had ended and is started again" in capsys.readouterr().out
    with pytest.raises(TransientError, match="two has ended, though nobody stopped it"):
        stack.check()


def test_a_command_waits_for_what_is_soon_done(stack: Stack) -> None:
    with ThreadPoolExecutor() as pool:
        with stack._alone():
            down = pool.submit(stack.down, grace=2)
            time.sleep(0.3)
            assert not down.done()
        assert "one" in down.result(60)


def test_nothing_is_started_while_a_command_starts_or_stops_the_stack(stack: Stack) -> None:
    os.kill(pid_of(stack, "one") or 0, signal.SIGKILL)
    until(lambda: pid_of(stack, "one") is None)
    rounds: list[float] = []

    def wait(seconds: float) -> None:
        rounds.append(seconds)
        if len(rounds) == MOST + 2:
            stack.layout.state.unlink()

    with stack._alone():
        watch(stack, wait)
    assert stack.layout.state.exists() is False
