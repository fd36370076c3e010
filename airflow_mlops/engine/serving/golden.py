"""Golden predictions: what a model answered at training time, and must answer wherever it is loaded since."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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


@dataclass(frozen=True)
class Golden:
    """Inputs and the outputs they gave at training time, by name, one list item a row."""

    inputs: dict[str, list[Any]]
    outputs: dict[str, list[Any]]

    @classmethod
    def read(cls, saved_model: Path) -> Golden:
        """Read the golden predictions that were packed into a SavedModel.

        :raises DataError: when there are none, or they are unusable.
        """
        path = saved_model / GOLDEN_FILE
        try:
            content = json.loads(path.read_bytes())
            golden = cls(inputs=dict(content["inputs"]), outputs=dict(content["outputs"]))
            rows = {len(column) for column in (*golden.inputs.values(), *golden.outputs.values())}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                "The model has no readable golden predictions.",
                detail=f"{path}: {type(error).__name__}: {error}",
                hint="Export it with the training runner, which records the model's answers.",
            ) from None
        if len(rows) != 1 or rows == {0} or not golden.inputs or not golden.outputs:
            raise DataError(
                "The model's golden predictions prove nothing: they are empty or of unequal lengths.",
                detail=f"{path}: inputs {sorted(golden.inputs)}, outputs {sorted(golden.outputs)}, rows {sorted(rows)}",
                hint="Train the model again.",
            )
        return golden

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
        answers = predict({name: _array(values, signature.inputs[name].dtype) for name, values in self.inputs.items()})
        differences = {name: self._difference(name, answers.get(name)) for name in self.outputs}
        name, worst = max(differences.items(), key=lambda item: item[1])
        if worst > tolerance:
            raise GateError(
                "The model does not answer what it answered at training time.",
                detail=f"output {name!r}: largest difference {worst:.3g} over {len(self.outputs[name])} rows, "
                f"tolerance {tolerance:.3g}",
                hint="Files were changed or another model was loaded: publish it again under a new version.",
            )
        return GoldenCheck(rows=len(self.outputs[name]), max_difference=worst)

    def _difference(self, name: str, answer: np.ndarray | None) -> float:
        """Return the largest absolute difference; infinity when the answer is not comparable."""
        expected = np.asarray(self.outputs[name])
        if answer is None or np.shape(answer) != expected.shape:
            return np.inf
        if expected.dtype.kind not in "biuf":  # texts are the same, or not
            given = np.asarray(answer, dtype=object).reshape(-1)
            texts = [one.decode() if isinstance(one, bytes) else str(one) for one in given]
            return 0.0 if texts == [str(one) for one in expected.reshape(-1)] else np.inf
        difference = np.abs(np.asarray(answer, dtype=np.float64) - expected.astype(np.float64))
        return float(np.max(np.nan_to_num(difference, nan=np.inf)))


def _array(values: list[Any], dtype: str) -> np.ndarray:
    return np.asarray(values, dtype=object if dtype == "string" else dtype)
