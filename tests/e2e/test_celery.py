"""Workers on queues, for real: Celery, Valkey and PostgreSQL; a worker for what needs a GPU, and one for the rest."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import psutil
import pytest

from airflow_mlops.bootstrap.watch import Watcher
from airflow_mlops.stack.airflow_api import AirflowApi
from tests.e2e.small_stack import celery_stack, said

sys.path.append(str(Path(__file__).parent.parent.parent / "bench"))
import gpu_queue

pytestmark = pytest.mark.e2e


def test_a_training_goes_to_the_gpu_worker_and_goes_on_when_that_is_killed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with celery_stack(tmp_path) as (stack, start), AirflowApi(stack.airflow_url) as airflow:
        start("default", "usual")
        worker = start("gpu", "gpu-1")
        watcher = Watcher(airflow, stack, timeout=240)
        watcher.ready(["gpus"])
        run = airflow.trigger("gpus")["dag_run_id"]

        # Its machine is gone in the middle of the training, with all that it ran; and once more, which is more often
        # than a task with one retry may be tried: each time it is further.
        for lost in (1, 2):
            watcher.until(lambda lost=lost: len(said(stack)) == lost)
            begins, where, pid = said(stack)[-1]
            assert (begins, where) == ("begins", f"gpu-{lost}")
            for process in [*psutil.Process(worker.pid).children(recursive=True), psutil.Process(worker.pid)]:
                if process.is_running() and process.pid != int(pid):
                    os.kill(process.pid, signal.SIGKILL)
            watcher.until(lambda pid=pid: not psutil.pid_exists(int(pid)))  # nobody ends it but itself
            worker = start("gpu", f"gpu-{lost + 1}")
        watcher.until(lambda: len(said(stack)) == 3)
        (stack.layout.home / "go").touch()
        watcher.finish("gpus", run)
        begun = [["begins", f"gpu-{number}"] for number in (1, 2, 3)]
        assert [line[:2] for line in said(stack)] == [*begun, ["ends", "gpu-3"]]
        [train] = [task for task in airflow.tasks("gpus", run) if task["task_id"] == "train"]
        assert (train["try_number"], train["queue"], train["pool"]) == (3, "gpu", "gpu")
        workers = {airflow.xcom("gpus", run, f"worker_{number}") for number in range(4)}
        assert workers == {"usual"}, "what needs no GPU never runs where one is"

        # The same again is not trained again.
        watcher.finish("gpus", airflow.trigger("gpus")["dag_run_id"])
        assert len(said(stack)) == 4

        # The small setting of the bench that needs such a stack.
        gpu_queue.against_a_local_child(gpu_queue.Figures(small=True), watcher, rounds=1)
        assert f"{gpu_queue.COST}: " in capsys.readouterr().out
