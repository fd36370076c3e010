"""D16: the source is readable but empty, or permission was lost.

An empty day is the quietest fault there is: the folder is there, the marker is there, every "no value may …"
holds. A training window that silently lacks days still trains.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date, timedelta
from pathlib import Path

import great_expectations.expectations as gxe
import pyarrow.parquet as pq
import pytest

from airflow_mlops.engine.data import partitions
from airflow_mlops.engine.data.arrival import look_for
from airflow_mlops.engine.data.parquet import column_types, parquet_files
from airflow_mlops.engine.data.partitions import PartitionStore, batch_hash
from airflow_mlops.engine.data.validation import enforce, evaluate, validate
from airflow_mlops.engine.data.validation.batches import ParquetBatch
from airflow_mlops.exceptions import DataError
from airflow_mlops.partitioning import DAILY
from flights import expectations
from tests.data_fixtures import DAY, KEY, landed, permission_lost, seal_folder, sealed, spoil

pytestmark = pytest.mark.drill

BEFORE = DAY - timedelta(days=1)


def no_files(folder: Path) -> None:
    for file in parquet_files(folder):
        file.unlink()


def no_rows(folder: Path) -> None:
    spoil(folder, lambda frame: frame.iloc[:0])


FAULTS = pytest.mark.parametrize(
    ("fault", "guard"),
    [
        pytest.param(no_files, "There are no Parquet files", id="no files"),
        pytest.param(no_rows, "no rows", id="no rows"),
    ],
)
CANNOT_LIST = 0o1
PERMISSIONS = pytest.mark.parametrize(
    "left", [pytest.param(0o0, id="nothing"), pytest.param(CANNOT_LIST, id="only to look names up")]
)
ROWWISE = [
    gxe.ExpectColumnValuesToNotBeNull(column="flight_id"),
    gxe.ExpectColumnValuesToBeUnique(column="flight_id"),
    gxe.ExpectColumnValuesToBeInSet(column="carrier", value_set=expectations.CARRIERS),
]


def believing(files: Sequence[Path], **_: object) -> ParquetBatch:
    """In place of the look at the files before a validation, with its check for rows: take what is there."""
    rows = sum(pq.read_metadata(file).num_rows for file in files)
    return ParquetBatch(tuple(files), pq.read_schema(files[0]).remove_metadata(), rows, batch_hash(files))


def window(home: Path) -> int:
    """Return how many rows a training on the day and the day before would read."""
    store = PartitionStore.under(home)
    return store.read(store.list("departures", BEFORE, DAY)).num_rows


def seal(home: Path, folder: Path) -> None:
    """Seal what nobody validated."""
    store = PartitionStore.under(home)
    store.seal("departures", KEY, folder, event_time="sched_dep_utc", batch_hash=None, suite_hash=None)


@FAULTS
def test_fault_guard_on(fault: Callable[[Path], None], guard: str, home):
    before = sealed(home, day=BEFORE)
    folder = landed(home / "lake")
    fault(folder)
    assert look_for(folder.parent, KEY) is not None  # the upstream says that the day is complete
    with pytest.raises(DataError, match=guard):
        validate(parquet_files(folder), ROWWISE, suite_name="departures", batch=KEY)
    with pytest.raises(DataError, match=guard):  # even if nobody validated
        seal(home, folder)
    with pytest.raises(DataError, match=f"There is no partition {KEY}"):
        PartitionStore.under(home).get("departures", KEY)
    assert window(home) == before.rows


@PERMISSIONS
def test_permission_lost_guard_on(left, home):
    """The day has landed, and nobody may read it: said at once, not waited for, and nothing is sealed."""
    before = sealed(home, day=BEFORE)
    folder = landed(home / "lake")
    with permission_lost(folder, left):
        for step in (
            lambda: look_for(folder.parent, KEY),
            lambda: parquet_files(folder),
            lambda: seal(home, folder),
        ):
            with pytest.raises(DataError, match="cannot be read") as refused:
                step()
            assert "permissions were lost" in refused.value.hint
    assert window(home) == before.rows
    with pytest.raises(DataError, match=f"There is no partition {KEY}"):
        PartitionStore.under(home).get("departures", KEY)


def test_an_empty_window_is_never_trained_on(home):
    with pytest.raises(DataError, match="Nothing is ever computed from nothing"):
        window(home)


def test_fault_guard_off(home, monkeypatch):
    """Without the checks for emptiness, row by row all is well, and training gets a window that lacks a day."""
    before = sealed(home, day=BEFORE)
    folder = landed(home / "lake")
    no_rows(folder)

    def trusting(files, event_time, bounds, source, **_):
        return column_types(pq.read_schema(files[0])), *bounds

    monkeypatch.setattr(partitions, "inspect", trusting)
    monkeypatch.setattr(evaluate, "parquet_batch", believing)
    result = validate(parquet_files(folder), ROWWISE, suite_name="departures", batch=KEY)
    enforce(result)
    assert (result.rows, result.failed) == (0, ())
    assert seal_folder(home, folder).rows == 0
    assert [partition.key for partition in PartitionStore.under(home).list("departures", BEFORE, DAY)] == [
        str(BEFORE),
        KEY,
    ]
    assert window(home) == before.rows  # two days were asked for


def test_permission_lost_guard_off(home):
    """To an ordinary glob, a folder that may not be listed is empty: the window silently lacks a day."""
    folders = [landed(home / "lake", day=day) for day in (BEFORE, DAY)]
    with permission_lost(folders[1], CANNOT_LIST):
        files = [file for folder in folders for file in folder.glob("*.parquet")]
    assert files == [folders[0] / "departures.parquet"]


@pytest.mark.slow
@pytest.mark.parametrize("feed", ["departures", "arrivals"])
def test_no_fault(feed, home):
    """The quietest days of the year and four ordinary weeks: small is not empty."""
    suites = {"departures": expectations.departures, "arrivals": expectations.arrivals}
    quiet = [date(2013, 1, 1), date(2013, 2, 9), date(2013, 2, 10), date(2013, 9, 1), date(2013, 11, 29)]
    for day in quiet:
        folder = landed(home / "lake", feed, day)
        enforce(validate(parquet_files(folder), suites[feed](), suite_name=feed, batch=str(day)))
        seal_folder(home, folder, feed, str(day))
    ordinary = [date(2013, 5, 1) + timedelta(days=n) for n in range(28)]
    for day in ordinary:
        assert look_for(landed(home / "lake", feed, day).parent, str(day))
        sealed(home, feed, day)
    store = PartitionStore.under(home)
    days = store.list(feed, None, None)
    assert [DAILY.interval(partition.key)[0].date() for partition in days] == sorted([*quiet, *ordinary])
    assert store.read(days).num_rows == sum(partition.rows for partition in days)
