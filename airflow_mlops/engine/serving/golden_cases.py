"""Golden cases: requests that every later version of a model must answer rightly, such as one that once went wrong.

They are kept in the ledger, and asked of each version when it is published.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from airflow_mlops.contracts import Signature, content_hash
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.engine.serving.golden import Golden, Predict
from airflow_mlops.engine.serving.samples import told
from airflow_mlops.exceptions import ConfigError, DataError, GateError, did_you_mean

ADDED, REMOVED = "golden_case", "golden_case_removed"
"""Kinds of the facts of a case that was added, and of one that was taken away again."""

_ID = 8
_OF_MODELS = ("snapshot", "verdict", "model_seen", "deployment")
"""Kinds of the facts whose subject is a model."""
_RECENT = 1000
_KEYS = ("instances", "inputs", "outputs", "tolerance")
_EXAMPLE = '{"inputs": {"distance": [1400.0]}, "outputs": {"probability": [0.9]}, "tolerance": 0.1}'

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class GoldenCase:
    """A request, what it must be answered, how far off that may be, who says so, and why."""

    id: str
    inputs: dict[str, Any]
    outputs: dict[str, Any]
    tolerance: float
    who: str
    reason: str

    def check(self, predict: Predict, signature: Signature) -> None:
        """Ask a version.

        :raises GateError: when it answers otherwise.
        """
        if set(self.inputs) != set(signature.inputs):
            log.warning(
                "Golden case %s is not asked: it has the inputs %s, and this version takes %s.",
                self.id, ", ".join(sorted(self.inputs)), ", ".join(sorted(signature.inputs)),
            )  # fmt: skip
            return
        if unknown := sorted(set(self.outputs) - set(signature.outputs)):
            raise GateError(
                f"Golden case {self.id} is about an output that the version does not have: {unknown[0]!r}."
                f"{did_you_mean(unknown[0], signature.outputs)}",
                detail=f"it answers {', '.join(sorted(signature.outputs))}; the case was added by {self.who}",
                hint=f"Add the case with the right name; `airflow-mlops golden remove MODEL {self.id} --reason ...` "
                "takes this one away.",
            )
        try:
            Golden(self.inputs, self.outputs).check(predict, signature, self.tolerance)
        except GateError as error:
            raise GateError(
                f"The version does not answer golden case {self.id} as it must: {self.reason}",
                detail=f"{error.detail}; added by {self.who}",
                hint=f"Train it better. `airflow-mlops golden remove MODEL {self.id} --reason ...` removes the case.",
            ) from None


def read_case(file: Path, who: str, reason: str, tolerance: float | None = None) -> GoldenCase:
    """Read a case from a JSON file with ``inputs`` (or ``instances``), ``outputs`` and ``tolerance``.

    :param tolerance: Largest absolute difference of an answer; None takes that of the file, else 0.05.
    :raises DataError: when it is no such file.
    :raises ConfigError: without a name and a reason.
    """
    if not who.strip() or not reason.strip():
        raise ConfigError("A golden case needs a name and a reason.", hint="Say --who and --reason.")
    document = told(file)
    if unknown := [name for name in document if name not in _KEYS]:
        raise DataError(
            f"The case has an unknown key {unknown[0]!r}.{did_you_mean(unknown[0], _KEYS)}",
            detail=str(file),
            hint=f"Write it so: {_EXAMPLE}",
        )
    inputs = document.get("inputs") or _columns(document.get("instances"))
    outputs = document.get("outputs")
    if not (isinstance(inputs, dict) and inputs and isinstance(outputs, dict) and outputs):
        raise DataError(
            "The case does not say what is asked and what must be answered.",
            detail=f"{file} has {', '.join(document) or 'nothing'}",
            hint=f"Write it so: {_EXAMPLE}",
        )
    allowed = document.get("tolerance", 0.05) if tolerance is None else tolerance
    if not isinstance(allowed, int | float) or isinstance(allowed, bool) or not allowed >= 0:
        raise DataError("The tolerance is no number from 0 on.", detail=f"{file}: {allowed!r}")
    name = content_hash([inputs, outputs, allowed])[:_ID]
    return GoldenCase(name, inputs, outputs, float(allowed), who, reason)


def _columns(rows: Any) -> dict[str, Any] | None:
    if (
        not isinstance(rows, list)
        or not rows
        or not all(isinstance(row, dict) and row.keys() == rows[0].keys() for row in rows)
    ):
        return None
    return {name: [row[name] for row in rows] for name in rows[0]}


def add_case(ledger: Ledger, model: str, case: GoldenCase) -> None:
    """Keep a case of a model; the same one again changes nothing.

    :raises ConfigError: when the ledger knows no model of that name: nobody would be asked.
    """
    if not any(ledger.facts(kind, model, limit=1) for kind in _OF_MODELS):
        known = sorted({fact.subject for kind in _OF_MODELS for fact in ledger.facts(kind, limit=_RECENT)})
        raise ConfigError(
            f"There is no model {model!r}.{did_you_mean(model, known)}",
            detail="no version of it was fetched, judged or deployed here",
            hint=f"Models: {', '.join(known) or 'none yet'}.",
        )
    if case.id not in {one.id for one in cases(ledger, model)}:
        ledger.record(ADDED, model, asdict(case), key=case.id)


def remove_case(ledger: Ledger, model: str, case_id: str, who: str, reason: str) -> None:
    """Take a case away: later versions are not asked any more.

    :raises ConfigError: when there is none of that id.
    """
    known = [one.id for one in cases(ledger, model)]
    if case_id not in known:
        raise ConfigError(
            f"Model {model!r} has no golden case {case_id!r}.{did_you_mean(case_id, known)}",
            hint=f"`airflow-mlops golden list {model}` lists them: {', '.join(known) or 'there are none'}.",
        )
    ledger.record(REMOVED, model, {"who": who, "reason": reason}, key=case_id)


def cases(ledger: Ledger, model: str) -> Sequence[GoldenCase]:
    """Return the cases of a model, the oldest first."""
    added = ledger.facts(ADDED, model, limit=None)
    removed: dict[str, int] = {}
    for fact in ledger.facts(REMOVED, model, limit=None):
        removed.setdefault(fact.key, fact.id)
    return [GoldenCase(**fact.payload) for fact in reversed(added) if fact.id > removed.get(fact.key, -1)]
