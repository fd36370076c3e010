"""The sensor that waits until what a training made serves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_mlops.hooks.ledger import LedgerHook
from airflow_mlops.hooks.tf_serving import TFServingHook
from airflow_mlops.operators.base import require
from airflow_mlops.sensors.base import MlopsSensor

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_mlops.triggers.fleet import TrainedModelServesTrigger


class TrainedModelServesSensor(MlopsSensor):
    """Wait until the version that came of a run of the training serves. It fails at once, in words, where it never
    will.

    Use it for a rollout: try a training on one model, and start those of the others when it serves.

    :param model: Name of the model.
    :param run_id: Run of ``<model>.train``.
    :param tf_serving_conn_id: Airflow connection of the server on which it is to serve.
    :param ledger_conn_id: Airflow connection of type ``mlops_ledger``.
    """

    template_fields = (*MlopsSensor.template_fields, "model", "run_id", "tf_serving_conn_id", "ledger_conn_id")

    def __init__(
        self,
        *,
        model: str,
        run_id: str,
        tf_serving_conn_id: str = TFServingHook.default_conn_name,
        ledger_conn_id: str = LedgerHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.run_id = run_id
        self.tf_serving_conn_id = tf_serving_conn_id
        self.ledger_conn_id = ledger_conn_id

    def look(self, context: Context) -> dict[str, Any] | None:
        """Look once, at the run too."""
        from airflow_mlops.engine.retraining.served import serving_version
        from airflow_mlops.operators.retraining import run_state

        run = self._run()
        ledger = LedgerHook(self.ledger_conn_id).get_conn()
        version = serving_version(ledger, self.tf_serving_conn_id, self.model, run, run_state(context, run))
        return None if version is None else {"model": self.model, "version": version}

    def trigger(self, deadline: float) -> TrainedModelServesTrigger:
        """Go on looking in the triggerer."""
        from airflow_mlops.triggers.fleet import TrainedModelServesTrigger

        return TrainedModelServesTrigger(
            model=self.model,
            run=self._run(),
            tf_serving_conn_id=self.tf_serving_conn_id,
            ledger_conn_id=self.ledger_conn_id,
            poll_interval=self.poke_interval,
            deadline=deadline,
        )

    def describe(self) -> str:
        """Say what is waited for."""
        return f"the version of {self.model} that run {self.run_id} made serves on {self.tf_serving_conn_id}"

    def _run(self) -> str:
        """Return DAG and run."""
        return f"{self.model}.train {require(self.run_id, 'run_id', 'Name a run of the training.')}"
