"""Start a run of the training: a module of its own, as Airflow's operator for it takes time to load."""

from __future__ import annotations

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator


class StartTrainingOperator(TriggerDagRunOperator):
    """Airflow's own operator that triggers a DAG; what the run's note says is a template too."""

    template_fields = (*TriggerDagRunOperator.template_fields, "note")
