"""Who may say yes to a backfill in the UI, and what the forms refuse."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException, TaskAwaitingInput

from airflow_mlops.engine.backfill.plan import Plan, Step, keep
from airflow_mlops.engine.backfill.run import approve, approved_by
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.operators.backfill import ApproveBackfillOperator, BeginBackfillOperator, PlanBackfillOperator
from tests.backfill_fixtures import PIPELINE
from tests.rides import FIRST, MODEL


class TaskInstance:
    """What a task keeps between asking and the answer."""

    def __init__(self) -> None:
        self.pushed: dict[str, Any] = {}
        self.id = "ti"

    def xcom_push(self, key: str, value: Any) -> None:
        self.pushed[key] = value

    def xcom_pull(self, task_ids: str, key: str) -> Any:
        assert task_ids == "approve"
        return self.pushed.get(key)


def answer(*chosen: str, user: str | None = "ann", **more: Any) -> dict[str, Any]:
    who = None if user is None else {"id": "1", "name": user}
    return {
        "chosen_options": list(chosen), "params_input": {}, "responded_at": datetime.now(UTC),
        "responded_by_user": who, **more,
    }  # fmt: skip


TIMEOUT = {"error": "nobody answered", "error_type": "timeout"}


class Asked:
    """A plan, the task that asks whether it may be executed, and what it keeps."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.plan = self.make()
        self.task = ApproveBackfillOperator(task_id="approve", subject="?", body="it", plan_hash=self.plan.hash)
        self.context: dict[str, Any] = {"ti": TaskInstance(), "task_instance": TaskInstance(), "task": self.task}

    def make(self) -> Plan:
        plan = Plan(
            model=MODEL, first=FIRST, last=FIRST, order="oldest", ordered=False, who="ann", at=datetime.now(UTC),
            code="c", steps=(Step("rides", str(FIRST), "missing"),), estimates={}, hourly_price=0, seen=(),
            approve_above=0,
        )  # fmt: skip
        keep(self.ledger, plan)
        return plan

    def ask(self) -> None:
        with pytest.raises(TaskAwaitingInput):
            self.task.execute(self.context)

    def answered(self, event: dict[str, Any]) -> Any:
        return self.task.execute_complete(self.context, event)


@pytest.fixture
def asked(tmp_path, monkeypatch):
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db")
    connection = {"conn_type": "mlops_ledger", "host": ledger.url}
    monkeypatch.setenv("AIRFLOW_CONN_MLOPS_LEDGER_DEFAULT", json.dumps(connection))
    # What Airflow's database is told; all else is Airflow's own.
    monkeypatch.setattr("airflow.providers.standard.operators.hitl.upsert_hitl_detail", lambda **_: None)
    return Asked(ledger)


def test_a_yes_is_written_down_with_who_said_it(asked):
    asked.ask()
    asked.answered(answer("Approve"))
    assert approved_by(asked.ledger, asked.plan) == "ann"


def test_who_has_answered_is_not_asked_again_and_may_think_again(asked):
    approve(asked.ledger, asked.plan, asked.plan.hash, "bob")
    assert asked.task.execute(asked.context) is None
    with pytest.raises(AirflowFailException, match="ann said no"):
        asked.answered(answer("Reject"))
    assert not approved_by(asked.ledger, asked.plan)
    asked.ask()


@pytest.mark.parametrize(
    ("event", "says"),
    [
        (answer("Reject"), "ann said no"),
        (TIMEOUT, "nobody answered in time"),
        (answer("Approve", user=None), "the answer is about another plan"),
    ],
    ids=["no", "no answer", "a default"],
)
def test_all_else_is_a_no(asked, event, says):
    asked.ask()
    with pytest.raises(AirflowFailException, match=says):
        asked.answered(event)
    assert not approved_by(asked.ledger, asked.plan)


def test_an_answer_is_about_the_plan_that_was_shown(asked):
    """The plan was made anew while a person looked at the old one."""
    asked.ask()
    anew = asked.make()
    asked.task.plan_hash = anew.hash
    with pytest.raises(AirflowFailException, match="the answer is about another plan"):
        asked.answered(answer("Approve"))
    assert not approved_by(asked.ledger, anew)
    assert not approved_by(asked.ledger, asked.plan)


def test_no_default_can_answer():
    with pytest.raises(ValueError, match="defaults to ApprovalOperator is not allowed"):
        ApproveBackfillOperator(task_id="approve", subject="?", plan_hash="h", defaults="Approve")


@pytest.mark.parametrize(
    ("changes", "says"),
    [({"first": "x"}, "is not a day"), ({"ordered": "x"}, "is not filled in"), ({"order": "x"}, "is not filled in")],
)
def test_a_form_that_makes_no_sense_is_refused(tmp_path, changes, says):
    arguments = {"first": str(FIRST), "last": str(FIRST), **changes}
    with pytest.raises(AirflowFailException, match=says):
        PlanBackfillOperator(task_id="p", pipeline=PIPELINE, home=str(tmp_path), **arguments).execute({})


def test_shares_of_nothing_are_refused(tmp_path):
    with pytest.raises(AirflowFailException, match="is not a number of partitions"):
        BeginBackfillOperator(task_id="b", pipeline=PIPELINE, plan="x", partitions="0", home=str(tmp_path)).execute({})


def test_the_dag_asks_a_person_and_falls_closed():
    dag = PIPELINE.dags()[f"{MODEL}_backfill"]
    approve = dag.get_task("approve")
    assert (approve.execution_timeout, approve.defaults) == (None, None)
    assert approve.response_timeout.days == 1
    assert dag.max_active_runs > 1, "one that waits for its answer holds no other up"
    assert dag.get_task("begin").upstream_task_ids == {"price", "approve"} | {"plan"}
    assert dag.get_task("seal").partial_kwargs["max_active_tis_per_dagrun"] == 2
    rounds = ("probe", "seal", "seal_rest", "compute", "compute_rest", "verify")
    assert all(dag.get_task(name).upstream_task_ids >= {before} for before, name in pairwise(rounds))
