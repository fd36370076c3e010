"""A store of real valid days, and a day that arrives there: checked against them, and sealed if nothing blocks it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from datetime import date, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from airflow_mlops.contracts import ExpectationOutcome, Profile
from airflow_mlops.demo.flights import Feed, read_feed
from airflow_mlops.engine.data.checks import SchemaContract, name_readers, references, run_checks
from airflow_mlops.engine.data.partitions import PartitionStore, batch_hash
from airflow_mlops.engine.data.profiles import profile_files, profile_table
from airflow_mlops.partitioning import DAILY
from tests.data_fixtures import EVENT_TIMES

LABELS: dict[Feed, str | None] = {"departures": None, "arrivals": "late_15"}
SLICES = ("carrier", "origin")
KEY_COLUMNS = ("flight_id",)
HISTORY = timedelta(days=56)

Change = Callable[[pa.Table], pa.Table]


def days(first: date, count: int) -> list[date]:
    """Return consecutive days."""
    return [first + timedelta(days=n) for n in range(count)]


@functools.cache
def profile_of(feed: Feed, day: date) -> Profile:
    """Profile a real day as it is."""
    return profiled(read_feed(feed, day, day), feed, day)


def profiled(table: pa.Table, feed: Feed, day: date) -> Profile:
    """Profile a day's rows."""
    return profile_table(
        table,
        dataset=feed,
        key=str(day),
        revision="r",
        slices=SLICES,
        label=LABELS[feed],
        unique=KEY_COLUMNS,
    )


def check(profile: Profile, earlier: Sequence[Profile], feed: Feed, **more: object) -> list[ExpectationOutcome]:
    """Check a day's profile as the features DAG does."""
    [key] = profile.revisions
    return run_checks(
        profile,
        earlier,
        slices=SLICES,
        label=LABELS[feed],
        unique=KEY_COLUMNS,
        identifiers=KEY_COLUMNS,
        event_time=EVENT_TIMES[feed],
        interval=DAILY.interval(key),
        **more,
    )


def check_real_days(feed: Feed, wanted: Iterable[date]) -> dict[date, list[ExpectationOutcome]]:
    """Check real days against the real days before them."""
    return {day: check(profile_of(feed, day), before(feed, day), feed) for day in wanted}


def before(feed: Feed, day: date) -> list[Profile]:
    """Return the profiles of the real days before a day, as far as the history reaches."""
    first = max(day - HISTORY, date(2013, 1, 1))
    return [profile_of(feed, earlier) for earlier in days(first, (day - first).days)]


def arrive(
    store: PartitionStore,
    feed: Feed,
    day: date,
    change: Change = lambda table: table,
    *,
    guard: bool = True,
    history: timedelta = HISTORY,
    contract: SchemaContract | None = None,
    uses: dict[str, list[str]] | None = None,
) -> list[ExpectationOutcome]:
    """Land a real day with changed rows, check it, and seal it unless a check blocks it; return what failed."""
    key = str(day)
    folder = Path(store.root).parent / "lake" / feed / key
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "rows.parquet"
    pq.write_table(change(read_feed(feed, day, day)), file)
    profile = profile_files(
        [file], dataset=feed, key=key, revision="r", slices=SLICES, label=LABELS[feed], unique=KEY_COLUMNS
    )
    failed = []
    if guard:
        earlier = references(store, feed, key, history=history)
        failed = [
            o for o in name_readers(check(profile, earlier, feed, contract=contract), uses or {}) if not o.success
        ]
    if not blocking(failed):
        partition = store.seal(
            feed, key, folder, event_time=EVENT_TIMES[feed], batch_hash=batch_hash([file]), suite_hash="s"
        )
        store.write_profile(feed, key, partition.revision, profile)
    return failed


def blocking(outcomes: Iterable[ExpectationOutcome]) -> list[ExpectationOutcome]:
    """Return the outcomes that keep a day from being sealed."""
    return [o for o in outcomes if not o.success and (o.severity == "block" or o.error is not None)]


def names(outcomes: Iterable[ExpectationOutcome]) -> set[str]:
    """Return the names of the outcomes that did not succeed."""
    return {o.expectation for o in outcomes if not o.success}


def thinned(table: pa.Table, column: str, value: str, keep: float) -> pa.Table:
    """Keep a share of the rows that have a value, evenly spread, and all others."""
    seen = 0
    mask = []
    for found in table[column].to_pylist():
        mine = found == value
        seen += mine
        mask.append(not mine or int(seen * keep) > int((seen - 1) * keep))
    return table.filter(pa.array(mask))


def with_column(table: pa.Table, name: str, values: pa.Array | pa.ChunkedArray) -> pa.Table:
    """Replace the values of a column."""
    return table.set_column(table.schema.get_field_index(name), name, values)
