"""Triggers that wait for the model server."""

from __future__ import annotations

from airflow_mlops.hooks.tf_serving import TFServingHook
from airflow_mlops.triggers.base import PollTrigger


class TFServingVersionTrigger(PollTrigger):
    """Wait until the model server has loaded a version, or given it up.

    The result is ``{"state": "AVAILABLE" or "END", "error": ...}``.

    :param model: Name of the model on the server.
    :param version: The version.
    :param tf_serving_conn_id: Airflow connection of type ``tf_serving``.
    :param poll_interval: Seconds between polls.
    :param deadline: Wall-clock time at which to give up.
    """

    def __init__(
        self, *, model: str, version: int, tf_serving_conn_id: str, poll_interval: float, deadline: float
    ) -> None:
        super().__init__(
            poll_interval=poll_interval,
            deadline=deadline,
            model=model,
            version=version,
            tf_serving_conn_id=tf_serving_conn_id,
        )
        self._hook = TFServingHook(tf_serving_conn_id)
        self._model = model
        self._version = version

    async def prepare(self) -> None:
        """Look the connection up."""
        await self._hook.prefetch()

    def poll(self) -> dict[str, str] | None:
        """Ask the server once."""
        return self._hook.settled_state(self._model, self._version)
