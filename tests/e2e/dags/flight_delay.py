"""The example's pipeline over a month that ends yesterday, so that its schedules fire by themselves: short validation
and test, gates that such a small model can pass.
"""

import os
from datetime import date, timedelta
from typing import Any

from file_notifier import FileNotifier

from airflow_mlops import Checks, FeatureService, Gate, Label, ModelPipeline, Partitions, Retrain, Trainer

LATER = timedelta(days=int(os.environ["MLOPS_DEMO_DAYS_LATER"]))


def feed(name: str, event_time: str, **checks: Any) -> Partitions:
    """A feed of the example."""
    return Partitions(
        f"lake/{name}",
        event_time=event_time,
        suite=f"flights.expectations:{name}",
        start=date(2013, 1, 1) + LATER,
        end=date(2013, 2, 1) + LATER,
        checks=Checks(contract=f"flights.contracts:{name}", **checks),
    )


FLIGHTS = {"slices": ["carrier", "origin"], "unique": ["flight_id"]}
WEATHER = {
    "slices": ["origin"],
    "unique": ["origin", "observed_at"],
    "volatile": ["temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib"],
}

flight_delay = ModelPipeline(
    model="flight_delay",
    source=feed("departures", "sched_dep_utc", **FLIGHTS),
    entity="flight_id",
    label=Label("late_15", source=feed("arrivals", "landed_at", label="late_15", **FLIGHTS), matures_after="1d"),
    features=FeatureService(
        "flight_delay_v1",
        transform="flight_features:compute",
        suite="flights.expectations:snapshot",
        keys=["carrier", "origin", "dest"],
        sources=[feed("weather", "observed_at", **WEATHER)],
        history="8d",
    ),
    train=Trainer("flights.model:build", window="60d", validation="4d", test="4d", epochs=3, seed=7),
    gates=[Gate("auc", min=0.55), Gate("log_loss", max=1.5), Gate("auc", vs="champion", max_drop=0.1)],
    # Every midnight: the last one is due as soon as the DAG is unpaused.
    retrain=Retrain(cron="0 0 * * *"),
    owner="flights@example.com",
    notify=[FileNotifier(f"{os.environ['AIRFLOW__MLOPS__HOME']}/told.jsonl")],
    deadlines={"rollback": "1s"},
)
dags = flight_delay.dags()
for dag in dags.values():
    for task in dag.tasks:
        # Nobody is to wait for a look that is due in half a minute.
        task.retries, task.retry_delay = 6, timedelta(seconds=10)
        if hasattr(task, "poke_interval"):
            task.poke_interval = min(task.poke_interval, 5)
globals().update(dags)
