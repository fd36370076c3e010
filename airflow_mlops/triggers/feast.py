"""Triggers that wait for features."""

from __future__ import annotations

from typing import Any

from airflow_mlops.hooks.feast import FeastHook
from airflow_mlops.operators.base import open_home
from airflow_mlops.triggers.base import PollTrigger


class FeastFeatureFreshnessTrigger(PollTrigger):
    """Wait until all feature views of a service are fresh in the online store.

    The result is ``{"project": ..., "ages": ...}``, the latter feature view → age in seconds.

    :param home: Where partitions and features are: a folder, or a prefix on object storage.
    :param service: Feast feature service.
    :param key: Partition at whose end ages are counted.
    :param max_age: Greatest age allowed, such as ``26h``, of a view without the tag ``max_age``.
    :param partitioning: Of which ``key`` is one: ``daily``, ``hourly@Europe/Berlin``.
    :param feast_conn_id: Airflow connection of type ``feast``.
    :param poll_interval: Seconds between polls.
    :param deadline: Wall-clock time at which to give up.
    """

    def __init__(
        self,
        *,
        home: str,
        service: str,
        key: str,
        max_age: str,
        feast_conn_id: str,
        poll_interval: float,
        deadline: float,
        partitioning: str = "daily",
    ) -> None:
        super().__init__(
            poll_interval=poll_interval,
            deadline=deadline,
            home=home,
            service=service,
            key=key,
            max_age=max_age,
            partitioning=partitioning,
            feast_conn_id=feast_conn_id,
        )
        self._hook = FeastHook(feast_conn_id)
        self._home = home
        self._service = service
        self._key = key
        self._max_age = max_age
        self._partitioning = partitioning

    async def prepare(self) -> None:
        """Look the connection up."""
        await self._hook.prefetch()

    def poll(self) -> dict[str, Any] | None:
        """Read the online store once."""
        home = open_home(self._home)
        found = self._hook.freshness(home, self._service, self._key, self._max_age, self._partitioning)
        self.seen = "; ".join(str(view) for view in found.stale)
        return {"project": found.project, "ages": found.ages} if found.fresh else None
