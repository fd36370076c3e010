"""The example's transform: right, and blind to what was not known yet."""

from __future__ import annotations

from datetime import date

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flights.features import compute

DAY = date(2013, 3, 10)
START = pd.Timestamp(DAY, tz="UTC")
KEYS = {
    "flight_schedule": "flight_id",
    "origin_traffic": "origin",
    "carrier_delays": "carrier",
    "route_delays": "route",
}


def minutes(values) -> pd.Series:
    return pd.Series(pd.to_timedelta(values, unit="min"))


def flights(seed: int, n: int = 300) -> dict[str, pd.DataFrame]:
    """Made-up flights of the eight days that end with DAY; few enough that some hours and carriers are empty."""
    random = np.random.default_rng(seed)
    scheduled = pd.Series(START) - pd.Timedelta(days=7)
    scheduled = pd.Series([scheduled[0]] * n) + minutes(random.integers(0, 8 * 24 * 60, n))
    delay = pd.Series(random.integers(-10, 90, n).astype(float))
    cancelled = pd.Series(random.random(n) < 0.1)
    diverted = pd.Series(random.random(n) < 0.1)
    departed = (scheduled + minutes(delay)).where(~cancelled)
    origin, dest = random.choice(["EWR", "JFK"], n), random.choice(["LAX", "SFO", "BOS"], n)
    frame = pd.DataFrame(
        {
            "flight_id": [f"f{i:04}" for i in range(n)],
            "carrier": random.choice(["AA", "B6", "UA"], n),
            "origin": origin,
            "dest": dest,
            "route": [f"{a}-{b}" for a, b in zip(origin, dest, strict=True)],
            "distance": random.integers(100, 3000, n).astype(float),
            "sched_minutes": random.integers(60, 400, n).astype(float),
            "sched_hour": scheduled.dt.hour,
            "weekday": scheduled.dt.weekday,
            "month": scheduled.dt.month,
            "sched_dep_utc": scheduled,
            "cancelled": cancelled,
            "dep_delay": delay.where(~cancelled),
            "known_at": departed.fillna(scheduled + pd.Timedelta(hours=1)),
            "landed_at": departed + minutes(random.integers(40, 400, n)),
            "arr_delay": pd.Series(random.integers(-30, 120, n).astype(float)).where(~diverted),
        }
    )
    columns = ["flight_id", "carrier", "origin", "dest", "route", "sched_dep_utc", "landed_at", "arr_delay"]
    return {"departures": frame.drop(columns=["landed_at", "arr_delay"]), "arrivals": frame.loc[~cancelled, columns]}


def expected(view: str, key: str, stamp: pd.Timestamp, data: dict[str, pd.DataFrame]) -> dict[str, float]:
    """The features of one key at one moment, computed the slow way, from what was known then."""
    left = data["departures"][data["departures"]["known_at"] <= stamp]
    landed = data["arrivals"][data["arrivals"]["landed_at"] <= stamp]
    if view == "origin_traffic":
        left = left[(left["origin"] == key) & (left["known_at"] > stamp - pd.Timedelta(hours=24))]
        recent = left[~left["cancelled"] & (left["known_at"] > stamp - pd.Timedelta(hours=2))]
        return {
            "departures_2h": len(recent),
            "dep_delay_mean_2h": recent["dep_delay"].mean(),
            "dep_late_rate_2h": (recent["dep_delay"] > 15).mean(),
            "cancelled_rate_24h": left["cancelled"].mean(),
        }
    column, days, suffix = ("carrier", 1, "24h") if view == "carrier_delays" else ("route", 7, "7d")
    landed = landed[(landed[column] == key) & (landed["landed_at"] > stamp - pd.Timedelta(days=days))]
    delays = landed["arr_delay"].dropna()
    return {
        f"arr_delay_mean_{suffix}": delays.mean(),
        f"arr_late_rate_{suffix}": (delays > 15).mean(),
        f"landings_{suffix}": len(landed),
    }


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("view", ["origin_traffic", "carrier_delays", "route_delays"])
def test_every_row_is_what_the_slow_way_gives(view, seed):
    data = flights(seed)
    rows = compute(DAY, data)[view]
    assert len(rows)
    for row in rows.to_dict("records"):
        wanted = expected(view, row[KEYS[view]], row["event_timestamp"], data)
        assert {name: row[name] for name in wanted} == pytest.approx(wanted, nan_ok=True)


def test_the_timetable_covers_the_flights_of_the_day_and_is_known_when_it_starts():
    data = flights(0)
    rows = compute(DAY, data)["flight_schedule"]
    today = data["departures"][data["departures"]["sched_dep_utc"] >= START]
    assert set(rows["flight_id"]) == set(today["flight_id"])
    assert (rows["event_timestamp"] == START).all()
    wanted = today.set_index("flight_id").loc[rows["flight_id"], "distance"]
    assert rows["distance"].tolist() == wanted.tolist()


def test_stamps_lie_within_the_day_and_are_unique():
    for view, rows in compute(DAY, flights(0)).items():
        assert rows["event_timestamp"].between(START, START + pd.Timedelta(days=1), inclusive="left").all()
        assert (rows["created_timestamp"] == rows["event_timestamp"]).all()
        assert not rows.duplicated([KEYS[view], "event_timestamp"]).any()


def known_by(views: dict[str, pd.DataFrame], moment: pd.Timestamp) -> dict[str, pd.DataFrame]:
    return {name: rows[rows["event_timestamp"] <= moment].reset_index(drop=True) for name, rows in views.items()}


@settings(max_examples=20, deadline=None, database=None, derandomize=True)
@given(seed=st.integers(0, 10_000), hour=st.integers(0, 23), remove=st.booleans())
def test_what_happens_later_changes_nothing_that_was_said_before(seed, hour, remove):
    data = flights(seed, n=120)
    moment = START + pd.Timedelta(hours=hour)
    later = data["arrivals"]["landed_at"] > moment
    outcomes = data["departures"]["known_at"] > moment
    arrivals, departures = data["arrivals"].copy(), data["departures"].copy()
    if remove:
        arrivals = arrivals[~later]
    else:
        arrivals.loc[later, "arr_delay"] = 999.0
        arrivals.loc[later, "carrier"] = "ZZ"
    departures.loc[outcomes, ["dep_delay", "cancelled"]] = [999.0, False]
    before, after = compute(DAY, data), compute(DAY, {"departures": departures, "arrivals": arrivals})
    for name, rows in known_by(before, moment).items():
        pd.testing.assert_frame_equal(rows, known_by(after, moment)[name])


def test_a_landing_counts_from_the_moment_it_is_known():
    """So that the property above does not hold for want of any effect."""
    data = flights(0)
    landed = data["arrivals"][data["arrivals"]["landed_at"].between(START, START + pd.Timedelta(hours=20))].iloc[0]
    without = data["arrivals"].drop(index=landed.name)
    first = landed["landed_at"].ceil("h")

    def landings(arrivals: pd.DataFrame, stamp: pd.Timestamp) -> float:
        rows = compute(DAY, {**data, "arrivals": arrivals})["carrier_delays"].set_index(["carrier", "event_timestamp"])
        return rows.loc[(landed["carrier"], stamp), "landings_24h"]

    assert landings(data["arrivals"], first) == landings(without, first) + 1
    before = first - pd.Timedelta(hours=1)
    if before >= START:
        assert landings(data["arrivals"], before) == landings(without, before)


def test_the_order_of_the_rows_does_not_matter():
    data = flights(3)
    shuffled = {name: rows.sample(frac=1, random_state=1, ignore_index=True) for name, rows in data.items()}
    for name, rows in compute(DAY, data).items():
        pd.testing.assert_frame_equal(rows, compute(DAY, shuffled)[name])
