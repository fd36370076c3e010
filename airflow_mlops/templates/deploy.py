"""``<model>.deploy``: load the approved challenger beside the champion, prove it and its features, move the label,
then the alias.

Woken by the challenger's asset event; what to deploy is read from the ledger. While a version is pinned, or when the
newest knows older data than the one that serves, `fetch` is skipped and its log says so. Trigger by hand with a
`version` to deploy another approved one.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import Param

from airflow_mlops.assets import challenger_asset, champion_asset
from airflow_mlops.durations import parse_duration
from airflow_mlops.operators.feast import FeastCheckParityOperator
from airflow_mlops.operators.mlflow import MLflowFetchApprovedModelOperator, MLflowSetAliasOperator
from airflow_mlops.operators.tf_serving import (
    TFServingLoadVersionOperator,
    TFServingPromoteVersionOperator,
    TFServingPublishModelOperator,
    TFServingVerifyVersionOperator,
)
from airflow_mlops.sensors.tf_serving import TFServingVersionSensor
from airflow_mlops.templates.base import Stage, pipeline_dag, result, stage

if TYPE_CHECKING:
    from airflow.sdk import DAG

    from airflow_mlops.pipeline import ModelPipeline


def deploy_dag(pipeline: ModelPipeline) -> DAG:
    """Return the DAG that puts an approved challenger into service."""
    deploy = pipeline.deploy
    with pipeline_dag(
        pipeline,
        "deploy",
        __doc__,
        schedule=[challenger_asset(pipeline.model, pipeline.owner)],
        start_date=pipeline.source.starts_at,
        params={
            "version": Param(
                None,
                type=["null", "integer"],
                minimum=1,
                title="Version",
                description="Approved version to deploy; empty means the newest.",
            ),
            "signature_changes": Param(
                deploy.signature_changes,
                enum=["refuse", "additive", "any"],
                title="Changes of the signature",
                description="What may be different for callers: nothing, new inputs (`additive`), or `any`. "
                "`airflow-mlops ask` shows them the new input.",
            ),
        },
    ) as dag:
        _deploy(pipeline, "{{ '' if params.version is none else params.version }}", "{{ params.signature_changes }}")
    return dag


def deploy_group(
    pipeline: ModelPipeline,
    group_id: str = "deploy",
    *,
    version: str = "",
    signature_changes: str = "",
    parity: bool = True,
) -> Stage:
    """Return the tasks of ``<model>.deploy`` as a group, for a DAG of one's own.

    :param group_id: Name of the group.
    :param version: Approved version to deploy; empty means the newest.
    :param signature_changes: What may be different for callers; empty: as ``Deploy`` says.
    :param parity: Whether what Feast serves is held against what training reads; False for a model without Feast.
    """
    with stage(pipeline, group_id, {}) as group:
        changes = signature_changes or pipeline.deploy.signature_changes
        group.output = _deploy(pipeline, version, changes, parity=parity).output
    return group


def _deploy(
    pipeline: ModelPipeline, version: str, signature_changes: str, *, parity: bool = True
) -> MLflowSetAliasOperator:
    """Add the tasks that put a version into service; return the last one."""
    deploy = pipeline.deploy
    fetch = MLflowFetchApprovedModelOperator(
        task_id="fetch",
        model=pipeline.model,
        version=version,
        server=deploy.server,
        code=deploy.code,
        mlflow_conn_id=pipeline.mlflow_conn_id,
        ledger_conn_id=pipeline.ledger_conn_id,
    )
    fetched = result(fetch, "version")
    serving = {
        "model": pipeline.model,
        "version": fetched,
        "tf_serving_conn_id": deploy.server,
        "ledger_conn_id": pipeline.ledger_conn_id,
    }
    publish = TFServingPublishModelOperator(
        task_id="publish",
        source=result(fetch, "saved_model"),
        tolerance=deploy.tolerance,
        signature_changes=signature_changes,
        require_golden=True,
        **serving,
        **deploy.resources.as_arguments(),
    )
    load = TFServingLoadVersionOperator(task_id="load", **serving)
    available = TFServingVersionSensor(
        task_id="wait_available",
        deferrable=True,
        poke_interval=1,
        timeout=parse_duration(deploy.timeout) / timedelta(seconds=1),
        **serving,
    )
    verify = TFServingVerifyVersionOperator(task_id="verify", tolerance=deploy.tolerance, **serving)
    promote = TFServingPromoteVersionOperator(
        task_id="promote", keep=deploy.keep, passed=result(fetch, "passed"), **serving
    )
    alias = MLflowSetAliasOperator(
        task_id="set_champion",
        model=pipeline.model,
        version=fetched,
        alias="champion",
        mlflow_conn_id=pipeline.mlflow_conn_id,
        outlets=[champion_asset(pipeline.model, pipeline.owner)],
    )
    publish >> load >> available >> verify
    (verify >> _parity(pipeline, fetched) if parity else verify) >> promote >> alias
    return alias


def _parity(pipeline: ModelPipeline, version: Any) -> FeastCheckParityOperator:
    return FeastCheckParityOperator(
        task_id="check_parity",
        model=pipeline.model,
        version=version,
        service=pipeline.features.name,
        source_dataset=pipeline.source.dataset,
        sample_rows=pipeline.features.parity_sample,
        feast_conn_id=pipeline.features.conn_id,
        ledger_conn_id=pipeline.ledger_conn_id,
    )
