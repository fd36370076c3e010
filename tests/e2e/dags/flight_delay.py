"""The example's pipeline over a month: short validation and test, gates that such a small model can pass."""

from datetime import date

from airflow_mlops import FeatureService, Gate, Label, ModelPipeline, Partitions, Trainer

DAYS = {"start": date(2013, 1, 1), "end": date(2013, 12, 31)}

flight_delay = ModelPipeline(
    model="flight_delay",
    source=Partitions("lake/departures", event_time="sched_dep_utc", suite="flights.expectations:departures", **DAYS),
    entity="flight_id",
    label=Label(
        "late_15",
        source=Partitions("lake/arrivals", event_time="landed_at", suite="flights.expectations:arrivals", **DAYS),
        matures_after="1d",
    ),
    features=FeatureService(
        "flight_delay_v1",
        transform="flights.features:compute",
        suite="flights.expectations:snapshot",
        keys=["carrier", "origin", "dest"],
    ),
    train=Trainer("flights.model:build", window="60d", validation="4d", test="4d", epochs=3, seed=7),
    gates=[Gate("auc", min=0.55), Gate("log_loss", max=1.5), Gate("auc", vs="champion", max_drop=0.1)],
)
globals().update(flight_delay.dags())
