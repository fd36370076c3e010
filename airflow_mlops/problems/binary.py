"""Is it so, or not: the probability that it is."""

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

_EPSILON = 1e-7
_THRESHOLD = 0.5


class Truths(Tally):
    """How many labels are true."""

    positives = 0

    def add(self, labels: pa.ChunkedArray) -> None:
        import pyarrow.compute as pc

        self.rows += len(labels)
        self.positives += pc.sum(labels).as_py() or 0

    def fields(self) -> dict[str, Any]:
        return {"positives": self.positives}


class Binary(Problem):
    """Labels are true or false, or the numbers 1 and 0."""

    name = "binary"
    label_type = "bool"
    output = "probability"
    metrics = {
        "auc": Metric("how often a positive is ranked above a negative"),
        "log_loss": Metric("mean negative log likelihood", less_is_better=True),
        "brier": Metric("mean squared error of the probability", less_is_better=True),
        "accuracy": Metric("share of rows on the right side of 0.5"),
    }
    gates = (
        {"metric": "auc", "vs": "baseline", "min_gain": 0.02},
        {"metric": "auc", "vs": "champion", "max_drop": 0.01},
    )
    too_good = ("auc", 0.999)
    leak = ("AUC", 0.999)
    ending = 'Dense(1, activation="sigmoid") and loss="binary_crossentropy"'
    not_what = "and not true or false"
    label_hint = (
        "Let the feed carry true and false, or 1 and 0; and null where it is not known. Of classes or amounts, say "
        'Label(..., problem="multiclass"), or "regression".'
    )

    def claims(self, column: pa.ChunkedArray) -> bool:
        import pyarrow as pa
        import pyarrow.compute as pc

        kind = column.type
        if pa.types.is_boolean(kind) or pa.types.is_null(kind):
            return True
        if not pa.types.is_integer(kind) and not pa.types.is_floating(kind):
            return False
        both = pa.array([0, 1]).cast(kind)
        return pc.all(pc.is_in(column.drop_null(), value_set=both)).as_py() is not False

    def convert(self, column: pa.ChunkedArray, label: str, where: str) -> pa.ChunkedArray:
        import pyarrow as pa

        if pa.types.is_boolean(column.type):
            return column
        if not self.claims(column):
            raise self.no_label(label, str(column.type), where)
        return column.cast(pa.float64()).cast(pa.bool_())

    def claims_profile(self, column: ColumnProfile, *, said: bool) -> bool:
        from airflow_mlops.engine.data.profiles import distinct

        if column.type == "bool":
            return True
        ends = {column.min, column.max} - {None}
        return column.kind == "number" and ends <= {0, 1} and distinct(column) <= 2

    def tally(self) -> Truths:
        return Truths()

    def check_splits(self, tallies: Mapping[str, Truths], wheres: Mapping[str, str], label: str) -> None:
        for name, tally in tallies.items():
            if tally.positives in (0, tally.rows):
                raise DataError(
                    f"The {name} split has only one class: {tally.positives} of {tally.rows} rows are positive.",
                    detail=f"{wheres[name]}, label {label!r}",
                    hint="There is nothing to tell apart. Lengthen the split, or see what became of the label.",
                )

    def check_days(self, rows: pa.Table, event_time: str, label: str, shift: float) -> None:
        from airflow_mlops.engine.data.days import check_shares

        check_shares(rows, event_time, rows[label], "positive labels", shift)

    def count_slices(self, rows: pa.Table, *, said: bool) -> dict[Any, dict[str, Any]]:
        import pyarrow as pa
        import pyarrow.compute as pc

        label, kind = rows["label"], rows["label"].type
        if not pa.types.is_boolean(kind):
            if not pa.types.is_integer(kind) and not pa.types.is_floating(kind) and not pa.types.is_decimal(kind):
                return {}
            label = pc.not_equal(label, pa.scalar(0, kind))
        found = pa.table({"slice": rows["slice"], "label": label}).group_by("slice").aggregate([("label", "sum")])
        return {row["slice"]: {"positives": row["label_sum"] or 0} for row in found.to_pylist()}

    def join_slices(self, one: SliceProfile, other: SliceProfile) -> dict[str, Any]:
        return {"positives": one.positives + other.positives}

    def measures(self, days: Sequence[SliceProfile]) -> list[Measure]:
        from airflow_mlops.engine.data.checks.measures import ShareMeasure, rate_level

        return [ShareMeasure("label_rate_as_usual", lambda counts: (counts.positives, counts.labelled), rate_level)]

    def telling(self, column: pa.ChunkedArray, labels: np.ndarray) -> float:
        from airflow_mlops.engine.data.separation import separation

        return separation(column, labels.astype(bool))

    def targets(self, labels: pa.ChunkedArray, classes: Sequence[str]) -> np.ndarray:
        import numpy as np
        import pyarrow as pa
        import pyarrow.compute as pc

        return np.asarray(pc.cast(labels, pa.float32()).to_numpy(), dtype=np.float32)

    def rate(
        self, targets: np.ndarray, predicted: np.ndarray, weights: np.ndarray | None, groups: np.ndarray | None
    ) -> dict[str, float]:
        import numpy as np
        from sklearn import metrics

        both = len(np.unique(targets)) == 2
        clipped = np.clip(predicted, _EPSILON, 1 - _EPSILON)
        return {
            "auc": float(metrics.roc_auc_score(targets, predicted, sample_weight=weights)) if both else math.nan,
            "log_loss": float(metrics.log_loss(targets, clipped, labels=[0, 1], sample_weight=weights)),
            "brier": float(np.average((predicted - targets) ** 2, weights=weights)),
            "accuracy": float(np.average((predicted >= _THRESHOLD) == (targets == 1), weights=weights)),
        }

    def mistake(self, predicted: np.ndarray) -> str:
        import numpy as np

        if (np.isfinite(predicted) & (predicted >= 0) & (predicted <= 1)).all():
            return ""
        return "a probability lies from 0 to 1"
