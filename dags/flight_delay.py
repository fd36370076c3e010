"""Will a flight arrive more than 15 minutes late? Predicted before it departs, retrained every week."""

from datetime import date

from airflow_mlops import FeatureService, Gate, Label, ModelPipeline, Partitions, Retrain, Slice, Trainer

START, END = date(2013, 1, 1), date(2013, 12, 31)
DEPARTURES = Partitions("lake/departures", "sched_dep_utc", "flights.expectations:departures", START, END)
ARRIVALS = Partitions("lake/arrivals", "landed_at", "flights.expectations:arrivals", START, END)

flight_delay = ModelPipeline(
    model="flight_delay",
    source=DEPARTURES,
    entity="flight_id",
    label=Label("late_15", source=ARRIVALS, matures_after="1d"),
    features=FeatureService(
        "flight_delay_v1",
        transform="flights.features:compute",
        suite="flights.expectations:snapshot",
        keys=["carrier", "origin", "dest"],
    ),
    train=Trainer("flights.model:build", window="150d", validation="14d", test="14d", seed=7),
    gates=[
        Gate("auc", min=0.65),
        Gate("auc", vs="baseline", min_gain=0.1),
        Gate("auc", vs="champion", max_drop=0.01),
        Gate("log_loss", by=Slice("carrier", min_n=500), max=0.9),
    ],
    retrain=Retrain(cron="@weekly"),
)
globals().update(flight_delay.dags())
