"""What an installation needs now and then: the disk swept, announcements of upstreams written down."""

from airflow.sdk import DAG, Asset

from airflow_mlops.operators.announcements import RecordAnnouncementsOperator
from airflow_mlops.operators.retention import SweepHomeOperator

with DAG("example_sweep", schedule=None) as sweep:
    SweepHomeOperator(task_id="sweep", keep="90d", only_say=True)

with DAG("example_announcements", schedule=[Asset("orders_are_degraded")]) as announcements:
    RecordAnnouncementsOperator(task_id="record")
