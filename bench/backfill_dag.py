"""A backfill of 30 days under a real scheduler, against its engine time on two cores, and against a DAG run a day.

Starts Airflow with a LocalExecutor, lands 30 days of flights, and lets ``flight_delay.backfill`` seal them and compute
their features by two tasks at once. Engine time is the sum of what each partition took, as the ledger has it. What
Airflow costs a task is measured beside it, by a chain of tasks that do nothing; what a run a day takes, by
``flight_delay.features`` of the days after.

All is a ratio within one run: on a machine with other work all of it takes longer.

Run: python bench/backfill_dag.py            (about five minutes on two cores)

There is no small setting: what a task costs to start is more than what little data takes.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any, get_args

from _figures import Figures
from _flights import DAGS, REPO

if TYPE_CHECKING:
    from airflow_mlops.bootstrap.watch import Watcher
    from airflow_mlops.engine.ledger import Ledger

DAYS, SINGLE = 30, 2
CORES = 2
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC).timestamp()
CHAIN = """
from airflow.sdk import DAG, chain
from airflow.providers.standard.operators.python import PythonOperator

with DAG("chain"):
    chain(*[PythonOperator(task_id=f"nothing_{n}", python_callable=lambda: None) for n in range(8)])
"""


def against_the_engine(
    figures: Figures, watcher: Watcher, ledger: Ledger, *, model: str, conf: Mapping[str, str], single: Sequence[str]
) -> None:
    """Hold a backfill against its engine time, and against a DAG run a day.

    :param conf: Its first and last day.
    :param single: Days that ``<model>.features`` does one by one.
    """
    from airflow_mlops.engine.backfill.plan import find
    from airflow_mlops.engine.backfill.run import outcomes

    watcher.ready(["chain", f"{model}.backfill", f"{model}.features"])
    nothing, tasks = _took(watcher, "chain", watcher.airflow.trigger("chain"))
    cost = nothing / tasks
    took, tasks = _took(watcher, f"{model}.backfill", watcher.airflow.trigger(f"{model}.backfill", conf=dict(conf)))
    plan = find(ledger, ledger.facts("backfill_plan", model, limit=1)[0].key)
    engine = sum(one.seconds for one in outcomes(ledger, plan).values())
    features = f"{model}.features"
    a_day = mean(_took(watcher, features, watcher.airflow.trigger(features, partition_key=key))[0] for key in single)
    days = (plan.last - plan.first).days + 1
    print(
        f"{days} days, {len(plan.work)} partitions and features: {took:.1f} s in {tasks} tasks, engine {engine:.1f} s"
    )
    print(f"a task that does nothing costs {cost:.2f} s; a run of {features} takes {a_day:.1f} s")
    figures.hold(
        "a backfill without what Airflow costs its tasks / engine time on two cores",
        (took - tasks * cost) / (engine / CORES),
        at_most=1.3,
    )
    figures.hold("a run a day / a backfill", days * a_day / took, at_least=5)


def _took(watcher: Watcher, dag: str, run: dict[str, Any]) -> tuple[float, int]:
    """Return the seconds of a run until it has succeeded, and how many tasks it had."""
    ended = watcher.finish(dag, run["dag_run_id"])
    tasks = [task for task in watcher.airflow.tasks(dag, run["dag_run_id"]) if task["state"] == "success"]
    begin, end = (datetime.fromisoformat(ended[name]) for name in ("queued_at", "end_date"))
    for task in sorted(tasks, key=lambda task: task["start_date"]):
        started, done = (
            (datetime.fromisoformat(task[name]) - begin).total_seconds() for name in ("start_date", "end_date")
        )
        print(f"  {task['task_id']:16} {started:5.1f} to {done:5.1f} s")
    return (end - begin).total_seconds(), len(tasks)


def main() -> None:
    sys.path.append(str(Path(__file__).parent.parent))
    from airflow_mlops.bootstrap import watch
    from airflow_mlops.demo.flights import Feed, land
    from airflow_mlops.demo.history import PIPELINE
    from airflow_mlops.engine.entrypoints import load_object
    from airflow_mlops.engine.ledger import Ledger
    from airflow_mlops.stack.airflow_api import AirflowApi
    from tests.e2e.small_stack import small_stack

    figures = Figures(small=False)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(REPO, folder / "repo")
        settings = {"MLOPS__BACKFILL_APPROVE_ABOVE": "10000", "CORE__PARALLELISM": "4"}
        with (
            small_stack(folder, lambda _: settings, "repo", more=["triggerer"]) as stack,
            AirflowApi(stack.airflow_url) as airflow,
        ):
            shutil.copytree(DAGS, stack.dags, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
            (stack.dags / "chain.py").write_text(CHAIN)
            start = load_object(PIPELINE, str(DAGS)).source.start
            every = [start + timedelta(days=n) for n in range(DAYS + SINGLE)]
            for day in every:
                for feed in get_args(Feed):
                    land(stack.layout.home / "lake", day, feed)
            for file in (stack.layout.home / "lake").rglob("*.parquet"):
                os.utime(file, (LONG_AGO, LONG_AGO))  # who waits until it is still need not wait
            watch._POLL = 0.2
            watcher, ledger = watch.Watcher(airflow, stack), Ledger(stack.database.url("mlops_ledger"))
            span = {"first": str(every[0]), "last": str(every[DAYS - 1])}
            single = [str(day) for day in every[DAYS:]]
            against_the_engine(figures, watcher, ledger, model="flight_delay", conf=span, single=single)
    figures.end()


if __name__ == "__main__":
    main()
