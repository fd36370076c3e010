"""Whether a training schedule leaves its sources the time that they promised to need."""

from __future__ import annotations

import warnings
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from airflow_mlops.durations import parse_duration

if TYPE_CHECKING:
    from airflow_mlops.pipeline import ModelPipeline

_MONDAY = datetime(2024, 1, 1, tzinfo=UTC)
_FIRES = 50  # enough for every time of day of any schedule that a person writes


def slack(cron: str) -> timedelta:
    """Return the shortest time from a UTC midnight, where a training cuts its knowledge, to the schedule's next run.

    >>> slack("30 6 * * 0")
    datetime.timedelta(seconds=23400)
    """
    from croniter import croniter

    fires = croniter(cron, _MONDAY - timedelta(seconds=1), ret_type=datetime)
    moments = [fires.get_next() for _ in range(_FIRES)]
    return min(moment - moment.replace(hour=0, minute=0, second=0) for moment in moments)


def warn_of_missing_slack(pipeline: ModelPipeline) -> None:
    """Warn, when the DAG file is parsed, of a training due before its sources must have landed.

    Nothing breaks: the training waits for the data. But it is late every time.
    """
    cron = pipeline.retrain.cron
    for feed in (pipeline.source, pipeline.label.source):
        if cron is None or feed.lands_within is None:
            continue
        promise, left = parse_duration(feed.lands_within), slack(cron)
        if left < promise:
            warnings.warn(
                f"{pipeline.model}.train is due {left} after midnight UTC, but {feed.dataset!r} may land until "
                f"{feed.lands_within} after it: every training will wait for its data. "
                f"Schedule it later, such as Retrain(cron='{_later(promise)} * * 0'), or correct lands_within.",
                UserWarning,
                stacklevel=2,
            )


def _later(promise: timedelta) -> str:
    minutes = int(promise.total_seconds()) // 60 % (24 * 60)
    return f"{minutes % 60} {minutes // 60}"
