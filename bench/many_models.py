"""Many models of many teams on one scheduler, all of which are to be trained at the same moment.

For each number of models, a stack of its own: PostgreSQL and Airflow with four task slots. Each team of two has a DAG
file with the DAGs of our templates (``_many_dag.py`` says what of their tasks is real). Then ``<model>.retrain`` of all
of them is triggered at once: it finds new rows and drift in the ledger and starts ``<model>.train``, ten tasks a model
in all. Prints how long tasks waited and what each process took; what a model costs must not grow with their number.

Run: python bench/many_models.py [--small] [--models 20 41 82]
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import psutil
from sqlalchemy import Engine, create_engine, text

from _figures import Figures, options
from _many_dag import OF_A_TEAM, STAND_INS
from retraining import SINCE, TRAINED, filled, key

if TYPE_CHECKING:
    from airflow_mlops.stack.stack import Stack

HERE = Path(__file__).parent
SLOTS = 4
PATIENCE = 3600
GROWTH = 1.5
"""How much more a model may cost where there are several times as many."""

WAITS = """
SELECT extract(epoch FROM start_date - scheduled_dttm), extract(epoch FROM start_date - queued_dttm)
FROM task_instance WHERE start_date IS NOT NULL AND queued_dttm IS NOT NULL AND dag_id ~ '^m[0-9]+[.](re)?train$'
"""
DONE = "SELECT state, count(*) FROM dag_run WHERE dag_id ~ '^m[0-9]+[.]train$' GROUP BY state"
PARSED = "SELECT DISTINCT fileloc, last_parse_duration FROM dag WHERE fileloc LIKE '%team_%'"
LOAD = """
SELECT xact_commit, tup_returned + tup_fetched, active_time / 1000 FROM pg_stat_database WHERE datname = :name
"""


@dataclass(frozen=True)
class Counted:
    """What processes and databases have done so far: CPU seconds by process; transactions, rows read, seconds."""

    cpu: dict[str, float]
    load: dict[str, tuple[float, float, float]]

    def since(self, before: Counted) -> Counted:
        """Return what was done after another moment."""
        cpu = {name: value - before.cpu[name] for name, value in self.cpu.items()}
        pairs = {name: zip(values, before.load[name], strict=True) for name, values in self.load.items()}
        return Counted(cpu, {name: tuple(now - then for now, then in each) for name, each in pairs.items()})  # type: ignore[misc]


def seconds(process: psutil.Process, *, children: bool) -> float:
    """Return CPU seconds of a process; with all below it, those that have ended too."""
    took = process.cpu_times()
    if not children:
        return took.user + took.system
    total = 0.0
    for one in (process, *process.children(recursive=True)):
        try:
            took = one.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += took.user + took.system + took.children_user + took.children_system
    return total


def counted(stack: Stack, database: Engine) -> Counted:
    processes = {name: psutil.Process(one.pid) for name, one in stack.status().items() if one is not None}
    cpu = {name: seconds(process, children=name != "scheduler") for name, process in processes.items()}
    cpu["tasks"] = seconds(processes["scheduler"], children=True) - cpu["scheduler"]
    load = {}
    with database.connect() as connection:
        for name in ("airflow", "mlops_ledger"):
            load[name] = tuple(map(float, connection.execute(text(LOAD), {"name": name}).one()))
    return Counted(cpu, load)  # type: ignore[arg-type]


@contextmanager
def running(folder: Path, models: list[str]) -> Iterator[Stack]:
    """Yield a stack that runs, with the models' DAG files, and ledger and partitions of the time before."""
    from airflow_mlops.engine.ledger import Ledger
    from tests.e2e.small_stack import small_stack

    # On a busy machine a task may be silent for longer than the stack has patience.
    settings = {"CORE__PARALLELISM": str(SLOTS), "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "300"}
    with small_stack(folder, lambda _: settings) as stack:
        filled(Ledger(stack.database.url("mlops_ledger")), models)
        for model in models:
            for feed in ("orders", "outcomes"):
                for day in range(TRAINED + SINCE):
                    there = stack.layout.home / "partitions" / f"{model}_{feed}" / key(day)
                    there.mkdir(parents=True)
                    (there / "current.json").touch()
        for team in range(0, len(models), OF_A_TEAM):
            shutil.copy(HERE / "_many_dag.py", stack.dags / f"team_{team // OF_A_TEAM}.py")
        yield stack


def until_trained(stack: Stack, database: Engine, count: int) -> int:
    """Wait until a training of each model is over; return how many succeeded."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        with database.connect() as connection:
            states = {row[0]: int(row[1]) for row in connection.execute(text(DONE))}
        if states.get("success", 0) + states.get("failed", 0) >= count:
            return states.get("success", 0)
        stack.check()
        time.sleep(0.5)
    sys.exit(f"{count} trainings were not over after {PATIENCE} seconds: {states}")


@dataclass(frozen=True)
class Figure:
    """What one number of models took."""

    models: int
    wall: float
    waits: np.ndarray
    parse: float
    did: Counted


def show(one: Figure) -> None:
    scheduled, queued = one.waits.T
    tasks = len(one.waits)
    print(f"\n{one.models} models: {tasks} tasks in {one.wall:.0f} s, {tasks / one.wall * 60:.0f} a minute")
    for what, values in (("scheduled", scheduled), ("handed to the executor", queued)):
        median, most = np.percentile(values, [50, 95])
        print(f"  a task waits since it was {what}: median {median:.1f} s, 95 % {most:.1f} s")
    print(f"  a file of {OF_A_TEAM} models is parsed in {one.parse:.2f} s, at most")
    for name, value in one.did.cpu.items():
        print(f"  CPU of {name}: {value:.1f} s, {value / one.wall * 100:.0f} % of a core, {value / tasks:.3f} a task")
    for name, (commits, rows, busy) in one.did.load.items():
        each = f"{commits / one.models:.0f} transactions a model, {rows / one.models:.0f} rows read"
        print(f"  database {name}: {each}, busy {busy:.2f} s")


def measure(count: int) -> Figure:
    from airflow_mlops.bootstrap.watch import Watcher
    from airflow_mlops.stack.airflow_api import AirflowApi

    models = [f"m{number}" for number in range(count)]
    with (
        tempfile.TemporaryDirectory() as folder,
        running(Path(folder), models) as stack,
        AirflowApi(stack.airflow_url) as airflow,
    ):
        database = create_engine(stack.database.url("airflow"))
        Watcher(airflow, stack).ready([f"{model}.{dag}" for model in models for dag in ("train", "retrain")])
        before, began = counted(stack, database), time.monotonic()
        for model in models:
            airflow.trigger(f"{model}.retrain")
        trained = until_trained(stack, database, count)
        wall, did = time.monotonic() - began, counted(stack, database).since(before)
        with database.connect() as connection:
            waits = np.array([tuple(row) for row in connection.execute(text(WAITS))], dtype=float)
            parse = max(row.last_parse_duration for row in connection.execute(text(PARSED)))
        database.dispose()
    if trained != count:
        sys.exit(f"{count - trained} of {count} trainings failed")
    return Figure(count, wall, waits, parse, did)


def main() -> None:
    sys.path.append(str(HERE.parent))
    parser = options(__doc__)
    parser.add_argument("--models", type=int, nargs="+", default=[20, 41, 82], help="numbers of models, rising")
    given = parser.parse_args()
    figures, counts = Figures(small=given.small), [2] if given.small else given.models
    found = []
    for count in counts:
        found.append(measure(count))
        show(found[-1])
    few, many = found[0], found[-1]
    print(f"\nnot part of it: {', '.join(sorted(operator.__name__ for operator in STAND_INS))} beside the ledger")
    for what in ("scheduler", "api-server", "postgres", "tasks"):
        each = [one.did.cpu[what] / one.models for one in (few, many)]
        figures.hold(f"CPU of {what} a model, {many.models} / {few.models} models", each[1] / each[0], at_most=GROWTH)
    rows = [one.did.load["mlops_ledger"][1] / one.models for one in (few, many)]
    figures.hold(f"rows of the ledger a model, {many.models} / {few.models} models", rows[1] / rows[0], at_most=GROWTH)
    figures.end()


if __name__ == "__main__":
    main()
