"""Columns that were destroyed: what nothing explains is found because the column does not look like itself."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from airflow_mlops.demo.flights import read_feed
from airflow_mlops.engine.data.checks import run_checks
from airflow_mlops.engine.data.profiles import profile_table
from tests.checks_fixtures import before, blocking, check, check_real_days, days, profiled, with_column

DAY = date(2013, 1, 19)
"""Eighteen days before it: two of the same weekday."""

TIME = pa.timestamp("us", tz="UTC")


@pytest.fixture(scope="module")
def flights() -> pa.Table:
    return read_feed("departures", DAY, DAY)


def failed(table: pa.Table, name: str):
    outcomes = check(profiled(table, "departures", DAY), before("departures", DAY), "departures")
    return {o.expectation: o for o in outcomes if o.column == name and not o.success}


def moved(**by: int):
    return lambda values: pc.add(values, pa.scalar(timedelta(**by)))


def constant(value: object, type: pa.DataType | None = None):
    return lambda values: pa.array([value] * len(values), type)


def drawn(draw):
    """Return what replaces values by random ones."""
    return lambda values: pa.array(draw(np.random.default_rng(0), values.to_numpy()))


@pytest.mark.parametrize(
    ("name", "change", "guard"),
    [
        ("cancelled", constant(True), "share_of_true_as_usual"),
        ("cancelled", drawn(lambda random, values: random.random(len(values)) < 0.5), "share_of_true_as_usual"),
        ("distance", constant(800.0), "distinct_numbers_as_usual"),
        ("dep_delay", constant(-2.0), "distinct_numbers_as_usual"),
        (
            "distance",
            drawn(lambda random, values: random.choice([500.0, 1500.0], len(values))),
            "distinct_numbers_as_usual",
        ),
        ("distance", drawn(lambda random, values: values * random.uniform(0, 10, len(values))), "values_as_usual"),
        ("distance", drawn(lambda random, values: values + random.normal(0, 7000, len(values))), "values_as_usual"),
        ("weekday", drawn(lambda random, values: (values + 1) % 7), "values_of_the_weekday"),
        ("dep_utc", constant(datetime(1970, 1, 1, tzinfo=UTC), TIME), "times_as_usual"),
        ("dep_utc", moved(hours=5), "times_as_usual"),
        ("sched_arr_utc", moved(days=3650), "times_as_usual"),
    ],
)
def test_a_destroyed_column_blocks(flights, name, change, guard):
    refused = failed(with_column(flights, name, change(flights[name])), name)[guard]
    assert refused.severity == "block"
    assert refused.note.startswith(("does not look like itself", "holds what it usually holds on another weekday"))


def test_a_rare_true_that_is_gone_warns(flights):
    spoilt = with_column(flights, "cancelled", constant(False)(flights["cancelled"]))
    assert failed(spoilt, "cancelled")["share_of_true_as_usual"].severity == "warn"


@pytest.mark.parametrize("feed", ["departures", "arrivals"])
def test_no_real_day_is_blocked(feed):
    """With two months that begin, the change to daylight saving time, and the storm of 8 March."""
    for day, outcomes in check_real_days(feed, days(date(2013, 2, 24), 40)).items():
        assert not blocking(outcomes), day


def tiny(day: date, rows: int, *, loaded: timedelta = timedelta(0), flag: int | None = None):
    """Return the profile of a made-up day: a flag, when it was loaded, a number, the month."""
    random = np.random.default_rng(day.toordinal())
    table = pa.table(
        {
            "flag": (random.random(rows) < 0.1).astype(int) if flag is None else np.full(rows, flag),
            "loaded": pa.array([datetime(day.year, day.month, day.day, 23, tzinfo=UTC) + loaded] * rows, TIME),
            "number": random.normal(10, 3, rows),
            "month": np.full(rows, day.month),
        }
    )
    return profile_table(table, dataset="tiny", key=str(day), revision="r")


HISTORY = [tiny(day, 200) for day in days(date(2013, 1, 5), 27)]


@pytest.mark.parametrize("rows", [1, 2, 5, 40])
def test_a_day_of_few_rows_and_a_new_month_are_no_news_of_their_values(rows):
    about_values = [o for o in run_checks(tiny(date(2013, 2, 1), rows), HISTORY) if o.column in ("number", "month")]
    assert not blocking(about_values)


def test_a_flag_of_numbers_that_holds_only_its_rare_value_blocks():
    [refused] = blocking(run_checks(tiny(date(2013, 2, 1), 200, flag=1), HISTORY))
    assert (refused.column, refused.expectation) == ("flag", "distinct_numbers_as_usual")


def test_a_load_that_is_late_only_warns():
    outcomes = run_checks(tiny(date(2013, 2, 1), 200, loaded=timedelta(hours=9)), HISTORY)
    [warned] = [o for o in outcomes if o.column == "loaded" and not o.success]
    assert (warned.expectation, warned.severity) == ("times_as_usual", "warn")
    assert "9.0 hours later" in warned.note
