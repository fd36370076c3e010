"""The feature code of the flight delay model, all of it: one module for the batch, for training and for serving.

* :func:`compute` makes the rows of every stored feature view of one day, from the sealed feeds.
* :func:`flight_request` makes the features of the flight that is asked about. Feast calls it for training data and
  for online reads alike.

A row stamped ``h`` says what was known at ``h``: departures that left (or were called off) and flights that landed
by then, never one that is still in the air.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date

import numpy as np
import pandas as pd

HOUR = pd.Timedelta(hours=1)
DAY = 24
WEEK = 7 * DAY
WINDOWS = {"1h": 1, "24h": DAY, "7d": WEEK}
LATE = 15
"""Minutes; beyond it a flight is late."""

FASTEST_WIND = 150
"""Miles per hour. More was never measured near New York: the 1,048 mph that the feed has once is a broken sensor."""


def compute(day: date, data: Mapping[str, pd.DataFrame]) -> Mapping[str, pd.DataFrame]:
    """Return the rows of every stored feature view stamped within a UTC day.

    :param day: The day.
    :param data: Dataset → its rows of that day and of the eight days before: a week back from midnight lie the
        departures that were scheduled on the eighth.
    """
    departures, arrivals, weather = data["departures"], data["arrivals"], data["weather"]
    start = pd.Timestamp(day, tz="UTC").as_unit("us")
    return {
        "origin_traffic": _origin_traffic(departures, start),
        "carrier_delays": _carrier_delays(departures, arrivals, start),
        "route_delays": _landings(arrivals, "route", start, counted=WEEK),
        "destination_delays": _landings(arrivals, "dest", start, counted=DAY),
        "aircraft_last_leg": _aircraft_last_leg(arrivals, start),
        "origin_weather": _origin_weather(weather, start),
    }


def flight_request(inputs: dict[str, list]) -> dict[str, list]:
    """Return what the timetable says of each flight, and how long its aircraft has been on the ground.

    Feast keeps the source of this function in its registry and runs it where this module is not: it imports what
    it needs itself, and its annotations need no import.

    :param inputs: Column → values: ``sched_dep_utc``, ``sched_arr_utc`` (aware), ``distance`` (miles), and
        ``aircraft_landed_at``, the aircraft's last known landing. None is unknown.
    """
    from datetime import datetime, timedelta
    from zoneinfo import ZoneInfo

    def minutes(start: datetime | None, end: datetime | None) -> float | None:
        return None if start is None or end is None else (end - start) / timedelta(minutes=1)

    departures = inputs["sched_dep_utc"]
    new_york = ZoneInfo("America/New_York")
    local = [None if departure is None else departure.astimezone(new_york) for departure in departures]
    idle = [minutes(*pair) for pair in zip(inputs["aircraft_landed_at"], departures, strict=True)]
    return {
        "distance_miles": inputs["distance"],
        "sched_minutes": [minutes(*pair) for pair in zip(departures, inputs["sched_arr_utc"], strict=True)],
        "sched_hour": [time and time.hour for time in local],
        "weekday": [time and time.weekday() for time in local],
        "month": [time and time.month for time in local],
        # A landing of long ago, or one that comes after the flight that is asked about, says nothing of it.
        "aircraft_idle_minutes": [value if value is not None and 0 <= value <= 2 * 24 * 60 else None for value in idle],
    }


def _origin_traffic(departures: pd.DataFrame, start: pd.Timestamp) -> pd.DataFrame:
    """How the queue at each airport has moved lately, every hour."""
    known = Recent(departures, "origin", "known_at", start, every=1)
    left = ~departures["cancelled"]
    late = (departures["dep_delay"] > LATE).astype(float).where(left)
    rates = {
        "dep_delay_mean": departures["dep_delay"].where(left),
        "dep_late_rate": late,
    }
    features = {
        "origin_departures_1h": known.count(1, left),
        **_means("origin", known, rates),
        "origin_cancelled_rate_24h": known.mean(DAY, departures["cancelled"]),
        "origin_cancelled_rate_7d": known.mean(WEEK, departures["cancelled"]),
    }
    return known.rows(features, known.count(WEEK) > 0)


def _carrier_delays(departures: pd.DataFrame, arrivals: pd.DataFrame, start: pd.Timestamp) -> pd.DataFrame:
    """How late each carrier's flights have landed lately, and how many it called off, every hour."""
    carriers = sorted({*departures["carrier"], *arrivals["carrier"]})
    landed = Recent(arrivals, "carrier", "landed_at", start, every=1, keys=carriers)
    known = Recent(departures, "carrier", "known_at", start, every=1, keys=carriers)
    features = {
        "carrier_landings_1h": landed.count(1),
        **_means("carrier", landed, _arrival_rates(arrivals)),
        "carrier_cancelled_rate_24h": known.mean(DAY, departures["cancelled"]),
    }
    return landed.rows(features, landed.count(WEEK) + known.count(WEEK) > 0)


def _landings(arrivals: pd.DataFrame, key: str, start: pd.Timestamp, *, counted: int) -> pd.DataFrame:
    """How late the flights of each route or destination have landed lately, every six hours."""
    landed = Recent(arrivals, key, "landed_at", start, every=6)
    suffix = {hours: name for name, hours in WINDOWS.items()}[counted]
    features = {
        f"{key}_landings_{suffix}": landed.count(counted),
        **_means(key, landed, _arrival_rates(arrivals), windows=("24h", "7d")),
    }
    return landed.rows(features, landed.count(WEEK) > 0)


def _arrival_rates(arrivals: pd.DataFrame) -> dict[str, pd.Series]:
    """The delay of a diverted flight is unknown, which is not the same as on time."""
    delay = arrivals["arr_delay"]
    return {"arr_delay_mean": delay, "arr_late_rate": (delay > LATE).astype(float).where(delay.notna())}


def _means(
    prefix: str, recent: Recent, values: Mapping[str, pd.Series], windows: Sequence[str] = tuple(WINDOWS)
) -> dict[str, np.ndarray]:
    return {
        f"{prefix}_{name}_{window}": recent.mean(WINDOWS[window], column)
        for name, column in values.items()
        for window in windows
    }


def _aircraft_last_leg(arrivals: pd.DataFrame, start: pd.Timestamp) -> pd.DataFrame:
    """The day's landings, each known when it happens; whoever asks later finds an aircraft's last one."""
    landed = _within_day(arrivals, "landed_at", start)
    landed = landed[landed["tailnum"].notna()]
    # Two landings of an aircraft in one minute cannot both be true; which one counts is at least no chance.
    landed = landed.sort_values(["landed_at", "tailnum", "sched_dep_utc", "flight_id"])
    landed = landed.drop_duplicates(["tailnum", "landed_at"], keep="last")
    return pd.DataFrame(
        {
            "tailnum": landed["tailnum"],
            "aircraft_arr_delay": landed["arr_delay"],
            "aircraft_landed_in": landed["dest"],
            "aircraft_landed_at": landed["landed_at"],
            "event_timestamp": landed["landed_at"],
            "created_timestamp": landed["landed_at"],
        }
    ).reset_index(drop=True)


def _origin_weather(weather: pd.DataFrame, start: pd.Timestamp) -> pd.DataFrame:
    """The day's observations: of the hour that they describe, known when that hour is over."""
    observed = _within_day(weather, "observed_at", start)
    return pd.DataFrame(
        {
            "origin": observed["origin"],
            "weather_temp": observed["temp"],
            "weather_wind_speed": observed["wind_speed"].where(observed["wind_speed"] <= FASTEST_WIND),
            "weather_precip": observed["precip"],
            "weather_visibility": observed["visib"],
            "weather_pressure": observed["pressure"],
            "event_timestamp": observed["observed_at"],
            "created_timestamp": observed["known_at"],
        }
    ).reset_index(drop=True)


def _within_day(facts: pd.DataFrame, column: str, start: pd.Timestamp) -> pd.DataFrame:
    return facts[facts[column].between(start, start + DAY * HOUR, inclusive="left")]


class Recent:
    """Facts by key and by the hour in which they became known, for windows that end at stamps within a day.

    A window of ``n`` hours at ``h`` has what became known in ``(h - n hours, h]``.

    :param key: Column to group by.
    :param known: Column of the moments at which the facts became known.
    :param start: Midnight at which the day starts.
    :param every: Hours between two stamps.
    :param keys: All keys, in order; those in ``facts`` by default.
    """

    def __init__(
        self,
        facts: pd.DataFrame,
        key: str,
        known: str,
        start: pd.Timestamp,
        *,
        every: int,
        keys: Sequence[str] | None = None,
    ) -> None:
        self._key = key
        self._keys = pd.Index(sorted(facts[key].unique()) if keys is None else keys)
        self._stamps = pd.date_range(start, periods=DAY // every, freq=every * HOUR, unit="us")
        # Hour 0 ends a week before the day starts: nothing up to there is within any window, and nothing after the
        # last hour of the day.
        hour = np.ceil(((facts[known] - start) / HOUR).to_numpy()).astype(int) + WEEK
        self._used = (hour > 0) & (hour < WEEK + DAY)
        self._cell = (self._keys.get_indexer(pd.Index(facts[key])) * (WEEK + DAY) + hour)[self._used]
        self._ends = WEEK + np.arange(0, DAY, every)

    def count(self, window: int, which: pd.Series | None = None) -> np.ndarray:
        """Return how many facts each key has at each stamp.

        :param window: Hours.
        :param which: Boolean a fact: whether it counts.
        """
        return self._total(window, None if which is None else which.to_numpy().astype(float))

    def mean(self, window: int, values: pd.Series) -> np.ndarray:
        """Return the mean of the known values of each key at each stamp, NaN where there are none.

        :param window: Hours.
        :param values: Value a fact.
        """
        numbers = values.to_numpy(dtype=float, na_value=np.nan)
        known = ~np.isnan(numbers)
        totals = self._total(window, np.where(known, numbers, 0))
        with np.errstate(invalid="ignore"):
            return totals / self._total(window, known.astype(float))

    def rows(self, features: Mapping[str, np.ndarray], which: np.ndarray) -> pd.DataFrame:
        """Return features as rows of a view: one a key and stamp.

        :param which: Whether a key has a row at a stamp.
        """
        key, stamp = np.nonzero(which)
        stamps = self._stamps[stamp]
        return pd.DataFrame(
            {
                self._key: self._keys[key],
                **{name: values[key, stamp] for name, values in features.items()},
                "event_timestamp": stamps,
                "created_timestamp": stamps,
            }
        )

    def _total(self, window: int, values: np.ndarray | None) -> np.ndarray:
        weights = None if values is None else values[self._used]
        hours = np.bincount(self._cell, weights, len(self._keys) * (WEEK + DAY)).astype(float)
        hours = hours.reshape(len(self._keys), WEEK + DAY)
        return np.stack([hours[:, end - window + 1 : end + 1].sum(axis=1) for end in self._ends], axis=1)
