"""Labels come late: until when they are complete, and which of several counts."""

from __future__ import annotations

from collections.abc import Collection
from datetime import date, datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.engine.data.distinct import count_repeated
from airflow_mlops.engine.data.partitions import PartitionStore
from airflow_mlops.engine.data.sources import no_partitions
from airflow_mlops.engine.data.splits import TIME
from airflow_mlops.exceptions import DataError

_DAY = timedelta(days=1)

LABEL_SHIFT = 5.0
"""Robust standard deviations by which a day's rate of positives may lie below the usual. Rates fall to nothing by a
fault only, but rise for real (storms): above the usual, twice as much is allowed. On the flights of 2013, no window
of 14 to 150 days has a day beyond -4.6 or 7.9."""


def check_watermark(
    store: PartitionStore, dataset: str, start: date | datetime, needed: datetime, skip: Collection[str] = ()
) -> None:
    """Refuse to use labels before they are complete.

    :param start: First day, or moment, whose labels are needed.
    :param needed: Moment up to which they must be complete.
    :param skip: Partitions that need not be there.
    :raises DataError: with the label watermark, and when it will be possible; or when there is no such dataset.
    """
    watermark = store.watermark(dataset, start, skip)
    if watermark >= needed:
        return
    if not store.keys(dataset):
        raise no_partitions(store, dataset)
    asked = f"{needed:%Y-%m-%d %H:%M} UTC"
    raise DataError(
        "The labels have not come far enough.",
        detail=f"label watermark: {dataset!r} is complete from {start:%Y-%m-%d} up to {watermark:%Y-%m-%d %H:%M} UTC; "
        f"asked for what was known at {asked}. Without a label is not the same as negative",
        hint=f"Possible as soon as every partition of {dataset!r} from {watermark:%Y-%m-%d} to before {asked} is "
        f"sealed; until then with an as_of up to {watermark:%Y-%m-%d}.",
    )


def known_times(column: pa.ChunkedArray, timezone: str) -> pa.ChunkedArray | None:
    """Return from when on each row of a column of moments or dates is known, in UTC; None of another type.

    A date is known when it is over, in its zone.
    """
    kind = column.type
    if pa.types.is_date(kind):
        over = pc.add(column.cast(pa.date32()).cast(pa.timestamp("us")), pa.scalar(_DAY, pa.duration("us")))
        return pc.assume_timezone(over, timezone, ambiguous="latest", nonexistent="latest").cast(TIME)
    if pa.types.is_null(kind):
        return column.cast(TIME)
    if not pa.types.is_timestamp(kind):
        return None
    return column.cast(TIME) if kind.tz is not None else column.cast(pa.timestamp("us")).cast(TIME)


def is_known_at(kind: str) -> bool:
    """Return whether a column of an Arrow type can say when something became known."""
    return kind.startswith(("timestamp", "date", "null"))


def latest_labels(
    labels: pa.Table, entity: str, known_at: str, label: str, dataset: str, *, heads: Collection[str] = ()
) -> pa.Table:
    """Return one row an entity, with the label that became known last; entities whose last label is null are left out.

    A label may be corrected, or withdrawn (null), by a later row. The same row twice is one.

    :param known_at: Column with the time at which a label became known.
    :param heads: Columns of further labels, which go along as they were known with that one.
    :raises DataError: when an entity has two different labels of the same time: which one counts would be chance.
    """
    labels = labels.filter(pc.is_valid(labels[entity]))
    if count_repeated(labels[entity]):
        last = labels.group_by(entity).aggregate([(known_at, "max")])
        labels = labels.join(last, entity, join_type="inner")
        labels = labels.filter(pc.equal(labels[known_at], labels[f"{known_at}_max"]))
        labels = labels.group_by([entity, label, *heads]).aggregate([])
        if torn := labels.num_rows - pc.count_distinct(labels[entity]).as_py():
            raise DataError(
                f"{torn} entities of {dataset!r} have two different labels of the same moment.",
                detail=f"columns {', '.join(map(repr, (entity, label, *heads, known_at)))}",
                hint="A correction must be later than what it corrects; let the feed say which label counts.",
            )
    return labels.select([entity, label, *heads]).filter(pc.is_valid(labels[label]))
