"""Sensors that wait for features."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_mlops.hooks.feast import FeastHook
from airflow_mlops.operators.base import required_key
from airflow_mlops.sensors.base import MlopsSensor

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_mlops.triggers.feast import FeastFeatureFreshnessTrigger


class FeastFeatureFreshnessSensor(MlopsSensor):
    """Wait until every feature view of a service can be read online, and is no older than ``max_age``.

    Values are really read, for some of the entities stamped last. The result is feature view → age in seconds.

    :param service: Feast feature service.
    :param max_age: Greatest age allowed, such as ``26h``.
    :param key: Partition at whose end ages are counted, so that a backfill is judged by its own day.
    :param feast_conn_id: Airflow connection of type ``feast``.
    """

    template_fields = (*MlopsSensor.template_fields, "service", "max_age", "key", "feast_conn_id")

    def __init__(
        self,
        *,
        service: str,
        max_age: str = "26h",
        key: str = "{{ partition_key }}",
        feast_conn_id: str = FeastHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.service = service
        self.max_age = max_age
        self.key = key
        self.feast_conn_id = feast_conn_id

    def look(self, context: Context) -> dict[str, float] | None:
        """Read the online store once."""
        hook = FeastHook(self.feast_conn_id)
        return hook.ages_if_fresh(self.home_path, self.service, required_key(self.key), self.max_age)

    def trigger(self, deadline: float) -> FeastFeatureFreshnessTrigger:
        """Go on reading in the triggerer."""
        from airflow_mlops.triggers.feast import FeastFeatureFreshnessTrigger

        return FeastFeatureFreshnessTrigger(
            home=str(self.home_path),
            service=self.service,
            key=required_key(self.key),
            max_age=self.max_age,
            feast_conn_id=self.feast_conn_id,
            poll_interval=self.poll_interval,
            deadline=deadline,
        )

    def describe(self) -> str:
        """Say what is waited for."""
        return f"features of {self.service!r} online and at most {self.max_age} old at the end of {self.key}"
