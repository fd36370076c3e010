"""A training by the queue ``gpu`` of a Celery worker against the same in a child of the scheduler's machine.

Starts PostgreSQL, Valkey, Airflow with both executors and a worker, and runs a small training in both places, turn by
turn: seconds from the trigger to the end of the task.

Run: python bench/gpu_queue.py            (two minutes on two cores)

Its small setting is part of the end-to-end test of Celery, which has such a stack already: ``against_a_local_child``.
"""

from __future__ import annotations

import sys
import tempfile
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from _figures import Figures

if TYPE_CHECKING:
    from airflow_mlops.bootstrap.watch import Watcher

PLACES = ("train_local", "train_queue")
COST = "seconds that the queue costs"


def seconds(watcher: Watcher, dag: str, seed: int) -> float:
    """Train; return how long it was from the trigger to the end of the task."""
    run = watcher.airflow.trigger(dag, {"seed": seed})["dag_run_id"]
    queued = watcher.finish(dag, run)["queued_at"]
    [train] = watcher.airflow.tasks(dag, run)
    return (datetime.fromisoformat(train["end_date"]) - datetime.fromisoformat(queued)).total_seconds()


def against_a_local_child(figures: Figures, watcher: Watcher, *, rounds: int) -> None:
    """Hold trainings by the queue against such in a local child."""
    watcher.ready(PLACES)
    took: dict[str, list[float]] = {dag: [] for dag in PLACES}
    # Each with a seed of its own: the same training again is found finished.
    for number in range(rounds * len(PLACES)):
        dag = PLACES[number % len(PLACES)]
        took[dag].append(seconds(watcher, dag, number + 1))
    local, queue = (median(took[dag]) for dag in PLACES)
    print(f"a training of {local:.1f} s in a local child takes {queue:.1f} s by the queue")
    figures.hold(COST, queue - local, at_most=3)


def main() -> None:
    sys.path.append(str(Path(__file__).parent.parent))
    from airflow_mlops.bootstrap.watch import Watcher
    from airflow_mlops.stack.airflow_api import AirflowApi
    from tests.e2e.small_stack import celery_stack

    figures = Figures(small=False)
    with (
        tempfile.TemporaryDirectory() as folder,
        celery_stack(Path(folder)) as (stack, start),
        AirflowApi(stack.airflow_url) as airflow,
    ):
        start("gpu", "gpu-1")
        (stack.layout.home / "go").touch()
        against_a_local_child(figures, Watcher(airflow, stack), rounds=5)
    figures.end()


if __name__ == "__main__":
    main()
