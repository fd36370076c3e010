"""``<model>.runbook``: what a person on call does by one trigger. Roll back: the previous version answers again.

The rollback itself needs only the ledger and the model server; the registry follows when it can.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.sdk import Param

from airflow_mlops.assets import champion_asset
from airflow_mlops.operators.mlflow import MLflowSetAliasOperator
from airflow_mlops.operators.tf_serving import TFServingRollbackOperator
from airflow_mlops.templates.base import midnight, pipeline_dag, result

if TYPE_CHECKING:
    from airflow.sdk import DAG

    from airflow_mlops.pipeline import ModelPipeline


def runbook_dag(pipeline: ModelPipeline) -> DAG:
    """Return the DAG of manual interventions."""
    with pipeline_dag(
        pipeline,
        "runbook",
        __doc__,
        schedule=None,
        start_date=midnight(pipeline.source.start),
        params={
            "action": Param("rollback", enum=["rollback"], title="Action"),
            "reason": Param("", type="string", title="Why", description="Kept in the ledger with the decision."),
            "override_by": Param(
                "",
                type="string",
                title="Override by",
                description="Who answers for going back to a version whose features have moved on. Empty: it is "
                "refused.",
            ),
            "override_reason": Param("", type="string", title="Override because"),
        },
    ) as dag:
        rollback = TFServingRollbackOperator(
            task_id="rollback",
            model=pipeline.model,
            reason="{{ params.reason }}",
            override_by="{{ params.override_by }}",
            override_reason="{{ params.override_reason }}",
            tf_serving_conn_id=pipeline.deploy.server,
            ledger_conn_id=pipeline.ledger_conn_id,
        )
        alias = MLflowSetAliasOperator(
            task_id="set_champion",
            model=pipeline.model,
            version=result(rollback, "version"),
            alias="champion",
            mlflow_conn_id=pipeline.mlflow_conn_id,
            outlets=[champion_asset(pipeline.model, pipeline.owner)],
        )
        rollback >> alias
    return dag
