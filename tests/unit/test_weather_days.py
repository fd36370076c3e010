"""Real weather is no fault of the feed; a feed that breaks is still found, with the example's own checks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date, timedelta

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from airflow_mlops.contracts import ExpectationOutcome, Profile
from airflow_mlops.demo.flights import read_feed
from airflow_mlops.engine.data.checks import run_checks
from airflow_mlops.engine.data.profiles import profile_table
from airflow_mlops.partitioning import DAILY
from airflow_mlops.parts import Checks
from flight_delay import flight_delay
from flights import contracts

[FEED] = flight_delay.features.sources
FIRST, HISTORY, CHECKED = date(2013, 1, 1), 56, 120
"""Of the year's first months: the broken sensor, the storm and most of the days that would look like other units."""


def profiled(table: pa.Table, day: date) -> Profile:
    return profile_table(
        table, dataset="weather", key=str(day), revision="r", slices=FEED.checks.slices, unique=FEED.checks.unique
    )


@pytest.fixture(scope="module")
def profiles() -> list[Profile]:
    days = [FIRST + timedelta(days=n) for n in range(CHECKED)]
    return [profiled(read_feed("weather", day, day), day) for day in days]


def found(profile: Profile, before: Sequence[Profile], checks: Checks = FEED.checks) -> list[ExpectationOutcome]:
    """What the features DAG would say of a day, but for its acceptance."""
    [key] = profile.revisions
    outcomes = run_checks(
        profile,
        before[-HISTORY:],
        slices=checks.slices,
        unique=checks.unique,
        volatile=checks.volatile,
        contract=contracts.weather(),
        event_time=FEED.event_time,
        interval=DAILY.interval(key),
    )
    return [outcome for outcome in outcomes if not outcome.success]


def blocked(outcomes: Sequence[ExpectationOutcome]) -> set[str]:
    return {outcome.expectation for outcome in outcomes if outcome.severity == "block"}


def test_no_real_day_is_blocked(profiles):
    alarms = {number: found(profile, profiles[:number]) for number, profile in enumerate(profiles)}
    assert not [number for number, outcomes in alarms.items() if blocked(outcomes)]
    warned = [number for number, outcomes in alarms.items() if outcomes]
    assert len(warned) < CHECKED / 6, "warnings that come all the time are read by nobody"


def test_some_would_be_if_the_weather_were_held_against_earlier_days(profiles):
    """Or the test above would prove nothing."""
    steady = Checks(slices=FEED.checks.slices, unique=FEED.checks.unique)
    days = [
        n for n, profile in enumerate(profiles) if "unit_unchanged" in blocked(found(profile, profiles[:n], steady))
    ]
    assert len(days) >= 3


def nulled(table: pa.Table) -> pa.Table:
    return table.set_column(table.column_names.index("temp"), "temp", pa.nulls(table.num_rows, pa.float64()))


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        pytest.param(lambda t: t.filter(pc.not_equal(t["origin"], "LGA")), "slice", id="an airport is gone"),
        pytest.param(lambda t: pa.concat_tables([t, t]), "duplicates_as_usual", id="twice"),
        pytest.param(nulled, "nulls_as_usual", id="no temperatures"),
        pytest.param(lambda t: t.drop_columns("visib"), "schema", id="a column is gone"),
    ],
)
def test_a_feed_that_breaks_is_found(fault: Callable[[pa.Table], pa.Table], named: str, profiles):
    day = FIRST + timedelta(days=CHECKED)
    broken = fault(read_feed("weather", day, day))
    assert any(named in outcome.expectation for outcome in found(profiled(broken, day), profiles))
