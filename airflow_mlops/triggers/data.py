"""Triggers that wait for data."""

from __future__ import annotations

import logging
import time
from datetime import datetime
from typing import TYPE_CHECKING

from airflow_mlops.durations import parse_duration
from airflow_mlops.exceptions import DataError
from airflow_mlops.layout import FOLDER, Layout
from airflow_mlops.operators.base import path_of
from airflow_mlops.partitioning import Partitioning
from airflow_mlops.triggers.base import PollTrigger

if TYPE_CHECKING:
    from airflow_mlops.engine.data.arrival import Arrival

log = logging.getLogger(__name__)

GRACE = 15 * 60
"""Seconds that are left to a partition which should have landed before anybody looked: it may be landing now."""


class PartitionArrivalTrigger(PollTrigger):
    """Wait until the upstream has landed a day completely; fail when it is later than it promised.

    A connection in ``feed`` is looked up by Airflow's file system in the thread of the first poll.

    :param feed: Folder in which the upstream lands one folder a day, or ``s3://aws_default@bucket/prefix``.
    :param key: Partition key.
    :param partitioning: Of which ``key`` is one: ``daily``, ``hourly@Europe/Berlin``.
    :param layout: Where a partition lies below ``feed``, as a pattern.
    :param lands: How the upstream cuts what it lands, where that is finer; then ``layout`` is of a piece.
    :param ahead: Whether the partition is there when its time begins, and the promise counts from then.
    :param marker: File that the upstream writes last; None when it writes none.
    :param manifest: The upstream's own manifest, if it writes one.
    :param min_rows: Rows that must be there.
    :param settle: How long ago the newest change must be, such as ``5m``.
    :param late_after: The upstream's promise: how long after the end of its day it lands, such as ``6h``.
    :param told: Whether something else has told that it is complete.
    :param since: Wall-clock time of the first look. A day long past has :data:`GRACE` from there.
    :param poll_interval: Seconds between polls.
    :param deadline: Wall-clock time at which to give up.
    """

    missing = ""
    """What the last look found missing, in words."""

    def __init__(
        self,
        *,
        feed: str,
        key: str,
        marker: str | None,
        manifest: str | None,
        min_rows: int,
        settle: str | None,
        late_after: str | None,
        since: float,
        poll_interval: float,
        deadline: float,
        partitioning: str = "daily",
        layout: str = FOLDER,
        lands: str = "",
        ahead: bool = False,
        told: bool = False,
    ) -> None:
        super().__init__(
            poll_interval=poll_interval,
            deadline=deadline,
            feed=feed,
            key=key,
            partitioning=partitioning,
            layout=layout,
            lands=lands,
            ahead=ahead,
            marker=marker,
            manifest=manifest,
            min_rows=min_rows,
            settle=settle,
            late_after=late_after,
            since=since,
            told=told,
        )
        self._feed = feed
        self._key = key
        self._partitioning = partitioning
        self._layout = Layout(layout, Partitioning.parse(lands) if lands else None)
        self._ahead = ahead
        self._marker = marker
        self._manifest = manifest
        self._min_rows = min_rows
        self._settle = settle
        self._late_after = late_after
        self._since = since
        self._told = told

    def poll(self) -> Arrival | None:
        """Look once; what is missing is logged whenever it changes.

        :raises DataError: when the day is later than promised.
        """
        from airflow_mlops.engine.data.arrival import look

        asked = {} if self._settle is None else {"settle": parse_duration(self._settle)}
        found = look(
            path_of(self._feed),
            self._key,
            marker=self._marker,
            manifest=self._manifest,
            min_rows=self._min_rows,
            partitioning=Partitioning.parse(self._partitioning),
            layout=self._layout,
            told=self._told,
            **asked,
        )
        if found.missing != self.missing:
            self.missing = found.missing
            log.info("Partition %s of %s: %s", self._key, self._feed, found.missing or "has landed")
        if found.arrival is None and self._late_after is not None:
            self._refuse_when_late(self._late_after)
        return found.arrival

    def _refuse_when_late(self, late_after: str) -> None:
        begin, end = Partitioning.parse(self._partitioning).interval(self._key)
        due, of = (begin, "beginning") if self._ahead else (end, "end")
        promised, patient = due.timestamp() + parse_duration(late_after).total_seconds(), self._since + GRACE
        if time.time() < max(promised, patient):
            return
        looked = "" if promised > patient else f", and it did not come within {GRACE // 60} minutes of the first look"
        raise DataError(
            f"Partition {self._key} is late.",
            detail=f"{self._feed} promised it within {late_after} of the {of} of the partition{looked}; {self.missing}",
            hint="Ask the upstream. When it has landed, clear this task; if it promised too much, raise late_after= "
            "(lands_within= of Partitions).",
        )


class PartitionEndTrigger(PollTrigger):
    """Wait for a moment: when a partition has ended, and late rows have had their time.

    :param until: The moment, as ISO 8601 writes it.
    :param poll_interval: Seconds between looks at the clock.
    :param deadline: Wall-clock time at which to give up.
    """

    def __init__(self, *, until: str, poll_interval: float, deadline: float) -> None:
        super().__init__(poll_interval=poll_interval, deadline=deadline, until=until)
        self._until = until

    def poll(self) -> dict[str, str] | None:
        """Return the moment once it has come."""
        return {"ended": self._until} if time.time() >= datetime.fromisoformat(self._until).timestamp() else None
