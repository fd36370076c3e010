"""Whether a dataset has every partition of a time."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime

from airflow_mlops.contracts import Partition
from airflow_mlops.exceptions import DataError
from airflow_mlops.partitioning import Partitioning

Span = tuple[datetime, datetime]
"""Time from the first moment up to, and without, the second."""


class MissingPartitionsError(DataError):
    """Partitions that others stand on are not there: not yet, it may be."""


def every_partition(
    partitions: Iterable[Partition], dataset: str, partitioning: Partitioning, span: Span, skip: Collection[str] = ()
) -> list[Partition]:
    """Return a dataset's partitions that overlap a span, all of them, without those to skip.

    :param partitions: What there is of the dataset.
    :raises MissingPartitionsError: when one is missing.
    """
    wanted = dict.fromkeys(partitioning.keys(*span, without=skip))
    found = [partition for partition in partitions if partition.key in wanted]
    there = {partition.key for partition in found}
    if missing := [key for key in wanted if key not in there]:
        few = f"{', '.join(missing[:7])}{' …' if missing[7:] else ''}"
        raise MissingPartitionsError(
            f"{len(missing)} of {len(wanted)} partitions of {dataset!r} are not sealed; the first is {missing[0]}.",
            detail=f"needed: {partitioning.every} from {next(iter(wanted))} to {list(wanted)[-1]}; missing: {few}",
            hint="Run the features DAG for the missing partitions first, oldest first.",
        )
    return found
