"""The example's feature code: right, and blind to what was not known yet."""

from __future__ import annotations

import inspect
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_mlops.demo.flights import read_feed
from flight_features import compute, flight_request
from tests.thorough import examples

DAY = date(2013, 3, 10)
START = pd.Timestamp(DAY, tz="UTC")
KEYS = {
    "origin_traffic": "origin",
    "carrier_delays": "carrier",
    "route_delays": "route",
    "destination_delays": "dest",
    "aircraft_last_leg": "tailnum",
    "origin_weather": "origin",
}
AGGREGATES = ["origin_traffic", "carrier_delays", "route_delays", "destination_delays"]
WINDOWS = {"1h": 1, "24h": 24, "7d": 168}


def minutes(values) -> pd.Series:
    return pd.Series(pd.to_timedelta(values, unit="min"))


def flights(seed: int, n: int = 300) -> dict[str, pd.DataFrame]:
    """Made-up flights of the nine days that end with DAY; few enough that some hours and carriers are empty."""
    random = np.random.default_rng(seed)
    first = START - pd.Timedelta(days=8)
    scheduled = pd.Series([first] * n) + minutes(random.integers(0, 9 * 24 * 60, n))
    delay = pd.Series(random.integers(-10, 90, n).astype(float))
    cancelled = pd.Series(random.random(n) < 0.1)
    diverted = pd.Series(random.random(n) < 0.1)
    departed = (scheduled + minutes(delay)).where(~cancelled)
    origin, dest = random.choice(["EWR", "JFK"], n), random.choice(["LAX", "SFO", "BOS"], n)
    frame = pd.DataFrame(
        {
            "flight_id": [f"f{i:04}" for i in range(n)],
            "carrier": random.choice(["AA", "B6", "UA"], n),
            "tailnum": pd.Series(random.choice(["N1", "N2", "N3", "N4"], n)).where(random.random(n) > 0.1, None),
            "origin": origin,
            "dest": dest,
            "route": [f"{a}-{b}" for a, b in zip(origin, dest, strict=True)],
            "sched_dep_utc": scheduled,
            "cancelled": cancelled,
            "dep_delay": delay.where(~cancelled),
            "known_at": departed.fillna(scheduled + pd.Timedelta(hours=1)),
            "landed_at": departed + minutes(random.integers(40, 400, n)),
            "arr_delay": pd.Series(random.integers(-30, 120, n).astype(float)).where(~diverted),
        }
    )
    # Whatever falls on the hour is within the windows that end there, and not within those that start there.
    frame.loc[::7, "known_at"] = frame.loc[::7, "known_at"].dt.ceil("h")
    frame.loc[::7, "landed_at"] = frame.loc[::7, "landed_at"].dt.ceil("h")
    landed = ["flight_id", "carrier", "tailnum", "origin", "dest", "route", "sched_dep_utc", "landed_at", "arr_delay"]
    hours = pd.date_range(first, periods=9 * 24, freq="h")
    observed = pd.MultiIndex.from_product([hours, ["EWR", "JFK"]], names=["observed_at", "origin"]).to_frame(
        index=False
    )
    numbers = {name: random.normal(50, 9, len(observed)) for name in ("temp", "wind_speed", "precip", "visib")}
    pressure = np.where(random.random(len(observed)) < 0.3, np.nan, 1010.0)
    weather = observed.assign(**numbers, pressure=pressure, known_at=observed["observed_at"] + pd.Timedelta(hours=1))
    return {
        "departures": frame.drop(columns=["landed_at", "arr_delay"]),
        "arrivals": frame.loc[~cancelled, landed],
        "weather": weather.sample(frac=0.9, random_state=seed).sort_values(["observed_at", "origin"]),
    }


def real(first: date, last: date) -> dict[str, pd.DataFrame]:
    return {feed: read_feed(feed, first, last).to_pandas() for feed in ("departures", "arrivals", "weather")}


# --- the slow way -----------------------------------------------------------------------------------------


def mean(values: pd.Series) -> float:
    known = [float(value) for value in values if not pd.isna(value)]
    return sum(known) / len(known) if known else np.nan


def late(delays: pd.Series) -> float:
    return mean(pd.Series([value > 15 for value in delays if not pd.isna(value)], dtype=float))


def within(facts: pd.DataFrame, known: str, stamp: pd.Timestamp, hours: int) -> pd.DataFrame:
    return facts[(facts[known] <= stamp) & (facts[known] > stamp - pd.Timedelta(hours=hours))]


def expected(view: str, key: str, stamp: pd.Timestamp, data: dict[str, pd.DataFrame]) -> dict[str, float] | None:
    """The features of one key at one moment, from what was known then; None where there is no row."""
    column = KEYS[view]
    flown = data["departures"]
    flown = flown[flown[column] == key]
    arrived = data["arrivals"][data["arrivals"][column] == key]
    departures = {name: within(flown, "known_at", stamp, hours) for name, hours in WINDOWS.items()}
    landings = {name: within(arrived, "landed_at", stamp, hours) for name, hours in WINDOWS.items()}
    features: dict[str, float] = {}
    if view == "origin_traffic":
        left = {name: rows[~rows["cancelled"].astype(bool)]["dep_delay"] for name, rows in departures.items()}
        features["origin_departures_1h"] = len(left["1h"])
        for name, delays in left.items():
            features[f"origin_dep_delay_mean_{name}"] = mean(delays)
            features[f"origin_dep_late_rate_{name}"] = late(delays)
        for name in ("24h", "7d"):
            features[f"origin_cancelled_rate_{name}"] = mean(departures[name]["cancelled"])
        return features if len(departures["7d"]) else None
    windows = WINDOWS if view == "carrier_delays" else ("24h", "7d")
    for name in windows:
        features[f"{column}_arr_delay_mean_{name}"] = mean(landings[name]["arr_delay"])
        features[f"{column}_arr_late_rate_{name}"] = late(landings[name]["arr_delay"])
    if view == "carrier_delays":
        features["carrier_landings_1h"] = len(landings["1h"])
        features["carrier_cancelled_rate_24h"] = mean(departures["24h"]["cancelled"])
        return features if len(landings["7d"]) or len(departures["7d"]) else None
    counted = {"route_delays": "7d", "destination_delays": "24h"}[view]
    features[f"{column}_landings_{counted}"] = len(landings[counted])
    return features if len(landings["7d"]) else None


def assert_as_the_slow_way(view: str, rows: pd.DataFrame, data: dict[str, pd.DataFrame], keys: list[str]) -> int:
    """Compare every row of some keys, and find no row missing; return how many values were compared."""
    every = 1 if view in ("origin_traffic", "carrier_delays") else 6
    found = {(row[KEYS[view]], row["event_timestamp"]): row for row in rows.to_dict("records")}
    compared = 0
    for stamp in pd.date_range(START, periods=24 // every, freq=f"{every}h"):
        for key in keys:
            wanted = expected(view, key, stamp, data)
            row = found.pop((key, stamp), None)
            assert (row is None) == (wanted is None), (key, stamp)
            if row is not None and wanted is not None:
                assert set(wanted) == set(rows.columns) - {KEYS[view], "event_timestamp", "created_timestamp"}
                assert {name: row[name] for name in wanted} == pytest.approx(wanted, nan_ok=True, abs=1e-12), key
                compared += len(wanted)
    assert not {key for key, _ in found} & set(keys), "rows at other stamps"
    return compared


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("view", AGGREGATES)
def test_every_aggregate_is_what_the_slow_way_gives(view, seed):
    data = flights(seed)
    keys = sorted(set(data["departures"][KEYS[view]]))
    rows = compute(DAY, data)[view]
    assert set(rows[KEYS[view]]) <= set(keys)
    assert assert_as_the_slow_way(view, rows, data, keys) >= 60


@pytest.mark.parametrize("view", AGGREGATES)
def test_aggregates_of_real_flights_are_what_the_slow_way_gives(view):
    """On the day on which the clocks went forward, from more history than the pipeline hands over: none is missed."""
    given = real(DAY - timedelta(days=8), DAY)
    keys = {
        "origin_traffic": ["EWR", "JFK", "LGA"],
        "carrier_delays": ["UA", "HA", "OO", "YV"],
        "route_delays": ["EWR-IAH", "JFK-HNL", "LGA-ATL"],
        "destination_delays": ["ORD", "HNL", "SJU"],
    }[view]
    longer = real(DAY - timedelta(days=10), DAY)
    assert assert_as_the_slow_way(view, compute(DAY, given)[view], longer, keys) > 10


def test_a_leg_is_the_last_landing_that_was_known():
    data = flights(2)
    rows = compute(DAY, data)["aircraft_last_leg"]
    landed = data["arrivals"]
    today = landed[(landed["landed_at"] >= START) & (landed["landed_at"] < START + pd.Timedelta(days=1))]
    assert len(rows) == len(today.dropna(subset="tailnum").drop_duplicates(["tailnum", "landed_at"])) > 20
    for hour in range(1, 24):
        moment = START + pd.Timedelta(hours=hour)
        for tailnum in ("N1", "N2", "N3", "N4"):
            seen = landed[(landed["tailnum"] == tailnum) & landed["landed_at"].between(START, moment)]
            said = rows[(rows["tailnum"] == tailnum) & (rows["event_timestamp"] <= moment)]
            assert bool(len(said)) == bool(len(seen))
            if len(seen):
                last = seen.loc[seen["landed_at"].idxmax()]
                row = said.loc[said["event_timestamp"].idxmax()]
                assert row["aircraft_landed_at"] == row["created_timestamp"] == last["landed_at"]
                assert row["aircraft_landed_in"] == last["dest"]
                assert row["aircraft_arr_delay"] == pytest.approx(last["arr_delay"], nan_ok=True)


def test_of_two_landings_at_once_one_counts_whatever_their_order():
    data = flights(2)
    arrivals = data["arrivals"]
    twin = arrivals[(arrivals["landed_at"] >= START) & arrivals["tailnum"].notna()].iloc[[0]]
    both = pd.concat([arrivals, twin.assign(flight_id="g", dest="XNA")], ignore_index=True)
    rows = compute(DAY, {**data, "arrivals": both})["aircraft_last_leg"]
    turned = compute(DAY, {**data, "arrivals": both[::-1]})["aircraft_last_leg"]
    pd.testing.assert_frame_equal(rows, turned)
    assert not rows.duplicated(["tailnum", "event_timestamp"]).any()


def test_weather_is_of_its_hour_and_known_when_the_hour_is_over():
    data = real(date(2013, 2, 11), date(2013, 2, 12))
    rows = compute(date(2013, 2, 12), data)["origin_weather"].set_index(["origin", "event_timestamp"])
    today = data["weather"][data["weather"]["observed_at"] >= pd.Timestamp("2013-02-12", tz="UTC")]
    assert len(rows) == len(today) == 72
    assert (rows["created_timestamp"] - rows.index.get_level_values(1) == pd.Timedelta(hours=1)).all()
    pairs = {"temp": "temp", "precip": "precip", "visib": "visibility", "pressure": "pressure"}
    for source in today.to_dict("records"):
        row = rows.loc[(source["origin"], source["observed_at"])]
        for column, feature in pairs.items():
            assert row[f"weather_{feature}"] == pytest.approx(source[column], nan_ok=True)
        wind = source["wind_speed"]
        assert row["weather_wind_speed"] == pytest.approx(wind if wind < 200 else np.nan, nan_ok=True)
    assert today["wind_speed"].max() > 1000, "a broken sensor, on this very day"


# --- nothing from the future ------------------------------------------------------------------------------


def test_stamps_lie_within_the_day_are_unique_and_never_before_what_they_describe():
    for data in (flights(0), real(DAY - timedelta(days=8), DAY)):
        for view, rows in compute(DAY, data).items():
            assert rows["event_timestamp"].between(START, START + pd.Timedelta(days=1), inclusive="left").all()
            assert (rows["created_timestamp"] >= rows["event_timestamp"]).all()
            assert not rows.duplicated([KEYS[view], "event_timestamp"]).any()


def known_by(views: dict[str, pd.DataFrame], moment: pd.Timestamp) -> dict[str, pd.DataFrame]:
    return {name: rows[rows["created_timestamp"] <= moment].reset_index(drop=True) for name, rows in views.items()}


@pytest.mark.property
@settings(max_examples=examples(30), deadline=None, database=None, derandomize=True)
@given(seed=st.integers(0, 10_000), hour=st.integers(0, 23), remove=st.booleans())
def test_what_happens_later_changes_nothing_that_was_said_before(seed, hour, remove):
    data = flights(seed, n=120)
    moment = START + pd.Timedelta(hours=hour)
    arrivals, departures, weather = (data[name].copy() for name in ("arrivals", "departures", "weather"))
    landing, outcome, observed = (
        arrivals["landed_at"] > moment,
        departures["known_at"] > moment,
        weather["known_at"] > moment,
    )
    if remove:
        arrivals, weather = arrivals[~landing], weather[~observed]
    else:
        arrivals.loc[landing, ["arr_delay", "carrier", "tailnum", "dest"]] = [999.0, "ZZ", "N1", "XNA"]
        weather.loc[observed, ["temp", "wind_speed"]] = [-40.0, 99.0]
    departures.loc[outcome, ["dep_delay", "cancelled"]] = [999.0, False]
    before = known_by(compute(DAY, data), moment)
    after = known_by(compute(DAY, {"departures": departures, "arrivals": arrivals, "weather": weather}), moment)
    for name, rows in before.items():
        pd.testing.assert_frame_equal(rows, after[name])


def test_a_landing_counts_from_the_moment_it_is_known():
    """So that the property above does not hold for want of any effect."""
    data = flights(0)
    landed = data["arrivals"][
        data["arrivals"]["landed_at"].between(START + pd.Timedelta(hours=2), START + pd.Timedelta(hours=20))
    ].iloc[0]
    without = data["arrivals"].drop(index=landed.name)
    first = landed["landed_at"].ceil("h")

    def landings(arrivals: pd.DataFrame, stamp: pd.Timestamp) -> float:
        rows = compute(DAY, {**data, "arrivals": arrivals})["carrier_delays"].set_index(["carrier", "event_timestamp"])
        return rows.loc[(landed["carrier"], stamp), "carrier_landings_1h"]

    assert landings(data["arrivals"], first) == landings(without, first) + 1
    before = first - pd.Timedelta(hours=1)
    assert landings(data["arrivals"], before) == landings(without, before)


def test_the_order_of_the_rows_does_not_matter():
    data = flights(3)
    shuffled = {name: rows.sample(frac=1, random_state=1, ignore_index=True) for name, rows in data.items()}
    for name, rows in compute(DAY, data).items():
        order = [KEYS[name], "event_timestamp"]
        again = compute(DAY, shuffled)[name].sort_values(order, ignore_index=True)
        pd.testing.assert_frame_equal(rows.sort_values(order, ignore_index=True), again)


# --- what is asked about ----------------------------------------------------------------------------------


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def asked(departure: datetime | None, landed: datetime | None = None, **more) -> dict[str, object]:
    arrival = departure + timedelta(minutes=200) if departure else None
    columns = {"sched_dep_utc": departure, "sched_arr_utc": arrival, "distance": 1400.0, "aircraft_landed_at": landed}
    answer = flight_request({name: [value] for name, value in {**columns, **more}.items()})
    return {name: value for name, [value] in answer.items()}


def test_the_timetable_is_read_in_new_york_time():
    # 04:30 UTC is 23:30 of the day before in winter, 00:30 of the same day in summer.
    winter, summer = asked(moment("2013-02-01 04:30")), asked(moment("2013-07-01 04:30"))
    assert (winter["sched_hour"], winter["weekday"], winter["month"]) == (23, 3, 1)
    assert (summer["sched_hour"], summer["weekday"], summer["month"]) == (0, 0, 7)
    assert winter["sched_minutes"] == 200
    assert winter["distance_miles"] == 1400


@pytest.mark.parametrize(
    ("landed", "idle"),
    [
        ("2013-02-01 01:30", 180.0),
        ("2013-02-01 04:30", 0.0),
        ("2013-01-30 04:30", 2880.0),
        pytest.param("2013-01-30 04:29", None, id="two days and a minute ago"),
        pytest.param("2013-02-01 04:31", None, id="in a minute"),
        pytest.param(None, None, id="never seen"),
    ],
)
def test_an_aircraft_that_landed_long_ago_or_later_says_nothing(landed, idle):
    assert asked(moment("2013-02-01 04:30"), landed and moment(landed))["aircraft_idle_minutes"] == idle


def test_what_the_caller_does_not_know_stays_unknown():
    answer = asked(None, distance=None)
    assert set(answer.values()) == {None}


def test_the_request_says_of_real_flights_what_the_timetable_says():
    rows = read_feed("departures", DAY, DAY).to_pandas()
    request = {name: list(rows[name]) for name in ("sched_dep_utc", "sched_arr_utc", "distance")}
    answer = flight_request({**request, "aircraft_landed_at": [None] * len(rows)})
    assert answer["sched_hour"] == rows["sched_hour"].tolist()
    assert answer["weekday"] == rows["weekday"].tolist()
    assert answer["month"] == rows["month"].tolist()
    assert answer["sched_minutes"] == pytest.approx(rows["sched_minutes"].tolist())


def test_the_request_function_runs_where_its_module_is_not():
    """As Feast runs it: from its source alone, in a process that cannot import the module."""
    program = """
import sys
from datetime import datetime, timedelta, timezone
names = {}
exec(sys.stdin.read(), names)
start = datetime(2013, 2, 1, 4, 30, tzinfo=timezone.utc)
inputs = {"sched_dep_utc": [start], "sched_arr_utc": [start + timedelta(minutes=200)], "distance": [1.0]}
print(names["flight_request"]({**inputs, "aircraft_landed_at": [start - timedelta(minutes=7)]}))
assert "flight_features" not in sys.modules and "pandas" not in sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-I", "-c", program],
        check=False,
        input=inspect.getsource(flight_request),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "'sched_hour': [23]" in done.stdout
    assert "'aircraft_idle_minutes': [7.0]" in done.stdout
