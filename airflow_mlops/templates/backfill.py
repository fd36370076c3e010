"""``<model>.backfill``: work on partitions of the past: plan, price, approve, execute, verify.

`plan` says of each partition whether it is there, missing or changed, what the work costs, and which models and served
versions saw what it replaces. Above a limit `approve` asks a person; no answer in time is a no. `begin` refuses what
changed since. One that is refused stops no other, and is listed at the end; once it is corrected, trigger the DAG anew:
what is done is not done twice. Several plans may wait for an answer; one is executed at a time. Several tasks work at
once, and what they only made ready in `seal` and `compute`, the `…_rest` take in order. Nothing is trained unless you
ask for it, and no alias moves.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import Param, TriggerRule, chain, conf

from airflow_mlops.operators.backfill import (
    ApproveBackfillOperator,
    BeginBackfillOperator,
    PlanBackfillOperator,
    ProbeBackfillOperator,
    RunBackfillOperator,
    VerifyBackfillOperator,
    tasks_at_once,
)
from airflow_mlops.operators.base import doc_of
from airflow_mlops.operators.runbook import ChooseOperator
from airflow_mlops.templates.base import pipeline_dag, result, span_form

if TYPE_CHECKING:
    from airflow.sdk import DAG

    from airflow_mlops.pipeline import ModelPipeline

_ANSWER_WITHIN = timedelta(days=1)


def backfill_dag(pipeline: ModelPipeline) -> DAG:
    """Return the DAG that works on the past."""
    with pipeline_dag(
        pipeline,
        "backfill",
        __doc__,
        schedule=None,
        start_date=pipeline.source.starts_at,
        # One that waits for its answer holds no other up; `begin` lets one at a time go on.
        max_active_runs=16,
        params={
            **span_form(pipeline, to="the last that has ended"),
            "order": Param("oldest", enum=["oldest", "newest"], title="First come the"),
            "ordered": Param(
                False,
                type="boolean",
                title="In order",
                description="A partition that is refused stops those after it. All is then one task.",
            ),
            "retrain": Param(
                False,
                type="boolean",
                title="Train anew",
                description="At the end, ask for a training of each model that saw what was replaced.",
            ),
        },
    ) as dag:
        conns = {"feast_conn_id": pipeline.features.conn_id, "ledger_conn_id": pipeline.ledger_conn_id}
        plan = PlanBackfillOperator(
            task_id="plan",
            pipeline=pipeline,
            first="{{ params.first }}",
            last="{{ params.last or '' }}",
            order="{{ params.order }}",
            ordered="{{ params.ordered }}",
            **conns,
        )
        choose = ChooseOperator(
            task_id="price",
            chosen="{{ 'approve' if ti.xcom_pull(task_ids='plan', key='approval') else 'begin' }}",
        )
        approve = ApproveBackfillOperator(
            task_id="approve",
            subject=f"Backfill of {pipeline.model}: may it be executed?",
            body=result(plan, "words"),
            plan_hash=result(plan, "hash"),
            ledger_conn_id=pipeline.ledger_conn_id,
            response_timeout=_ANSWER_WITHIN,
            execution_timeout=None,
        )
        of_plan: dict[str, Any] = {"pipeline": pipeline, "plan": result(plan, "plan"), **conns}
        begin = BeginBackfillOperator(
            task_id="begin",
            partitions="{{ params.partitions }}",
            # `approve` is skipped where nobody need be asked.
            trigger_rule=TriggerRule.NONE_FAILED_MIN_ONE_SUCCESS,
            **of_plan,
        )
        pool = conf.get("mlops", "backfill_pool", fallback="default_pool")
        work: dict[str, Any] = {"pool": pool, "execution_timeout": timedelta(hours=12), **of_plan}
        probe = ProbeBackfillOperator(task_id="probe", **work)
        at_once = {"max_active_tis_per_dagrun": tasks_at_once()}
        # Without a share to map over, a task is skipped, and stops none.
        work["trigger_rule"] = TriggerRule.NONE_FAILED
        rounds = []
        for name in ("seal", "compute"):
            rounds += [
                RunBackfillOperator.partial(
                    task_id=name, doc_md=doc_of(RunBackfillOperator), work=name, **at_once, **work
                ).expand(share=begin.output),
                RunBackfillOperator(task_id=f"{name}_rest", work=name, **work),
            ]
        verify = VerifyBackfillOperator(
            task_id="verify", retrain="{{ params.retrain }}", trigger_rule=TriggerRule.NONE_FAILED, **of_plan
        )
        plan >> choose >> [approve, begin]
        approve >> begin
        chain(begin, probe, *rounds, verify)
    return dag
