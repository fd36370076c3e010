"""A scheduler of the laptop stack is killed in the middle of a training."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from airflow_mlops.bootstrap.watch import Watcher
from airflow_mlops.stack.airflow_api import AirflowApi
from airflow_mlops.stack.watch import watch
from tests.e2e.small_stack import said, small_stack

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


def test_a_killed_scheduler_is_started_again_and_its_training_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKER", "local")
    with small_stack(tmp_path, lambda _: {}) as stack, AirflowApi(stack.airflow_url) as airflow:
        watching = threading.Thread(target=watch, args=(stack,))
        watching.start()
        stack.check = lambda: None  # type: ignore[method-assign]  # as of a stack that is watched
        watcher = Watcher(airflow, stack, timeout=240)
        watcher.ready(["gpus"])
        run = airflow.trigger("gpus")["dag_run_id"]
        watcher.until(lambda: bool(said(stack)))
        scheduler = stack.status()["scheduler"]
        assert scheduler is not None
        os.kill(scheduler.pid, signal.SIGKILL)
        killed = time.monotonic()
        watcher.until(lambda: len(said(stack)) == 2)
        took = time.monotonic() - killed
        stack.console.say(f"the training is taken up again after {took:.0f} s")
        (stack.layout.home / "go").touch()
        watcher.finish("gpus", run)
        assert [line[0] for line in said(stack)] == ["begins", "begins", "ends"]
        assert took < 60
        stack.down()
        watching.join(30)
        assert not watching.is_alive()
