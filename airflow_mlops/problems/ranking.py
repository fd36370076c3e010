"""In which order, within each group: a score for each row, such as how well an offer fits a search."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from airflow_mlops.exceptions import DataError
from airflow_mlops.problems.base import Metric
from airflow_mlops.problems.regression import Regression

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from airflow_mlops.contracts import ColumnProfile, SliceProfile

_FIRST = 10


class Ranking(Regression):
    """Labels are how relevant a row is, from 0 on. Of the scores only the order within a group counts."""

    name = "ranking"
    output = "score"
    metrics = {
        "ndcg": Metric("normalised discounted cumulative gain, mean over the groups"),
        "ndcg_10": Metric("the same of the first ten of each group"),
    }
    gates = (
        {"metric": "ndcg", "vs": "baseline", "min_gain": 0.01},
        {"metric": "ndcg", "vs": "champion", "max_drop": 0.01},
    )
    too_good = ("ndcg", 0.9999)
    grouped = True
    not_what = "and says no relevance"
    label_hint = "Let the feed carry a number from 0 on, larger for what should come first; null where it is not known."

    def claims(self, column: pa.ChunkedArray) -> bool:
        return False  # somebody must say it, and by what rows are grouped

    def convert(self, column: pa.ChunkedArray, label: str, where: str) -> pa.ChunkedArray:
        import pyarrow as pa
        import pyarrow.compute as pc

        if pa.types.is_boolean(column.type):
            column = column.cast(pa.int8())
        elif not super().claims(column) and not pa.types.is_integer(column.type) and not pa.types.is_null(column.type):
            raise self.no_label(label, str(column.type), where)
        numbers = super().convert(column, label, where)
        if below := pc.sum(pc.less(numbers, 0)).as_py():
            raise DataError(f"The label {label!r} is below 0 in {below} rows.", detail=where, hint=self.label_hint)
        return numbers

    def claims_profile(self, column: ColumnProfile, *, said: bool) -> bool:
        return said and (column.type == "bool" or super().claims_profile(column, said=said))

    def count_slices(self, rows: pa.Table, *, said: bool) -> dict[Any, dict[str, Any]]:
        return {}  # counted as the numbers that they are

    def join_slices(self, one: SliceProfile, other: SliceProfile) -> dict[str, Any]:
        return {}

    def baseline(self, trained: np.ndarray, classes: object) -> np.ndarray:
        import numpy as np

        return np.asarray(0.0)  # no order at all

    def rate(
        self, targets: np.ndarray, predicted: np.ndarray, weights: np.ndarray | None, groups: np.ndarray | None
    ) -> dict[str, float]:
        """Groups in which nothing is relevant say nothing. A weight is that of the group's first row."""
        import numpy as np
        from sklearn.metrics import ndcg_score

        if groups is None:
            return dict.fromkeys(self.metrics, math.nan)
        order = np.argsort(groups, kind="stable")
        starts = np.flatnonzero(np.r_[True, groups[order][1:] != groups[order][:-1]])
        found: list[tuple[float, float, float]] = []
        for rows in np.split(order, starts[1:]):
            real, said = targets[rows][None], predicted[rows][None]
            if len(rows) > 1 and real.any():
                weight = 1.0 if weights is None else float(weights[rows[0]])
                found.append((weight, ndcg_score(real, said), ndcg_score(real, said, k=_FIRST)))
        if not found:
            return dict.fromkeys(self.metrics, math.nan)
        w, whole, first = map(np.asarray, zip(*found, strict=True))
        return {"ndcg": float(np.average(whole, weights=w)), "ndcg_10": float(np.average(first, weights=w))}
