"""Golden predictions: what a model answered once, and must answer wherever it is loaded since.

Those of a training come from there. Those of a model that was made elsewhere are recorded from sample requests, by the
engine that will serve it; see :mod:`airflow_mlops.engine.serving.samples`.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from airflow_mlops.contracts import Signature
from airflow_mlops.exceptions import DataError, GateError

GOLDEN_FILE = Path("assets.extra") / "golden.json"

Predict = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class GoldenCheck:
    """A passed comparison: how many rows, and the largest absolute difference."""

    rows: int
    max_difference: float


UNPROVEN = GoldenCheck(rows=0, max_difference=0.0)
"""Nothing could be compared: the model has no golden predictions."""


@dataclass(frozen=True)
class Golden:
    """Inputs and the outputs they gave, by name, as nested lists. Bytes that are no text are ``{"b64": ...}``.

    :param transform: What the inputs go through before the model is asked, such as ``code:transform``; empty: nothing.
    """

    inputs: dict[str, Any]
    outputs: dict[str, Any]
    transform: str = ""

    @classmethod
    def find(cls, saved_model: Path) -> Self | None:
        """Read the golden predictions that were packed into a SavedModel; None when it has none.

        :raises DataError: when they are unusable.
        """
        return cls.read(saved_model) if (saved_model / GOLDEN_FILE).is_file() else None

    @classmethod
    def read(cls, saved_model: Path) -> Self:
        """Read the golden predictions that were packed into a SavedModel.

        :raises DataError: when there are none, or they are unusable.
        """
        path = saved_model / GOLDEN_FILE
        try:
            content = json.loads(path.read_bytes())
            golden = cls(dict(content["inputs"]), dict(content["outputs"]), content.get("transform", ""))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                "The model has no readable golden predictions.",
                detail=f"{path}: {type(error).__name__}: {error}",
                hint="A training records them. For a model that was made elsewhere, give sample requests when it is "
                "registered or fetched: samples='requests.json'.",
            ) from None
        if not golden.inputs or not golden.outputs or any(np.size(values) == 0 for values in golden.outputs.values()):
            raise DataError(
                "The model's golden predictions prove nothing: they are empty.",
                detail=f"{path}: inputs {sorted(golden.inputs)}, outputs {sorted(golden.outputs)}",
                hint="Train the model again, or give other sample requests.",
            )
        return golden

    @classmethod
    def recorded(cls, inputs: Mapping[str, np.ndarray], predict: Predict, transform: str = "") -> Self:
        """Ask a model and keep what it answers.

        :param predict: Answers the inputs; what they go through first is its business.
        :param transform: What that is.
        :raises DataError: when it answers something that is no number, or complex numbers: nothing could be compared
            with it.
        """
        kept = {name: listed(values) for name, values in inputs.items()}
        texts = {name: as_array(kept[name], "string") for name, values in inputs.items() if values.dtype.kind == "O"}
        answers = predict(
            {**inputs, **texts}
        )  # text as it is asked when it is checked: a transform may tell them apart
        refuse_complex({name: values.dtype.name for name, values in answers.items()})
        for name, values in answers.items():
            if values.dtype.kind == "f" and not np.isfinite(values).all():
                raise DataError(
                    f"The model answers {int((~np.isfinite(values)).sum())} values of {name!r} that are no numbers.",
                    detail=f"to {max((len(one) for one in inputs.values() if one.ndim), default=1)} sample rows",
                    hint="Give sample requests that it can answer.",
                )
        return cls(
            inputs=kept,
            outputs={name: listed(np.asarray(values)) for name, values in answers.items()},
            transform=transform,
        )

    @property
    def rows(self) -> int:
        """How many rows were asked."""
        first = next(iter(self.outputs.values()))
        return len(first) if isinstance(first, list) else 1

    def write(self, saved_model: Path) -> None:
        """Pack them into a SavedModel."""
        path = saved_model / GOLDEN_FILE
        path.parent.mkdir(exist_ok=True)
        # Without an empty transform: what was recorded before there were any has the same bytes now.
        path.write_text(json.dumps({name: value for name, value in asdict(self).items() if value}))

    def check(self, predict: Predict, signature: Signature, tolerance: float) -> GoldenCheck:
        """Predict the golden inputs and compare.

        :param predict: Answers the inputs; either the model itself or a server that has it loaded.
        :param signature: The model's, which says the types of the inputs.
        :param tolerance: Largest absolute difference that passes. NaN never does.
        :raises GateError: when an input is unknown to the model or an answer differs.
        """
        if set(self.inputs) != set(signature.inputs):
            raise GateError(
                "The model's golden predictions are of other inputs than its signature's.",
                detail=f"golden: {sorted(self.inputs)}; signature: {sorted(signature.inputs)}",
                hint="Train the model again: this is not what was exported.",
            )
        answers = predict(
            {name: as_array(values, signature.inputs[name].dtype) for name, values in self.inputs.items()}
        )
        differences = {name: self._difference(name, answers.get(name)) for name in self.outputs}
        name, worst = max(differences.items(), key=lambda item: item[1])
        if worst > tolerance:
            raise GateError(
                "The model does not answer what it answered at training time.",
                detail=f"output {name!r}: largest difference {worst:.3g} over {self.rows} rows, "
                f"tolerance {tolerance:.3g}",
                hint="Files were changed or another model was loaded: publish it again under a new version.",
            )
        return GoldenCheck(rows=self.rows, max_difference=worst)

    def _difference(self, name: str, answer: np.ndarray | None) -> float:
        """Return the largest absolute difference; infinity when the answer is not comparable."""
        given = None if answer is None else np.asarray(answer)
        texts = given is not None and given.dtype.kind not in "biuf"
        expected = as_array(self.outputs[name], "string" if texts else "float64")
        if given is None or given.shape != expected.shape:
            return np.inf
        if texts:  # they are the same, or not
            return 0.0 if listed(given) == listed(expected) else np.inf
        difference = np.abs(given.astype(np.float64) - expected)
        return float(np.max(np.nan_to_num(difference, nan=np.inf)))


def refuse_complex(types: Mapping[str, str]) -> None:
    """Refuse answers in complex numbers: neither a golden prediction nor a JSON answer of a server can hold one.

    :param types: Output → its type.
    :raises DataError: naming the output.
    """
    for name, dtype in types.items():
        if dtype.startswith("complex"):
            raise DataError(
                f"The model answers {name!r} in complex numbers.",
                detail=f"type {dtype}; golden predictions, and a server's JSON, have real numbers",
                hint="Give its parts as outputs of their own, tf.math.real(...) and tf.math.imag(...).",
            )


def listed(values: np.ndarray) -> Any:
    """Return an array as nested lists that JSON can hold."""
    return values.tolist() if values.dtype.kind != "O" else _texts(values.tolist())


def _texts(values: Any) -> Any:
    if isinstance(values, list):
        return [_texts(one) for one in values]
    if not isinstance(values, bytes):
        return values
    try:
        return values.decode()
    except UnicodeDecodeError:
        return {"b64": base64.b64encode(values).decode()}


def as_array(values: Any, dtype: str) -> np.ndarray:
    """Return nested lists as an array of a type of TensorFlow's; strings are objects.

    :raises DataError: when they are not of that type, or not of one shape.
    """
    try:
        return np.asarray(_bytes(values), dtype=object) if dtype == "string" else np.asarray(values, dtype=dtype)
    except (TypeError, ValueError, KeyError, OverflowError) as error:
        raise DataError(
            f"Golden values are not of type {dtype}, or of unequal lengths.",
            detail=type(error).__name__,
            hint="Give every row the same shape, and values of the signature's types.",
        ) from None


def _bytes(values: Any) -> Any:
    if isinstance(values, list):
        return [_bytes(one) for one in values]
    return base64.b64decode(values["b64"]) if isinstance(values, dict) else values
