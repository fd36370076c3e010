"""One day of a feed against another feed that tells of the same things."""

from __future__ import annotations

from dataclasses import asdict
from datetime import date
from typing import TYPE_CHECKING

from airflow_mlops.contracts import ExpectationOutcome, ValidationResult
from airflow_mlops.durations import parse_duration
from airflow_mlops.engine.data.checks.run import as_result
from airflow_mlops.engine.data.checks.sql import reconcile_sources
from airflow_mlops.engine.data.complete import every_partition
from airflow_mlops.engine.data.exclusions import excluded_keys, exclusions
from airflow_mlops.engine.data.partitions import PartitionStore
from airflow_mlops.engine.data.robust import outcome
from airflow_mlops.engine.data.splits import without

if TYPE_CHECKING:
    from airflow_mlops.engine.ledger import Ledger
    from airflow_mlops.parts import Reconcile

SUITE = "reconciliation"


def reconcile_partitions(
    store: PartitionStore, ledger: Ledger | None, key: str, how: Reconcile, *, start: date
) -> ValidationResult:
    """Hold the sealed rows of ``how.left``'s day against those of ``how.right``; both must be sealed.

    Where partners lie on days that were before the feed began or are excluded, there is nothing to hold against: that
    passes, with a note. Rows of ``left`` that are excluded are not asked for.

    :param key: The day.
    :param start: First day of ``how.right``.
    :raises DataError: when a day that is needed is not sealed.
    """
    begin, end = store.partitioning(how.left).interval(key)
    partitioning = store.partitioning(how.right)
    span = partitioning.floor(begin - parse_duration(how.back) if how.back else begin), partitioning.floor(end)
    left = store.get(how.left, key)
    windows = {name: exclusions(ledger, name) if ledger else [] for name in (how.left, how.right)}
    skipped = sorted({*partitioning.keys(*span)} & excluded_keys(windows[how.right], partitioning))
    outcomes: list[ExpectationOutcome]
    if span[0] < partitioning.first(start):
        outcomes = [_not_judged(how, f"{how.right!r} begins on {start}")]
    elif skipped:
        outcomes = [_not_judged(how, f"{how.right!r} of {', '.join(skipped)} is excluded")]
    else:
        right = every_partition(store.list(how.right, *span), how.right, partitioning, span)
        columns = [*how.on, *how.compare]
        rows = store.read([left], sorted({*columns, *([how.by] if how.by else []), left.event_time}))
        outcomes = reconcile_sources(
            without(rows, left.event_time, windows[how.left]),
            store.read(right, columns),
            how.on,
            min_match=how.min_match,
            max_unmatched_right=how.max_unmatched_right,
            compare=how.compare,
            by=how.by,
        )
    return as_result(
        outcomes,
        left.rows,
        batch=f"{how.left} against {how.right}/{key}",
        batch_hash=left.revision,
        parameters=asdict(how),
        suite=SUITE,
    )


def _not_judged(how: Reconcile, why: str) -> ExpectationOutcome:
    note = f"not judged: {why}, and a partner may lie there"
    return outcome("sources_match", column=", ".join(how.on), at_worst="info", note=note)
