"""Whether a training schedule leaves its sources the time that they promised to need."""

from __future__ import annotations

import warnings
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING

from airflow_mlops.durations import parse_duration
from airflow_mlops.feeds import Partitions
from airflow_mlops.retraining import fires

if TYPE_CHECKING:
    from airflow_mlops.pipeline import ModelPipeline

_MONDAY = datetime(2024, 1, 1, tzinfo=UTC)
_DAY = timedelta(days=1)


@cache
def slack(cron: str) -> timedelta:
    """Return the shortest time from a UTC midnight, where a training cuts its knowledge, to the schedule's next run.

    :raises ConfigError: when it is no cron expression.

    >>> slack("30 6 * * 0")
    datetime.timedelta(seconds=23400)
    """
    # The times of day are those of every day on which it fires.
    first = next(fires(cron, _MONDAY - timedelta(seconds=1)))
    return first - first.replace(hour=0, minute=0, second=0)


def warn_of_missing_slack(pipeline: ModelPipeline) -> None:
    """Warn, when the DAG file is parsed, of a training due before its sources must have landed.

    Nothing breaks: the training waits for the data. But it is late every time.

    """
    cron = pipeline.retrain.cron
    if cron is None:
        return
    left = slack(cron)
    for feed in pipeline.feeds:
        promise = parse_duration(feed.promise) if feed.promise else timedelta(0)
        if left < promise and feed.dataset not in pipeline.ahead:
            word = "lands_within" if isinstance(feed, Partitions) else "complete_after"
            at = (_MONDAY + promise).strftime("%H:%M")
            later = (
                f"Let it run no earlier than {at} UTC" if promise < _DAY else "No time of day is late enough for that"
            )
            warnings.warn(
                f"{pipeline.model}.train is due {left} after midnight UTC, but {feed.dataset!r} may land until "
                f"{feed.promise} after it: each training will wait for it. {later}; or correct {word}.",
                UserWarning,
                stacklevel=2,
            )
