"""Parsing dags/flight_delay.py against a file with as many EmptyOperators in as many DAGs.

As the DAG processor does it: a process that has Airflow's SDK loaded forks, and the child executes the file.
Prints the ratio of the medians; each parse is a fresh child, so module imports are paid every time.

Run: python bench/parse.py
"""

from __future__ import annotations

import os
import runpy
import statistics
import tempfile
import time
from pathlib import Path

import airflow.providers.standard.operators.empty  # noqa: F401
import airflow.sdk

OURS = Path(__file__).parent.parent / "dags" / "flight_delay.py"
ROUNDS = 30

EMPTY = """
from datetime import datetime
from airflow.sdk import DAG
from airflow.providers.standard.operators.empty import EmptyOperator
for name, tasks in {shape!r}.items():
    with DAG("empty." + name, schedule=None, start_date=datetime(2013, 1, 1)) as dag:
        previous = None
        for task_id in tasks:
            task = EmptyOperator(task_id=task_id)
            if previous is not None:
                previous >> task
            previous = task
    globals()[name] = dag
"""


def parse_seconds(path: Path) -> float:
    """Execute a DAG file in a forked child and return the seconds it took there."""
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        started = time.perf_counter()
        runpy.run_path(str(path))
        os.write(write, str(time.perf_counter() - started).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        seconds = float(pipe.read())
    os.waitpid(child, 0)
    return seconds


def shape_of(path: Path) -> dict[str, list[str]]:
    """Return the task ids by DAG of a file, from a child so that nothing stays imported here."""
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        dags = [value for value in runpy.run_path(str(path)).values() if isinstance(value, airflow.sdk.DAG)]
        shape = {dag.dag_id.rsplit(".")[-1]: [task.task_id.replace(".", "_") for task in dag.tasks] for dag in dags}
        os.write(write, repr(shape).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        shape = eval(pipe.read())  # noqa: S307 - our own repr
    os.waitpid(child, 0)
    return shape


def main() -> None:
    shape = shape_of(OURS)
    with tempfile.TemporaryDirectory() as folder:
        empty = Path(folder) / "empty.py"
        empty.write_text(EMPTY.format(shape=shape))
        pairs = [(parse_seconds(OURS), parse_seconds(empty)) for _ in range(ROUNDS)]
    ours, theirs = (statistics.median(column) * 1000 for column in zip(*pairs, strict=True))
    tasks = sum(len(tasks) for tasks in shape.values())
    print(f"{len(shape)} DAGs, {tasks} tasks: ours {ours:.1f} ms, EmptyOperators {theirs:.1f} ms")
    print(f"ratio {ours / theirs:.2f} (median of {ROUNDS} pairs)")


if __name__ == "__main__":
    main()
