"""Partitions of tables in a history: which of them changed since they were sealed, and what they are now."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_mlops.contracts import Partition
from airflow_mlops.durations import parse_duration
from airflow_mlops.engine.data.checks.partition import load_contract
from airflow_mlops.engine.data.partitions import PartitionStore
from airflow_mlops.engine.data.tables.changes import State, states
from airflow_mlops.engine.data.tables.extract import extract, is_sealed
from airflow_mlops.engine.data.tables.query import Selection
from airflow_mlops.engine.data.validation import load_suite

if TYPE_CHECKING:
    from airflow_mlops.engine.data.tables.database import Database
    from airflow_mlops.feeds import SQLSource


def extracted(
    feed: SQLSource,
    key: str,
    store: PartitionStore,
    home: Path,
    *,
    database: Database,
    code_path: str,
    suite: str,
) -> Path | None:
    """Extract a partition, and return where; None when these rows were sealed by this suite already."""
    sealed = _sealed(store, feed, key)
    target = home / "staged" / feed.dataset / key
    extract(
        database,
        selection(feed),
        key,
        target,
        partitioning=feed.partitioning,
        contract=load_contract(feed.checks.contract, code_path),
        naive_times=feed.naive_times,
        row_id=feed.checks.unique[0] if len(feed.checks.unique) == 1 else None,
        complete_after=parse_duration(feed.complete_after) if feed.complete_after else timedelta(0),
        sealed=sealed,
        store=store,
    )
    return None if sealed is not None and sealed.suite_hash == suite and is_sealed(sealed, target) else target


def unchanged(
    feed: SQLSource, keys: Sequence[str], store: PartitionStore, *, database: Database, code_path: str
) -> set[str]:
    """Return the partitions, of some in order, whose tables have what they had when they were sealed.

    That is as many rows, of which none was changed since by ``updated_at``; without it nothing is known.
    """
    if not feed.updated_at:
        return set()
    suite = load_suite(feed.suite, code_path).hash
    sealed = {key: found for key in keys if (found := _sealed(store, feed, key)) and found.suite_hash == suite}
    if not sealed:
        return set()
    now = states_of(feed, keys, database)
    return {key for key, was in sealed.items() if now[key] == (was.rows, was.receipt.changed_at)}


def states_of(feed: SQLSource, keys: Sequence[str], database: Database) -> dict[str, State]:
    """Return what a table with ``updated_at`` has in some partitions, by key.

    :param keys: In order; there may be gaps.
    :raises TransientError: when the database does not answer.
    :raises ConfigError: when it refuses the query, or a column is not there.
    """
    cut, run = feed.partitioning, list(keys[:1])
    found: dict[str, State] = {}
    for key in [*keys[1:], ""]:
        if key and cut.interval(run[-1])[1] == cut.interval(key)[0]:
            run.append(key)
            continue
        if run:
            found |= states(database, selection(feed), run, cut, feed.naive_times)
        run = [key]
    return found


def selection(feed: SQLSource) -> Selection:
    """Return what is asked of the database of a feed."""
    return Selection(feed.event_time, feed.table, feed.query, tuple(feed.columns), feed.updated_at)


def _sealed(store: PartitionStore, feed: SQLSource, key: str) -> Partition | None:
    """Return the revision of a partition that counts, if there is one."""
    if not store.partitioning(feed.dataset).is_key(key) or store.current(feed.dataset, key) is None:
        return None
    return store.get(feed.dataset, key)
