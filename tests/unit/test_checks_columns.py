"""Values of columns against the days before: units, shifted columns, casing, nulls, repeats, age."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from airflow_mlops.demo.flights import read_feed
from airflow_mlops.engine.data.checks import Column, SchemaContract, run_checks
from airflow_mlops.engine.data.profiles import profile_table
from airflow_mlops.partitioning import DAILY
from tests.checks_fixtures import before, blocking, check, names, profiled, with_column

DAY = date(2013, 6, 12)


@pytest.fixture(scope="module")
def flights() -> pa.Table:
    return read_feed("departures", DAY, DAY)


def found(table: pa.Table):
    return check(profiled(table, "departures", DAY), before("departures", DAY), "departures")


def of(outcomes, column: str):
    return [o for o in outcomes if o.column == column and not o.success]


def weather(number: int, rows: int = 500, change=lambda celsius: celsius):
    """A made-up day of temperatures, a counter that starts at 0, and a code."""
    random = np.random.default_rng(number)
    celsius = random.normal(15 + random.normal(0, 3), 6, rows)
    table = pa.table(
        {
            "temperature": change(celsius),
            "position": pa.array(np.arange(rows) % 10),
            "humidity": random.uniform(20, 90, rows),
            "code": [f"c{n % 7}" for n in range(rows)],
        }
    )
    return table, str(date(2013, 3, 1) + timedelta(days=number))


def weather_profile(number: int, **how):
    table, key = weather(number, **how)
    return profile_table(table, dataset="weather", key=key, revision="r")


WEATHER = SchemaContract(version="1", columns={"temperature": Column("double", unit="°C")})


@pytest.mark.parametrize(
    ("column", "factor", "says"),
    [
        ("dep_delay", 60.0, "a factor of 60 (minutes"),
        ("dep_delay", 1 / 60, "a factor of 1/60"),
        ("dep_delay", 1000.0, "a factor of 1000"),
        ("distance", 1.609344, "a factor of 1.60934 (miles"),
        ("distance", 100.0, "a factor of 100"),
        ("distance", -1.0, "the sign"),
    ],
)
def test_delays_and_distances_in_another_unit(flights, column, factor, says):
    """What a noisy column shrank by is only known about: the unit in the contract decides between 60 and 100."""
    spoilt = with_column(flights, column, pc.multiply(flights[column], factor))
    contract = SchemaContract(version="1", columns={"dep_delay": Column("double", unit="minutes")})
    outcomes = check(profiled(spoilt, "departures", DAY), before("departures", DAY), "departures", contract=contract)
    [refused] = [o for o in of(outcomes, column) if o.expectation == "unit_unchanged"]
    assert refused.severity == "block"
    assert says in refused.note


def test_a_factor_that_has_no_name(flights):
    spoilt = with_column(flights, "distance", pc.multiply(flights["distance"], 7.5))
    [refused] = of(found(spoilt), "distance")
    assert "a constant factor of 7.5" in refused.note


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda celsius: celsius * 1.8 + 32, "Celsius → Fahrenheit; the contract says °C"),
        (lambda celsius: celsius + 273.15, "Celsius → Kelvin"),
    ],
)
def test_temperatures_on_another_scale(change, says):
    history = [weather_profile(n) for n in range(28)]
    outcomes = run_checks(weather_profile(30, change=change), history, contract=WEATHER)
    [refused] = [o for o in blocking(outcomes) if o.expectation == "unit_unchanged"]
    assert says in refused.note
    assert not names(run_checks(weather_profile(30), history)) & {"unit_unchanged", "values_as_usual"}


def test_a_level_that_moves_warns_and_one_that_moves_with_time_does_not():
    history = [weather_profile(n) for n in range(28)]
    moved = run_checks(weather_profile(30, change=lambda celsius: celsius + 40), history)
    assert [o.severity for o in of(moved, "temperature")] == ["warn"]
    meter = [weather_profile(n, change=lambda celsius, n=n: celsius / 100 + n * 50) for n in range(57)]
    assert not of(run_checks(meter[-1], meter[:-1]), "temperature")
    delta = weather_profile(58, change=lambda celsius: celsius / 100 + 50)  # a meter that now says the difference
    assert of(run_checks(delta, meter), "temperature")


def test_a_counter_that_starts_at_one():
    history = [weather_profile(n) for n in range(28)]
    table, key = weather(30)
    shifted = with_column(table, "position", pc.add(table["position"], 1))
    outcomes = run_checks(profile_table(shifted, dataset="weather", key=key, revision="r"), history)
    [warned] = of(outcomes, "position")
    assert warned.expectation == "values_not_offset"
    assert "+1" in warned.note


def test_columns_that_hold_their_neighbours_values(flights):
    """Types match, every value is a possible one: only the distributions give it away."""
    spoilt = with_column(flights, "distance", flights["sched_minutes"])
    spoilt = with_column(spoilt, "origin", flights["dest"])
    spoilt = with_column(spoilt, "tailnum", flights["origin"])
    refused = blocking(found(spoilt))
    notes = {o.column: o.note for o in refused if o.expectation in ("unit_unchanged", "categories_known")}
    assert "holds what 'sched_minutes' usually holds" in notes["distance"]
    assert "holds what 'dest' usually holds" in notes["origin"]
    assert "tailnum" in {o.column for o in refused if o.expectation == "distinct_values_as_usual"}


@pytest.mark.parametrize(
    ("change", "says", "severity"),
    [
        (pc.utf8_lower, "casing, such as 'UA' → 'ua'", "block"),
        (lambda values: pc.binary_join_element_wise(values, " ", ""), "white space", "block"),
        (lambda values: pa.array(["ua", *values.to_pylist()[1:]]), "casing", "warn"),
    ],
)
def test_values_that_differ_in_casing_or_white_space(flights, change, says, severity):
    outcomes = found(with_column(flights, "carrier", change(flights["carrier"])))
    [warned] = [o for o in outcomes if o.expectation == "casing_unchanged"]
    assert says in warned.note
    assert warned.severity == severity


def test_values_of_a_column_that_is_no_slice_are_not_quoted(flights):
    outcomes = found(with_column(flights, "dest", pc.utf8_lower(flights["dest"])))
    [refused] = [o for o in outcomes if o.expectation == "casing_unchanged"]
    assert "lax" not in refused.to_json().lower()
    assert refused.unexpected_count == flights.num_rows


def test_only_cats_today():
    history = [weather_profile(n) for n in range(28)]
    table, key = weather(30)
    cats = with_column(table, "code", pa.array(["c1"] * table.num_rows))
    reindeer = with_column(table, "code", pa.array(["reindeer"] * 300 + ["c1"] * 200))
    for spoilt, guard in ((cats, "distinct_values_as_usual"), (reindeer, "categories_known")):
        outcomes = run_checks(profile_table(spoilt, dataset="weather", key=key, revision="r"), history)
        assert guard in {o.expectation for o in blocking(outcomes)}


def test_the_newest_days_may_lack_what_is_known_later():
    history = [weather_profile(n) for n in range(28)]
    table, key = weather(30)
    unknown = profile_table(
        with_column(table, "code", pa.nulls(table.num_rows, pa.string())), dataset="weather", key=key, revision="r"
    )
    assert "nulls_as_usual" in {o.expectation for o in blocking(run_checks(unknown, history))}
    assert not blocking(run_checks(unknown, history, late=["code"]))


def test_nulls_and_infinities(flights):
    empty = with_column(flights, "dest", pa.nulls(flights.num_rows, pa.string()))
    assert "nulls_as_usual" in {o.expectation for o in blocking(of(found(empty), "dest"))}
    some = pa.array([None if n % 10 == 0 else v for n, v in enumerate(flights["distance"].to_pylist())])
    assert [o.severity for o in of(found(with_column(flights, "distance", some)), "distance")] == ["warn"]
    infinite = pa.array([float("inf"), *flights["distance"].to_pylist()[1:]])
    [refused] = of(found(with_column(flights, "distance", infinite)), "distance")
    assert (refused.expectation, refused.unexpected_count) == ("no_new_infinities", 1)


def test_a_nearly_unique_column_is_named_without_its_values(flights):
    emails = pa.array([f"someone{n}@example.com" for n in range(flights.num_rows)])
    [warned] = of(found(flights.append_column("contact", emails)), "contact")
    assert (warned.expectation, warned.severity) == ("column_not_nearly_unique", "warn")
    assert "example.com" not in warned.to_json()


def test_a_frozen_source_repeats_a_day(flights):
    """Yesterday's numbers under today's date."""
    yesterday = read_feed("departures", DAY - timedelta(days=1), DAY - timedelta(days=1))
    moved = with_column(yesterday, "sched_dep_utc", pc.add(yesterday["sched_dep_utc"], pa.scalar(timedelta(days=1))))
    [refused] = [o for o in blocking(found(moved)) if o.expectation == "day_not_repeated"]
    assert "2013-06-11" in refused.note


def test_a_fresh_file_with_old_data(flights):
    key = str(DAY)
    history = before("departures", DAY)
    written = datetime(2013, 6, 13, 2, tzinfo=UTC)

    def age(table: pa.Table):
        profile = profiled(table, "departures", DAY)
        outcomes = run_checks(
            profile, history, event_time="sched_dep_utc", interval=DAILY.interval(key), written_at=written
        )
        [outcome] = [o for o in outcomes if o.expectation == "data_as_new_as_its_file"]
        return outcome

    assert age(flights).success
    noon = pa.scalar(datetime(2013, 6, 12, 12, tzinfo=UTC), pa.timestamp("us", tz="UTC"))
    half = age(flights.filter(pc.less(flights["sched_dep_utc"], noon)))
    assert (half.success, half.severity) == (False, "warn")
    old = age(with_column(flights, "sched_dep_utc", pc.subtract(flights["sched_dep_utc"], pa.scalar(timedelta(9)))))
    assert (old.success, old.severity) == (False, "block")
    assert old.note.startswith("the file is fresh, the data is old")


def test_an_event_time_that_is_not_there_is_unknown(flights):
    outcomes = run_checks(
        profiled(flights, "departures", DAY), [], event_time="sched_dep_utcc", interval=DAILY.interval(str(DAY))
    )
    [refused] = blocking(outcomes)
    assert "Did you mean 'sched_dep_utc'?" in str(refused.error)


def test_minutes_never_become_feet():
    """The delays of a stormy Sunday look like those of a calm one times 3.28; the unit says that they are not."""
    from airflow_mlops.engine.data.checks.distribution import _possible

    assert 3.28084 not in _possible("minutes")
    assert 60.0 in _possible("minutes")
    assert 60.0 not in _possible("miles")
    assert 1.609344 in _possible("miles")
    assert {60.0, 3.28084} <= set(_possible(None))
    assert {60.0, 3.28084} <= set(_possible("passengers"))
