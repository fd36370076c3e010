"""Sensors that wait for data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_mlops.exceptions import ConfigError
from airflow_mlops.operators.base import required_key
from airflow_mlops.operators.data import PARTITION_KEY, located
from airflow_mlops.sensors.base import MlopsSensor

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_mlops.engine.data.arrival import Arrival
    from airflow_mlops.triggers.data import PartitionArrivalTrigger


class PartitionArrivalSensor(MlopsSensor):
    """Wait until the upstream has landed a day completely: ``<uri>/<key>/_SUCCESS`` is there.

    :param uri: Folder in which the upstream lands one folder a day; a relative path starts at the home folder.
    :param key: Partition key, a UTC day.
    :param first: First day that ever lands; an earlier key is refused, not waited for.
    :param last: Last day that ever lands, for a source that has ended.
    """

    template_fields = (*MlopsSensor.template_fields, "uri", "key", "first", "last")

    def __init__(
        self,
        *,
        uri: str,
        key: str = PARTITION_KEY,
        first: str | None = None,
        last: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.uri = uri
        self.key = key
        self.first = first
        self.last = last

    def look(self, context: Context) -> Arrival | None:
        """Look for the marker once."""
        from airflow_mlops.engine.data.arrival import look_for

        key = required_key(self.key)
        if (self.first and key < self.first) or (self.last and key > self.last):
            raise ConfigError(
                f"Day {key} never lands.",
                detail=f"{self.uri} has the days {self.first or '…'} to {self.last or '…'}",
                hint="Trigger the DAG with a day of the source, or correct the source's start and end.",
            )
        return look_for(located(self, self.uri, "uri"), key)

    def trigger(self, deadline: float) -> PartitionArrivalTrigger:
        """Go on looking in the triggerer."""
        from airflow_mlops.triggers.data import PartitionArrivalTrigger

        return PartitionArrivalTrigger(
            feed=str(located(self, self.uri, "uri")),
            key=required_key(self.key),
            poll_interval=self.poll_interval,
            deadline=deadline,
        )

    def describe(self) -> str:
        """Say what is waited for."""
        return f"day {self.key} complete in {self.uri}"
