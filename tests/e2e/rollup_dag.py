"""A pipeline that is trained once a week is whole, and an upstream that tells of its days."""

from __future__ import annotations

from datetime import UTC, date, datetime

from airflow.sdk import DAG, PartitionedAtRuntime, get_current_context, task

from airflow_mlops import FeatureService, Label, ModelPipeline, Partitions, Retrain, Rollup, Trainer
from airflow_mlops.assets import features_asset
from airflow_mlops.templates.rollup import rollup_dag


def feed(name: str) -> Partitions:
    return Partitions(f"lake/{name}", event_time="at", suite="suites:all", start=date(2026, 1, 5))


pipeline = ModelPipeline(
    model="w",
    source=feed("orders"),
    entity="id",
    label=Label("late", source=feed("outcomes"), matures_after="1d"),
    features=FeatureService("w_v1", transform="code:compute", suite="suites:snapshot"),
    train=Trainer("code:build", window="20d", validation="2d", test="2d"),
    retrain=Retrain(rollup=Rollup(), cooldown="1d"),
)
rollup = rollup_dag(pipeline, pipeline.retrain.rollup)

with DAG("fresh", schedule=PartitionedAtRuntime(), start_date=datetime(2026, 1, 1, tzinfo=UTC)) as fresh:

    @task(outlets=[features_asset("w")])
    def tell() -> None:
        context = get_current_context()
        context["outlet_events"][features_asset("w")].add_partitions(context["params"]["days"])

    tell()
    fresh.params = {"days": []}

with DAG("w.train", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC)) as train:

    @task
    def trained() -> None:
        pass

    trained()
