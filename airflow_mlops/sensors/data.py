"""Sensors that wait for data."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import Asset
from airflow.sdk.exceptions import AirflowRuntimeError, AirflowSkipException

from airflow_mlops.durations import parse_duration
from airflow_mlops.exceptions import ConfigError
from airflow_mlops.layout import FOLDER, Layout
from airflow_mlops.moments import parse_day
from airflow_mlops.operators.base import required_key
from airflow_mlops.operators.data import PARTITION_KEY, located
from airflow_mlops.partitioning import Partitioning
from airflow_mlops.sensors.base import MlopsSensor

if TYPE_CHECKING:
    from datetime import datetime

    from airflow.sdk import Context
    from airflow.sdk.execution_time.context import InletEventsAccessors

    from airflow_mlops.engine.data.arrival import Arrival
    from airflow_mlops.triggers.data import PartitionArrivalTrigger, PartitionEndTrigger


_EVER = "1970-01-01T00:00:00+00:00"


class PartitionArrivalSensor(MlopsSensor):
    """Wait until the upstream has landed a partition completely: by default, ``<uri>/<key>/_SUCCESS`` is there.

    Use it first in a DAG that reads files: no day that is half written is read.

    Everything that is asked for must hold; what is missing is in the log, and in the message when it gives up. A day
    that lands later than ``late_after`` fails at once, as late. That promise, and ``timeout``, count from the end of
    the day; but a day long past, as in a backfill, has fifteen minutes from this task's first look.

    :param uri: Folder in which the upstream lands one folder a day; a relative path starts at the home folder, and
        ``s3://aws_default@bucket/prefix`` is opened by the Airflow connection before the ``@``.
    :param key: Partition key.
    :param partitioning: Of which ``key`` is one: ``daily``, ``hourly@Europe/Berlin``.
    :param layout: Where a partition lies below ``uri``: a pattern such as ``dt={key}/*.parquet``; see
        :class:`~airflow_mlops.layout.Layout`. The marker or manifest lies in its last folder without a wildcard.
    :param lands: How the upstream cuts what it lands, where that is finer: ``hourly``. ``layout`` is then of a piece,
        and all pieces are waited for.
    :param ahead: Whether a partition is there when its time begins: then what is promised counts from its beginning.
    :param first: First day that ever lands. An earlier partition is not waited for: the task is skipped, and says so.
    :param last: Last day that ever lands, for a source that has ended; likewise.
    :param marker: File that the upstream writes last; None when it writes none.
    :param manifest: JSON file of the upstream, ``{"files": [{"name", "bytes", "rows"?, "sha256"?}]}``: all of these
        Parquet files must be there, like that, and no other.
    :param min_rows: Rows that the Parquet files must have in all.
    :param settle: How long ago the newest change must be, such as ``5m``, by the storage's clock.
    :param late_after: The upstream's promise: how long after the end of its day it lands, such as ``6h``.
    :param asset: Name of an asset that an upstream DAG writes. Its event tells that a partition is complete: one of
        this partition key, or one without a key from after the end of the partition. Such a sensor does not defer;
        give it ``mode="reschedule"``.
    """

    template_fields = (
        *MlopsSensor.template_fields,
        "uri",
        "key",
        "first",
        "last",
        "marker",
        "manifest",
        "min_rows",
        "settle",
        "late_after",
    )
    _since: float | None = None
    _missing = ""

    def __init__(
        self,
        *,
        uri: str,
        key: str = PARTITION_KEY,
        partitioning: str = "daily",
        layout: str = FOLDER,
        lands: str = "",
        ahead: bool = False,
        first: str | None = None,
        last: str | None = None,
        marker: str | None = "_SUCCESS",
        manifest: str | None = None,
        min_rows: int | str = 0,
        settle: str | None = None,
        late_after: str | None = None,
        asset: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**({"inlets": [Asset.ref(name=asset)], **kwargs, "deferrable": False} if asset else kwargs))
        self.uri = uri
        self.key = key
        self.partitioning = partitioning
        self.layout = layout
        self.lands = lands
        self.ahead = ahead
        self.first = first
        self.last = last
        self.marker = marker
        self.manifest = manifest
        self.min_rows = min_rows
        self.settle = settle
        self.late_after = late_after
        self.asset = asset

    def look(self, context: Context) -> Arrival | None:
        """Look once, as the trigger does."""
        key = required_key(self.key)
        partitioning = Partitioning.parse(self.partitioning)
        _skip_what_is_not_there(key, partitioning, self.first, self.last, self.uri)
        if self._since is None:
            started = context["ti"].get_first_reschedule_date(context) if self.reschedule else None
            self._since = started.timestamp() if started else time.time()
        if self.asset and (piece := self._untold(context["inlet_events"], key)):
            self._missing = f"asset {self.asset!r} has no event of {piece}"
            self.log.info("Partition %s of %s: %s.", key, self.uri, self._missing)
            return None
        looking = self.trigger(deadline=self._since + self.timeout)
        try:
            return looking.poll()
        finally:
            self._missing = looking.missing

    def _ends(self, key: str) -> datetime:
        """Return from when on a partition may be expected."""
        return Partitioning.parse(self.partitioning).interval(key)[0 if self.ahead else 1]

    def _untold(self, events: InletEventsAccessors, key: str) -> str:
        """Return the first piece of a partition that no event of the asset tells of; nothing when all are told."""
        lands = Partitioning.parse(self.lands) if self.lands else None
        pieces = Layout(self.layout, lands).pieces(key, Partitioning.parse(self.partitioning))
        try:
            found = list(events[Asset.ref(name=str(self.asset))].after(_EVER))
        except AirflowRuntimeError:  # nobody has declared the asset yet
            return next(iter(pieces))
        of_a_key = {event.partition_key for event in found}
        last = max((event.timestamp for event in found if event.partition_key is None), default=None)

        def told(piece: str) -> bool:
            ends = self._ends(key) if lands is None else lands.interval(piece)[1]
            return piece in of_a_key or (last is not None and last >= ends)

        return next((piece for piece in pieces if not told(piece)), "")

    def trigger(self, deadline: float) -> PartitionArrivalTrigger:
        """Go on looking in the triggerer."""
        from airflow_mlops.triggers.data import GRACE, PartitionArrivalTrigger

        key, since = required_key(self.key), time.time() if self._since is None else self._since
        end = self._ends(key).timestamp()
        return PartitionArrivalTrigger(
            feed=str(located(self, self.uri, "uri")),
            key=key,
            partitioning=self.partitioning,
            layout=self.layout,
            lands=self.lands,
            ahead=self.ahead,
            marker=self.marker,
            manifest=self.manifest,
            min_rows=self._whole(self.min_rows),
            settle=self.settle,
            late_after=self.late_after,
            since=since,
            told=self.asset is not None,
            poll_interval=self.poke_interval,
            deadline=min(deadline, max(end + self.timeout, since + GRACE)),
        )

    def describe(self) -> str:
        """Say what is waited for, and what is missing, if that is known."""
        return f"partition {self.key} complete in {self.uri}" + (f": {self._missing}" if self._missing else "")

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        """Take the trigger's result. Before giving up, look again: for what is missing, which the trigger knew."""
        if event["status"] == "timeout":
            poked = self.poke(context)
            if poked.is_done:
                return poked.xcom_value
        return super().execute_complete(context, event)

    @staticmethod
    def _whole(number: int | str) -> int:
        if not str(number).strip().isdecimal():
            raise ConfigError(
                f"{number!r} is not a number of rows.",
                detail=f"min_rows={number!r} after rendering",
                hint="It must be a whole number from 0 on.",
            )
        return int(number)


class PartitionEndSensor(MlopsSensor):
    """Wait until a partition has ended, and until the rows that are added to a table after that have had their time.

    Use it first in a DAG that reads a table: nothing else says that a day of it is complete.

    :param key: Partition key.
    :param partitioning: Of which ``key`` is one: ``daily``, ``hourly@Europe/Berlin``.
    :param first: First day that there is. An earlier partition is not waited for: the task is skipped, and says so.
    :param last: Last day that there is, for a source that has ended; likewise.
    :param complete_after: How long after its end it is complete, such as ``1h``; default is at once.
    """

    template_fields = (*MlopsSensor.template_fields, "key", "first", "last", "complete_after")

    def __init__(
        self,
        *,
        key: str = PARTITION_KEY,
        partitioning: str = "daily",
        first: str | None = None,
        last: str | None = None,
        complete_after: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.key = key
        self.partitioning = partitioning
        self.first = first
        self.last = last
        self.complete_after = complete_after

    def look(self, context: Context) -> dict[str, str] | None:
        """Look at the clock."""
        key, partitioning = required_key(self.key), Partitioning.parse(self.partitioning)
        _skip_what_is_not_there(key, partitioning, self.first, self.last, "the table")
        return self.trigger(deadline=0).poll()

    def trigger(self, deadline: float) -> PartitionEndTrigger:
        """Go on in the triggerer."""
        from airflow_mlops.triggers.data import PartitionEndTrigger

        end = Partitioning.parse(self.partitioning).interval(required_key(self.key))[1]
        after = parse_duration(self.complete_after) if self.complete_after else timedelta(0)
        return PartitionEndTrigger(until=(end + after).isoformat(), poll_interval=self.poke_interval, deadline=deadline)

    def describe(self) -> str:
        """Say what is waited for."""
        return f"the end of partition {self.key}" + (f" and {self.complete_after}" if self.complete_after else "")


def _skip_what_is_not_there(
    key: str, partitioning: Partitioning, first: str | None, last: str | None, where: str
) -> None:
    start, end = partitioning.interval(key)
    if (first and start < partitioning.first(parse_day(first, "first"))) or (
        last and end > partitioning.after(parse_day(last, "last"))
    ):
        days = f"{first or '…'} to {last or '…'}"
        raise AirflowSkipException(f"Partition {key} never lands: {where} has the days {days}.")
