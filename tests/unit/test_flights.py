"""The example's upstream: local clock readings became UTC, and nothing was lost or made up; nor was the weather."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from airflow_mlops.demo import flights
from airflow_mlops.demo import weather as weather_feed
from airflow_mlops.demo.flights import FIRST_DAY, LAST_DAY, land, read_feed
from airflow_mlops.exceptions import ConfigError
from tests.data_fixtures import EVENT_TIMES

NEW_YORK = "America/New_York"
NIGHTS = (date(2013, 10, 26), date(2013, 11, 3))
"""In which all three airports lack five hours of weather."""


@pytest.fixture(scope="module")
def packaged() -> pd.DataFrame:
    """The package's own rows, by the feeds' flight id."""
    rows = pd.read_csv(flights._packaged("flights.csv.zip"))
    day = (rows["year"] * 10_000 + rows["month"] * 100 + rows["day"]).astype(str)
    rows["flight_id"] = day + "-" + rows["carrier"] + rows["flight"].astype(str) + "-" + rows["origin"]
    return rows.set_index("flight_id")


@pytest.fixture(scope="module")
def departures() -> pd.DataFrame:
    return read_feed("departures", FIRST_DAY, LAST_DAY).to_pandas().set_index("flight_id")


@pytest.fixture(scope="module")
def arrivals() -> pd.DataFrame:
    return read_feed("arrivals", FIRST_DAY, LAST_DAY).to_pandas().set_index("flight_id")


@pytest.fixture(scope="module")
def weather() -> pd.DataFrame:
    return read_feed("weather", FIRST_DAY, LAST_DAY).to_pandas()


def clock(times: pd.Series, zones: pd.Series) -> pd.Series:
    """Return what the clocks in each row's zone show, as minutes after midnight."""
    shown = [of.dt.tz_convert(zone) for zone, of in times.groupby(zones.reindex(times.index))]
    return pd.concat([at.dt.hour * 60 + at.dt.minute for at in shown]).reindex(times.index)


def minutes(hhmm: pd.Series) -> pd.Series:
    return (hhmm // 100 * 60 + hhmm % 100) % (24 * 60)


@pytest.fixture(scope="module")
def zones(packaged) -> pd.Series:
    known = pd.read_csv(flights._packaged("airports.csv")).set_index("faa")["tzone"]
    # Puerto Rico and the Virgin Islands keep Atlantic time all year; the package does not know their airports.
    return packaged["dest"].map(known).fillna("Etc/GMT+4")


def test_every_flight_is_there_once(packaged, departures, arrivals):
    assert packaged.index.is_unique
    assert departures.index.is_unique
    assert arrivals.index.is_unique
    # What is missing left on New Year's Eve after 19:00, which is 2014 in UTC.
    missing = packaged.loc[packaged.index.difference(departures.index)]
    assert len(departures) + len(missing) == len(packaged) == 336_776
    assert set(zip(missing["month"], missing["day"], strict=True)) == {(12, 31)}
    assert missing["sched_dep_time"].min() >= 1900
    assert arrivals.index.isin(departures.index).all()


def test_departures_are_what_the_clocks_in_new_york_showed(packaged, departures):
    rows = packaged.reindex(departures.index)
    here = pd.Series(NEW_YORK, index=departures.index)
    assert (clock(departures["sched_dep_utc"], here) == minutes(rows["sched_dep_time"])).all()
    left = departures["dep_utc"].notna()
    assert (clock(departures["dep_utc"][left], here[left]) == minutes(rows["dep_time"][left])).all()
    local = departures["sched_dep_utc"].dt.tz_convert(NEW_YORK)
    assert (departures["month"] == rows["month"]).all()
    assert (local.dt.day == rows["day"]).all()
    assert (departures["sched_hour"] == rows["hour"]).all()
    assert (departures["weekday"] == local.dt.weekday).all()


def test_landings_are_what_the_clocks_at_the_destination_showed(packaged, arrivals, zones):
    """They were computed from the timetable and the delay, without a look at these clocks."""
    shown = clock(arrivals["landed_at"], zones)
    differ = shown != minutes(packaged["arr_time"]).reindex(arrivals.index)
    # It landed three minutes after the clocks went forward; its arrival time says that they had not.
    assert list(arrivals.index[differ]) == ["20130309-B635-JFK"]


def test_scheduled_arrivals_are_what_the_timetable_says(packaged, departures, zones):
    rows = packaged.reindex(departures.index)
    assert (clock(departures["sched_arr_utc"], zones) == minutes(rows["sched_arr_time"])).all()
    expected = rows["distance"] / 8 + 40  # miles at 480 an hour, and time on the ground
    assert ((departures["sched_minutes"] - expected).abs() < 120).all()


def test_nothing_happens_before_it_can(departures, arrivals):
    both = arrivals.join(departures[["dep_utc", "sched_minutes"]])
    flown = (both["landed_at"] - both["dep_utc"]) / pd.Timedelta(minutes=1)
    assert flown.min() > 30
    diverted = both["arr_delay"].isna()
    assert (flown[diverted] > both["sched_minutes"][diverted]).all()  # a detour is no short cut
    assert flown.max() < 24 * 60


@pytest.mark.parametrize(
    ("flight", "scheduled", "landing"),
    [
        pytest.param("20130309-UA541-EWR", "2013-03-09 10:15", "2013-03-09 13:44", id="05:15 before the clocks change"),
        pytest.param("20130310-UA258-EWR", "2013-03-10 09:15", "2013-03-10 12:42", id="05:15 after they changed"),
        pytest.param("20131102-UA598-EWR", "2013-11-02 09:15", "2013-11-02 13:06", id="05:15 before they change back"),
        pytest.param("20131103-UA322-EWR", "2013-11-03 10:20", "2013-11-03 13:51", id="05:20 after they changed back"),
        pytest.param("20130115-B6709-JFK", "2013-01-15 11:10", "2013-01-15 14:36", id="San Juan in winter"),
        pytest.param("20130715-AA413-JFK", "2013-07-15 10:40", "2013-07-15 14:28", id="San Juan in summer"),
        pytest.param("20130115-HA51-JFK", "2013-01-15 14:00", "2013-01-16 00:39", id="Honolulu, the next day in UTC"),
        pytest.param("20130101-B61109-JFK", "2013-01-02 02:55", "2013-01-02 05:00", id="landed at 24:00"),
        pytest.param("20130207-B6727-JFK", "2013-02-08 04:59", "2013-02-08 08:32", id="left at 24:00, overnight"),
    ],
)
def test_hard_cases(flight, scheduled, landing, departures, arrivals):
    assert departures.loc[flight, "sched_dep_utc"] == pd.Timestamp(scheduled, tz="UTC")
    assert arrivals.loc[flight, "landed_at"] == pd.Timestamp(landing, tz="UTC")


def test_cancelled_flights_are_kept_and_never_labelled(packaged, departures, arrivals):
    cancelled = departures[departures["cancelled"]]
    assert len(cancelled) == packaged["dep_time"].reindex(departures.index).isna().sum() == 8_252
    assert cancelled[["dep_utc", "dep_delay"]].isna().all(axis=None)
    assert (cancelled["known_at"] - cancelled["sched_dep_utc"] == flights.CANCELLATION_KNOWN_AFTER).all()
    assert not arrivals.index.isin(cancelled.index).any()


def test_diverted_flights_have_an_unknown_label_not_a_negative_one(packaged, arrivals):
    rows = packaged.reindex(arrivals.index)
    assert rows["arr_time"].notna().all()
    assert (arrivals["tailnum"] == rows["tailnum"]).all()
    diverted = rows["arr_delay"].isna()
    assert diverted.sum() == 716
    assert arrivals["late_15"][diverted].isna().all()
    assert (arrivals["late_15"][~diverted].astype(bool) == (rows["arr_delay"][~diverted] > 15)).all()


def test_what_left_is_known_when_it_left(departures):
    left = departures[~departures["cancelled"]]
    assert (left["known_at"] == left["dep_utc"]).all()
    delay = (left["dep_utc"] - left["sched_dep_utc"]) / pd.Timedelta(minutes=1)
    assert (delay == left["dep_delay"]).all()


def test_every_observation_is_there_once_an_airport_and_hour(weather):
    packaged = pd.read_csv(flights._packaged("weather.csv"))
    assert len(weather) == len(packaged) == 26_115
    hours = ["origin", "year", "month", "day", "hour"]
    assert packaged.duplicated(hours).sum() == 3, "local time has an hour twice when the clocks go back"
    assert not weather.duplicated(["origin", "observed_at"]).any()
    local = weather["observed_at"].dt.tz_convert(NEW_YORK)
    read = weather.assign(
        year=local.dt.year, month=local.dt.month, day=local.dt.day, hour=local.dt.hour, at=weather["observed_at"]
    )
    numbers = ["temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib"]
    packaged = packaged.assign(at=pd.to_datetime(packaged["time_hour"], utc=True))
    order = [*hours, "at"]
    pd.testing.assert_frame_equal(
        read.sort_values(order)[[*hours, *numbers]].reset_index(drop=True),
        packaged.sort_values(order)[[*hours, *numbers]].reset_index(drop=True),
        check_dtype=False,
    )
    assert (weather["known_at"] - weather["observed_at"] == weather_feed.KNOWN_AFTER).all()


def test_the_hours_without_weather_are_the_ones_that_are_documented(weather):
    there = pd.MultiIndex.from_frame(weather[["observed_at", "origin"]])
    year = pd.date_range("2013-01-01", "2013-12-31 23:00", freq="h", tz="UTC")
    missing = pd.MultiIndex.from_product([year, ["EWR", "JFK", "LGA"]]).difference(there).get_level_values(0)
    assert len(missing) == 165
    assert set(year[:6]) <= set(missing)
    days = pd.Series(missing.date).value_counts()
    assert dict(days[days > 10]) == {date(2013, 1, 1): 20, date(2013, 12, 31): 72, **dict.fromkeys(NIGHTS, 15)}


@pytest.mark.parametrize("feed", ["departures", "arrivals", "weather"])
def test_a_landed_day_is_its_utc_day_and_no_more(feed, tmp_path, request):
    year = request.getfixturevalue(feed)
    times = year[EVENT_TIMES[feed]]
    last = weather_feed.LAST_DAY if feed == "weather" else LAST_DAY
    for day in (FIRST_DAY, date(2013, 3, 10), date(2013, 11, 3), last):
        written = land(tmp_path, day, feed)
        table = pq.read_table(Path(written["uri"]) / f"{feed}.parquet")
        assert table.num_rows == written["rows"] == (times.dt.date == day).sum()
        column = table[EVENT_TIMES[feed]].to_pylist()
        start = datetime(day.year, day.month, day.day, tzinfo=UTC)
        assert start <= column[0]
        assert column[-1] < start + timedelta(days=1)
        assert column == sorted(column)
        assert {str(f.type) for f in table.schema if f.name.endswith(("_utc", "_at"))} == {"timestamp[us, tz=UTC]"}


@pytest.mark.parametrize("feed", ["departures", "weather"])
def test_landing_again_writes_the_same_bytes(feed, tmp_path):
    first = Path(land(tmp_path / "a", FIRST_DAY, feed)["uri"])
    again = Path(land(tmp_path / "b", FIRST_DAY, feed)["uri"])
    land(tmp_path / "a", FIRST_DAY, feed)
    assert sorted(path.name for path in first.iterdir()) == ["_SUCCESS", f"{feed}.parquet"]
    assert (first / f"{feed}.parquet").read_bytes() == (again / f"{feed}.parquet").read_bytes()


def test_the_marker_comes_last(tmp_path, monkeypatch):
    """An upstream that dies on the way has landed nothing that anyone would read."""

    def die(path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "touch", die)
    with pytest.raises(KeyboardInterrupt):
        land(tmp_path, FIRST_DAY, "departures")
    folder = tmp_path / "departures" / str(FIRST_DAY)
    assert [path.name for path in folder.iterdir()] == ["departures.parquet"]


@pytest.mark.parametrize(
    ("feed", "day"),
    [
        ("departures", FIRST_DAY - timedelta(days=1)),
        ("departures", LAST_DAY + timedelta(days=1)),
        pytest.param("weather", LAST_DAY, id="the weather ends a day early"),
    ],
)
def test_a_day_that_a_feed_does_not_have_is_refused(feed, day, tmp_path):
    with pytest.raises(ConfigError, match=f"There is no {day} of '{feed}' to land"):
        land(tmp_path, day, feed)
    assert not list(tmp_path.iterdir())


def test_an_unknown_feed_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no feed 'planes'"):
        land(tmp_path, FIRST_DAY, "planes")


def test_all_of_it_can_happen_later(monkeypatch, tmp_path):
    day, later = date(2013, 2, 1), timedelta(days=4700)
    then = {feed: read_feed(feed, day, day) for feed in ("departures", "weather")}
    monkeypatch.setenv(flights.DAYS_LATER, str(later.days))
    for feed, rows in then.items():
        moved = read_feed(feed, day + later, day + later)
        assert moved.schema == rows.schema
        assert moved.num_rows == rows.num_rows
        for name in rows.column_names:
            a, b = rows[name].to_pylist(), moved[name].to_pylist()
            assert b == [value + later if isinstance(value, datetime) else value for value in a], name
    assert land(tmp_path, day + later, "weather")["rows"] == then["weather"].num_rows
    with pytest.raises(ConfigError, match="no 2013-02-01 of 'weather' to land"):
        land(tmp_path, day, "weather")
    monkeypatch.setenv(flights.DAYS_LATER, "soon")
    with pytest.raises(ConfigError, match="'soon' is not a number of days"):
        read_feed("weather", day, day)
