"""Workers on queues, for real: Celery, Valkey and PostgreSQL; a worker for what needs a GPU, and one for the rest."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from datetime import datetime

import psutil
import pytest

from airflow_mlops.demo.watch import Watcher
from airflow_mlops.stack import processes
from airflow_mlops.stack.airflow_api import AirflowApi
from airflow_mlops.stack.postgres import Postgres
from airflow_mlops.stack.processes import ProcessRecord
from airflow_mlops.stack.stack import Stack
from tests.e2e.small_stack import said, small_stack
from tests.online_stores import start_valkey

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack whose scheduler hands tasks to Celery, and soon misses a worker that is dead."""
    valkey = start_valkey()

    def celery(database: Postgres) -> dict[str, str]:
        return {
            "CORE__EXECUTOR": "CeleryExecutor",
            "CELERY__BROKER_URL": f"redis://{valkey.host}:{valkey.port}/0",
            "CELERY__RESULT_BACKEND": f"db+{database.url('airflow')}",
            "CELERY__WORKER_ENABLE_REMOTE_CONTROL": "False",
            "CELERY_BROKER_TRANSPORT_OPTIONS__VISIBILITY_TIMEOUT": "86400",
            "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "10",
            "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "1",
        }

    with small_stack(tmp_path_factory.mktemp("celery"), celery) as stack:
        yield stack
    valkey.terminate()


Start = Callable[[str, str], ProcessRecord]


@pytest.fixture(scope="module")
def start(stack: Stack) -> Iterator[Start]:
    """Start workers by queue and name."""
    started = []

    def worker(queue: str, name: str) -> ProcessRecord:
        folder = stack.layout.home / "workers"
        folder.mkdir(exist_ok=True)
        command = ["airflow", "celery", "worker", f"--queues={queue}", "--concurrency=1", f"--pid={folder / name}.pid"]
        command += [f"--celery-hostname={name}@localhost", "--skip-serve-logs", "--without-gossip", "--without-mingle"]
        record = processes.spawn(
            name,
            [sys.executable, "-m", *command],
            env={**stack.environment, "WORKER": name},
            cwd=folder,
            log=stack.layout.log(name),
        )
        started.append(record)
        return record

    yield worker
    processes.stop(started, grace=2)


def test_a_training_goes_to_the_gpu_worker_and_goes_on_when_that_is_killed(stack: Stack, start: Start) -> None:
    start("default", "usual")
    lost = start("gpu", "gpu-1")
    with AirflowApi(stack.airflow_url) as airflow:
        watcher = Watcher(airflow, stack, timeout=240)
        watcher.ready(["gpus"])
        run = airflow.trigger("gpus")["dag_run_id"]
        watcher.until(lambda: bool(said(stack)))
        [[begins, where, pid]] = said(stack)
        assert (begins, where) == ("begins", "gpu-1")

        # The machine is gone, in the middle of the training: with it all that it ran.
        for process in [*psutil.Process(lost.pid).children(recursive=True), psutil.Process(lost.pid)]:
            if process.is_running() and process.pid != int(pid):
                os.kill(process.pid, signal.SIGKILL)
        watcher.until(lambda: not psutil.pid_exists(int(pid)))  # nobody ends it but itself
        start("gpu", "gpu-2")
        watcher.until(lambda: len(said(stack)) == 2)
        (stack.layout.home / "go").touch()
        watcher.finish("gpus", run)
        assert [line[:2] for line in said(stack)] == [["begins", "gpu-1"], ["begins", "gpu-2"], ["ends", "gpu-2"]]
        [train] = [task for task in airflow.tasks("gpus", run) if task["task_id"] == "train"]
        assert (train["try_number"], train["queue"], train["pool"]) == (2, "gpu", "gpu")
        workers = {airflow.xcom("gpus", run, f"worker_{number}") for number in range(4)}
        assert workers == {"usual"}, "what needs no GPU never runs where one is"

        # The same again is not trained again: what is left is what the queue costs.
        again = airflow.trigger("gpus")["dag_run_id"]
        watcher.finish("gpus", again)
        assert len(said(stack)) == 3
        run_of = airflow.run("gpus", again)
        [train] = [task for task in airflow.tasks("gpus", again) if task["task_id"] == "train"]
        cost = datetime.fromisoformat(train["end_date"]) - datetime.fromisoformat(run_of["queued_at"])
        stack.console.say(f"the queue costs {cost.total_seconds():.1f} s")
        assert cost.total_seconds() < 20, "3 s on a machine that does nothing else"
