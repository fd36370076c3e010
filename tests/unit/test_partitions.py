"""Sealed partitions: published whole or not at all, the same bytes give the same revision, nonsense is refused."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_mlops.contracts import Partition
from airflow_mlops.engine.data import partitions, storage
from airflow_mlops.engine.data.files import sha256
from airflow_mlops.engine.data.parquet import parquet_files
from airflow_mlops.engine.data.partitions import PartitionStore, batch_hash
from airflow_mlops.exceptions import ConfigError, DataError
from airflow_mlops.partitioning import DAILY
from tests.data_fixtures import KEY, flip_a_byte, landed, permission_lost, seal_folder, sealed, spoil


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def nothing_is_visible(home: Path) -> bool:
    with pytest.raises(DataError, match="There is no partition 2013-01-15"):
        PartitionStore.under(home).get("departures", KEY)
    return PartitionStore.under(home).list("departures", None, None) == []


# --- what is sealed ---------------------------------------------------------------------------------------


def test_the_manifest_says_what_is_in_it(home):
    folder = landed(home / "lake")
    [source] = parquet_files(folder)
    partition = seal_folder(home, folder)
    table = pq.read_table(source)
    [file] = partition.files
    assert (partition.dataset, partition.key, partition.rows) == ("departures", KEY, table.num_rows)
    assert (file.name, file.sha256, file.rows) == ("departures.parquet", sha256(source), table.num_rows)
    assert partition.bytes == file.bytes == source.stat().st_size
    assert partition.columns == {field.name: str(field.type) for field in table.schema}
    assert partition.min_event_time == min(table["sched_dep_utc"].to_pylist())
    assert partition.max_event_time == max(table["sched_dep_utc"].to_pylist())
    assert partition.receipt.uri == str(folder)
    assert partition.suite_hash == "suite"
    stored = Path(partition.uri)
    assert stored == home / "partitions" / "departures" / KEY / partition.revision
    assert Partition.from_json((stored / "manifest.json").read_bytes()) == partition
    assert PartitionStore.under(home).get("departures", KEY) == partition
    assert PartitionStore.under(home).read([partition]).equals(table)


def test_identical_input_gives_the_identical_revision_and_changes_nothing(home):
    first = sealed(home)
    before = {path: path.stat().st_ino for path in (home / "partitions").rglob("*.parquet")}
    assert sealed(home) == first
    assert {path: path.stat().st_ino for path in (home / "partitions").rglob("*.parquet")} == before
    assert len(names(home / "partitions" / "departures" / KEY)) == 3


def test_other_bytes_are_another_revision_and_the_old_one_stays_readable(home):
    old = sealed(home)
    new = seal_folder(home, spoil(landed(home / "lake"), lambda frame: frame.iloc[1:]))
    assert new.revision != old.revision
    assert new.rows == old.rows - 1
    assert PartitionStore.under(home).get("departures", KEY) == new
    assert PartitionStore.under(home).read([old]).num_rows == old.rows


def test_several_files_are_one_partition(home, tmp_path):
    table = pq.read_table(parquet_files(landed(home / "lake"))[0])
    folder = tmp_path / "two"
    folder.mkdir()
    pq.write_table(table.slice(0, 400), folder / "part-0.parquet")
    pq.write_table(table.slice(400), folder / "part-1.parquet")
    partition = seal_folder(home, folder)
    assert [file.rows for file in partition.files] == [400, table.num_rows - 400]
    assert PartitionStore.under(home).read([partition]).equals(table)


def test_the_suite_that_the_bytes_passed_is_kept_and_replaced(home):
    folder = landed(home / "lake")

    def again(suite_hash: str | None) -> Partition:
        return PartitionStore.under(home).seal(
            "departures", KEY, folder, event_time="sched_dep_utc", batch_hash=None, suite_hash=suite_hash
        )

    first = again("one")
    assert again(None) == first  # sealing without a validation does not undo one
    other = again("two")
    assert other == PartitionStore.under(home).get("departures", KEY) == first.model_copy(update={"suite_hash": "two"})
    assert Partition.from_json((Path(other.uri) / "manifest.json").read_bytes()) == other


def test_the_receipt_says_what_was_received_and_keeps_saying_it(home):
    folder = landed(home / "lake")
    (folder / "files.json").write_text("{}")
    [source] = parquet_files(folder)
    os.utime(source, (1_600_000_000, 1_600_000_000))

    def again() -> Partition:
        store = PartitionStore.under(home)
        return store.seal(
            "departures",
            KEY,
            folder,
            event_time="sched_dep_utc",
            batch_hash=None,
            suite_hash=None,
            manifest="files.json",
        )

    first = again()
    assert first.receipt.written_at == datetime.fromtimestamp(1_600_000_000, UTC)
    assert (first.receipt.files, first.receipt.bytes) == (1, source.stat().st_size)
    assert first.receipt.manifest_sha256 == sha256(folder / "files.json")
    os.utime(source)  # the upstream landed the same bytes again
    assert again() == first


def test_what_is_sealed_is_what_was_validated(home):
    folder = landed(home / "lake")
    validated = batch_hash(parquet_files(folder))
    spoil(folder, lambda frame: frame.assign(dep_delay=0.0))
    with pytest.raises(DataError, match="changed after they were validated"):
        PartitionStore.under(home).seal(
            "departures", KEY, folder, event_time="sched_dep_utc", batch_hash=validated, suite_hash="suite"
        )
    assert nothing_is_visible(home)


def test_writers_at_the_same_time_agree(home):
    folder = landed(home / "lake")
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: seal_folder(home, folder), range(16)))
    assert results == [results[0]] * 16
    assert names(home / "partitions" / "departures" / KEY) == [
        f"{results[0].revision}/departures.parquet",
        f"{results[0].revision}/manifest.json",
        "current.json",
    ]


# --- what is refused --------------------------------------------------------------------------------------


def times(change) -> object:
    return lambda folder: spoil(folder, lambda frame: frame.assign(sched_dep_utc=change(frame["sched_dep_utc"])))


def write_naive(folder: Path) -> None:
    [file] = parquet_files(folder)
    frame = pd.read_parquet(file)
    pq.write_table(pa.Table.from_pandas(frame.assign(sched_dep_utc=frame["sched_dep_utc"].dt.tz_localize(None))), file)


def truncate(folder: Path) -> None:
    [file] = parquet_files(folder)
    file.write_bytes(file.read_bytes()[:-500])


def write_wide(folder: Path, missing: Collection[int]) -> None:
    """Replace the day by two files of 100 columns, of which the second lacks some."""
    [file] = parquet_files(folder)
    times = pq.read_table(file, columns=["sched_dep_utc"])
    file.unlink()
    for n, lacking in enumerate([(), missing]):
        table = times
        for column in range(99):
            if column not in lacking:
                table = table.append_column(f"c{column}", pa.nulls(len(times), pa.int64()))
        pq.write_table(table, folder / f"wide-{n}.parquet")


def write_twice(folder: Path) -> None:
    [file] = parquet_files(folder)
    table = pq.read_table(file)
    pq.write_table(table.append_column("dest", table["dest"]), file)


def write_in_another_zone(folder: Path) -> None:
    frame = pd.read_parquet(parquet_files(folder)[0])
    local = frame["sched_dep_utc"].dt.tz_convert("America/New_York")
    table = pa.Table.from_pandas(frame.assign(sched_dep_utc=local))
    table = table.cast(pa.schema([field.with_type(_us(field.type)) for field in table.schema]))
    pq.write_table(table.replace_schema_metadata(), folder / "more.parquet")


def _us(kind: pa.DataType) -> pa.DataType:
    return pa.timestamp("us", kind.tz) if pa.types.is_timestamp(kind) else kind


def write_alike(folder: Path) -> None:
    [file] = parquet_files(folder)
    table = pq.read_table(file)
    pq.write_table(table.append_column("Dest", table["dest"]), file)


def damage_a_page(folder: Path) -> None:
    """Break a page's header; the footer stays whole, and no checksum tells."""
    [file] = parquet_files(folder)
    pq.write_table(pq.read_table(file), file, use_dictionary=False)
    start = pq.read_metadata(file).row_group(0).column(0).data_page_offset
    contents = file.read_bytes()
    file.write_bytes(contents[:start] + b"\xff" * 200 + contents[start + 200 :])


def write_far_future(folder: Path) -> None:
    [file] = parquet_files(folder)
    table = pq.read_table(file)
    at = table.schema.get_field_index("sched_dep_utc")
    years = pa.array([400_000 * 86_400 * 10**7] * len(table), pa.int64()).cast(table.schema.field(at).type)
    pq.write_table(table.set_column(at, table.schema.field(at), years), file)


def add_a_file_of_another_shape(folder: Path) -> None:
    frame = pd.read_parquet(parquet_files(folder)[0])
    frame.drop(columns="distance").assign(flight="x").to_parquet(folder / "more.parquet")


BAD = {
    "no folder": (shutil.rmtree, "is not there", "does not exist"),
    "empty folder": (lambda f: [p.unlink() for p in parquet_files(f)], "no Parquet files", "readable, and empty"),
    "zero rows": (lambda f: spoil(f, lambda frame: frame.iloc[:0]), "has no rows", "readable"),
    "truncated": (truncate, "cannot be read", "departures.parquet"),
    "a flipped byte": (flip_a_byte, "cannot be read", "departures.parquet"),
    "no Parquet at all": (lambda f: parquet_files(f)[0].write_text("<html>"), "cannot be read", "departures.parquet"),
    "renamed event time": (
        lambda f: spoil(f, lambda frame: frame.rename(columns={"sched_dep_utc": "sched_dep"})),
        "no event-time column 'sched_dep_utc'. Did you mean 'sched_dep'",
        "sched_dep",
    ),
    "naive event time": (write_naive, "not a timestamp with a time zone", r"timestamp\[us\]"),
    "null event time": (times(lambda t: t.where(np.arange(len(t)) > 2)), "3 of 902 rows have no event time", "column"),
    "one row of the next day": (
        times(lambda t: t.where(np.arange(len(t)) > 0, t + pd.Timedelta(days=1))),
        "1 of 902 rows do not belong to the partition of 2013-01-15",
        "from 2013-01-15 .* to 2013-01-16 ",
    ),
    "midnight belongs to the next day": (
        times(lambda t: t.where(np.arange(len(t)) > 0, pd.Timestamp("2013-01-16", tz="UTC"))),
        "1 of 902 rows do not belong to the partition of 2013-01-15",
        "to 2013-01-16 00:00:00 UTC",
    ),
    "40 of 100 columns missing in one file": (
        lambda f: write_wide(f, missing=range(20, 60)),
        "have different columns",
        r"no 'c20'; .*; no 'c26'; … and 33 more$",
    ),
    "1 of 100 columns missing in one file": (
        lambda f: write_wide(f, missing=[42]),
        "have different columns",
        r"wide-1.parquet: no 'c42'$",
    ),
    "a column twice": (
        write_twice,
        "has the column 'dest' more than once",
        "departures.parquet: 19 columns, 18 different",
    ),
    "columns alike": (
        write_alike,
        "columns that differ only by upper and lower case: 'dest', 'Dest'",
        "departures.parquet: 19 columns, 18 of them different",
    ),
    "a damaged page": (damage_a_page, "A Parquet file cannot be read.", r"^[^\n]*departures.parquet: [^\n]+\Z"),
    "after the year 9999": (
        write_far_future,
        "902 of 902 rows do not belong to the partition of 2013-01-15",
        "from 9999-12-31 23:59:59 to 9999-12-31 23:59:59 UTC",
    ),
    "time zones mixed": (
        write_in_another_zone,
        "times in different time zones",
        r"'sched_dep_utc' is timestamp\[us, tz=America/New_York\], not timestamp\[us, tz=UTC\]",
    ),
    "files that disagree": (
        add_a_file_of_another_shape,
        "have different columns",
        "no 'distance'; 'flight' is string, not int64",
    ),
}


@pytest.mark.parametrize(("fault", "headline", "detail"), BAD.values(), ids=BAD)
def test_bad_input_is_refused_in_words_and_leaves_nothing(fault, headline, detail, home):
    folder = landed(home / "lake")
    fault(folder)
    with pytest.raises(DataError) as refused:
        PartitionStore.under(home).seal(
            "departures", KEY, folder, event_time="sched_dep_utc", batch_hash=None, suite_hash=None
        )
    assert headline in refused.value.headline
    assert pd.Series([refused.value.detail]).str.contains(detail).all()
    assert str(folder) in refused.value.detail
    assert refused.value.hint
    assert nothing_is_visible(home)
    assert names(home / "partitions") == []


def test_a_refused_day_leaves_the_good_one_in_place(home):
    good = sealed(home)
    truncate(home / "lake" / "departures" / KEY)
    with pytest.raises(DataError):
        PartitionStore.under(home).seal(
            "departures",
            KEY,
            home / "lake" / "departures" / KEY,
            event_time="sched_dep_utc",
            batch_hash=None,
            suite_hash=None,
        )
    assert PartitionStore.under(home).get("departures", KEY) == good
    assert PartitionStore.under(home).read([good]).num_rows == good.rows


@pytest.mark.parametrize("left", [0o0, 0o1])
def test_lost_permission_is_refused_in_words(left, home):
    folder = landed(home / "lake")
    with permission_lost(folder, left), pytest.raises(DataError) as refused:
        parquet_files(folder)
    assert refused.value.detail.endswith("Permission denied")
    assert "permissions were lost" in refused.value.hint


@pytest.mark.parametrize("key", ["", "None", "2013-1-15", "2013-01-15T00:00:00", "20130115", "2013-02-30", "../etc"])
def test_a_key_is_a_day(key, home):
    with pytest.raises(ConfigError, match="not a partition key"):
        DAILY.interval(key)
    with pytest.raises(ConfigError, match="not a partition key"):
        PartitionStore.under(home).get("departures", key)


@pytest.mark.parametrize(
    "name", ["../../evil", "/tmp/evil", "", ".", "..", "x\n", "a/b", "d\0", "-x", "1x", ".tmp-x", "s3://b/x"]
)
def test_a_name_that_could_lead_elsewhere_is_refused(name, home):
    folder, store = landed(home / "lake"), PartitionStore.under(home)
    asked = [
        lambda: store.seal(name, KEY, folder, event_time="sched_dep_utc", batch_hash=None, suite_hash=None),
        lambda: store.get(name, KEY),
        lambda: store.current(name, KEY),
        lambda: store.keys(name),
        lambda: store.revisions(name, KEY),
        lambda: store.profile_path(name, KEY, "0123"),
    ]
    for ask in asked:
        with pytest.raises(ConfigError, match="cannot be the name of a dataset"):
            ask()
    assert not (home / "partitions").exists()
    assert store.keys("departures-v2.1_x") == []


@pytest.mark.parametrize("name", ["br[1]*", "*", "d*.parquet"])
def test_a_folder_is_a_folder_whatever_it_is_called(name, home):
    folder = landed(home / "lake").rename(home / name)
    assert parquet_files(folder) == [folder / "departures.parquet"]
    assert parquet_files(folder / "dep*.parquet") == [folder / "departures.parquet"]


def test_damage_is_not_taken_for_lost_permissions(home):
    folder = landed(home / "lake")
    damage_a_page(folder)
    with pytest.raises(DataError) as refused:
        seal_folder(home, folder)
    assert "truncated or damaged" in refused.value.hint


def test_a_day_is_a_utc_day():
    assert DAILY.interval(KEY) == (datetime(2013, 1, 15, tzinfo=UTC), datetime(2013, 1, 16, tzinfo=UTC))


# --- writers that are killed ------------------------------------------------------------------------------


def die(*_: object, **__: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def seal_and_die_at(step: str, home: Path, folder: Path) -> None:
    setattr(partitions if hasattr(partitions, step) else storage, step, die)
    seal_folder(home, folder)


@pytest.mark.parametrize("step", ["PartitionFile", "inspect", "sync", "replacing"])
def test_a_killed_writer_leaves_nothing_visible_and_a_rerun_converges(step, home, tmp_path):
    """Killed after copying, while checking, before the revision appears, and before it becomes current."""
    folder = landed(home / "lake")
    writer = multiprocessing.get_context("fork").Process(target=seal_and_die_at, args=(step, home, folder))
    writer.start()
    writer.join()
    assert writer.exitcode == -signal.SIGKILL
    assert names(home / "partitions")  # it did get that far
    assert nothing_is_visible(home)
    partition = seal_folder(home, folder)
    assert partition == PartitionStore.under(home).get("departures", KEY)
    undisturbed = sealed(tmp_path / "elsewhere")
    assert (partition.revision, partition.files) == (undisturbed.revision, undisturbed.files)


def test_what_killed_writers_left_is_swept_after_a_day(home):
    folder = home / "partitions" / "departures" / KEY
    for name, age in ((".tmp-old", timedelta(days=2)), (".tmp-new", timedelta(minutes=5))):
        (folder / name).mkdir(parents=True)
        (folder / name / "departures.parquet").write_text("half")
        when = (datetime.now(UTC) - age).timestamp()
        os.utime(folder / name, (when, when))
    sealed(home)
    assert [path.name for path in folder.glob(".tmp-*")] == [".tmp-new"]
