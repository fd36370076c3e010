"""Sensors that wait for data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_mlops.operators.data import PARTITION_KEY, located, required_key
from airflow_mlops.sensors.base import MlopsSensor

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_mlops.engine.data.arrival import Arrival
    from airflow_mlops.triggers.data import PartitionArrivalTrigger


class PartitionArrivalSensor(MlopsSensor):
    """Wait until the upstream has landed a day completely: ``<uri>/<key>/_SUCCESS`` is there.

    :param uri: Folder in which the upstream lands one folder a day; a relative path starts at the home folder.
    :param key: Partition key, a UTC day.
    """

    template_fields = (*MlopsSensor.template_fields, "uri", "key")

    def __init__(self, *, uri: str, key: str = PARTITION_KEY, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.uri = uri
        self.key = key

    def look(self, context: Context) -> Arrival | None:
        """Look for the marker once."""
        from airflow_mlops.engine.data.arrival import look_for

        return look_for(located(self, self.uri, "uri"), required_key(self.key))

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
