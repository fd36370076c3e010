"""Parsing dags/flight_delay.py against a file with as many EmptyOperators in as many DAGs of the same schedules.

As the DAG processor does it: a parent that has loaded Airflow and its plugins imports what the file imports of
``airflow.*``, forks, and the child bags and serializes the file. Prints CPU milliseconds of the child, which other load
on the machine moves less than wall time, and the median ratio of a pair; and the same for a parent without plugins,
in which every child imports this package anew. Then many such pipelines in one file.

Run: python bench/parse.py [--small]
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("AIRFLOW__LOGGING__LOGGING_LEVEL", "ERROR")

import structlog
from airflow.dag_processing import processor
from airflow.dag_processing.dagbag import BundleDagBag

from _figures import Figures, options

OURS = Path(__file__).parent.parent / "dags" / "flight_delay.py"
ROUNDS, SMALL_ROUNDS = 25, 3
FLEET_SIZE, SMALL_FLEET = 100, 4
LOG = structlog.get_logger()

EMPTY = """
from datetime import datetime
from airflow.sdk import DAG, Asset, CronPartitionTimetable, CronTriggerTimetable
from airflow.providers.standard.operators.empty import EmptyOperator
schedules = {{
    "features": CronPartitionTimetable("0 0 * * *", timezone="UTC", run_offset=-1, key_format="%Y-%m-%d"),
    "history": None,
    "backfill": None,
    "train": CronTriggerTimetable("0 4 * * 0", timezone="UTC"),
    "deploy": [Asset(name="empty")],
    "runbook": None,
    "rollback": None,
    "roll_through": None,
    "exclude": None,
    "rerun": None,
    "sources": Asset(name="one") | Asset(name="other"),
}}
for number, (name, tasks) in [(one, each) for one in range({count}) for each in {shape!r}.items()]:
    with DAG(f"empty_{{number}}.{{name}}", schedule=schedules[name], start_date=datetime(2013, 1, 1)) as dag:
        previous = None
        for task_id in tasks:
            task = EmptyOperator(task_id=task_id)
            if previous is not None:
                previous >> task
            previous = task
    globals()[f"{{name}}_{{number}}"] = dag
"""


FLEET = """
import flight_delay  # a DAG file of Airflow, which looks for these words
flights = flight_delay.flight_delay
for number in range({count}):
    globals().update(flights.derive(model=f"flight_delay_{{number}}").dags())
"""


def in_child(work: Callable[[], object]) -> str:
    """Run ``work`` in a forked child and return what it returned, as text."""
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        os.write(write, repr(work()).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    return text


def bagged(path: Path) -> BundleDagBag:
    bag = BundleDagBag(dag_folder=str(path), bundle_path=path.parent, bundle_name="bench", load_op_links=False)
    assert not bag.import_errors, bag.import_errors
    return bag


def parse_milliseconds(path: Path) -> float:
    """Parse a file as the DAG processor's child does; return the CPU milliseconds."""

    def work() -> float:
        started = time.process_time()
        processor._serialize_dags(bagged(path), LOG)
        return (time.process_time() - started) * 1000

    return float(in_child(work))


def shape_of(path: Path) -> dict[str, list[str]]:
    """Return the task ids by DAG of a file, from a child so that nothing stays imported here."""

    def work() -> str:
        dags = bagged(path).dags.values()
        return ";".join(f"{dag.dag_id.rpartition('.')[2]}={' '.join(dag.task_ids)}" for dag in dags)

    pairs = (part.split("=") for part in in_child(work).strip("'").split(";"))
    return {name: tasks.replace(".", "_").split() for name, tasks in pairs}


def compare(empty: Path, rounds: int, ours_file: Path = OURS) -> tuple[float, str]:
    """Return the median ratio of pairs, each parsed one after the other, and the medians in words."""
    pairs = [(parse_milliseconds(ours_file), parse_milliseconds(empty)) for _ in range(rounds)]
    ours, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
    return statistics.median(one / other for one, other in pairs), f"ours {ours:.1f} ms, EmptyOperators {theirs:.1f} ms"


def main() -> None:
    small = options(__doc__).parse_args().small
    figures, rounds = Figures(small=small), SMALL_ROUNDS if small else ROUNDS
    shape = shape_of(OURS)
    with tempfile.TemporaryDirectory() as folder:
        empty = Path(folder) / "empty.py"
        empty.write_text(EMPTY.format(shape=shape, count=1))
        print(f"{len(shape)} DAGs, {sum(map(len, shape.values()))} tasks, median of {rounds} pairs")
        for path in (OURS, empty):
            processor._pre_import_airflow_modules(str(path), LOG)
        ratio, words = compare(empty, rounds)
        print(f"package imported in every parse: {words}, ratio {ratio:.2f}")
        from airflow.listeners.listener import get_listener_manager

        get_listener_manager()  # the DAG processor's parent calls it when it starts, and that loads the plugins
        ratio, words = compare(empty, rounds)
        figures.hold("parsing as the DAG processor does, ours / EmptyOperators", ratio, at_most=1.5, note=words)
        count = SMALL_FLEET if small else FLEET_SIZE
        fleet, empty_fleet = Path(folder) / "fleet.py", Path(folder) / "empty_fleet.py"
        fleet.write_text(FLEET.format(count=count))
        empty_fleet.write_text(EMPTY.format(shape=shape, count=count))
        sys.path.append(str(OURS.parent))
        ratio, words = compare(empty_fleet, 1 if small else 3, fleet)
        figures.hold(f"parsing {count} pipelines, ours / EmptyOperators", ratio, at_most=1.5, note=words)
    figures.end()


if __name__ == "__main__":
    main()
