"""What a profile says, read from its sketches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from airflow_mlops.contracts import ColumnProfile, Profile
from airflow_mlops.engine.data.profiles.sketches import DistinctSketch, QuantileSketch

EXACT_BELOW = DistinctSketch.K
"""Below this many distinct values, :func:`distinct` is exact."""


@dataclass(frozen=True)
class Histogram:
    """Rows per bin: ``counts[i]`` of them in ``[edges[i], edges[i + 1])``, the last bin closed on the right."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]


def distinct(column: ColumnProfile) -> float:
    """Return about how many different values there are, nulls and NaN not counted.

    Exact below 512, then within 4.4 % (one standard error, :class:`DistinctSketch`).
    """
    return min(DistinctSketch.unpack(column.distinct).estimate(), float(column.count - column.nulls - column.nans))


def quantiles(column: ColumnProfile, ranks: Sequence[float]) -> list[float]:
    """Return the values at ``ranks`` (0 to 1) of a number or time column; NaN each when it has no finite value.

    Ranks are within 1.33 % (:class:`QuantileSketch`); 0 and 1 are the exact minimum and maximum.
    """
    if not column.quantiles or column.min is None or column.max is None:
        return [math.nan] * len(ranks)
    values, below = QuantileSketch.unpack(column.quantiles).weighted()
    found = values[np.searchsorted(below, np.asarray(ranks) * below[-1]).clip(max=len(values) - 1)]
    return [
        column.min if rank <= 0 else column.max if rank >= 1 else float(value)
        for rank, value in zip(ranks, found, strict=True)
    ]


def histogram(column: ColumnProfile, bins: int | Sequence[float] = 20) -> Histogram | None:
    """Return about how many finite values of a number or time column lie in each bin; None when there are none.

    :param bins: Their number, of equal width between minimum and maximum; or their edges, to compare two profiles.
        Values outside the edges are counted in the first and the last bin.
    """
    if not column.quantiles or column.min is None or column.max is None:
        return None
    if isinstance(bins, int):
        edges = np.linspace(column.min, column.max, bins + 1) if column.max > column.min else np.full(2, column.min)
    else:
        edges = np.asarray(bins, dtype=np.float64)
    values, below = QuantileSketch.unpack(column.quantiles).weighted()
    cumulated = np.concatenate([[0], below])
    inner = cumulated[np.searchsorted(values, edges[1:-1], side="left")]
    counts = np.diff(np.concatenate([[0], inner, [below[-1]]]))
    return Histogram(tuple(edges.tolist()), tuple(counts.tolist()))


def null_rate(column: ColumnProfile) -> float:
    """Return the share of nulls and NaN among the rows; 0 of no rows."""
    return (column.nulls + column.nans) / column.count if column.count else 0.0


def std(column: ColumnProfile) -> float | None:
    """Return the standard deviation of the finite values (of the sample, n - 1); None of fewer than two."""
    n = column.count - column.nulls - column.nans - column.infinities
    return math.sqrt(column.m2 / (n - 1)) if column.m2 is not None and n > 1 else None


def near_unique(column: ColumnProfile) -> bool:
    """Say whether nearly every row has a value of its own, as identifiers and free text do.

    The rule: more than 50 different values, and more than half as many as rows that have one. Measures and times
    are left out, as their values name nobody: numbers with a fraction, and times.
    """
    known = column.count - column.nulls - column.nans
    if column.kind not in ("category", "number") or distinct(column) <= max(50, known / 2):
        return False
    return column.kind == "category" or _whole(column)


def _whole(column: ColumnProfile) -> bool:
    """Say whether a column holds whole numbers; pandas writes whole numbers with nulls as doubles."""
    values, _ = QuantileSketch.unpack(column.quantiles).weighted()
    return bool((values == np.floor(values)).all())


def label_rate(profile: Profile) -> float | None:
    """Return the share of positives among the labelled rows; None when nothing is labelled, or there is no label.

    The label is a boolean, or a number that is 0 or 1.
    """
    return profile.columns[profile.label].mean if profile.label in profile.columns else None
