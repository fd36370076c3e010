"""Sealed partitions: listed, read, and refused when what is there is not what was sealed."""

from __future__ import annotations

import shutil
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from airflow_mlops.engine.data.parquet import parquet_files
from airflow_mlops.engine.data.partitions import PartitionStore
from airflow_mlops.exceptions import ConfigError, DataError
from airflow_mlops.partitioning import DAILY
from tests.data_fixtures import DAY, KEY, flip_a_byte, landed, seal_folder, sealed, spoil


@pytest.fixture(scope="module")
def week(tmp_path_factory) -> Path:
    """A home with five sealed days, the third of seven and the last one missing."""
    home = tmp_path_factory.mktemp("week")
    for n in (0, 1, 3, 4, 5):
        sealed(home, day=DAY + timedelta(days=n))
    return home


@pytest.mark.parametrize(
    ("start", "end", "days"),
    [
        (None, None, [15, 16, 18, 19, 20]),
        (date(2013, 1, 16), date(2013, 1, 19), [16, 18, 19]),
        (date(2013, 1, 17), date(2013, 1, 17), []),
        (None, date(2013, 1, 15), [15]),
        (date(2013, 1, 20), None, [20]),
    ],
)
def test_listing_has_both_ends_and_only_sealed_days(start, end, days, week):
    assert [p.key for p in PartitionStore.under(week).list("departures", start, end)] == [
        f"2013-01-{day}" for day in days
    ]


def test_listing_an_unknown_dataset_is_empty(week):
    assert PartitionStore.under(week).list("weather", None, None) == []


def test_rows_come_in_the_order_asked_for(week):
    days = PartitionStore.under(week).list("departures", None, None)
    table = PartitionStore.under(week).read(days[::-1], columns=["sched_dep_utc", "flight_id"])
    assert table.column_names == ["sched_dep_utc", "flight_id"]
    assert table.num_rows == sum(day.rows for day in days)
    assert table["sched_dep_utc"][0].as_py().date() == date(2013, 1, 20)
    assert table["sched_dep_utc"][-1].as_py().date() == DAY


def test_reading_nothing_is_refused(home):
    with pytest.raises(DataError, match="no partitions to read"):
        PartitionStore.under(home).read([])


def test_home_can_be_mounted_elsewhere(week, tmp_path):
    moved = shutil.copytree(week, tmp_path / "moved")
    store = PartitionStore.under(moved)
    partition = store.get("departures", KEY)
    assert partition.uri.startswith(str(moved))
    assert store.read([partition]).num_rows == partition.rows


def test_an_unknown_column_is_named(week):
    days = PartitionStore.under(week).list("departures", None, None)
    with pytest.raises(DataError, match=r"Partition 2013-01-15 .* does not have") as refused:
        PartitionStore.under(week).read(days, columns=["flight_id", "gate"])
    assert "no 'gate'" in refused.value.detail


@pytest.mark.parametrize(
    ("change", "detail"),
    [
        (lambda frame: frame.drop(columns="distance"), "no 'distance'"),
        (lambda frame: frame.rename(columns={"tailnum": "tail"}), "no 'tailnum'"),
    ],
)
def test_days_that_disagree_are_not_read_together(change, detail, home):
    first = sealed(home)
    next_day = DAY + timedelta(days=1)
    second = seal_folder(home, spoil(landed(home / "lake", day=next_day), change), key=next_day.isoformat())
    with pytest.raises(DataError, match="Partition 2013-01-16") as refused:
        PartitionStore.under(home).read([first, second])
    assert detail in refused.value.detail
    shared = ["flight_id", "dep_delay"]
    assert PartitionStore.under(home).read([first, second], shared).num_rows == first.rows + second.rows


@pytest.mark.parametrize(
    ("damage", "words"),
    [(flip_a_byte, "changed after it was sealed"), (lambda folder: parquet_files(folder)[0].unlink(), "is missing")],
)
def test_a_damaged_partition_is_refused_and_sealing_again_heals_it(damage, words, home):
    partition = sealed(home)
    damage(Path(partition.uri))
    with pytest.raises(DataError, match=f"2013-01-15 of 'departures' {words}") as refused:
        PartitionStore.under(home).read([partition])
    assert "departures.parquet" in refused.value.detail
    assert sealed(home) == partition
    assert PartitionStore.under(home).read([partition]).num_rows == partition.rows


def test_a_broken_manifest_is_said_to_be_one(home):
    sealed(home)
    (home / "partitions" / "departures" / KEY / "current.json").write_text('{"dataset": "departures"}')
    with pytest.raises(DataError, match="manifest of a partition cannot be read"):
        PartitionStore.under(home).get("departures", KEY)
    assert sealed(home) == PartitionStore.under(home).get("departures", KEY)


def test_the_watermark_moves_over_days_without_a_gap(week):
    store = PartitionStore.under(week)
    assert store.keys("departures") == [f"2013-01-{day}" for day in (15, 16, 18, 19, 20)]
    assert store.watermark("departures", DAY) == datetime(2013, 1, 17, tzinfo=UTC)
    assert store.watermark("departures", DAY, skip=["2013-01-17"]) == datetime(2013, 1, 21, tzinfo=UTC)
    assert store.watermark("departures", date(2013, 1, 14)) == datetime(2013, 1, 14, tzinfo=UTC)
    assert store.watermark("weather", DAY) == datetime(2013, 1, 15, tzinfo=UTC)


@pytest.mark.parametrize("revision", ["../2013-01-14/abc", "", "a/b"])
def test_a_revision_cannot_lead_elsewhere(home, revision):
    with pytest.raises(ConfigError, match="is not a revision"):
        PartitionStore.under(home).get("departures", KEY, revision)


def test_the_last_day_of_all_is_no_key():
    with pytest.raises(ConfigError, match="is not a partition key"):
        DAILY.interval("9999-12-31")


def test_a_folder_that_is_no_day_is_not_looked_at(week):
    store = PartitionStore.under(week)
    before = store.list("departures", None, None)
    for stray in ("junk", "20130117", "2013-02-30"):
        (week / "partitions" / "departures" / stray).mkdir()
    assert store.list("departures", None, None) == before
    assert store.keys("departures") == [found.key for found in before]
    assert store.watermark("departures", DAY) == datetime(2013, 1, 17, tzinfo=UTC)
