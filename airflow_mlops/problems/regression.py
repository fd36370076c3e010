"""How much: a number."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow_mlops.exceptions import DataError
from airflow_mlops.problems.base import Metric, Problem, Tally

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from airflow_mlops.contracts import ColumnProfile, SliceProfile
    from airflow_mlops.engine.data.checks.measures import Measure


_LARGEST = 3.4028234663852886e38
"""Largest number that float32 holds, in which labels are learned."""


class Numbers(Tally):
    """Mean, spread and range of the labels."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = self.m2 = 0.0
        self.min, self.max = math.inf, -math.inf

    def add(self, labels: pa.ChunkedArray) -> None:
        import numpy as np

        values = labels.to_numpy()
        if not len(values):
            return
        with np.errstate(over="ignore", invalid="ignore"):  # check_splits refuses what is too large
            mean, rows = float(values.mean()), self.rows + len(values)
            moved = mean - self.mean
            # Chan, Golub and LeVeque (1983): two parts' moments are those of the whole.
            self.m2 += float(np.square(values - mean).sum()) + moved * moved * self.rows * len(values) / rows
        self.mean += moved * len(values) / rows
        self.rows = rows
        self.min, self.max = min(self.min, float(values.min())), max(self.max, float(values.max()))

    def fields(self) -> dict[str, Any]:
        std = math.sqrt(self.m2 / self.rows) if self.rows else 0.0
        told = {"mean": self.mean, "std": std, "min": self.min, "max": self.max}
        return {"positives": 0, "labels": {name: float(f"{value:.6g}") for name, value in told.items()}}


class Regression(Problem):
    """Labels are numbers."""

    name = "regression"
    label_type = "double"
    output = "prediction"
    metrics = {
        "rmse": Metric("root of the mean squared error, in the label's unit", less_is_better=True),
        "mae": Metric("mean absolute error, in the label's unit", less_is_better=True),
        "r2": Metric("share of the labels' variance that is explained"),
        "bias": Metric("how far the mean prediction is from the mean label, in the label's unit", less_is_better=True),
    }
    gates = (
        {"metric": "r2", "vs": "baseline", "min_gain": 0.02},
        {"metric": "r2", "vs": "champion", "max_drop": 0.02},
    )
    too_good = ("r2", 0.9999)
    leak = ("rank correlation", 0.9999)
    ending = 'Dense(1) and loss="mse"'
    not_what = "and no number"
    label_hint = "Let the feed carry a number; and null where it is not known."

    def claims(self, column: pa.ChunkedArray) -> bool:
        import pyarrow as pa

        return bool(pa.types.is_floating(column.type) or pa.types.is_decimal(column.type))

    def convert(self, column: pa.ChunkedArray, label: str, where: str) -> pa.ChunkedArray:
        import pyarrow as pa
        import pyarrow.compute as pc

        kind = column.type
        if not self.claims(column) and not pa.types.is_integer(kind) and not pa.types.is_null(kind):
            raise self.no_label(label, str(kind), where)
        numbers = column.cast(pa.float64())
        numbers = pc.if_else(pc.is_nan(numbers), pa.scalar(None, pa.float64()), numbers)
        if endless := pc.sum(pc.is_inf(numbers)).as_py():
            raise DataError(
                f"The label {label!r} is infinite in {endless} of {len(numbers)} rows.",
                detail=where,
                hint="See what the feed divides by; what is not known is null.",
            )
        return numbers

    def claims_profile(self, column: ColumnProfile, *, said: bool) -> bool:
        return column.kind == "number" and (said or "int" not in column.type)

    def check_profile(self, column: ColumnProfile, label: str, where: str) -> None:
        if column.infinities:
            raise DataError(
                f"The label {label!r} is infinite in {column.infinities} rows.",
                detail=where,
                hint="See what the feed divides by; what is not known is null.",
            )
        if column.min is not None and column.max is not None:
            _check_size(column.min, column.max, f"The label {label!r}", where)

    def tally(self) -> Numbers:
        return Numbers()

    def check_splits(self, tallies: Mapping[str, Numbers], wheres: Mapping[str, str], label: str) -> None:
        for name, tally in tallies.items():
            _check_size(tally.min, tally.max, f"The label {label!r} of the {name} split", wheres[name])
            if tally.min == tally.max:
                raise DataError(
                    f"The {name} split has only one value: each label is {tally.min:g}.",
                    detail=f"{wheres[name]}, label {label!r}, {tally.rows} rows",
                    hint="There is nothing to learn. Lengthen the split, or see what became of the label.",
                )

    def check_days(self, rows: pa.Table, event_time: str, label: str, shift: float) -> None:
        from airflow_mlops.engine.data.days import check_means

        check_means(rows, event_time, label, shift)

    def count_slices(self, rows: pa.Table, *, said: bool) -> dict[Any, dict[str, Any]]:
        import pyarrow as pa
        import pyarrow.compute as pc

        label = rows["label"]
        if not self.claims(label) and not pa.types.is_integer(label.type):
            return {}
        numbers = label.cast(pa.float64())
        table = pa.table({"slice": rows["slice"], "label": pc.if_else(pc.is_finite(numbers), numbers, None)})
        found = table.group_by("slice").aggregate([("label", "mean"), ("label", "variance"), ("label", "count")])
        return {
            row["slice"]: {"mean": row["label_mean"], "m2": row["label_variance"] * row["label_count"]}
            for row in found.to_pylist()
            if row["label_count"]
        }

    def join_slices(self, one: SliceProfile, other: SliceProfile) -> dict[str, Any]:
        if one.mean is None or other.mean is None:
            known = other if one.mean is None else one
            return {"mean": known.mean, "m2": known.m2}
        rows, moved = one.labelled + other.labelled, other.mean - one.mean
        share = other.labelled / rows
        return {
            "mean": one.mean + moved * share,
            "m2": one.m2 + other.m2 + moved * moved * one.labelled * share,  # as in Numbers
        }

    def measures(self, days: Sequence[SliceProfile]) -> list[Measure]:
        from airflow_mlops.engine.data.checks.measures import MeanMeasure

        return [MeanMeasure("label_mean_as_usual")] if any(day.mean is not None for day in days) else []

    def telling(self, column: pa.ChunkedArray, labels: np.ndarray) -> float:
        from airflow_mlops.engine.data.separation import correlation

        return correlation(column, labels)

    def targets(self, labels: pa.ChunkedArray, classes: Sequence[str]) -> np.ndarray:
        import numpy as np

        return np.asarray(labels.to_numpy(), dtype=np.float32)

    def rate(
        self, targets: np.ndarray, predicted: np.ndarray, weights: np.ndarray | None, groups: np.ndarray | None
    ) -> dict[str, float]:
        import numpy as np

        real = targets.astype(np.float64)
        off = predicted - real
        squared = float(np.average(off**2, weights=weights))
        spread = float(np.average((real - np.average(real, weights=weights)) ** 2, weights=weights))
        return {
            "rmse": math.sqrt(squared),
            "mae": float(np.average(np.abs(off), weights=weights)),
            "r2": 1 - squared / spread if spread else math.nan,
            "bias": abs(float(np.average(off, weights=weights))),
        }

    def mistake(self, predicted: np.ndarray) -> str:
        import numpy as np

        return "" if np.isfinite(predicted).all() else "a prediction is a finite number"


def _check_size(smallest: float, largest: float, what: str, where: str) -> None:
    """Refuse numbers that would be infinite where they are learned."""
    if max(-smallest, largest) > _LARGEST:
        raise DataError(
            f"{what} has a number that is too large to be learned.",
            detail=f"{where}; labels are learned as float32, which ends at {_LARGEST:.2g}",
            hint="See what the feed divides by, let it carry the label in a larger unit, or its logarithm; what is not "
            "known is null.",
        )
