"""Partitions of every size and zone follow one another without a gap, and their keys say which they are."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_mlops import Partitioning, Partitions
from airflow_mlops.engine.data.exclusions import excluded_keys
from airflow_mlops.exceptions import ConfigError
from airflow_mlops.partitioning import aligned, finest_of, latest
from tests.unit.test_pipeline import pipeline, source

SIZES = ("hourly", "daily", "weekly", "monthly")
ZONES = ("UTC", "America/New_York", "Europe/Berlin", "America/Sao_Paulo", "Asia/Kolkata", "Australia/Lord_Howe")
every = st.builds(Partitioning, st.sampled_from(SIZES), st.sampled_from(ZONES))
seconds = st.integers(800_000_000, 1_900_000_000)
moments = seconds.map(lambda at: datetime.fromtimestamp(at, UTC))


@given(every, moments)
def test_every_moment_lies_in_one_partition(cut, moment):
    key = cut.key(moment)
    start, end = cut.interval(key)
    assert start <= moment < end
    assert (cut.floor(moment), cut.ceil(start), cut.next(start)) == (start, start, end)
    assert cut.key(end) > key, "keys sort as time does"


@given(every, moments, st.integers(1, 90))
def test_neighbours_touch_and_fill_a_span(cut, moment, hours):
    end = moment + timedelta(hours=hours)
    keys = list(cut.keys(moment, end))
    assert keys == sorted(set(keys))
    intervals = [cut.interval(key) for key in keys]
    assert intervals[0][0] <= moment
    assert end <= intervals[-1][1]
    assert all(one[1] == following[0] for one, following in itertools.pairwise(intervals))
    assert list(cut.within(moment, end)) == [
        k for k, (a, b) in zip(keys, intervals, strict=True) if moment <= a and b <= end
    ]


@given(every)
def test_text_and_back(cut):
    assert Partitioning.parse(str(cut)) == cut


@pytest.mark.parametrize(
    ("cut", "key", "hours"),
    [
        (Partitioning("daily", "America/New_York"), "2013-03-10", 23),
        (Partitioning("daily", "America/New_York"), "2013-11-03", 25),
        (Partitioning("daily", "Europe/Berlin"), "2013-03-31", 23),
        (Partitioning("daily", "America/Sao_Paulo"), "2013-10-20", 23),  # its midnight does not exist
        (Partitioning("weekly", "Europe/Berlin"), "2013-10-21", 169),
        (Partitioning("monthly"), "2013-02", 28 * 24),
        (Partitioning("hourly", "Europe/Berlin"), "2013-10-27T0000Z", 1),
    ],
    ids=str,
)
def test_a_partition_is_as_long_as_the_zone_makes_it(cut, key, hours):
    start, end = cut.interval(key)
    assert (end - start) / timedelta(hours=1) == hours


def test_an_hour_that_comes_twice_has_two_keys():
    cut = Partitioning("hourly", "America/New_York")
    night = datetime(2013, 11, 3, 4, tzinfo=UTC)
    keys = list(cut.keys(night, night + timedelta(hours=25)))
    assert len(set(keys)) == 25


@pytest.mark.parametrize(
    ("cut", "key"),
    [
        ("daily", "2013-1-5"),
        ("daily", "2013-W03"),
        ("daily", "2013-01"),
        ("daily", "9999-12-31"),
        ("weekly", "2013-01-15"),
        ("monthly", "2013-01-15"),
        ("hourly", "2013-01-15T07"),
        ("hourly", "2013-01-15T0730Z"),
        ("daily", ""),
    ],
)
def test_what_is_no_key_is_refused_with_an_example(cut, key):
    with pytest.raises(ConfigError, match=r"is not a partition key(.|\n)*A key is .* such as"):
        Partitioning(cut).interval(key)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (("dayly",), "Did you mean 'daily'?"),
        (("daily", "Europe/Berln"), "Did you mean 'Europe/Berlin'?"),
        (("daily", "../etc/passwd"), "There is no time zone"),
    ],
)
def test_no_such_size_or_zone(given, says):
    with pytest.raises(ConfigError) as refused:
        Partitioning(*given)
    assert says in str(refused.value)


def test_days_of_the_zone_are_a_span():
    cut = Partitioning("daily", "America/New_York")
    assert cut.span(date(2013, 3, 10), date(2013, 3, 10)) == cut.interval("2013-03-10")


def test_hours_are_compared_with_the_same_hour_of_the_local_day():
    cut = Partitioning("hourly", "America/New_York")
    before, after = cut.key(datetime(2013, 3, 8, 15, tzinfo=UTC)), cut.key(datetime(2013, 3, 11, 14, tzinfo=UTC))
    assert cut.cycle(before) == cut.cycle(after), "ten in the morning, before and after the clocks changed"
    assert cut.cycle(before) != cut.cycle(cut.key(datetime(2013, 3, 9, 15, tzinfo=UTC))), "a Saturday"


def test_an_exclusion_leaves_out_whole_local_days_only():
    class Window:
        start, end = datetime(2013, 1, 5, tzinfo=UTC), datetime(2013, 1, 8, tzinfo=UTC)

    assert excluded_keys([Window]) == {"2013-01-05", "2013-01-06", "2013-01-07"}
    assert excluded_keys([Window], Partitioning("daily", "America/New_York")) == {"2013-01-05", "2013-01-06"}


def test_the_finest_of_several():
    assert finest_of([Partitioning("weekly"), Partitioning("hourly"), Partitioning()]) == Partitioning("hourly")
    assert finest_of([]) == Partitioning()


@pytest.mark.parametrize("cut", ["hourly@America/New_York", "daily@Europe/Berlin", "weekly", "monthly@Asia/Kolkata"])
def test_the_features_dag_runs_once_a_partition_and_its_keys_are_the_partitionings(cut):
    partitioning = Partitioning.parse(cut)
    feeds = {name: source(name, partitioning=cut) for name in ("departures", "arrivals")}
    label = pipeline().label
    made = pipeline(source=feeds["departures"], label=type(label)("late", source=feeds["arrivals"], matures_after="1d"))
    dag = made.dags()["m_features"]
    from airflow.serialization.serialized_objects import DagSerialization

    timetable = DagSerialization.from_dict(DagSerialization.to_dict(dag)).timetable
    begin = datetime(2013, 10, 25, tzinfo=UTC)
    infos = timetable.iter_partition_dagrun_infos(earliest=begin, latest=begin + timedelta(days=45))
    for info in infos:
        start, _ = partitioning.interval(info.partition_key)
        assert start == info.partition_date
    assert dag.get_task("departures.wait").partitioning == cut
    assert dag.get_task("compute_features").partitioning == cut
    assert dag.start_date == partitioning.first(date(2013, 1, 1))


def test_a_feed_that_is_cut_finer_than_the_source_is_refused_in_words():
    label = pipeline().label
    with pytest.raises(ConfigError, match=r"cut finer(.|\n)*'arrivals' is hourly(.|\n)*='daily', lands='hourly'"):
        pipeline(label=type(label)("late", source=source("arrivals", partitioning="hourly"), matures_after="1d"))


@pytest.mark.parametrize(
    ("key", "cut", "feed", "belongs"),
    [
        ("2013-01-16", "daily", "weekly", "2013-01-07"),
        ("2013-01-13", "daily", "weekly", "2013-01-07"),
        ("2013-01-12", "daily", "weekly", "2012-12-31"),
        ("2013-01-31", "daily", "monthly", "2013-01"),
        ("2013-01-16", "daily@America/New_York", "daily", "2013-01-16"),
        ("2013-01-16", "daily", "daily@America/New_York", "2013-01-15"),
        ("2013-01-16T0700Z", "hourly", "daily", "2013-01-15"),
        ("None", "daily", "weekly", ""),
    ],
)
def test_of_a_larger_feed_a_run_takes_the_last_partition_that_has_ended(key, cut, feed, belongs):
    assert aligned(key, cut, feed) == belongs


@pytest.mark.parametrize(
    ("key", "cut", "feed", "belongs"),
    [
        ("2013-01-16", "daily", "weekly", "2013-01-14"),
        ("2013-01-13", "daily", "weekly", "2013-01-07"),
        ("2013-01-31", "daily", "monthly", "2013-01"),
        ("2013-01-16T0700Z", "hourly", "daily", "2013-01-16"),
        ("2013-01-16", "daily", "daily@America/New_York", "2013-01-15"),
    ],
)
def test_of_one_that_is_there_when_its_time_begins_the_one_it_begins_in(key, cut, feed, belongs):
    assert aligned(key, cut, feed, ahead=True) == belongs


def test_the_tasks_of_what_lands_ahead_and_in_pieces():
    prices = source("prices", partitioning="weekly", lands="daily", ahead=True)
    made = pipeline()
    dags = replace(made, features=replace(made.features, sources=[prices])).dags()
    dag = dags["m_features"]
    assert (
        dag.get_task("prices.wait").key
        == "{{ aligned(partition_key or latest('daily', ''), 'daily', 'weekly', True) }}"
    )
    assert (dag.get_task("prices.wait").lands, dag.get_task("prices.wait").ahead) == ("daily", True)
    assert dag.get_task("prices.stage").lands == "daily"
    assert dag.get_task("compute_features").ahead == ["prices"]
    feeds = {feed["dataset"]: feed["ahead"] for feed in dags["m_train"].get_task("wait_data").sources}
    assert [name for name, ahead in feeds.items() if ahead] == ["prices"]


def test_the_tasks_of_a_larger_feed_have_its_own_key():
    label = pipeline().label
    made = pipeline(label=type(label)("late", source=source("arrivals", partitioning="weekly"), matures_after="1d"))
    dag = made.dags()["m_features"]
    for name in ("wait", "stage", "validate", "check", "seal"):
        assert dag.get_task(f"departures.{name}").key == "{{ partition_key or latest('daily', '') }}"
        key = "{{ aligned(partition_key or latest('daily', ''), 'daily', 'weekly', False) }}"
        assert dag.get_task(f"arrivals.{name}").key == key
    assert dag.user_defined_macros["aligned"] is aligned
    assert dag.user_defined_macros["latest"] is latest


def test_a_run_without_a_key_takes_the_last_partition_that_has_ended():
    today = datetime.now(UTC).date()
    assert latest("daily") == str(today - timedelta(days=1))
    assert latest("daily", "2013-12-30") == "2013-12-30"
    assert latest("hourly") == f"{datetime.now(UTC) - timedelta(hours=1):%Y-%m-%dT%H00Z}"


def test_a_partitioning_may_be_written_as_text():
    assert Partitions(
        "a", event_time="at", suite="s:a", start=date(2013, 1, 1), partitioning="weekly"
    ).partitioning == (Partitioning("weekly"))
    with pytest.raises(ConfigError, match="Did you mean 'weekly'"):
        Partitions("a", event_time="at", suite="s:a", start=date(2013, 1, 1), partitioning="weakly")
