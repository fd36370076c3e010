"""A person says that a day which its history blocks is real: a storm, a holiday, a launch."""

from __future__ import annotations

from airflow_mlops.contracts import Record, ValidationResult
from airflow_mlops.engine.data.announcements import require
from airflow_mlops.engine.data.checks.run import SUITE
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.exceptions import ConfigError

_KIND = "accepted"


class Acceptance(Record):
    """Who let which batch pass against its history, and why; ``suite_hash`` says what was checked then."""

    batch_hash: str
    suite_hash: str
    reason: str
    who: str


def accept(ledger: Ledger, dataset: str, key: str, reason: str, who: str) -> Acceptance:
    """Let the newest blocked batch of a day pass the checks against its history. Other bytes, or other
    checks, would be judged anew.

    :param key: Partition key of the day.
    :raises ConfigError: when its last checks did not block it, or could not all be computed; or without a reason.
    """
    require("An acceptance", reason=reason, who=who)
    results = (ValidationResult.model_validate(fact.payload) for fact in ledger.facts("validation", dataset, key=key))
    last = next((result for result in results if result.suite == SUITE), None)
    if last is None or not last.blocked:
        raise ConfigError(
            f"There is nothing to accept of {dataset!r} {key}.",
            detail="no checks of this day were recorded" if last is None else "its last checks did not block it",
            hint="Only a day that `check`, or of a feature view `compute_features`, refused can be accepted.",
        )
    if unknown := [outcome.expectation for outcome in last.failed if outcome.error]:
        raise ConfigError(
            f"Checks of {dataset!r} {key} could not be computed: nobody can say that they hold.",
            detail=", ".join(unknown),
            hint="See the validation report, correct the checks or the data, and clear the task.",
        )
    acceptance = Acceptance(batch_hash=last.batch_hash, suite_hash=last.suite_hash, reason=reason, who=who)
    ledger.record(_KIND, dataset, acceptance.model_dump(), key=key)
    return acceptance


def accepted(ledger: Ledger, dataset: str, key: str, result: ValidationResult) -> Acceptance | None:
    """Return who accepted this batch; None when nobody did, or when a check of it could not be computed."""
    if any(outcome.error for outcome in result.failed):
        return None
    facts = ledger.facts(_KIND, dataset, key=key)
    found = (Acceptance.model_validate(fact.payload) for fact in facts)
    same = result.batch_hash, result.suite_hash
    return next((one for one in found if (one.batch_hash, one.suite_hash) == same), None)
