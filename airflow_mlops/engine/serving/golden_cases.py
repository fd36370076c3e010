"""Golden cases: requests that every later version of a model must answer rightly, such as one that once went wrong.

They are kept in the ledger, and asked of each version when it is published.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from airflow_mlops.contracts import Signature, TensorSpec, content_hash
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.engine.serving import tensors
from airflow_mlops.engine.serving.asking import signature_asked
from airflow_mlops.engine.serving.golden import Golden, Predict, as_array
from airflow_mlops.engine.serving.samples import check_shapes, fits, read_request, told
from airflow_mlops.engine.serving.saved_model import SavedModel
from airflow_mlops.engine.serving.transform import load_transform
from airflow_mlops.engine.training.workdir import Workdir, read_spec
from airflow_mlops.exceptions import ConfigError, DataError, GateError, MlopsError, did_you_mean

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
        :raises DataError: when it cannot be asked so; naming the case.
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
            self.check_fits(signature)
            Golden(self.inputs, self.outputs).check(predict, signature, self.tolerance)
        except (ConfigError, DataError) as error:
            raise DataError(
                f"Golden case {self.id} cannot be asked: {error.headline}",
                detail="; ".join(filter(None, [error.detail, f"added by {self.who}"])),
                hint=f"If the case is wrong, `airflow-mlops golden remove MODEL {self.id} --reason ...` removes it.",
            ) from None
        except GateError as error:
            raise GateError(
                f"The version does not answer golden case {self.id} as it must: {self.reason}",
                detail=f"{error.detail}; added by {self.who}",
                hint=f"Train it better. `airflow-mlops golden remove MODEL {self.id} --reason ...` removes the case.",
            ) from None

    def check_fits(self, signature: Signature) -> None:
        """Refuse what no version of a signature that has the case's inputs and outputs could be asked, or could answer.

        :raises DataError: naming the input or the output.
        """
        halves = {name: spec for name, spec in signature.inputs.items() if spec.dtype == "float16"}  # none in JSON
        read_as = {name: spec.model_copy(update={"dtype": "float32"}) for name, spec in halves.items()}
        asked = signature.model_copy(update={"inputs": signature.inputs | read_as})
        inputs = read_request({"inputs": self.inputs}, asked)
        check_shapes(tensors.conform(inputs, signature.inputs), signature)
        for name, values in self.outputs.items():
            expected, spec = _expected(name, values), signature.outputs[name]
            texts = expected.dtype.kind == "O"
            if texts != (spec.dtype == "string"):
                raise DataError(
                    f"The case expects {'texts' if texts else 'numbers'} of {name!r}, which is {spec.dtype}.",
                    hint=f"Write it so: {_EXAMPLE}",
                )
            # Of an output whose rank is not known, the signature says [-1] too.
            if len(spec.shape) > 1 and not fits(expected.shape, spec.shape):
                raise DataError(
                    f"The case expects {name!r} in another shape.",
                    detail=f"{list(expected.shape)}, the signature says {list(spec.shape)}; -1 is any size",
                    hint="Give every row the shape that the model answers.",
                )


def _expected(name: str, values: Any) -> np.ndarray:
    """Return what an output must be: finite numbers, or texts as objects.

    :raises DataError: when it is neither, so that no answer would ever be right.
    """
    try:
        found = as_array(values, "string")
    except DataError:  # of unequal lengths, or no base64
        found = np.array(None, dtype=object)
    texts = [isinstance(one, str | bytes) for one in found.flat]
    if texts and all(texts):
        return found
    if not found.size or not all(isinstance(one, int | float) and math.isfinite(one) for one in found.flat):
        raise DataError(
            f"The case expects of {name!r} what no version can answer.",
            detail=f"neither finite numbers nor texts: {values!r:.80}",
            hint=f"Expect numbers, or texts, one shape a row. Write it so: {_EXAMPLE}",
        )
    return as_array(values, "float64")


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
    for output, values in outputs.items():
        _expected(output, values)
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


def add_case(ledger: Ledger, model: str, case: GoldenCase, home: Path | None = None) -> None:
    """Keep a case of a model; the same one again changes nothing.

    :param home: Home folder. If a version of the model lies there, the case must fit it, unless it has other inputs.
    :raises ConfigError: when the ledger knows no model of that name: nobody would be asked.
    :raises DataError: when a version could not be asked so, or could not answer so.
    """
    if not any(ledger.facts(kind, model, limit=1) for kind in _OF_MODELS):
        known = sorted({fact.subject for kind in _OF_MODELS for fact in ledger.facts(kind, limit=_RECENT)})
        raise ConfigError(
            f"There is no model {model!r}.{did_you_mean(model, known)}",
            detail="no version of it was fetched, judged or deployed here",
            hint=f"Models: {', '.join(known) or 'none yet'}.",
        )
    signature = None if home is None else known_signature(home, model)
    if signature is not None:
        _check_known(case, signature)
    if case.id not in {one.id for one in cases(ledger, model)}:
        ledger.record(ADDED, model, asdict(case), key=case.id)


def _check_known(case: GoldenCase, signature: Signature) -> None:
    if set(case.inputs) != set(signature.inputs):
        log.warning(
            "The newest version here would not be asked: it takes %s, and the case has the inputs %s.",
            ", ".join(sorted(signature.inputs)), ", ".join(sorted(case.inputs)),
        )  # fmt: skip
        return
    if unknown := sorted(set(case.outputs) - set(signature.outputs)):
        raise DataError(
            f"The case is about an output that the model does not have: {unknown[0]!r}."
            f"{did_you_mean(unknown[0], signature.outputs)}",
            detail=f"its newest version here answers {', '.join(sorted(signature.outputs))}",
            hint="Correct the name in the file.",
        )
    try:
        case.check_fits(signature)
    except DataError as error:
        raise DataError(
            f"The case does not fit the model: {error.headline}",
            detail="; ".join(filter(None, [error.detail, "held against its newest version here"])),
            hint=error.hint or f"It takes {_described(signature.inputs)}, and answers {_described(signature.outputs)}.",
        ) from None


def _described(specs: Mapping[str, TensorSpec]) -> str:
    return ", ".join(f"{name} {spec.dtype}{list(spec.shape)}" for name, spec in specs.items())


def known_signature(home: Path, model: str) -> Signature | None:
    """Return what the newest version of a model below a home folder is asked with and answers; None without any.

    That is one that was fetched from the registry, or that a training made. Its transform, if it has one, lies between.
    """
    folders = [file.parent for file in home.glob(f"registry/{model}/*/saved_model.pb")]
    folders += [
        Workdir(file.parent).saved_model
        for file in home.glob("trainings/*/result.json")
        if Workdir(file.parent).saved_model.is_dir() and read_spec(file.parent).model == model
    ]
    for folder in sorted(folders, key=lambda one: one.stat().st_mtime, reverse=True):
        try:
            with closing(SavedModel(folder)) as loaded:
                return signature_asked(load_transform(folder), loaded.signature)
        except MlopsError as error:
            log.info("%s is not looked at: %s", folder, error.headline)
    return None


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
