"""A stack of Airflow and PostgreSQL alone, with DAGs that train until they are told to end; on Celery, if wanted."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_mlops.stack import environment, processes
from airflow_mlops.stack import stack as stack_module
from airflow_mlops.stack.ports import Ports
from airflow_mlops.stack.postgres import Postgres
from airflow_mlops.stack.processes import ProcessRecord
from airflow_mlops.stack.stack import Stack
from tests.online_stores import start_valkey

HERE = Path(__file__).parent


@contextmanager
def small_stack(
    folder: Path, settings: Callable[[Postgres], Mapping[str, str]], feature_repo: str = "none", *more: str
) -> Iterator[Stack]:
    """Yield a stack that runs, with the DAGs of ``gpus_dag.py`` and their data.

    :param settings: More of Airflow's settings, ``SECTION__OPTION``.
    :param feature_repo: Name of the folder of a Feast repository, if there is one.
    :param more: Components beside the least that Airflow needs.
    """
    (folder / "dags").mkdir()
    for name in ("gpus_dag.py", "gpus_code.py"):
        shutil.copy(HERE / name, folder / "dags" / name)
    airflow = environment._airflow

    def with_more(layout: Any, ports: Any, database: Postgres, dags: Any) -> dict[str, str]:
        given = {f"AIRFLOW__{name}": value for name, value in settings(database).items()}
        return airflow(layout, ports, database, dags) | given

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(environment, "_airflow", with_more)
        patch.setattr(stack_module, "COMPONENTS", ("postgres", "api-server", "scheduler", "dag-processor", *more))
        stack = Stack(folder / "home", Ports.free(), dags=folder / "dags", feature_repo=folder / feature_repo)
        try:
            stack.up()
            rng = np.random.default_rng(5)
            x = rng.normal(size=200)
            rows = {"x": x, "z": rng.normal(size=200), "y": x + rng.normal(size=200) > 0}
            pq.write_table(pa.table(rows), stack.layout.home / "rows.parquet")
            yield stack
        finally:
            stack.down(grace=3)


Start = Callable[[str, str], ProcessRecord]


@contextmanager
def celery_stack(folder: Path) -> Iterator[tuple[Stack, Start]]:
    """Yield a stack that hands tasks to Celery and soon misses a worker that is dead; and what starts a worker.

    A worker is started by its queue and its name. A task may also say ``executor="LocalExecutor"``.
    """
    valkey = start_valkey()

    def celery(database: Postgres) -> dict[str, str]:
        return {
            "CORE__EXECUTOR": "CeleryExecutor,LocalExecutor",
            "CELERY__BROKER_URL": f"redis://{valkey.host}:{valkey.port}/0",
            "CELERY__RESULT_BACKEND": f"db+{database.url('airflow')}",
            "CELERY__WORKER_ENABLE_REMOTE_CONTROL": "False",
            "CELERY_BROKER_TRANSPORT_OPTIONS__VISIBILITY_TIMEOUT": "86400",
            "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "10",
            "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "1",
        }

    started = []

    def start(queue: str, name: str) -> ProcessRecord:
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

    try:
        with small_stack(folder, celery) as stack:
            try:
                yield stack, start
            finally:
                processes.stop(started, grace=2)
    finally:
        valkey.terminate()


def said(stack: Stack) -> list[list[str]]:
    """Return what trainings have said: what, on which worker, in which process."""
    file = stack.layout.home / "said.txt"
    return [line.split() for line in file.read_text().splitlines()] if file.exists() else []
