"""Exclusion windows: kept until lifted, and the days that they cover."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_mlops.contracts import Exclusion
from airflow_mlops.engine.data.exclusions import exclude, excluded_keys, exclusions, lift
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.exceptions import ConfigError

NEW_YORK = timezone(timedelta(hours=-5))


def at(day: int, hour: int = 0, minute: int = 0, zone: timezone = UTC) -> datetime:
    return datetime(2013, 1, day, hour, minute, tzinfo=zone)


def window(start: datetime, end: datetime) -> Exclusion:
    return Exclusion(id="i", dataset="d", start=start, end=end, reason="r", who="w")


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(f"sqlite:///{tmp_path}/ledger.db")


def test_exclusions_stay_in_force_until_lifted(ledger):
    late = exclude(ledger, "arrivals", at(8), at(9), "clock off", "ana")
    early = exclude(ledger, "arrivals", at(5), at(7), "sensor broken", "ana")
    other = exclude(ledger, "weather", at(5), at(7), "sensor broken", "ana")
    again = Ledger(ledger.url)
    assert exclusions(again, "arrivals") == [early, late]
    assert exclusions(again, "weather") == [other]
    assert lift(again, early.id, "repaired from the source", "bo") == early
    assert exclusions(ledger, "arrivals") == [late]
    assert exclusions(ledger, "weather") == [other]
    (fact,) = ledger.facts("exclusion_lifted", "arrivals")
    assert (fact.key, fact.payload) == (early.id, {"reason": "repaired from the source", "who": "bo"})


@pytest.mark.parametrize("bound", [date(2013, 1, 5), "2013-01-05", None])
def test_what_is_no_moment_is_refused_in_words(ledger, bound):
    for window in ((bound, at(7)), (at(1), bound)):
        with pytest.raises(ConfigError, match=r"is not a moment(.|\n)*fix:"):
            exclude(ledger, "arrivals", *window, "sensor broken", "ana")
    assert ledger.facts("exclusion") == []


def test_nothing_is_lifted_without_an_id(ledger):
    made = exclude(ledger, "arrivals", at(5), at(7), "sensor broken", "ana")
    with pytest.raises(ConfigError, match="lacks: id"):
        lift(ledger, None, "repaired", "bo")
    assert exclusions(ledger, "arrivals") == [made]


def test_the_same_window_again_is_the_same_exclusion(ledger):
    first = exclude(ledger, "arrivals", at(5), at(7), "sensor broken", "ana")
    same = exclude(ledger, "arrivals", at(4, 19, zone=NEW_YORK), at(7), "sensor broken, once more", "bo")
    assert same == first
    assert len(ledger.facts("exclusion")) == 1


def test_a_lifted_window_can_be_excluded_again(ledger):
    first = exclude(ledger, "arrivals", at(5), at(7), "sensor broken", "ana")
    for _ in range(2):
        lift(ledger, first.id, "repaired", "bo")
    assert len(ledger.facts("exclusion_lifted")) == 1
    second = exclude(ledger, "arrivals", at(5), at(7), "not repaired after all", "bo")
    assert exclusions(ledger, "arrivals") == [second]
    assert second.reason == "not repaired after all"
    lift(ledger, second.id, "now it is", "bo")
    assert exclusions(ledger, "arrivals") == []


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"start": datetime(2013, 1, 5)}, "no time zone"),  # noqa: DTZ001
        ({"end": datetime(2013, 1, 7)}, "no time zone"),  # noqa: DTZ001
        ({"end": at(5)}, "is empty"),
        ({"end": at(4)}, "is empty"),
        ({"reason": " "}, "lacks: reason"),
        ({"who": ""}, "lacks: who"),
        ({"dataset": ""}, "lacks: dataset"),
    ],
)
def test_wrong_exclusions_are_refused_and_not_kept(ledger, changed, said):
    good = {"dataset": "arrivals", "start": at(5), "end": at(7), "reason": "sensor broken", "who": "ana"}
    with pytest.raises(ConfigError, match=said):
        exclude(ledger, **{**good, **changed})
    assert ledger.facts("exclusion") == []


def test_lifting_what_is_not_there_names_what_is(ledger):
    with pytest.raises(ConfigError, match="known: none"):
        lift(ledger, "0123456789ab", "repaired", "bo")
    made = exclude(ledger, "arrivals", at(5), at(7), "sensor broken", "ana")
    with pytest.raises(ConfigError, match=rf"Did you mean '{made.id}'(.|\n)*{made.id} \(arrivals\)"):
        lift(ledger, made.id[:-1], "repaired", "bo")
    with pytest.raises(ConfigError, match="lacks: who"):
        lift(ledger, made.id, "repaired", "")
    assert exclusions(ledger, "arrivals") == [made]


@pytest.mark.parametrize(
    ("windows", "days"),
    [
        ([], set()),
        ([window(at(5), at(7))], {"2013-01-05", "2013-01-06"}),
        ([window(at(5, 0, 1), at(7))], {"2013-01-06"}),
        ([window(at(5), at(6, 23, 59))], {"2013-01-05"}),
        ([window(at(5, 6), at(5, 18))], set()),
        ([window(at(5, 12), at(6)), window(at(5), at(5, 12))], {"2013-01-05"}),
        ([window(at(5), at(9)), window(at(6), at(7)), window(at(8), at(10))], {f"2013-01-0{n}" for n in range(5, 10)}),
        ([window(at(4, 19, zone=NEW_YORK), at(5, 19, zone=NEW_YORK))], {"2013-01-05"}),
    ],
)
def test_only_days_wholly_inside_are_excluded(windows, days):
    assert excluded_keys(windows) == days


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 95), st.integers(1, 96)), max_size=6))
def test_a_day_is_excluded_exactly_when_each_of_its_hours_is(spans):
    windows = [window(at(1) + timedelta(hours=start), at(1) + timedelta(hours=start + n)) for start, n in spans]
    hours = {hour for start, n in spans for hour in range(start, start + n)}
    days = {f"2013-01-0{day + 1}" for day in range(8) if hours.issuperset(range(24 * day, 24 * day + 24))}
    assert excluded_keys(windows) == days
