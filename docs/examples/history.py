"""Weeks of orders in one go, with their features."""

from airflow.sdk import DAG
from shop import shop

from airflow_mlops.operators.history import LoadHistoryOperator, PlanHistoryOperator, ReportHistoryOperator

with DAG("example_history", schedule=None) as dag:
    plan = PlanHistoryOperator(task_id="plan", pipeline=shop, first="2024-01-01", last="2024-02-12")
    load = LoadHistoryOperator.partial(task_id="load", pipeline=shop).expand(stretch=plan.output)
    ReportHistoryOperator(task_id="report", loaded=load.output)
