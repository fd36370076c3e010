"""DAGs from a :class:`~airflow_mlops.pipeline.ModelPipeline`, one file per DAG; and their stages as groups of tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_mlops.templates.backfill import backfill_dag
from airflow_mlops.templates.deploy import deploy_dag, deploy_group
from airflow_mlops.templates.features import features_dag, features_group, partitions_group
from airflow_mlops.templates.history import history_dag
from airflow_mlops.templates.rerun import rerun_dag
from airflow_mlops.templates.runbook import exclude_dag, roll_through_dag, rollback_dag, runbook_dag
from airflow_mlops.templates.sources import sources_dag
from airflow_mlops.templates.train import train_dag, train_group, train_on_group

if TYPE_CHECKING:
    from airflow.sdk import DAG

    from airflow_mlops.pipeline import ModelPipeline


__all__ = ["build_dags", "deploy_group", "features_group", "partitions_group", "train_group", "train_on_group"]


def build_dags(pipeline: ModelPipeline) -> dict[str, DAG]:
    """Return the pipeline's DAGs by a Python name."""
    builders = (
        features_dag, history_dag, backfill_dag, train_dag, deploy_dag, runbook_dag, rollback_dag, roll_through_dag,
        exclude_dag, rerun_dag, sources_dag,
    )  # fmt: skip
    dags = [build(pipeline) for build in builders]
    if pipeline.batch is not None:
        from airflow_mlops.templates.batch_predict import batch_predict_dag  # only those who use it load it

        dags.append(batch_predict_dag(pipeline, pipeline.batch))
    if pipeline.retrain.watched:
        from airflow_mlops.templates.retrain import retrain_dag  # as above

        dags.append(retrain_dag(pipeline))
    if pipeline.retrain.rollup is not None:
        from airflow_mlops.templates.rollup import rollup_dag  # as above

        dags += rollup_dag(pipeline)
    return {dag.dag_id.replace(".", "_"): dag for dag in dags}
