"""What is usual, and how far from it a day is: medians, so that an outlier among the reference days is harmless."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from airflow_mlops.contracts import ExpectationOutcome, Severity

_MAD_TO_SIGMA = 1.4826
"""The median absolute deviation of a normal distribution is its standard deviation divided by this."""

FAR = 4.0
"""Robust distance from which on a deviation is reported, if it is also large in size."""

_UNLIKELY = 3.0
"""Standard deviations of the binomial distribution that a rate must be off besides, so that a few rows are no news."""


def outcome(
    expectation: str,
    *,
    column: str | None = None,
    level: Severity | None = None,
    at_worst: Severity = "block",
    observed: Any = None,
    bound: dict[str, Any] | None = None,
    count: int | None = None,
    note: str = "",
) -> ExpectationOutcome:
    """Return what a check said.

    :param level: How bad it is; None is success.
    :param at_worst: Severity of a success: what a failure of this check can amount to.
    """
    return ExpectationOutcome(
        expectation=expectation,
        column=column,
        severity=level or at_worst,
        success=level is None,
        observed=observed,
        bound=bound or {},
        unexpected_count=count,
        note=note,
    )


def unknown(expectation: str, error: str, *, column: str | None = None) -> ExpectationOutcome:
    """Return that a check could not be made, which blocks."""
    return ExpectationOutcome(expectation=expectation, column=column, severity="block", success=False, error=error)


def median_spread(values: Any) -> tuple[Any, Any]:
    """Return the median over the first axis, and the spread about it in standard deviations; NaN is left out."""
    median = np.nanmedian(values, axis=0)
    return median, _MAD_TO_SIGMA * np.nanmedian(np.abs(values - median), axis=0)


def rounded(value: float) -> float:
    """Return a number with four significant digits."""
    return float(f"{value:.4g}")


def logit(hits: float, rows: float) -> float:
    """Return the log odds, with half a row added on each side so that none and all stay finite."""
    return math.log((hits + 0.5) / (rows - hits + 0.5))


@dataclass(frozen=True)
class Share:
    """``hits`` of ``rows``; ``base`` is the log odds of what it is measured against, 0 for nothing."""

    hits: float
    rows: float
    base: float = 0.0

    @property
    def rate(self) -> float:
        """NaN of no rows."""
        return self.hits / self.rows if self.rows else math.nan


@dataclass(frozen=True)
class RateShift:
    """A share, what would have been usual, and the robust distance between them (0 where it is not significant)."""

    rate: float
    usual: float
    distance: float


def rate_shift(today: Share, history: Sequence[Share]) -> RateShift | None:
    """Compare a share with its history on the scale of log odds; None when there is nothing to compare.

    The distance is ``(logit(today) - median) / sqrt(1 / (n p (1 - p)) + spread²)``: sampling of ``n`` rows and the
    days' own variation; ``p`` is the rate of today or the usual one, whichever is surer (neither 0 nor 1 tells how
    sure it is). It counts only if a binomial distribution of ``n`` and the usual rate makes today unlikely too,
    because on the scale of log odds zero of a handful looks far away.
    """
    past = [logit(share.hits, share.rows) - share.base for share in history if share.rows]
    if not past or not today.rows:
        return None
    median, spread = median_spread(np.array(past))
    usual = 1 / (1 + math.exp(-(median + today.base)))
    variance = max(today.rows * usual * (1 - usual), 1e-9)
    surer = max(variance, today.hits * (1 - today.rate))
    shift = logit(today.hits, today.rows) - today.base - median
    distance = float(shift / math.sqrt(1 / surer + spread**2))
    score = (today.hits - today.rows * usual) / math.sqrt(variance)
    significant = abs(score) >= _UNLIKELY
    return RateShift(today.rate, float(usual), distance if significant else 0.0)
