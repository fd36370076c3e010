"""Which version may be deployed, by the verdicts in the ledger."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from airflow_mlops.contracts import Deployment, GateCheck, Pin, RegisteredModel, Verdict, VerdictStatus
from airflow_mlops.engine.data.files import tree_hash
from airflow_mlops.engine.evaluation.approvals import check_verdict, choose_version, record_verdict
from airflow_mlops.engine.features.governance.consumers import ModelFeatures
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.exceptions import GateError


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(f"sqlite:///{tmp_path}/ledger.db")


def judged(
    ledger: Ledger, version: int, status: str, *, observed: float = 0.7, inputs: str = "h", content: str = ""
) -> None:
    registered = RegisteredModel(
        model="m", version=str(version), run_id=f"r{version}", experiment_id="1", source=f"models:/m-{version}"
    )
    check = GateCheck(
        gate="auc min", passed=status == "PASS", metric="auc", observed=observed, bound=0.6, reason="because"
    )
    verdict = Verdict(model="m", status=VerdictStatus(status), checks=(check,), inputs_hash=inputs)
    record_verdict(ledger, registered, verdict, snapshot_id="s", content=content)


def deployed(ledger: Ledger, stable: int, **state: Any) -> None:
    value = Deployment(server="s", model="m", stable=stable, **state).model_dump(mode="json")
    assert ledger.swap("deployment:s:m", value, ledger.pointer("deployment:s:m"))


def trained_on(ledger: Ledger, version: int, day: int) -> None:
    """Write down that a version knows data up to a day of January."""
    read = ModelFeatures(
        model="m", version=version, service="v1", project="p", definition="d", code={}, features=(), snapshot="s",
        label_cut=datetime(2026, 1, day, tzinfo=UTC),
    )  # fmt: skip
    ledger.record("model_features", "m", read.model_dump(mode="json"), key=str(version))


def pinned(version: int, **changes: Any) -> Pin:
    return Pin(**{"version": version, "who": "ann", "reason": "incident 12", "at": datetime.now(UTC), **changes})


def chosen(ledger: Ledger, asked: int | None = None, server: str = "s") -> int | None:
    return choose_version(ledger, "m", server, asked).version


def test_newest_that_passed(ledger: Ledger):
    for version, status in ((1, "PASS"), (2, "PASS"), (3, "FAIL")):
        judged(ledger, version, status)
    assert chosen(ledger) == 2
    assert chosen(ledger, 1) == 1


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
        chosen(ledger)


@pytest.mark.parametrize(("version", "says"), [(2, "FAIL"), (9, "never judged")])
def test_version_that_did_not_pass_is_refused_by_number(ledger: Ledger, version: int, says: str):
    judged(ledger, 1, "PASS")
    judged(ledger, 2, "FAIL")
    with pytest.raises(GateError, match=f"Version {version} of 'm' is not approved(.|\n)*{says}"):
        chosen(ledger, version)


def test_what_was_rolled_back_is_not_taken_up_again_unasked(ledger: Ledger):
    judged(ledger, 1, "PASS")
    judged(ledger, 2, "PASS")
    deployed(ledger, stable=1, previous=2, rolled_back=(2,))
    assert "version 2 was rolled back on s" in choose_version(ledger, "m", "s").why
    assert choose_version(ledger, "m", "s", 2).overrides == ("it had been rolled back: asked for by number",)
    assert chosen(ledger, server="elsewhere") == 2
    judged(ledger, 3, "PASS")
    assert chosen(ledger) == 3


def test_nothing_that_passes_replaces_what_is_pinned(ledger: Ledger):
    judged(ledger, 1, "PASS")
    judged(ledger, 2, "PASS")
    deployed(ledger, stable=1, rolled_back=(2,), pin=pinned(1))
    judged(ledger, 3, "PASS")
    held = choose_version(ledger, "m", "s")
    assert held.version is None
    assert "version 1 is pinned by ann until it is lifted: incident 12" in held.why
    with pytest.raises(GateError, match=r"cannot replace what is pinned(.|\n)*airflow-mlops unpin m"):
        chosen(ledger, 3)
    assert chosen(ledger, 1) == 1
    assert chosen(ledger, server="elsewhere") == 3


def test_a_pin_that_has_run_out_is_none(ledger: Ledger):
    judged(ledger, 1, "PASS")
    judged(ledger, 2, "PASS")
    soon = datetime.now(UTC) + timedelta(days=1)
    deployed(ledger, stable=1, pin=pinned(1, until=soon))
    assert f"until {soon:%Y-%m-%d %H:%M} UTC" in choose_version(ledger, "m", "s").why
    deployed(ledger, stable=1, pin=pinned(1, until=datetime.now(UTC) - timedelta(seconds=1)))
    assert chosen(ledger) == 2


def test_old_data_does_not_replace_new_unasked(ledger: Ledger):
    """A training of the past was backfilled: it has the newest number, it passed, and it knows less."""
    for version, day in ((1, 10), (2, 20), (3, 5)):
        judged(ledger, version, "PASS")
        trained_on(ledger, version, day)
    deployed(ledger, stable=2, previous=1)
    held = choose_version(ledger, "m", "s")
    assert held.version is None
    assert (
        "version 3 knows data up to 2026-01-05 00:00 UTC only, and version 2, which serves, up to 2026-01-20"
        in held.why
    )
    asked = choose_version(ledger, "m", "s", 3)
    assert asked.version == 3
    assert "asked for by number" in asked.overrides[0]
    judged(ledger, 4, "PASS")
    trained_on(ledger, 4, 20)
    assert chosen(ledger) == 4, "as new as the one that serves"


def test_a_newer_one_that_waits_is_not_hidden_by_a_backfill(ledger: Ledger):
    for version, day in ((1, 10), (2, 20), (3, 5)):
        judged(ledger, version, "PASS")
        trained_on(ledger, version, day)
    deployed(ledger, stable=1)
    assert chosen(ledger) == 2


def test_a_version_of_unknown_data_is_not_taken_for_older(ledger: Ledger):
    """It was registered by a release that did not write down how far its data goes."""
    judged(ledger, 1, "PASS")
    trained_on(ledger, 1, 10)
    judged(ledger, 2, "PASS")
    deployed(ledger, stable=1)
    assert chosen(ledger) == 2
    deployed(ledger, stable=2)
    assert chosen(ledger) == 2, "a lower number is never taken unasked"


def test_after_a_rollback_only_what_was_registered_since_is_new(ledger: Ledger):
    for version in (1, 2, 3):
        judged(ledger, version, "PASS")
    deployed(ledger, stable=1, rolled_back=(3,))
    assert chosen(ledger) is None, "2 was passed over once"
    judged(ledger, 4, "PASS")
    assert chosen(ledger) == 4


def test_only_the_very_bytes_that_were_judged_may_serve(ledger: Ledger, tmp_path: Path):
    model = tmp_path / "model"
    model.mkdir()
    (model / "saved_model.pb").write_bytes(b"one")
    with pytest.raises(GateError, match="has not passed its gates"):
        check_verdict(ledger, "m", 1, model)
    judged(ledger, 1, "FAIL", content=tree_hash(model))
    with pytest.raises(GateError, match=r"has not passed its gates(.|\n)*FAIL"):
        check_verdict(ledger, "m", 1, model)
    judged(ledger, 1, "PASS", content=tree_hash(model))
    check_verdict(ledger, "m", 1, model)
    (model / "saved_model.pb").write_bytes(b"two")
    with pytest.raises(GateError, match="is not what passed its gates"):
        check_verdict(ledger, "m", 1, model)
    judged(ledger, 2, "PASS")
    check_verdict(ledger, "m", 2, model)  # judged before verdicts named bytes


def test_repeating_a_finished_deployment_is_allowed(ledger: Ledger):
    judged(ledger, 2, "PASS")
    deployed(ledger, stable=2, previous=1)
    assert chosen(ledger) == 2
