"""Sensors that wait for the model server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypedDict

from airflow_mlops.hooks.ledger import LedgerHook
from airflow_mlops.hooks.tf_serving import TFServingHook
from airflow_mlops.operators.base import failing_clearly, whole_version
from airflow_mlops.operators.tf_serving import OnModelServer
from airflow_mlops.sensors.base import MlopsSensor

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_mlops.triggers.tf_serving import TFServingVersionTrigger


class AvailableVersion(TypedDict):
    """A version that the server has loaded."""

    model: str
    version: int


class TFServingVersionSensor(OnModelServer, MlopsSensor):
    """Wait until the model server has loaded a version.

    Use it after :class:`~airflow_mlops.operators.tf_serving.TFServingLoadVersionOperator`.

    When the server gives the version up, the sensor fails at once with the server's error, and the version is taken out
    of the server's configuration again; what serves goes on serving.

    :param model: Name of the model on the server.
    :param version: Version that the server was told to load.
    :param tf_serving_conn_id: Airflow connection of type ``tf_serving``.
    :param ledger_conn_id: Airflow connection of type ``mlops_ledger``.
    """

    template_fields = (*MlopsSensor.template_fields, "model", "version", "tf_serving_conn_id", "ledger_conn_id")

    def __init__(
        self,
        *,
        model: str,
        version: int | str,
        tf_serving_conn_id: str = TFServingHook.default_conn_name,
        ledger_conn_id: str = LedgerHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.version = version
        self.tf_serving_conn_id = tf_serving_conn_id
        self.ledger_conn_id = ledger_conn_id

    def look(self, context: Context) -> AvailableVersion | None:
        """Ask the server once."""
        with self.rollout(context):  # puts the link in place
            state = TFServingHook(self.tf_serving_conn_id).settled_state(self.model, whole_version(self.version))
        return None if state is None else self._judge(context, state)

    def trigger(self, deadline: float) -> TFServingVersionTrigger:
        """Go on asking in the triggerer."""
        from airflow_mlops.triggers.tf_serving import TFServingVersionTrigger

        return TFServingVersionTrigger(
            model=self.model,
            version=whole_version(self.version),
            tf_serving_conn_id=self.tf_serving_conn_id,
            poll_interval=self.poke_interval,
            deadline=deadline,
        )

    def describe(self) -> str:
        """Say what is waited for."""
        return f"version {self.version} of {self.model!r} AVAILABLE on server {self.tf_serving_conn_id!r}"

    def execute_complete(self, context: Context, event: dict[str, Any]) -> AvailableVersion:
        """Judge what the trigger saw; here, since the triggerer has no business in the server's config file."""
        state = super().execute_complete(context, event)
        with failing_clearly():
            return self._judge(context, state)

    def _judge(self, context: Context, state: dict[str, str]) -> AvailableVersion:
        version = whole_version(self.version)
        if state["state"] == "END":
            with self.rollout(context) as rollout:
                raise rollout.reject(version, state["error"] or "unloaded")
        return AvailableVersion(model=self.model, version=version)
