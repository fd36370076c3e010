"""One partition of one feed, from what landed to what is sealed, in two steps.

The first, which takes the time, needs nothing of other partitions: many run at once. The second compares with the
partitions before, so it goes in order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

from airflow_mlops.contracts import Partition, Profile, ValidationResult
from airflow_mlops.engine.data import storage
from airflow_mlops.engine.data.arrival import look
from airflow_mlops.engine.data.checks import accepted, check_partition
from airflow_mlops.engine.data.checks.partition import load_contract, profile_landed
from airflow_mlops.engine.data.files import identity
from airflow_mlops.engine.data.landed import found
from airflow_mlops.engine.data.lateness import mark_late
from airflow_mlops.engine.data.parquet import parquet_files, readable
from airflow_mlops.engine.data.partitions import FACT, PartitionStore
from airflow_mlops.engine.data.staging import stage
from airflow_mlops.engine.data.validation import enforce, load_suite, validate
from airflow_mlops.engine.history.tables import extracted
from airflow_mlops.exceptions import DataError
from airflow_mlops.feeds import SQLSource

if TYPE_CHECKING:
    from airflow_mlops.engine.data.storage import AnyPath, Entry
    from airflow_mlops.engine.data.tables.database import Database
    from airflow_mlops.engine.ledger import Ledger
    from airflow_mlops.feeds import Feed, Partitions
    from airflow_mlops.pipeline import ModelPipeline

Locate = Callable[[str], "AnyPath"]
"""Turns the ``uri`` of a feed into a path."""

Databases = Callable[[str], "Database"]
"""Turns the Airflow connection of a feed into its database."""


class Prepared(NamedTuple):
    """Of a landed partition: where its Parquet files are, what its suite says, what it looks like."""

    landed: str
    result: ValidationResult
    profile: Profile


def prepare(
    feed: Feed,
    key: str,
    *,
    home: Path,
    root: AnyPath,
    code_path: str,
    locate: Locate,
    databases: Databases,
    pipeline: ModelPipeline,
    again: bool = False,
) -> Prepared | None:
    """Stage or extract, validate and profile a partition; None when these rows were sealed by this suite already.

    :param root: Where the sealed partitions are.
    :param pipeline: Says what its label is.
    :param again: Whether files are read again though they were sealed, as after a change of the contract.
    :raises DataError: when it has not landed, or cannot be read.
    """
    store, suite = PartitionStore(root), load_suite(feed.suite, code_path)
    how = {"code_path": code_path, "suite": suite.hash}
    landed: AnyPath | None
    if isinstance(feed, SQLSource):
        landed = extracted(feed, key, store, home, database=databases(feed.conn_id), **how)
    else:
        landed = _staged(cast("Partitions", feed), key, store, home, locate=locate, again=again, **how)
    if landed is None:
        return None
    with storage.on_disk(parquet_files(landed)) as files:
        result = validate(
            files, suite, suite_name=feed.suite, batch=f"{feed.dataset}/{key}", may_be_empty=feed.may_be_empty
        )
    profile = profile_landed(
        landed,
        feed.dataset,
        key,
        result.batch_hash[:16],
        checks=feed.checks,
        partitioning=feed.partitioning,
        problem=pipeline.label.problem if _checks_label(feed, pipeline) else "",
    )
    return Prepared(str(landed), result, profile)


def _checks_label(feed: Feed, pipeline: ModelPipeline) -> bool:
    return feed.dataset == pipeline.label_feed.dataset and feed.checks.label == pipeline.label.column


def _staged(
    feed: Partitions,
    key: str,
    store: PartitionStore,
    home: Path,
    *,
    locate: Locate,
    code_path: str,
    suite: str,
    again: bool,
) -> AnyPath | None:
    """Return where the Parquet files of what landed are; None when it was sealed by this suite already."""
    place, layout = locate(feed.uri), feed.placed
    asked = {name: value for name, value in feed.asked().items() if name in ("marker", "manifest")}
    # A partition of the past has long been still, and its event may be forgotten.
    if (
        feed.arrived in ("marker", "manifest")
        and (seen := look(place, key, partitioning=feed.partitioning, layout=layout, **asked)).missing
    ):
        raise DataError(
            f"{feed.dataset} of {key} has not landed.",
            detail=f"{place}: {seen.missing}",
            hint="Have the upstream land it, and load the history again: what is there is not loaded twice.",
        )
    if not again and _is_sealed(store, feed, key, place, suite):
        return None
    staged = stage(
        place,
        key,
        home / "staged" / feed.dataset / key,
        event_time=feed.event_time,
        layout=layout,
        partitioning=feed.partitioning,
        contract=load_contract(feed.checks.contract, code_path),
        naive_times=feed.naive_times,
        options=feed.reader,
    )
    return located(staged.uri, locate)


def located(uri: str, locate: Locate | None) -> AnyPath:
    """Return where the Parquet files of a partition are, of this machine or not."""
    return Path(uri) if "://" not in uri or locate is None else locate(uri)


def settle(
    feed: Feed,
    key: str,
    prepared: Prepared,
    landed: AnyPath,
    *,
    store: PartitionStore,
    ledger: Ledger,
    code_path: str,
    pipeline: ModelPipeline,
) -> None:
    """Write down what the suite says, check against the partitions before, and seal: as the daily DAG does.

    :param pipeline: Says which columns of the feed a model needs, and what is its label.
    :raises DataError: when the suite or the history blocks it.
    """
    ledger.record("validation", feed.dataset, prepared.result.model_dump(mode="json"), key=key)
    enforce(prepared.result)
    store.declare(feed.dataset, feed.partitioning)
    checked = check_partition(
        store,
        ledger,
        feed.dataset,
        key,
        landed,
        event_time=feed.event_time,
        validated=prepared.result.batch_hash,
        checks=feed.checks,
        code_path=code_path,
        profile=prepared.profile,
        label=pipeline.label.column if feed is pipeline.label_feed else "",
        problem=pipeline.label.problem,
        heads=pipeline.label.heads,
        needs=pipeline.needs(feed),
        known_at=pipeline.label.known_at if feed is pipeline.label_feed else "",
    ).result
    ledger.record("validation", feed.dataset, checked.model_dump(mode="json"), key=key)
    if not (checked.blocked and accepted(ledger, feed.dataset, key, checked)):
        enforce(checked)
    sealed = store.seal(
        feed.dataset,
        key,
        landed,
        event_time=feed.event_time,
        batch_hash=prepared.result.batch_hash,
        suite_hash=prepared.result.suite_hash,
        may_be_empty=feed.may_be_empty,
    )
    for fact in ledger.facts(FACT, feed.dataset, key=key):
        if fact.payload["revision"] == sealed.revision and fact.payload["replaces"]:
            mark_late(ledger, feed.dataset, key, fact.payload["replaces"], sealed.revision)


def within(feed: Feed, key: str) -> bool:
    """Return whether a feed has a partition: it has begun, and not ended."""
    begin, end = feed.partitioning.interval(key)
    return feed.starts_at <= begin and (feed.ends_at is None or end <= feed.ends_at)


def landed_files(feed: Partitions, key: str, place: AnyPath) -> list[Entry]:
    """Return the files of a partition that have landed, in order; none when nothing has.

    :param place: Where the feed lies.
    """
    with readable(place):
        try:
            patterns = feed.placed.of(key, feed.partitioning)
            entries = [entry for pattern in patterns for entry in found(place, pattern)[1]]
        except FileNotFoundError:
            storage.subfolders(place)  # raises when it is the bucket that is not there
            return []
    return [entry for entry in entries if not entry.path.name.startswith("_")]


def same_bytes(sealed: Partition, files: Sequence[Entry], place: AnyPath) -> bool:
    """Return whether files that landed are those that a partition was sealed from."""
    with readable(place):
        digests = {entry.path: storage.digest(entry.path) for entry in files}
    by_name = identity({path.name: digest for path, digest in digests.items()})
    by_path = identity({str(path): digest for path, digest in digests.items()})
    return sealed.receipt.sha256 in (by_name, by_path)


def _is_sealed(store: PartitionStore, feed: Partitions, key: str, place: AnyPath, suite: str) -> bool:
    """Return whether what lies there is what was sealed, by the same suite."""
    if not store.partitioning(feed.dataset).is_key(key) or store.current(feed.dataset, key) is None:
        return False
    sealed = store.get(feed.dataset, key)
    return sealed.suite_hash == suite and same_bytes(sealed, landed_files(feed, key, place), place)
