"""Verdicts in the ledger: which versions of a model may be deployed."""

from __future__ import annotations

from typing import Any

from airflow_mlops.contracts import Deployment, RegisteredModel, Verdict, VerdictStatus
from airflow_mlops.engine.ledger import Ledger, as_json
from airflow_mlops.exceptions import GateError

FACT = "verdict"


def record_verdict(ledger: Ledger, registered: RegisteredModel, verdict: Verdict, *, snapshot_id: str) -> None:
    """Append a verdict, unless it is the last one on this version already.

    :param snapshot_id: What the version was trained on: tells, when late data replaces some of it, which version
        has seen the old.
    :raises TransientError: when the ledger's database does not answer.
    """
    version = int(registered.version)
    payload = {
        "model": registered.model,
        "version": version,
        "status": verdict.status.value,
        "source": registered.source,
        "run_id": registered.run_id,
        "inputs_hash": verdict.inputs_hash,
        "snapshot_id": snapshot_id,
        "checks": [as_json(check.model_dump()) for check in verdict.checks],
    }
    if _last_verdicts(ledger, registered.model).get(version) != payload:
        ledger.record(FACT, registered.model, payload)


def approved_version(ledger: Ledger, model: str, server: str, version: int | None = None) -> int | None:
    """Return the version to deploy: the given one, or the newest whose last verdict is PASS.

    :param server: Where it is to be deployed. What was rolled back there is not taken up again unasked: the
        answer is None then.
    :param version: The one that somebody asked for.
    :raises GateError: when that one, or any, has not passed.
    """
    verdicts = _last_verdicts(ledger, model)
    if version is not None:
        status = verdicts[version]["status"] if version in verdicts else "never judged"
        if status != VerdictStatus.PASS:
            raise GateError(
                f"Version {version} of {model!r} is not approved.",
                detail=f"its verdict: {status}",
                hint="Only a version that passed its gates is deployed.",
            )
        return version
    passed = [number for number, verdict in verdicts.items() if verdict["status"] == VerdictStatus.PASS]
    if not passed:
        raise GateError(
            f"No version of {model!r} is approved.",
            detail=f"{len(verdicts)} versions were judged",
            hint="Train one that passes its gates.",
        )
    newest = max(passed)
    pointer = ledger.pointer(f"deployment:{server}:{model}")
    serving = None if pointer is None else Deployment.model_validate(pointer.value)
    return None if serving is not None and newest == serving.previous else newest


def _last_verdicts(ledger: Ledger, model: str) -> dict[int, dict[str, Any]]:
    """Return version → the payload of the last verdict on it."""
    verdicts: dict[int, dict[str, Any]] = {}
    for fact in ledger.facts(FACT, model, limit=None):
        verdicts.setdefault(fact.payload["version"], fact.payload)
    return verdicts
