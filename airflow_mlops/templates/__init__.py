"""DAGs from a :class:`~airflow_mlops.pipeline.ModelPipeline`, one file per DAG; and their stages as groups of tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from airflow.sdk import get_parsing_context

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


class _Dags(dict[str, "DAG"]):
    """DAGs of a pipeline by a Python name. One that is not there is built when it is asked for by its name."""

    def __init__(self, builders: Mapping[str, Callable[[], DAG]]) -> None:
        super().__init__()
        self._builders = builders

    def __missing__(self, name: str) -> DAG:
        self[name] = dag = self._builders[name]()
        return dag


def build_dags(pipeline: ModelPipeline, first: str = "") -> dict[str, DAG]:
    """Return the pipeline's DAGs by a Python name.

    :param first: Model of a fleet that tries new code first, if it is another one.

    A task's process reads the whole DAG file to run one task: there, only the DAG of that task is built. Else each task
    of a fleet in one file would build the DAGs of all its models.
    """
    always = {
        "features": features_dag, "history": history_dag, "backfill": backfill_dag, "train": train_dag,
        "deploy": deploy_dag, "runbook": runbook_dag, "rollback": rollback_dag, "roll_through": roll_through_dag,
        "exclude": exclude_dag, "rerun": rerun_dag, "sources": sources_dag,
    }  # fmt: skip
    builders = {name: partial(build, pipeline) for name, build in always.items()}
    if pipeline.batch is not None:
        from airflow_mlops.templates.batch_predict import batch_predict_dag  # only those who use it load it

        builders["batch_predict"] = partial(batch_predict_dag, pipeline, pipeline.batch)
    if pipeline.retrain.watched:
        from airflow_mlops.templates.retrain import retrain_dag  # as above

        builders["retrain"] = partial(retrain_dag, pipeline, first)
    if pipeline.retrain.rollup is not None:
        from airflow_mlops.templates.rollup import counts, rollup_dag  # as above

        if counts(pipeline.source.partitioning):
            builders["rollup"] = partial(rollup_dag, pipeline, pipeline.retrain.rollup, first)
    dags = _Dags({f"{pipeline.model}_{name}": build for name, build in builders.items()})
    wanted = get_parsing_context().dag_id
    for name in builders:
        # Whether a member of a fleet has that DAG in place of all others shows only when all others are built.
        if wanted in (None, f"{pipeline.model}.{name}", f"{pipeline.model}.config_error"):
            dags[f"{pipeline.model}_{name}"]
    return dags
