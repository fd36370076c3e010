"""The statistics of one column, as they are collected and merged: :class:`ColumnProfile` is how they are stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from airflow_mlops.contracts import ColumnKind, ColumnProfile
from airflow_mlops.engine.data.profiles.sketches import DistinctSketch, QuantileSketch

TOP = 100
"""Most values that a profile names with their counts."""

_COUNTED = 10 * TOP


@dataclass(frozen=True)
class Moments:
    """Count, mean and sum of squared deviations from it."""

    n: int = 0
    mean: float = 0.0
    m2: float = 0.0

    @classmethod
    def of(cls, values: npt.NDArray[np.number]) -> Self:
        """Return the moments of one finite value or more."""
        with np.errstate(over="ignore", invalid="ignore"):
            mean = float(values.mean(dtype=np.float64))
            return cls(len(values), mean, float(np.square(values - mean).sum(dtype=np.float64)))

    def __add__(self, other: Moments) -> Moments:
        """Return the moments of both together (Chan, Golub, LeVeque 1979)."""
        if not self.n or not other.n:
            return self if self.n else other
        n = self.n + other.n
        apart = other.mean - self.mean
        return Moments(n, self.mean + apart * other.n / n, self.m2 + other.m2 + apart * apart * self.n * other.n / n)


@dataclass
class TopCounts:
    """How often the most frequent values occur. Each count is at most ``error`` too low, as is a missing one's 0."""

    counts: dict[str, int] = field(default_factory=dict)
    error: int = 0

    def add(self, values: pa.Array, counts: npt.NDArray[np.int64]) -> None:
        """Take in distinct values and how often each occurs."""
        if len(counts) > _COUNTED:  # before any of them becomes a Python object
            order = np.argsort(-counts, kind="stable")
            self.error += int(counts[order[_COUNTED]])
            values, counts = values.take(pa.array(order[:_COUNTED])), counts[order[:_COUNTED]]
        self._add(dict(zip(map(str, values.to_pylist()), counts.tolist(), strict=True)))
        self.keep(_COUNTED)

    def _add(self, counts: dict[str, int]) -> None:
        for value, count in counts.items():
            self.counts[value] = self.counts.get(value, 0) + count

    def keep(self, most: int) -> None:
        """Forget all but the ``most`` frequent values."""
        ranked = sorted(self.counts.items(), key=lambda item: (-item[1], item[0]))
        if len(ranked) > most:
            self.error += ranked[most][1]
            ranked = ranked[:most]
        self.counts = dict(ranked)

    @classmethod
    def merged(cls, parts: Sequence[TopCounts]) -> Self:
        """Return the counts of all values together."""
        union = cls(error=sum(part.error for part in parts))
        for part in parts:
            union._add(part.counts)
        return union


@dataclass
class Statistics:
    """Mergeable statistics of one column. ``top`` is None where values are not counted one by one."""

    type: str
    kind: ColumnKind
    count: int = 0
    nulls: int = 0
    nans: int = 0
    infinities: int = 0
    min: float | None = None
    max: float | None = None
    moments: Moments = Moments()
    distinct: DistinctSketch = field(default_factory=DistinctSketch)
    quantiles: QuantileSketch = field(default_factory=QuantileSketch)
    top: TopCounts | None = None

    def widen(self, low: float, high: float) -> None:
        """Let min and max include a range of values."""
        self.min = low if self.min is None else min(self.min, low)
        self.max = high if self.max is None else max(self.max, high)

    @property
    def near_unique(self) -> bool:
        """Whether nearly every row has a value of its own: more than 50 values, and more than half the rows."""
        return self.distinct.estimate() > max(50, (self.count - self.nulls) / 2)

    def profile(self) -> ColumnProfile:
        """Return the statistics as a record. The values of a nearly unique column name someone: none is kept."""
        top = TopCounts(error=self.count - self.nulls)
        if self.top is not None and not self.near_unique:
            self.top.keep(TOP)
            top = self.top
        some = self.moments.n > 0
        return ColumnProfile(
            type=self.type,
            kind=self.kind,
            count=self.count,
            nulls=self.nulls,
            nans=self.nans,
            infinities=self.infinities,
            min=self.min,
            max=self.max,
            mean=self.moments.mean if some else None,
            m2=self.moments.m2 if some else None,
            distinct=self.distinct.pack(),
            quantiles=self.quantiles.pack(),
            top=top.counts,
            top_error=top.error,
        )

    @classmethod
    def of(cls, column: ColumnProfile) -> Self:
        """Read a record back."""
        finite = column.count - column.nulls - column.nans - column.infinities
        moments = Moments() if column.mean is None else Moments(finite, column.mean, column.m2 or 0.0)
        return cls(
            type=column.type,
            kind=column.kind,
            count=column.count,
            nulls=column.nulls,
            nans=column.nans,
            infinities=column.infinities,
            min=column.min,
            max=column.max,
            moments=moments,
            distinct=DistinctSketch.unpack(column.distinct),
            quantiles=QuantileSketch.unpack(column.quantiles),
            top=TopCounts(dict(column.top), column.top_error),
        )

    @classmethod
    def merged(cls, parts: Sequence[Self]) -> Self:
        """Return the statistics of all rows together; of parts of different kinds only rows and nulls are known."""
        same_kind = len({part.kind for part in parts}) == 1
        union = cls(
            type=parts[-1].type,
            kind=parts[-1].kind if same_kind else "other",
            count=sum(part.count for part in parts),
            nulls=sum(part.nulls for part in parts),
        )
        if not same_kind:
            return union
        union.nans = sum(part.nans for part in parts)
        union.infinities = sum(part.infinities for part in parts)
        for part in parts:
            union.moments += part.moments
            if part.min is not None and part.max is not None:
                union.widen(part.min, part.max)
        union.distinct = DistinctSketch.merged([part.distinct for part in parts])
        union.quantiles = QuantileSketch.merged([part.quantiles for part in parts])
        union.top = TopCounts.merged([part.top for part in parts if part.top is not None])
        return union
