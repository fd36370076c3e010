"""What of the labels of a day, or of one of its slices, is held against the days before: a share, or a mean."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from airflow_mlops.contracts import Severity, SliceProfile
from airflow_mlops.engine.data.days import ENOUGH_DAYS, not_believable
from airflow_mlops.engine.data.labels import LABEL_SHIFT
from airflow_mlops.engine.data.robust import (
    FAR,
    RateShift,
    Share,
    logit,
    median_spread,
    rate_shift,
    rounded,
)

GONE = 0.1
"""Share of the usual positives, or negatives, at which a label rate is blocked."""

VERY_FAR = 5.0
"""Robust distance from which on a label rate is blocked: of a hundred small slices, one a month reaches 4."""

COVERAGE_LOST = 0.5
"""Share of the usual label coverage at which it is blocked."""


class Counted(NamedTuple):
    """Some rows of a day; and all of them, where they are a slice."""

    own: SliceProfile
    whole: SliceProfile | None = None


class Compared(NamedTuple):
    """How a day compares: how bad it is (None is as usual), and in numbers and words."""

    level: Severity | None
    observed: float
    bound: dict[str, Any]
    note: str


class Measure(ABC):
    """Something to compare from day to day."""

    expectation: str

    @abstractmethod
    def compare(self, today: Counted, history: Sequence[Counted]) -> Compared | None:
        """Compare a day with the days before; None when there is nothing to compare."""


@dataclass(frozen=True)
class ShareMeasure(Measure):
    """A share of the rows. That of a slice is measured by its log odds against the rest of the same day.

    :param count: How many rows have it, of how many.
    :param judge: How bad a shift is.
    :param what: What it is a share of, in words.
    """

    expectation: str
    count: Callable[[SliceProfile], tuple[float, float]]
    judge: Callable[[RateShift], Severity | None]
    what: str = ""

    def compare(self, today: Counted, history: Sequence[Counted]) -> Compared | None:
        """See :func:`~airflow_mlops.engine.data.robust.rate_shift`."""
        shift = rate_shift(self._share(today), [self._share(day) for day in history])
        if shift is None:
            return None
        return Compared(
            self.judge(shift),
            rounded(shift.rate),
            {"usual": rounded(shift.usual), "distance": rounded(shift.distance), "far": FAR},
            " ".join(filter(None, [self.what, f"{shift.rate:.2%}, usual {shift.usual:.2%}"])),
        )

    def _share(self, day: Counted) -> Share:
        hits, rows = self.count(day.own)
        if day.whole is None:
            return Share(hits, rows)
        all_hits, all_rows = self.count(day.whole)
        return Share(hits, rows, logit(all_hits - hits, all_rows - rows))


@dataclass(frozen=True)
class MeanMeasure(Measure):
    """The mean of numbers, against the spread of the days' means together with the standard error of the day's own.

    That of a slice must be far away by itself, by its difference from the rest of the day and by its ratio to it: then
    what raises all slices by an amount, or by a factor, is no news of any one of them. What is not believable is as for
    the days of a training (:func:`~airflow_mlops.engine.data.days.check_means`), and as there 14 days must be known.
    """

    expectation: str

    def compare(self, today: Counted, history: Sequence[Counted]) -> Compared | None:
        """Take the view of the day in which it is nearest to usual."""
        days = [day for day in history if day.own.mean is not None and (day.whole is None or _rest(day) is not None)]
        if today.own.mean is None or len(days) < ENOUGH_DAYS:
            return None
        variance = float(np.median([day.own.m2 / day.own.labelled for day in days]))
        rests = [_rest(day) for day in (today, *days)]
        shifts = [(0.0, 1.0)] * len(rests)
        views = [shifts]
        if today.whole is not None and all(rest is not None for rest in rests):
            known = [rest for rest in rests if rest is not None]
            views.append([(rest, 1.0) for rest in known])
            if min(known) > 0 or max(known) < 0:
                views.append([(0.0, rest) for rest in known])
        distances = [_distance([today, *days], view, variance) for view in views]
        distance = min(distances, key=abs)
        usual = float(np.median([day.own.mean for day in days]))
        constant = today.own.m2 == 0 and today.own.labelled > 1
        level: Severity | None = "warn" if abs(distance) >= LABEL_SHIFT else None
        if not_believable(abs(distance), constant, LABEL_SHIFT):
            level = "block"
        return Compared(
            level,
            rounded(today.own.mean),
            {"usual": rounded(usual), "distance": rounded(distance), "far": LABEL_SHIFT},
            f"mean {today.own.mean:.4g}, usual {usual:.4g}",
        )


def rate_level(shift: RateShift) -> Severity | None:
    """Say how bad a shift of a share of the labels is."""
    if abs(shift.distance) < FAR:
        return None
    gone = shift.rate <= GONE * shift.usual or 1 - shift.rate <= GONE * (1 - shift.usual)
    return "block" if gone and abs(shift.distance) >= VERY_FAR else "warn"


def coverage_level(shift: RateShift) -> Severity | None:
    """Say how bad a shift of the share of rows that have a label is."""
    if shift.distance > -FAR:
        return None
    return "block" if shift.rate <= COVERAGE_LOST * shift.usual else "warn"


def _rest(day: Counted) -> float | None:
    """Return the mean of the day's other rows; None when there are none."""
    own, whole = day
    if whole is None or whole.mean is None or whole.labelled <= own.labelled:
        return None
    return (whole.mean * whole.labelled - (own.mean or 0.0) * own.labelled) / (whole.labelled - own.labelled)


def _distance(days: Sequence[Counted], view: Sequence[tuple[float, float]], variance: float) -> float:
    """Return how far the first day is from the others; ``view`` is what to subtract from each and divide it by."""
    means = np.array([((day.own.mean or 0.0) - less) / unit for day, (less, unit) in zip(days, view, strict=True)])
    usual, scatter = median_spread(means[1:])
    error = math.sqrt(variance / days[0].own.labelled) / view[0][1]
    tiny = np.finfo(float).tiny + (1e-9 * usual) ** 2
    return float((means[0] - usual) / math.sqrt(scatter**2 + error**2 + tiny))
