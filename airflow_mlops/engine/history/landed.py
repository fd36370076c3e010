"""Load all of a pipeline that has landed, without being told where it ends."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_mlops.engine.history.load import Loaded, in_groups, load_history
from airflow_mlops.exceptions import DataError

if TYPE_CHECKING:
    from datetime import date

    from airflow_mlops.engine.history.load import Refused
    from airflow_mlops.pipeline import ModelPipeline


class Landed(NamedTuple):
    """What was loaded, and the end, in UTC, of the last partition of the source that is there."""

    loaded: Loaded
    end: datetime


def load_landed(pipeline: ModelPipeline, first: date | None = None, **how: Any) -> Landed:
    """Load a pipeline's history to its end; of a source that goes on, to the last partition that landed.

    :param first: First day; default is that of the source.
    :param how: As :func:`~airflow_mlops.engine.history.load.load_history` takes it.
    :raises DataError: when partitions were refused; of a source that goes on, those after the last that is there are
        left for when they land.
    """
    source, store = pipeline.source, how["store"]
    loaded = load_history(pipeline, first or source.start, source.end or datetime.now(UTC).date(), **how)
    end = source.ends_at
    if end is None and (keys := store.keys(source.dataset)):
        last = source.partitioning.interval(keys[-1])[1]
        cuts = {feed.dataset: feed.partitioning for feed in pipeline.feeds}
        loaded.refused = [
            one for one in loaded.refused if cuts.get(one.dataset, source.partitioning).interval(one.key)[0] < last
        ]
        end = last
    check_refused(loaded.refused)
    if end is None:
        raise DataError(
            f"Nothing of {source.dataset!r} has landed yet.",
            detail=f"it starts on {source.start}, and no {source.partitioning.every} partition has ended since",
            hint="Wait for the first one, or correct start= of the source.",
        )
    return Landed(loaded, end)


def check_refused(refused: list[Refused]) -> None:
    """Refuse a load of which some partitions were refused.

    :raises DataError: listing them.
    """
    if refused:
        raise DataError(
            f"{len(refused)} partitions were refused; all others are loaded.",
            detail="\n    ".join(in_groups(refused)),
            hint="Do what the lines say, or accept or exclude the partitions; then run the same command again.",
        )
