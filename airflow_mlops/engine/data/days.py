"""Days of a window whose labels are not believable: their share of something, or their mean."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.engine.data.robust import median_spread
from airflow_mlops.exceptions import DataError

ENOUGH_DAYS = 14
"""Days with labels below which there is no telling what is usual."""
_UNLIKELY = 4.0
"""Standard deviations of the binomial distribution from which on a count is no chance."""


def check_shares(rows: pa.Table, event_time: str, hits: pa.ChunkedArray, what: str, shift: float) -> None:
    """Refuse days whose share of something lies far from that of the other days of the window.

    Compared are the log odds of the days with their median. The unit is the scatter of the days, by the median
    absolute deviation, together with the sampling error of the day itself; and the count of the day must be unlikely at
    the usual share. Windows of less than 14 days with labels are not judged.

    :param hits: Which rows have it.
    :param what: What it is, in words.
    :param shift: Units below the median from which a day is refused; above it, twice as many.
    :raises DataError: naming the days.
    """
    days = pc.floor_temporal(rows[event_time], unit="day")
    table = pa.table({"day": days, "hit": hits.cast(pa.int64())})
    daily = table.group_by("day").aggregate([("hit", "sum"), ("hit", "count")]).sort_by("day")
    if daily.num_rows < ENOUGH_DAYS:
        return
    found, labelled = daily["hit_sum"].to_numpy(), daily["hit_count"].to_numpy()
    rate = (found + 0.5) / (labelled + 1)
    odds = np.log(rate / (1 - rate))
    usual, scatter = median_spread(odds)
    usual_rate = 1 / (1 + np.exp(-usual))
    distance = (odds - usual) / np.sqrt(scatter**2 + 1 / (labelled * usual_rate * (1 - usual_rate)))
    # None of forty is far away by the odds, and happens: the count must be unlikely too.
    unlikely = np.abs(found - labelled * usual_rate) > _UNLIKELY * np.sqrt(labelled * usual_rate * (1 - usual_rate))
    strange = np.flatnonzero(unlikely & ((distance < -shift) | (distance > 2 * shift)))
    names = [f"{daily['day'][n].as_py():%Y-%m-%d} ({found[n]} of {labelled[n]})" for n in strange.tolist()]
    _refuse(f"The rate of {what} of {len(names)} days is", f"usual: {usual_rate:.3f}", names)


def check_means(rows: pa.Table, event_time: str, label: str, shift: float) -> None:
    """Refuse days whose mean label lies far from that of the other days of the window.

    The unit is the scatter of the days' means, by the median absolute deviation, together with the standard error of
    the day itself. A fault fills in zeros or another unit, real life has storms: on both sides twice ``shift`` is
    allowed, and a day of one single value is refused from half of ``shift`` on.

    :raises DataError: naming the days.
    """
    days = pc.floor_temporal(rows[event_time], unit="day")
    table = pa.table({"day": days, "label": rows[label]})
    daily = (
        table.group_by("day").aggregate([("label", "mean"), ("label", "variance"), ("label", "count")]).sort_by("day")
    )
    if daily.num_rows < ENOUGH_DAYS:
        return
    mean, variance, count = (daily[f"label_{name}"].to_numpy() for name in ("mean", "variance", "count"))
    usual, scatter = median_spread(mean)
    distance = np.abs(mean - usual) / np.sqrt(scatter**2 + np.median(variance) / count + np.finfo(float).tiny)
    strange = np.flatnonzero(not_believable(distance, (variance == 0) & (count > 1), shift))
    names = [f"{daily['day'][n].as_py():%Y-%m-%d} (mean {mean[n]:.4g} of {count[n]})" for n in strange.tolist()]
    _refuse(f"The labels of {len(names)} days are", f"usual mean: {usual:.4g}", names)


def not_believable(distance: Any, constant: Any, shift: float) -> Any:
    """Say of means whether they are too far from usual; those of one single value sooner. See :func:`check_means`."""
    return (distance > 2 * shift) | (constant & (distance > shift / 2))


def _refuse(what: str, usual: str, names: list[str]) -> None:
    if names:
        raise DataError(
            f"{what} not believable.",
            detail=f"{usual}; {', '.join(names[:7])}{' …' if names[7:] else ''}",
            hint="See whether the label feed fills in what it does not know. Exclude these days, or mend and seal "
            "them again; what is unknown must be null.",
        )
