"""The example's pipeline over a month: short validation and test, gates that such a small model can pass."""

import os
from datetime import date
from typing import Any

from file_notifier import FileNotifier

from airflow_mlops import Checks, FeatureService, Gate, Label, ModelPipeline, Partitions, Trainer


def feed(name: str, event_time: str, **checks: Any) -> Partitions:
    """A feed of the example."""
    return Partitions(
        f"lake/{name}",
        event_time=event_time,
        suite=f"flights.expectations:{name}",
        start=date(2013, 1, 1),
        end=date(2013, 12, 30),
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
    owner="flights@example.com",
    notify=[FileNotifier(f"{os.environ['AIRFLOW__MLOPS__HOME']}/told.jsonl")],
    deadlines={"runbook": "1s"},
)
globals().update(flight_delay.dags())
