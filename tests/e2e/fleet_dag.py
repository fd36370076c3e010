"""The rollout of a fleet of three, whose trainings only write down what a real one would."""

from __future__ import annotations

import time
from datetime import UTC, date, datetime
from pathlib import Path

from airflow.sdk import DAG, conf, get_current_context, task

from airflow_mlops import FeatureService, Fleet, Label, ModelPipeline, Partitions, Trainer
from airflow_mlops.templates.rollout import rollout_dag


def feed(name: str) -> Partitions:
    return Partitions(f"lake/{name}", event_time="at", suite="suites:all", start=date(2026, 1, 5))


base = ModelPipeline(
    model="m",
    source=feed("orders"),
    entity="id",
    label=Label("late", source=feed("outcomes"), matures_after="1d"),
    features=FeatureService("m_v1", transform="code:compute", suite="suites:snapshot"),
    train=Trainer("code:build", window="20d", validation="2d", test="2d"),
)
fleet = Fleet(base, members=["de", "it", "pl"], first="de")
rollout = rollout_dag(fleet, fleet.pipelines()[0])


@task
def train(model: str) -> None:
    """Wait to be told how it ends; then register a version that passes its gates, and let it serve unless first."""
    from airflow_mlops.contracts import Deployment
    from airflow_mlops.engine.retraining.registered import Registered, record_registered
    from airflow_mlops.engine.serving.deployments import pointer_name
    from airflow_mlops.hooks.ledger import LedgerHook

    home, context = Path(conf.get("mlops", "home")), get_current_context()
    while not (home / f"{model}.go").exists():
        time.sleep(0.2)
    if (home / f"{model}.go").read_text() == "fail":
        raise ValueError("it cannot be trained")
    ledger, run = LedgerHook().get_conn(), f"{context['ti'].dag_id} {context['ti'].run_id}"
    version = len(ledger.facts("registered", model)) + 1
    record_registered(
        ledger, Registered(model=model, version=version, spec_hash=run, snapshot="s", run=run, why="rollout")
    )
    if model != "m_de":
        serving = Deployment(server="tf_serving_default", model=model, stable=version).model_dump()
        ledger.move(pointer_name("tf_serving_default", model), lambda _: serving)


for one in ("de", "it", "pl"):
    with DAG(f"m_{one}.train", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC)) as dag:
        train(f"m_{one}")
    globals()[f"train_{one}"] = dag
