"""Triggers that wait for data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from airflow_mlops.triggers.base import PollTrigger

if TYPE_CHECKING:
    from airflow_mlops.engine.data.arrival import Arrival


class PartitionArrivalTrigger(PollTrigger):
    """Wait until the upstream has landed a day completely.

    :param feed: Folder in which the upstream lands one folder a day.
    :param key: Partition key, a UTC day.
    :param poll_interval: Seconds between polls.
    :param deadline: Wall-clock time at which to give up.
    """

    def __init__(self, *, feed: str, key: str, poll_interval: float, deadline: float) -> None:
        super().__init__(poll_interval=poll_interval, deadline=deadline, feed=feed, key=key)
        self._feed = feed
        self._key = key

    def poll(self) -> Arrival | None:
        """Look for the marker once."""
        from airflow_mlops.engine.data.arrival import look_for

        return look_for(Path(self._feed), self._key)
