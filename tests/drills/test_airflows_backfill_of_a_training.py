"""Somebody lets Airflow's own backfill run the train DAG over last month: many old trainings, with the newest numbers.

They are registered and judged, as of their own dates, and none of them reaches the server: not those that know older
data than what serves, and not those that know newer.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jinja2
import pytest
from airflow.sdk import DAG

from airflow_mlops.contracts import Deployment, GateCheck, RegisteredModel, Verdict, VerdictStatus
from airflow_mlops.engine.evaluation import approvals
from airflow_mlops.engine.evaluation.approvals import check_not_older, choose_version, record_verdict
from airflow_mlops.engine.features.governance.consumers import ModelFeatures
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.engine.retraining.registered import Registered, record_registered, what_started
from airflow_mlops.engine.retraining.requests import requests, started_last
from airflow_mlops.engine.retraining.triggers import basis_of
from airflow_mlops.engine.serving.deployments import deployment
from airflow_mlops.exceptions import GateError
from airflow_mlops.operators.admit import AdmitTrainingOperator
from airflow_mlops.templates.train import AS_OF

pytestmark = pytest.mark.drill
SERVES = datetime(2026, 1, 20, 4, tzinfo=UTC)


def as_of(run_type: str, logical_date: datetime | None) -> datetime | None:
    """Return the moment on which a run of the train DAG trains; None is the latest complete data."""
    run = SimpleNamespace(run_type=run_type, logical_date=logical_date, run_after=datetime(2026, 2, 1, tzinfo=UTC))
    text = jinja2.Template(AS_OF).render(params=SimpleNamespace(as_of=None), dag_run=run)
    return datetime.fromisoformat(text) if text else None


def trained(ledger: Ledger, version: int, known: datetime, run_type: str = "scheduled") -> None:
    """Let a version pass its gates that a run trained on what was known at a moment."""
    admitted = admit(ledger, version, known, run_type)
    registered = RegisteredModel(
        model="m", version=str(version), run_id=f"r{version}", experiment_id="1", source=f"models:/m-{version}"
    )
    check = GateCheck(gate="auc min", passed=True, metric="auc", observed=0.9, bound=0.6, reason="because")
    verdict = Verdict(model="m", status=VerdictStatus.PASS, checks=(check,), inputs_hash="h")
    record_verdict(ledger, registered, verdict, snapshot_id=f"s{version}")
    read = ModelFeatures(
        model="m", version=version, service="v1", project="p", definition="d", code={}, features=(),
        snapshot=f"s{version}", label_cut=known,
    )  # fmt: skip
    ledger.record("model_features", "m", read.model_dump(mode="json"), key=str(version))
    why, special = what_started(ledger, "m", f"m.train {version}")
    assert (why, special) == (admitted["why"], admitted["special"])
    made = Registered(
        model="m", version=version, spec_hash=f"s{version}", snapshot=f"s{version}", run=f"m.train {version}", why=why,
        special=special,
    )  # fmt: skip
    record_registered(ledger, made)


def admit(ledger: Ledger, version: int, known: datetime, run_type: str) -> Any:
    """Let a run of the train DAG begin as its task `admit` does."""
    with DAG("m.train"):
        task = AdmitTrainingOperator(
            task_id="admit", model="m", cut=known.isoformat(), as_of=known.isoformat(), source_dataset="orders",
            matures_after="1d", start="2026-01-01", usual_window="20d", validation="2d", test="2d", cooldown="1h",
        )  # fmt: skip
    run = SimpleNamespace(run_type=run_type, run_id=str(version), triggering_user_name="ann")
    ti = SimpleNamespace(
        dag_id="m.train", run_id=str(version), get_dr_count=lambda *_, **__: 1,
        get_dagrun_state=lambda *_: "success", xcom_push=lambda *_, **__: None,
    )  # fmt: skip
    return task.execute({"dag_run": run, "ti": ti})  # type: ignore[typeddict-item]


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    """Version 1, of the scheduled run of the 20th, serves."""
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db")
    connection = {"conn_type": "mlops_ledger", "host": ledger.url}
    monkeypatch.setenv("AIRFLOW_CONN_MLOPS_LEDGER_DEFAULT", json.dumps(connection))
    trained(ledger, 1, SERVES)
    state = Deployment(server="s", model="m", stable=1).model_dump(mode="json")
    ledger.swap("deployment:s:m", state, None)
    return ledger


def backfilled(ledger: Ledger) -> list[int]:
    """Train the days 5 to 9 by Airflow's backfill; return the versions."""
    for version, day in enumerate(range(5, 10), 2):
        moment = as_of("backfill", datetime(2026, 1, day, 4, tzinfo=UTC))
        assert moment is not None
        trained(ledger, version, moment, "backfill")
    return list(range(2, 7))


def test_fault_guard_on(ledger: Ledger):
    versions = backfilled(ledger)
    choice = choose_version(ledger, "m", "s")
    assert choice.version is None
    assert "version 6 knows data up to 2026-01-09 04:00 UTC only, and version 1, which serves" in choice.why
    for version in versions:
        with pytest.raises(GateError, match="would replace newer data by older"):
            check_not_older(ledger, deployment(ledger, "s", "m")[0], version)


def test_fault_of_newer_days_guard_on(ledger: Ledger):
    """Nobody trained since the 20th, and the backfill goes up to the 23rd."""
    trained(ledger, 2, SERVES + timedelta(days=3), "backfill")
    choice = choose_version(ledger, "m", "s")
    assert choice.version is None
    assert "version 2 was trained by Airflow's backfill, as of 2026-01-23T04:00:00+00:00. Trigger" in choice.why
    [request] = [one for one in requests(ledger, "m") if one.run == "m.train 2"]
    assert (request.reason, request.as_of[:10]) == ("backfill", "2026-01-23")
    assert request.detail == "Airflow's backfill, as of 2026-01-23T04:00:00+00:00"
    assert choose_version(ledger, "m", "s", 2).version == 2, "somebody wants it"


def test_fault_of_newer_days_guard_off(ledger: Ledger, monkeypatch: pytest.MonkeyPatch):
    """Nobody asks what had it trained: it is deployed by itself."""
    monkeypatch.setattr(approvals, "backfilled", lambda *_: "")
    trained(ledger, 2, SERVES + timedelta(days=3), "backfill")
    assert choose_version(ledger, "m", "s").version == 2


def test_the_schedule_is_not_put_off(ledger: Ledger):
    """Neither cooled down by trainings of the past, nor are they what the next one is compared with."""
    backfilled(ledger)
    assert started_last(ledger, "m").run == "m.train 1"
    assert basis_of(ledger, "m").version == 1
    trained(ledger, 7, SERVES + timedelta(days=1))
    assert choose_version(ledger, "m", "s").version == 7


def test_fault_guard_off(ledger: Ledger, monkeypatch: pytest.MonkeyPatch):
    """Nobody compares how far the data goes: the newest number is deployed."""
    monkeypatch.setattr(approvals, "_older", lambda *_: "")
    monkeypatch.setattr(approvals, "backfilled", lambda *_: "")
    versions = backfilled(ledger)
    assert choose_version(ledger, "m", "s").version in versions


def test_no_fault(ledger: Ledger):
    """A scheduled run of today, and one by hand, go on as ever; also after a backfill."""
    backfilled(ledger)
    today = as_of("scheduled", datetime(2026, 1, 21, 4, tzinfo=UTC))
    assert today is not None
    trained(ledger, 7, today)
    assert choose_version(ledger, "m", "s").version == 7
    assert as_of("manual", datetime(2026, 1, 21, 4, tzinfo=UTC)) is None, "the latest complete data"
