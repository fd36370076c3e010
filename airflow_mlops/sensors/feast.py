"""Sensors that wait for features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow.sdk import Asset

from airflow_mlops.hooks.feast import FeastHook
from airflow_mlops.metrics import gauge
from airflow_mlops.operators.base import default_home, required_key
from airflow_mlops.sensors.base import MlopsSensor

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_mlops.triggers.feast import FeastFeatureFreshnessTrigger


class FeastFeatureFreshnessSensor(MlopsSensor):
    """Wait until every feature view of a service can be read online, and is no older than it may be.

    Use it when features were written online, before somebody relies on them.

    Values are really read, for some of the entities stamped last. The result is feature view → age in seconds; so is
    ``age_seconds`` in the extra of the events of its outlets, and gauge ``mlops.feature_age_seconds`` with the tags
    ``project`` and ``view``, which is sent whether they are fresh or not.

    :param service: Feast feature service.
    :param max_age: Greatest age allowed, such as ``26h``. A view's own tag ``max_age`` goes before it.
    :param key: Partition at whose end ages are counted, so that a backfill is judged by its own day.
    :param partitioning: Of which ``key`` is one: ``daily``, ``hourly@Europe/Berlin``.
    :param feast_conn_id: Airflow connection of type ``feast``.
    """

    template_fields = (*MlopsSensor.template_fields, "service", "max_age", "key", "feast_conn_id")

    def __init__(
        self,
        *,
        service: str,
        max_age: str = "26h",
        key: str = "{{ partition_key }}",
        partitioning: str = "daily",
        feast_conn_id: str = FeastHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.service = service
        self.max_age = max_age
        self.key = key
        self.partitioning = partitioning
        self.feast_conn_id = feast_conn_id

    def look(self, context: Context) -> dict[str, float | None] | None:
        """Read the online store once."""
        hook = FeastHook(self.feast_conn_id)
        found = hook.freshness(self.home_path, self.service, required_key(self.key), self.max_age, self.partitioning)
        _send(found.project, found.ages)
        self.seen = "; ".join(str(view) for view in found.stale)
        if not found.fresh:
            self.log.info("Not fresh: %s", self.seen)
            return None
        self._tell(context, found.ages)
        return found.ages

    def execute_complete(self, context: Context, event: dict[str, Any]) -> dict[str, float | None]:
        """Turn the trigger's one event into the ages, or a clear failure."""
        found = super().execute_complete(context, event)
        ages: dict[str, float | None] = found["ages"]
        _send(found["project"], ages)
        self._tell(context, ages)
        return ages

    def _tell(self, context: Context, ages: Mapping[str, float | None]) -> None:
        for outlet in self.outlets:
            if isinstance(outlet, Asset):
                context["outlet_events"][outlet].extra = {"age_seconds": dict(ages)}

    def trigger(self, deadline: float) -> FeastFeatureFreshnessTrigger:
        """Go on reading in the triggerer."""
        from airflow_mlops.triggers.feast import FeastFeatureFreshnessTrigger

        return FeastFeatureFreshnessTrigger(
            home=self.home or default_home(),
            service=self.service,
            key=required_key(self.key),
            max_age=self.max_age,
            partitioning=self.partitioning,
            feast_conn_id=self.feast_conn_id,
            poll_interval=self.poke_interval,
            deadline=deadline,
        )

    def describe(self) -> str:
        """Say what is waited for."""
        return f"features of {self.service!r} online and at most {self.max_age} old at the end of {self.key}"


def _send(project: str, ages: Mapping[str, float | None]) -> None:
    for view, age in ages.items():
        if age is not None:
            gauge("mlops.feature_age_seconds", age, project=project, view=view)
