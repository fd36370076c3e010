"""Where the files of a partition lie: patterns, what they may say, and what is found by them."""

from __future__ import annotations

from datetime import date, timedelta

import pytest

from airflow_mlops import Partitioning, Partitions
from airflow_mlops.engine.data.arrival import look
from airflow_mlops.exceptions import ConfigError
from airflow_mlops.layout import Layout
from tests.unit.test_pipeline import pipeline, source

DAILY, HOURLY = Partitioning(), Partitioning("hourly", "America/New_York")


@pytest.mark.parametrize(
    ("pattern", "cut", "key", "found"),
    [
        ("{key}/*", DAILY, "2013-01-05", "2013-01-05/*"),
        ("dt={key}/*.parquet", DAILY, "2013-01-05", "dt=2013-01-05/*.parquet"),
        ("{year}/{month:02}/{day:02}/o-*.csv.gz", DAILY, "2013-01-05", "2013/01/05/o-*.csv.gz"),
        ("orders_{start:%Y%m%d}.csv", DAILY, "2013-01-05", "orders_20130105.csv"),
        ("{start:%Y-%m-%d}/{hour:02}/*", HOURLY, "2013-01-05T0300Z", "2013-01-04/22/*"),
        ("{iso_year}-W{iso_week:02}/*", Partitioning("weekly"), "2012-12-31", "2013-W01/*"),
        ("{key}.json", Partitioning("monthly"), "2013-01", "2013-01.json"),
    ],
)
def test_a_pattern_names_a_partition(pattern, cut, key, found):
    assert Layout(pattern).of(key, cut) == [found]


def test_what_lands_in_pieces_is_in_a_place_a_piece():
    new_york = Partitioning("daily", "America/New_York")
    hours = Layout("{key}/*.csv", Partitioning("hourly")).pieces("2013-03-10", new_york)
    assert list(hours.values())[:2] == ["2013-03-10T0500Z/*.csv", "2013-03-10T0600Z/*.csv"]
    assert len(hours) == 23, "the clock skips one"
    week = Layout("{year}/{month:02}/{day:02}.csv", DAILY)
    assert week.of("2012-12-31", Partitioning("weekly"))[-1] == "2013/01/06.csv"
    assert not week.shared("2012-12-31", Partitioning("weekly"))
    assert week.shared("2012-12-31", Partitioning("weekly", "Europe/Berlin"))


def test_pieces_are_finer_than_what_is_made_of_them():
    for lands in ("daily", "weekly"):
        with pytest.raises(ConfigError, match=rf"not finer(.|\n)*lands='{lands}', partitioning='daily'"):
            source(lands=lands)
    with pytest.raises(ConfigError, match="the same for"):
        source(lands="hourly", layout="{year}-{month}-{day}/*.csv")


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("all/*.parquet", "is the same for every partition"),
        ("{kez}/*", "Did you mean 'key'?"),
        ("{key", "cannot be read"),
        ("/abs/{key}", "leads out of the feed"),
        ("../{key}", "leads out of the feed"),
        ("{year}/{month:02}/*", "is the same for 2013-01-01 and the partition after it"),
        ("{year:x!}", "cannot be filled in"),
    ],
)
def test_a_mistake_is_explained_when_the_file_is_parsed(pattern, says):
    with pytest.raises(ConfigError) as refused:
        source(layout=pattern)
    assert says in str(refused.value)


@pytest.mark.parametrize(
    ("one", "other", "meet"),
    [
        ("dt={key}/*.csv", "dt={key}/b*.csv", True),
        ("dt={key}/*", "{key}/*", False),
        ("orders-{key}.csv", "prices-{key}.csv", False),
        ("{key}/orders-*.csv", "{key}/prices-*.csv", False),
        ("{key}/**/*", "{key}/*/prices.csv", True),
    ],
)
def test_patterns_that_meet(one, other, meet):
    assert source(layout=one).meets(source(layout=other)) == meet


def test_a_pattern_that_two_days_share_is_refused():
    with pytest.raises(ConfigError, match=r"same for some days(.|\n)*month:02"):
        source(layout="{year}{month}{day}.csv")
    source(layout="{year}/{month}/{day}/*.csv")


def test_two_feeds_with_the_same_files_are_refused():
    feed = Partitions("lake/departures", event_time="at", suite="s:a", start=date(2013, 1, 1), dataset="other")
    label = pipeline().label
    with pytest.raises(ConfigError, match="have the same files"):
        pipeline(label=type(label)("late", source=feed))


@pytest.mark.parametrize(
    ("layout", "asked"),
    [
        ("{key}/*", {"marker": "_SUCCESS", "manifest": None, "settle": None, "asset": None}),
        ("dt={key}/*.parquet", {"marker": "_SUCCESS", "manifest": None, "settle": None, "asset": None}),
        ("orders-{key}.csv", {"marker": None, "manifest": None, "settle": "5m", "asset": None}),
    ],
)
def test_what_tells_that_it_is_complete_follows_the_layout(layout, asked):
    assert source(layout=layout).asked() == asked


def test_one_word_chooses_what_tells_it():
    assert source(arrived="still", still_for="1h").asked()["settle"] == "1h"
    assert source(arrived="manifest", marker="m.json").asked()["manifest"] == "m.json"
    assert source(arrived="event", asset="shop.orders").asked()["asset"] == "shop.orders"
    with pytest.raises(ConfigError, match="does not say one clear thing"):
        source(arrived="event")
    with pytest.raises(ConfigError, match=r"manifest of .* has no name"):
        source(arrived="manifest")
    with pytest.raises(ConfigError, match="arrived: Input should be 'marker', 'manifest', 'still' or 'event'"):
        source(arrived="markr")


@pytest.fixture
def feed(tmp_path):
    for name in ("dt=2013-01-05/a.csv", "dt=2013-01-05/sub/b.csv", "orders-2013-01-05.csv", "2013/01/05/x.parquet"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("a\n1\n")
    return tmp_path


@pytest.mark.parametrize(
    ("layout", "files"),
    [
        ("dt={key}/*.csv", 1),
        ("dt={key}/**/*.csv", 2),
        ("orders-{key}.csv", 1),
        ("{year}/{month:02}/{day:02}/*", 1),
        ("*/{month:02}/{day:02}/*", 1),
    ],
)
def test_files_are_found_wherever_they_lie(feed, layout, files):
    found = look(feed, "2013-01-05", marker=None, min_rows=0, settle=timedelta(microseconds=1),
                 layout=Layout(layout))  # fmt: skip
    assert found.arrival is not None, found.missing
    assert found.arrival["files"] == files


def test_what_lies_there_and_does_not_fit_is_named(feed):
    missing = look(feed, "2013-01-05").missing
    assert "nothing is there: there are 'dt=2013-01-05', 'orders-2013-01-05.csv'" in missing
    other = look(feed, "2013-01-06", layout=Layout("dt={key}/*.csv")).missing
    assert "nothing is there: there are '2013', 'dt=2013-01-05', 'orders-2013-01-05.csv'" in other
