"""Which version may be deployed, by the verdicts in the ledger."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from airflow_mlops.contracts import Deployment, GateCheck, RegisteredModel, Verdict, VerdictStatus
from airflow_mlops.engine.evaluation.approvals import approved_version, record_verdict
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.exceptions import GateError


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(f"sqlite:///{tmp_path}/ledger.db")


def judged(ledger: Ledger, version: int, status: str, observed: float = 0.7, inputs: str = "h") -> None:
    registered = RegisteredModel(
        model="m", version=str(version), run_id=f"r{version}", experiment_id="1", source=f"models:/m-{version}"
    )
    check = GateCheck(
        gate="auc min", passed=status == "PASS", metric="auc", observed=observed, bound=0.6, reason="because"
    )
    verdict = Verdict(model="m", status=VerdictStatus(status), checks=(check,), inputs_hash=inputs)
    record_verdict(ledger, registered, verdict, snapshot_id="s")


def deployed(ledger: Ledger, stable: int, previous: int | None) -> None:
    value = Deployment(server="s", model="m", stable=stable, previous=previous).model_dump(mode="json")
    assert ledger.swap("deployment:s:m", value, ledger.pointer("deployment:s:m"))


def test_newest_that_passed(ledger: Ledger):
    for version, status in ((1, "PASS"), (2, "PASS"), (3, "FAIL")):
        judged(ledger, version, status)
    assert approved_version(ledger, "m", "s") == 2
    assert approved_version(ledger, "m", "s", 1) == 1


def test_verdict_is_kept_once_and_without_nan(ledger: Ledger):
    for _ in range(2):
        judged(ledger, 1, "FAIL", observed=math.nan)
    (fact,) = ledger.facts("verdict", "m")
    assert fact.payload["checks"][0]["observed"] is None
    assert fact.payload["source"] == "models:/m-1"


def test_last_verdict_counts(ledger: Ledger):
    judged(ledger, 1, "PASS")
    judged(ledger, 1, "FAIL", inputs="h2")
    with pytest.raises(GateError, match="No version of 'm' is approved"):
        approved_version(ledger, "m", "s")


@pytest.mark.parametrize(("version", "says"), [(2, "FAIL"), (9, "never judged")])
def test_version_that_did_not_pass_is_refused_by_number(ledger: Ledger, version: int, says: str):
    judged(ledger, 1, "PASS")
    judged(ledger, 2, "FAIL")
    with pytest.raises(GateError, match=f"Version {version} of 'm' is not approved(.|\n)*{says}"):
        approved_version(ledger, "m", "s", version)


def test_what_was_rolled_back_is_not_taken_up_again_unasked(ledger: Ledger):
    judged(ledger, 1, "PASS")
    judged(ledger, 2, "PASS")
    deployed(ledger, stable=1, previous=2)
    assert approved_version(ledger, "m", "s") is None
    assert approved_version(ledger, "m", "s", 2) == 2
    assert approved_version(ledger, "m", "elsewhere") == 2
    judged(ledger, 3, "PASS")
    assert approved_version(ledger, "m", "s") == 3


def test_repeating_a_finished_deployment_is_allowed(ledger: Ledger):
    judged(ledger, 2, "PASS")
    deployed(ledger, stable=2, previous=1)
    assert approved_version(ledger, "m", "s") == 2
