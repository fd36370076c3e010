"""Parsing dags/flight_delay.py against a file with as many plain tasks, in as many DAGs of the same schedules, groups
and dependencies.

As the DAG processor does it: a parent that has loaded Airflow and its plugins imports what the file imports of
``airflow.*``, freezes its objects and forks, and the child bags and serializes the file. Airflow is set as the laptop
stack sets it. Prints CPU milliseconds of the child, which other load on the machine moves less than wall time, and the
median ratio of a pair; and the same for a parent without plugins, in which every child imports this package anew.

Then a folder of many such files, a pipeline in each. And as many pipelines in one file, a fleet, where nothing but the
DAGs themselves counts: against EmptyOperators, which have no argument at all, and against BashOperators with a command,
and with retries and a timeout as ours.

Run: python bench/parse.py [--small]
"""

from __future__ import annotations

import ast
import gc
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("AIRFLOW__LOGGING__LOGGING_LEVEL", "ERROR")
os.environ.setdefault("AIRFLOW__CORE__MAX_TEMPLATED_FIELD_LENGTH", "4096")  # as stack/environment.py

import structlog
from airflow.dag_processing import processor
from airflow.dag_processing.dagbag import BundleDagBag

from _figures import Figures, options

OURS = Path(__file__).parent.parent / "dags" / "flight_delay.py"
ROUNDS, SMALL_ROUNDS = 25, 3
MANY, SMALL_MANY = 100, 4
LOG = structlog.get_logger()

PLAIN = """
from datetime import datetime, timedelta
from airflow.sdk import DAG, Asset, CronPartitionTimetable, CronTriggerTimetable, TaskGroup
from airflow.providers.standard.operators.bash import BashOperator
from airflow.providers.standard.operators.empty import EmptyOperator
def empty(task_id, group):
    return EmptyOperator(task_id=task_id, task_group=group)
def bash(task_id, group):
    return BashOperator(
        task_id=task_id, task_group=group, bash_command="work --day {{{{ ds }}}}", retries=2,
        retry_delay=timedelta(seconds=30), execution_timeout=timedelta(hours=1),
    )
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
        groups, made = {{}}, {{}}
        for task_id in tasks:
            group, _, label = task_id.rpartition(".")
            if group and group not in groups:
                groups[group] = TaskGroup(group)
            made[task_id] = {task}(label, groups.get(group))
        for task_id, downstream in tasks.items():
            if downstream:
                made[task_id] >> [made[one] for one in downstream]
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


def shape_of(path: Path) -> dict[str, dict[str, list[str]]]:
    """Return the tasks by DAG of a file, each with those behind it; from a child: nothing stays imported."""

    def work() -> dict[str, dict[str, list[str]]]:
        return {
            dag.dag_id.rpartition(".")[2]: {task.task_id: sorted(task.downstream_task_ids) for task in dag.tasks}
            for dag in bagged(path).dags.values()
        }

    shape: dict[str, dict[str, list[str]]] = ast.literal_eval(in_child(work))
    return shape


def compare(plain: Path, rounds: int, *our_files: Path) -> tuple[float, str]:
    """Return the median ratio of pairs, each parsed one after the other, and the medians in words."""
    pairs = [(parse_milliseconds(one), parse_milliseconds(plain)) for one in our_files for _ in range(rounds)]
    ours, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
    return statistics.median(one / other for one, other in pairs), f"ours {ours:.1f} ms, theirs {theirs:.1f} ms"


def main() -> None:
    small = options(__doc__).parse_args().small
    figures, rounds = Figures(small=small), SMALL_ROUNDS if small else ROUNDS
    shape = shape_of(OURS)
    with tempfile.TemporaryDirectory() as folder:

        def plain(task: str, count: int) -> Path:
            path = Path(folder) / f"{task}_{count}.py"
            path.write_text(PLAIN.format(shape=shape, count=count, task=task))
            return path

        print(f"{len(shape)} DAGs, {sum(map(len, shape.values()))} tasks, median of {rounds} pairs")
        for path in (OURS, plain("empty", 1)):
            processor._pre_import_airflow_modules(str(path), LOG)
        ratio, words = compare(plain("empty", 1), rounds, OURS)
        print(f"package imported in every parse: {words}, ratio {ratio:.2f}")
        from airflow.listeners.listener import get_listener_manager

        get_listener_manager()  # the DAG processor's parent calls it when it starts, and that loads the plugins
        gc.freeze()  # and so it does before it forks
        ratio, words = compare(plain("empty", 1), rounds, OURS)
        figures.hold("parsing as the DAG processor does, ours / EmptyOperators", ratio, at_most=1.5, note=words)
        count, rounds = (SMALL_MANY, 1) if small else (MANY, 3)
        sources = [Path(folder) / f"flight_delay_{number}.py" for number in range(count)]
        for source in sources:
            source.write_text(OURS.read_text().replace('model="flight_delay"', f'model="{source.stem}"'))
        ratio, words = compare(plain("empty", 1), 1, *sources)
        figures.hold(f"parsing a file of a folder of {count}, ours / EmptyOperators", ratio, at_most=1.5, note=words)
        fleet = Path(folder) / "fleet.py"
        fleet.write_text(FLEET.format(count=count))
        sys.path.append(str(OURS.parent))
        for task, name, bound in (("empty", "EmptyOperators", 2), ("bash", "BashOperators", 1.75)):
            ratio, words = compare(plain(task, count), rounds, fleet)
            figures.hold(f"parsing a fleet of {count} in a file, ours / {name}", ratio, at_most=bound, note=words)
    figures.end()


if __name__ == "__main__":
    main()
