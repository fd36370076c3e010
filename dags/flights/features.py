"""Features of the flight delay model, computed once a day from the sealed departures and arrivals.

A row stamped ``h`` says what was known at ``h``: departures that left (or were called off) and flights that
landed by then, never one that is still in the air. Training and serving read the same rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date

import numpy as np
import pandas as pd

HOUR = pd.Timedelta(hours=1)
DAY = pd.Timedelta(days=1)


def compute(day: date, data: Mapping[str, pd.DataFrame]) -> Mapping[str, pd.DataFrame]:
    """Return the rows of every feature view stamped within a UTC day.

    :param day: The day.
    :param data: Dataset → its rows of that day and of the seven days before.
    """
    departures, arrivals = data["departures"], data["arrivals"]
    start = pd.Timestamp(day, tz="UTC").as_unit("us")
    hourly = pd.date_range(start, periods=24, freq=HOUR, unit="us")
    six_hourly = hourly[::6]
    return {
        "flight_schedule": _flight_schedule(departures, start),
        "origin_traffic": _origin_traffic(departures, hourly),
        "carrier_delays": _arrival_delays(arrivals, "carrier", hourly, DAY, "24h"),
        "route_delays": _arrival_delays(arrivals, "route", six_hourly, 7 * DAY, "7d"),
    }


def _flight_schedule(departures: pd.DataFrame, start: pd.Timestamp) -> pd.DataFrame:
    """The day's timetable, which has long been published when the day starts."""
    columns = ["flight_id", "distance", "sched_minutes", "sched_hour", "weekday", "month"]
    today = departures.loc[departures["sched_dep_utc"].between(start, start + DAY, inclusive="left"), columns]
    return today.assign(event_timestamp=start, created_timestamp=start).sort_values("flight_id", ignore_index=True)


def _origin_traffic(departures: pd.DataFrame, stamps: pd.DatetimeIndex) -> pd.DataFrame:
    """How the queue at each airport has moved lately."""
    left = departures.loc[~departures["cancelled"], ["origin", "known_at", "dep_delay"]]
    left = left.assign(late=left["dep_delay"] > 15)
    recent = _seen(left, "known_at", stamps, 2 * HOUR).groupby(["origin", "event_timestamp"])
    outcomes = _seen(departures[["origin", "known_at", "cancelled"]], "known_at", stamps, DAY)
    rows = pd.DataFrame(
        {
            "departures_2h": recent.size(),
            "dep_delay_mean_2h": recent["dep_delay"].mean(),
            "dep_late_rate_2h": recent["late"].mean(),
            "cancelled_rate_24h": outcomes.groupby(["origin", "event_timestamp"])["cancelled"].mean(),
        }
    )
    return _everywhere(rows, departures, "origin", "known_at", stamps, count="departures_2h")


def _arrival_delays(
    arrivals: pd.DataFrame, key: str, stamps: pd.DatetimeIndex, window: pd.Timedelta, suffix: str
) -> pd.DataFrame:
    """How late the flights of each carrier or route have landed lately.

    A diverted flight counts as a landing; its delay is unknown, which is not the same as on time.
    """
    landed = arrivals[[key, "landed_at", "arr_delay"]]
    landed = landed.assign(late=(landed["arr_delay"] > 15).where(landed["arr_delay"].notna()).astype(float))
    seen = _seen(landed, "landed_at", stamps, window).groupby([key, "event_timestamp"])
    rows = pd.DataFrame(
        {
            f"arr_delay_mean_{suffix}": seen["arr_delay"].mean(),
            f"arr_late_rate_{suffix}": seen["late"].mean(),
            f"landings_{suffix}": seen.size(),
        }
    )
    return _everywhere(rows, arrivals, key, "landed_at", stamps, count=f"landings_{suffix}")


def _seen(facts: pd.DataFrame, known: str, stamps: pd.DatetimeIndex, window: pd.Timedelta) -> pd.DataFrame:
    """Return each fact once for every stamp that sees it: those in ``[known, known + window)``."""
    first = stamps.searchsorted(facts[known])
    times = stamps.searchsorted(facts[known] + window) - first
    seen = facts.take(np.repeat(np.arange(len(facts)), times))
    nth = np.arange(len(seen)) - np.repeat(times.cumsum() - times, times)
    return seen.assign(event_timestamp=stamps[np.repeat(first, times) + nth])


def _everywhere(
    rows: pd.DataFrame, facts: pd.DataFrame, key: str, known: str, stamps: pd.DatetimeIndex, *, count: str
) -> pd.DataFrame:
    """Return a row for every key at every stamp since the key was first heard of.

    Where nothing happened within the window, the count is 0 and the rest unknown.
    """
    heard_of = facts.groupby(key)[known].min()
    grid = pd.MultiIndex.from_product([heard_of.index, stamps], names=[key, "event_timestamp"])
    filled = rows.reindex(grid).reset_index()
    filled = filled[filled["event_timestamp"] >= filled[key].map(heard_of)].reset_index(drop=True)
    filled[count] = filled[count].fillna(0).astype(float)
    return filled.assign(created_timestamp=filled["event_timestamp"])
