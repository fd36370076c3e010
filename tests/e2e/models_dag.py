"""A model whose page the tests look at, and one that asks a person."""

from __future__ import annotations

from datetime import date

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import DAG

from airflow_mlops import FeatureService, Gate, Label, ModelPipeline, Partitions, Trainer

shop = ModelPipeline(
    "shop",
    source=Partitions("lake/orders", event_time="at", suite="suites:all", start=date(2026, 1, 1)),
    entity="id",
    label=Label("late", known_at="decided_at"),
    features=FeatureService("s", transform="code:compute", suite="suites:snapshot"),
    train=Trainer("code:build", window="60d"),
    gates=[Gate("auc", min=0.68)],
)
globals().update(shop.dags())

with DAG("hotel.deploy", schedule=None) as asks:
    ApprovalOperator(task_id="approve", subject="Deploy <b>version 7</b>?", body="It passed.")
