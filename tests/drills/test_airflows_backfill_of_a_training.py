"""Somebody lets Airflow's own backfill run the train DAG over last month: many old trainings, with the newest numbers.

They are registered and judged, as of their own dates, and none of them reaches the server.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import jinja2
import pytest

from airflow_mlops.contracts import Deployment, GateCheck, RegisteredModel, Verdict, VerdictStatus
from airflow_mlops.engine.evaluation import approvals
from airflow_mlops.engine.evaluation.approvals import check_not_older, choose_version, record_verdict
from airflow_mlops.engine.features.governance.consumers import ModelFeatures
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.engine.serving.deployments import deployment
from airflow_mlops.exceptions import GateError
from airflow_mlops.templates.train import AS_OF

pytestmark = pytest.mark.drill
SERVES = datetime(2026, 1, 20, 4, tzinfo=UTC)


def as_of(run_type: str, logical_date: datetime | None) -> datetime | None:
    """Return the moment on which a run of the train DAG trains; None is the latest complete data."""
    run = SimpleNamespace(run_type=run_type, logical_date=logical_date, run_after=datetime(2026, 2, 1, tzinfo=UTC))
    text = jinja2.Template(AS_OF).render(params=SimpleNamespace(as_of=None), dag_run=run)
    return datetime.fromisoformat(text) if text else None


def trained(ledger: Ledger, version: int, known: datetime) -> None:
    """Let a version pass its gates that was trained on what was known at a moment."""
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


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """Version 1, of the scheduled run of the 20th, serves."""
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db")
    trained(ledger, 1, SERVES)
    state = Deployment(server="s", model="m", stable=1).model_dump(mode="json")
    ledger.swap("deployment:s:m", state, None)
    return ledger


def backfilled(ledger: Ledger) -> list[int]:
    """Train the days 5 to 9 by Airflow's backfill; return the versions."""
    for version, day in enumerate(range(5, 10), 2):
        moment = as_of("backfill", datetime(2026, 1, day, 4, tzinfo=UTC))
        assert moment is not None
        trained(ledger, version, moment)
    return list(range(2, 7))


def test_fault_guard_on(ledger: Ledger):
    versions = backfilled(ledger)
    choice = choose_version(ledger, "m", "s")
    assert choice.version is None
    assert "version 6 knows data up to 2026-01-09 04:00 UTC only, and version 1, which serves" in choice.why
    for version in versions:
        with pytest.raises(GateError, match="would replace newer data by older"):
            check_not_older(ledger, deployment(ledger, "s", "m")[0], version)


def test_fault_guard_off(ledger: Ledger, monkeypatch: pytest.MonkeyPatch):
    """Nobody compares how far the data goes: the newest number is deployed."""
    monkeypatch.setattr(approvals, "_older", lambda *_: "")
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
