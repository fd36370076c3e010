"""A day that its history blocks is accepted by a person: these bytes, with a reason, and never what is unknown."""

from __future__ import annotations

from pathlib import Path

import pytest

from airflow_mlops.contracts import ExpectationOutcome, ValidationResult
from airflow_mlops.engine.data.checks import accept, accepted
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.exceptions import ConfigError

DAY = "2013-02-09"


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")


def checked(
    ledger: Ledger, batch: str = "storm", *, checks: str = "s", success: bool = False, error: str | None = None
):
    """Record what the checks of the day said."""
    outcome = ExpectationOutcome(
        expectation="rows_as_usual", column=None, severity="block", success=success, error=error
    )
    result = ValidationResult(
        suite="history", suite_hash=checks, batch=f"departures/{DAY}", batch_hash=batch, rows=141, outcomes=(outcome,)
    )
    ledger.record("validation", "departures", result.model_dump(mode="json"), key=DAY)
    return result


def test_the_accepted_batch_passes_and_says_by_whom(ledger):
    result = checked(ledger)
    assert accepted(ledger, "departures", DAY, result) is None
    accept(ledger, "departures", DAY, "the storm was real", "ann")
    found = accepted(ledger, "departures", DAY, result)
    assert found is not None
    assert (found.who, found.reason) == ("ann", "the storm was real")


def test_other_bytes_or_another_day_are_judged_anew(ledger):
    checked(ledger)
    accept(ledger, "departures", DAY, "the storm was real", "ann")
    assert accepted(ledger, "departures", DAY, checked(ledger, "other bytes")) is None
    assert accepted(ledger, "departures", "2013-02-10", checked(ledger)) is None


def test_other_checks_are_not_what_was_accepted(ledger):
    checked(ledger)
    accept(ledger, "departures", DAY, "the storm was real", "ann")
    assert accepted(ledger, "departures", DAY, checked(ledger, checks="with an invariant more")) is None


def test_what_could_not_be_computed_is_never_accepted(ledger):
    checked(ledger)
    accept(ledger, "departures", DAY, "the storm was real", "ann")
    result = checked(ledger, error="there is no column 'carrier'")
    assert accepted(ledger, "departures", DAY, result) is None
    with pytest.raises(ConfigError, match="could not be computed"):
        accept(ledger, "departures", DAY, "it is fine", "ann")


def test_there_must_be_something_to_accept_and_a_reason(ledger):
    with pytest.raises(ConfigError, match="nothing to accept"):
        accept(ledger, "departures", DAY, "the storm was real", "ann")
    checked(ledger, success=True)
    with pytest.raises(ConfigError, match="did not block"):
        accept(ledger, "departures", DAY, "the storm was real", "ann")
    with pytest.raises(ConfigError, match="reason"):
        accept(ledger, "departures", DAY, " ", "ann")
