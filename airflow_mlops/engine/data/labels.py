"""Labels come late: until when they are complete, which of several counts, and whether their rate is believable."""

from __future__ import annotations

from collections.abc import Collection
from datetime import date, datetime
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.engine.data.distinct import count_repeated
from airflow_mlops.engine.data.partitions import PartitionStore
from airflow_mlops.engine.data.profiles import distinct
from airflow_mlops.engine.data.sources import no_partitions
from airflow_mlops.exceptions import DataError

if TYPE_CHECKING:
    from airflow_mlops.contracts import Profile

LABEL_SHIFT = 5.0
"""Robust standard deviations by which a day's rate of positives may lie below the usual. Rates fall to nothing by a
fault only, but rise for real (storms): above the usual, twice as much is allowed. On the flights of 2013, no window
of 14 to 150 days has a day beyond -4.6 or 7.9."""

_DAYS = 14
"""Days with labels below which there is no telling what is usual."""


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


def as_truth(rows: pa.Table, label: str, where: str) -> pa.Table:
    """Return rows whose label is true, false or null. The numbers 1 and 0 are the former.

    :param where: What the rows are, for the error.
    :raises DataError: when the label is something else.
    """
    column = rows[label]
    kind = column.type
    if pa.types.is_boolean(kind):
        return rows
    numbers = pa.types.is_integer(kind) or pa.types.is_floating(kind)
    if not pa.types.is_null(kind) and not (
        numbers and pc.all(pc.is_in(column.drop_null(), value_set=pa.array([0, 1]).cast(kind))).as_py() is not False
    ):
        raise not_a_label(label, str(kind), where)
    place = rows.schema.get_field_index(label)
    return rows.set_column(place, label, column.cast(pa.float64()).cast(pa.bool_()))


def check_label(profile: Profile, label: str) -> None:
    """Refuse the first partition of a label that cannot be learned, and not a training months later.

    :raises DataError: when it is neither true or false, nor 1 or 0.
    """
    column = profile.columns.get(label)
    if column is None or column.type in ("bool", "null"):
        return  # one that is not there is told by the contract, or where it is read
    lies_in = column.kind == "number" and (column.min is None or (column.min >= 0 and (column.max or 0) <= 1))
    if not lies_in or distinct(column) > 2:
        raise not_a_label(label, column.type, f"partition of {profile.dataset!r}")


def not_a_label(label: str, kind: str, where: str) -> DataError:
    """Return what to raise for a label that is no truth value."""
    return DataError(
        f"The label {label!r} is of type {kind}, and not true or false.",
        detail=where,
        hint="Let the feed carry true and false, or 1 and 0; and null where it is not known.",
    )


def latest_labels(labels: pa.Table, entity: str, known_at: str, label: str, dataset: str) -> pa.Table:
    """Return one row an entity, with the label that became known last; entities whose last label is null are left out.

    A label may be corrected, or withdrawn (null), by a later row. The same row twice is one.

    :param known_at: Column with the time at which a label became known.
    :raises DataError: when an entity has two different labels of the same time: which one counts would be chance.
    """
    labels = labels.filter(pc.is_valid(labels[entity]))
    if count_repeated(labels[entity]):
        last = labels.group_by(entity).aggregate([(known_at, "max")])
        labels = labels.join(last, entity, join_type="inner")
        labels = labels.filter(pc.equal(labels[known_at], labels[f"{known_at}_max"]))
        labels = labels.group_by([entity, label]).aggregate([])
        if torn := labels.num_rows - pc.count_distinct(labels[entity]).as_py():
            raise DataError(
                f"{torn} entities of {dataset!r} have two different labels of the same moment.",
                detail=f"columns {entity!r}, {label!r}, {known_at!r}",
                hint="A correction must be later than what it corrects; let the feed say which label counts.",
            )
    return labels.select([entity, label]).filter(pc.is_valid(labels[label]))


def check_rates(rows: pa.Table, event_time: str, label: str, shift: float = LABEL_SHIFT) -> None:
    """Refuse days whose rate of positives lies far from that of the other days of the window.

    Compared are the log odds of the days with their median. The unit is the scatter of the days, by the median
    absolute deviation, together with the sampling error of the day itself. Windows of less than 14 days with
    labels are not judged.

    :param shift: Units below the median from which a day is refused; above it, twice as many.
    :raises DataError: naming the days.
    """
    days = pc.floor_temporal(rows[event_time], unit="day")
    table = pa.table({"day": days, "positive": rows[label].cast(pa.int64())})
    daily = table.group_by("day").aggregate([("positive", "sum"), ("positive", "count")]).sort_by("day")
    if daily.num_rows < _DAYS:
        return
    positives, labelled = daily["positive_sum"].to_numpy(), daily["positive_count"].to_numpy()
    rate = (positives + 0.5) / (labelled + 1)
    odds = np.log(rate / (1 - rate))
    usual = np.median(odds)
    usual_rate = 1 / (1 + np.exp(-usual))
    scatter = 1.4826 * np.median(np.abs(odds - usual))
    distance = (odds - usual) / np.sqrt(scatter**2 + 1 / (labelled * usual_rate * (1 - usual_rate)))
    strange = np.flatnonzero((distance < -shift) | (distance > 2 * shift))
    if len(strange):
        names = [f"{daily['day'][n].as_py():%Y-%m-%d} ({positives[n]} of {labelled[n]})" for n in strange.tolist()]
        raise DataError(
            f"The rate of positive labels of {len(names)} days is not believable.",
            detail=f"usual: {usual_rate:.3f}; {', '.join(names[:7])}{' …' if names[7:] else ''}",
            hint="See whether the label feed fills in what it does not know. Exclude these days, or mend and seal "
            "them again; what is unknown must be null.",
        )
