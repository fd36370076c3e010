"""Airflow's own backfill of ``<model>.features``: it knows dates, and neither a plan nor who saw what it replaces.

A run of one is written down, as fact ``airflow_backfill`` (subject: the model, key: the partition), and held to what a
plan is held to. Where there are many, an approved plan must name each. What a version in use saw is replaced by a plan
only: who approves one has seen what lands.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from airflow_mlops.engine.backfill.make import who_saw
from airflow_mlops.engine.backfill.plan import FACT as PLANNED
from airflow_mlops.engine.backfill.plan import Plan, Step, find, in_use
from airflow_mlops.engine.backfill.run import approved_by, running
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.exceptions import GateError

FACT = "airflow_backfill"
_TOGETHER = timedelta(days=1)
"""So long apart, partitions are of one backfill: Airflow does not say which run is of which."""


def admit(
    ledger: Ledger,
    model: str,
    dataset: str,
    key: str,
    *,
    run: str,
    sealed: str | None,
    landed: str,
    queued: int,
    approve_above: int,
) -> None:
    """Let a run of Airflow's backfill seal a partition, or refuse it.

    :param run: DAG and run.
    :param sealed: Revision that counts; None when there is none.
    :param landed: Revision that would.
    :param queued: How many runs of the DAG have not begun.
    :param approve_above: From how many partitions on a person must approve.
    :raises GateError: when a plan at work names the partition too, or a person must approve and nobody has.
    :raises TransientError: when the ledger does not answer.
    """
    if not any(fact.payload["run"] == run for fact in ledger.facts(FACT, model, key=key)):
        ledger.record(FACT, model, {"run": run}, key=key)
    plan = running(ledger, model)
    if plan is not None and _names(plan, dataset, key):
        raise GateError(
            f"Backfill {plan.id} of {model!r} is at work on {dataset} {key}.",
            detail=f"run {run} is of Airflow's own backfill",
            hint="Wait until it has ended, and clear this task. `airflow-mlops backfill status` says how far it is; "
            "`airflow-mlops backfill cancel` ends one that died.",
        )
    seen = in_use(who_saw(ledger, [Step(dataset, key, "changed", sealed)])) if sealed and sealed != landed else []
    many = _many(ledger, model, queued, approve_above)
    if seen or (many and not _approved(ledger, model, dataset, key)):
        raise GateError(
            f"Airflow's backfill does not seal {dataset} {key}: nobody approved it.",
            detail="; ".join([*many, *seen]),
            hint=f"Trigger {model}.backfill for these days: it says what there is to do and whom it touches, asks, and "
            "does it. After that, clear this task.",
        )


def _many(ledger: Ledger, model: str, queued: int, approve_above: int) -> list[str]:
    since = datetime.now(UTC) - _TOGETHER
    partitions = len({fact.key for fact in ledger.facts(FACT, model, limit=None) if fact.at > since}) + queued
    return [f"{partitions} partitions are more than {approve_above}"] if partitions > approve_above else []


def _approved(ledger: Ledger, model: str, dataset: str, key: str) -> bool:
    """Return whether a person approved a plan that works on a partition."""
    plans = (find(ledger, fact.key) for fact in ledger.facts(PLANNED, model))
    return any(_names(plan, dataset, key) and approved_by(ledger, plan) for plan in plans)


def _names(plan: Plan, dataset: str, key: str) -> bool:
    return any((step.dataset, step.key) == (dataset, key) for step in plan.work)
