"""Verdicts in the ledger: which versions of a model may be deployed."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from airflow_mlops.contracts import Deployment, RegisteredModel, Verdict, VerdictStatus
from airflow_mlops.engine.data.files import tree_hash
from airflow_mlops.engine.features.governance.consumers import data_cut
from airflow_mlops.engine.ledger import Ledger, as_json
from airflow_mlops.engine.retraining.registered import backfilled
from airflow_mlops.engine.serving.deployments import ask_for, check_pin, deployment
from airflow_mlops.engine.serving.flapping import flapping
from airflow_mlops.exceptions import GateError

FACT = "verdict"

_log = logging.getLogger(__name__)


def record_verdict(
    ledger: Ledger,
    registered: RegisteredModel,
    verdict: Verdict,
    *,
    snapshot_id: str,
    content: str = "",
    gates: Sequence[Mapping[str, Any]] = (),
    champion_version: str | None = None,
) -> None:
    """Append a verdict, unless it is the last one on this version already.

    :param snapshot_id: What the version was trained on: tells, when late data replaces some of it, which version
        has seen the old.
    :param content: Hash of the files of the SavedModel that was judged, as
        :func:`~airflow_mlops.engine.data.files.tree_hash` gives it: only these bytes may serve as this version.
    :param gates: The gates, as dicts: with them the version can be judged again.
    :param champion_version: What it was compared with.
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
        "content": content,
        "gates": as_json(list(gates)),
        "champion_version": champion_version,
        "checks": [as_json(check.model_dump()) for check in verdict.checks],
    }
    if last_verdicts(ledger, registered.model).get(version) != payload:
        ledger.record(FACT, registered.model, payload)


@dataclass(frozen=True)
class Choice:
    """What to deploy: a version, or none and why. ``overrides`` are the guards that asking by number has passed."""

    version: int | None
    why: str = ""
    overrides: tuple[str, ...] = ()


def choose_version(ledger: Ledger, model: str, server: str, asked: int | None = None) -> Choice:
    """Decide which version to deploy on a server: the one that was asked for, or the newest that passed its gates.

    Unasked, nothing replaces what is pinned, and nothing new comes while what serves was rolled back too often; a
    version that a rollback took out stays out; one that Airflow's own backfill had trained is none; and a version that
    was trained on older data than the one that serves does not replace it, whatever its number. How far the data of a
    version goes is the ``label_cut`` of its snapshot; a version of which it is not known is not taken for older.

    :param asked: The number that somebody asked for: deployed though its data is older, or it was rolled back.
    :raises GateError: when what is asked for, or any version, has not passed; when it is asked for against a pin; or
        when what serves was rolled back too often: nobody has decided that yet, so somebody must be told.
    """
    state = deployment(ledger, server, model)[0]
    verdicts = last_verdicts(ledger, model)
    if asked is not None:
        return _asked(ledger, state, verdicts, asked)
    passed = [number for number, verdict in verdicts.items() if verdict["status"] == VerdictStatus.PASS]
    if not passed:
        raise GateError(
            f"No version of {model!r} is approved.",
            detail=f"{len(verdicts)} versions were judged",
            hint="Train one that passes its gates.",
        )
    pin = state.pin
    if pin is not None and pin.holds(datetime.now(UTC)):
        return Choice(None, f"{pin}. Lift it with `airflow-mlops unpin {model}` or {model}.runbook")
    new = [number for number in passed if number > max([state.stable or 0, *state.rolled_back])]
    older = {number: _older(ledger, state, number) or _of_backfill(ledger, model, number) for number in new}
    fresh = [number for number in new if not older[number]]
    by_number = f"Trigger {model}.deploy with its number to deploy it"
    if fresh:
        if why := flapping(ledger, server, model, datetime.now(UTC)):
            raise GateError(
                f"No version of {model!r} is deployed by itself now: a person must decide.",
                detail=why,
                hint=f"Go back further by {model}.rollback; or go on: trigger {model}.roll_through, or {model}.deploy "
                "with a number.",
            )
        return Choice(_newest(ledger, model, fresh))
    if new:
        return Choice(None, f"{older[max(new)]}. {by_number} all the same")
    if max(passed) in state.rolled_back:
        return Choice(None, f"version {max(passed)} was rolled back on {server}. {by_number} again")
    if state.stable in passed:
        return Choice(state.stable)
    return Choice(None, f"no version after {state.stable}, which serves, has passed its gates")


def approved_last(ledger: Ledger, model: str) -> dict[int, str]:
    """Return version → why it may be deployed next, in words: it passed its gates last, or knows the newest data."""
    verdicts = last_verdicts(ledger, model)
    passed = [number for number, verdict in verdicts.items() if verdict["status"] == VerdictStatus.PASS]
    if not passed:
        return {}
    newest = _newest(ledger, model, passed)
    return {newest: "passed its gates, and knows the newest data", max(passed): "passed its gates last"}


def _newest(ledger: Ledger, model: str, versions: Sequence[int]) -> int:
    """Return the version with the newest data; of those alike, or where it is not known, the highest number."""
    best = max(versions)
    for version in sorted(versions, reverse=True):
        cut, best_cut = data_cut(ledger, model, version), data_cut(ledger, model, best)
        if cut is not None and best_cut is not None and cut > best_cut:
            best = version
    return best


def _asked(ledger: Ledger, state: Deployment, verdicts: Mapping[int, dict[str, Any]], version: int) -> Choice:
    status = verdicts[version]["status"] if version in verdicts else "never judged"
    if status != VerdictStatus.PASS:
        raise GateError(
            f"Version {version} of {state.model!r} is not approved.",
            detail=f"its verdict: {status}",
            hint="Only a version that passed its gates is deployed.",
        )
    check_pin(state, version)
    older = _older(ledger, state, version)
    if older or version in state.rolled_back:
        ask_for(ledger, state.server, state.model, version, older or "it had been rolled back")
    overrides = [f"{older}: asked for by number"] * bool(older)
    overrides += ["it had been rolled back: asked for by number"] * (version in state.rolled_back)
    return Choice(version, overrides=tuple(overrides))


def check_not_older(ledger: Ledger, state: Deployment, version: int) -> None:
    """Refuse to replace what serves by what knows older data, unless somebody asked for it by number.

    :raises GateError: when it would.
    """
    older = _older(ledger, state, version)
    if older and version not in state.asked:
        raise GateError(
            f"Version {version} of {state.model!r} would replace newer data by older.",
            detail=older,
            hint=f"Trigger {state.model}.deploy with its number to deploy it all the same.",
        )


def check_bytes(ledger: Ledger, model: str, version: int, folder: Path) -> None:
    """Refuse bytes of a version other than those that were judged; one that nobody judged is let through.

    :raises GateError: when they differ.
    """
    verdict = last_verdicts(ledger, model).get(version)
    if verdict is not None and verdict.get("content") and verdict["content"] != tree_hash(folder):
        raise GateError(
            f"Version {version} of {model!r} in the model store is not what was judged.",
            detail=f"{folder} has other bytes than the registered version",
            hint="Go back to another version; or deploy it by its number: that fetches it from the registry again.",
        )


def check_verdict(ledger: Ledger, model: str, version: int, folder: Path) -> None:
    """Refuse bytes that no verdict PASS is about.

    :param folder: The SavedModel that is to be published or to serve.
    :raises GateError: when the version's last verdict is not PASS, or was passed on other bytes.
    """
    verdict = last_verdicts(ledger, model).get(version)
    status = "never judged" if verdict is None else verdict["status"]
    if verdict is None or status != VerdictStatus.PASS:
        raise GateError(
            f"Version {version} of {model!r} has not passed its gates, so it cannot serve.",
            detail=f"its verdict in the ledger: {status}",
            hint="Let MLflowJudgeModelOperator judge it. In a DAG of your own, require_verdict=False serves it without "
            "one; that is written down with the deployment.",
        )
    if not verdict.get("content"):
        _log.warning(
            "Version %s of %r was judged before verdicts named the bytes that they are about: its number has to do.",
            version,
            model,
        )
    elif verdict["content"] != tree_hash(folder):
        raise GateError(
            f"What is to serve as version {version} of {model!r} is not what passed its gates.",
            detail=f"{folder} has other bytes than the registered version that was judged",
            hint="Fetch it from the registry again. In a DAG of your own, require_verdict=False serves it anyway.",
        )


def _older(ledger: Ledger, state: Deployment, version: int) -> str:
    """Say by how much a version's data is older than that of the one that serves; nothing when it is not."""
    if state.stable is None or state.stable == version:
        return ""
    cut, serving = data_cut(ledger, state.model, version), data_cut(ledger, state.model, state.stable)
    if cut is None or serving is None or cut >= serving:
        return ""
    return (
        f"version {version} knows data up to {cut:%Y-%m-%d %H:%M} UTC only, and version {state.stable}, which serves, "
        f"up to {serving:%Y-%m-%d %H:%M} UTC"
    )


def _of_backfill(ledger: Ledger, model: str, version: int) -> str:
    as_of = backfilled(ledger, model, version)
    return f"version {version} was trained by Airflow's backfill, as of {as_of}" if as_of else ""


def last_verdicts(ledger: Ledger, model: str) -> dict[int, dict[str, Any]]:
    """Return version → the payload of the last verdict on it."""
    verdicts: dict[int, dict[str, Any]] = {}
    for fact in ledger.facts(FACT, model, limit=None):
        verdicts.setdefault(fact.payload["version"], fact.payload)
    return verdicts
