"""Will a flight arrive more than 15 minutes late? Predicted before it departs, retrained every week."""

from datetime import date
from typing import Any

from airflow_mlops import (
    Checks,
    FeatureService,
    Gate,
    Label,
    ModelPipeline,
    Partitions,
    Reconcile,
    Retrain,
    Rows,
    Slice,
    Trainer,
)


def feed(name: str, event_time: str, **checks: Any) -> Partitions:
    """A feed that lands a day at a time, at most three hours after the day."""
    return Partitions(
        f"lake/{name}",
        event_time=event_time,
        suite=f"flights.expectations:{name}",
        start=date(2013, 1, 1),
        end=date(2013, 12, 30),
        lands_within="3h",
        checks=Checks(contract=f"flights.contracts:{name}", **checks),
    )


FLIGHTS = {"slices": ["carrier", "origin"], "unique": ["flight_id"]}
WEATHER = {
    "slices": ["origin"],
    "unique": ["origin", "observed_at"],
    "volatile": ["temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib"],
}

VIEWS = [
    "origin_traffic",
    "origin_weather",
    "carrier_delays",
    "route_delays",
    "destination_delays",
    "aircraft_last_leg",
]

flight_delay = ModelPipeline(
    model="flight_delay",
    source=feed("departures", "sched_dep_utc", **FLIGHTS),
    entity="flight_id",
    label=Label("late_15", source=feed("arrivals", "landed_at", label="late_15", **FLIGHTS), matures_after="1d"),
    features=FeatureService(
        "flight_delay_v1",
        transform="flight_features:compute",
        suite="flights.expectations:snapshot",
        view_suites={view: f"flights.expectations:{view}" for view in VIEWS},
        rows=[
            # Of two landings of an aircraft in one minute, one counts.
            Rows("aircraft_last_leg", "arrivals", rejected={"aircraft unknown": "tailnum IS NULL"}, tolerance=0.02),
            Rows("origin_weather", "weather"),
        ],
        keys=["carrier", "origin", "dest"],
        sources=[feed("weather", "observed_at", **WEATHER)],
        history="8d",
    ),
    train=Trainer("flights.model:build", window="150d", validation="14d", test="14d", seed=7),
    gates=[
        Gate("auc", min=0.65),
        Gate("auc", vs="baseline", min_gain=0.1),
        Gate("auc", vs="champion", max_drop=0.01),
        Gate("log_loss", by=Slice("carrier", min_n=500), max=0.9),
    ],
    retrain=Retrain(cron="0 4 * * 0"),
    # What landed had left, that day or the day before.
    reconcile=[Reconcile("arrivals", "departures", on=["flight_id"], back="1d")],
)
globals().update(flight_delay.dags())
