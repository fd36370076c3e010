"""The trigger that waits until what a training made serves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_mlops.hooks.ledger import LedgerHook
from airflow_mlops.triggers.base import PollTrigger

if TYPE_CHECKING:
    from airflow_mlops.engine.ledger import Ledger


class TrainedModelServesTrigger(PollTrigger):
    """Wait until the version that a run of the training made serves.

    :param model: Name of the model.
    :param run: DAG and run of the training.
    :param tf_serving_conn_id: Airflow connection of the server.
    :param ledger_conn_id: Airflow connection of type ``mlops_ledger``.
    :param poll_interval: Seconds between polls.
    :param deadline: Wall-clock time at which to give up.
    """

    def __init__(
        self,
        *,
        model: str,
        run: str,
        tf_serving_conn_id: str,
        ledger_conn_id: str,
        poll_interval: float,
        deadline: float,
    ) -> None:
        super().__init__(
            poll_interval=poll_interval,
            deadline=deadline,
            model=model,
            run=run,
            tf_serving_conn_id=tf_serving_conn_id,
            ledger_conn_id=ledger_conn_id,
        )
        self._model, self._run, self._server = model, run, tf_serving_conn_id
        self._hook = LedgerHook(ledger_conn_id)
        self._ledger: Ledger | None = None

    async def prepare(self) -> None:
        """Look the connection up."""
        await self._hook.prefetch()

    def poll(self) -> dict[str, Any] | None:
        """Look once. The state of the run is known to a worker only: it looked before."""
        from airflow_mlops.engine.retraining.served import serving_version

        if self._ledger is None:
            self._ledger = self._hook.get_conn()
        version = serving_version(self._ledger, self._server, self._model, self._run, None)
        return None if version is None else {"model": self._model, "version": version}
