"""The sensor that holds a training until its data is complete and announced healthy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow_mlops.hooks.ledger import LedgerHook
from airflow_mlops.operators.base import default_home, failing_clearly
from airflow_mlops.sensors.base import MlopsSensor

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_mlops.triggers.readiness import ReadyData, TrainingDataTrigger


class TrainingDataSensor(MlopsSensor):
    """Hold a training until every day that it needs is sealed and no upstream says that its data is degraded.

    Use it first in a DAG that trains.

    While it holds, the reasons are in the task's log, whenever they change, in its XCom ``holding``, and in the
    message when it gives up. A ledger that does not answer is such a reason: a training may wait.

    :param sources: For each dataset its name and first day: ``{"dataset": "departures", "start": "2013-01-01"}``; and
        its last day as ``end``, for a source that has ended.
    :param as_of: Moment (ISO, with time zone) of which knowledge is used, cut to where a partition begins. Empty: the
        latest moment for which all data is complete, so that there is nothing to wait for once there is any.
    :param model: The model that is to be trained: while it is halted, the training holds. None holds for none.
    :param ledger_conn_id: Airflow connection of type ``mlops_ledger``.
    """

    template_fields = (*MlopsSensor.template_fields, "sources", "as_of", "model", "ledger_conn_id")
    _reasons: Sequence[str] = ()

    def __init__(
        self,
        *,
        sources: Sequence[Mapping[str, str]],
        as_of: str,
        model: str | None = None,
        ledger_conn_id: str = LedgerHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.sources = sources
        self.as_of = as_of
        self.model = model
        self.ledger_conn_id = ledger_conn_id

    def look(self, context: Context) -> ReadyData | None:
        """Look once; what holds the training back is logged and pushed whenever it changes."""
        from airflow_mlops.triggers.readiness import look

        ledger = LedgerHook(self.ledger_conn_id).get_conn()
        reasons, ready = look(ledger, self.home_path, self.sources, self.as_of, self.model)
        if reasons != list(self._reasons):
            self._reasons = reasons
            self.log.warning("Training holds: %s", "; ".join(reasons) or "no longer")
            context["ti"].xcom_push(key="holding", value=reasons)
        return ready

    def trigger(self, deadline: float) -> TrainingDataTrigger:
        """Go on looking in the triggerer."""
        from airflow_mlops.triggers.readiness import TrainingDataTrigger

        return TrainingDataTrigger(
            home=self.home or default_home(),
            sources=self.sources,
            as_of=self.as_of,
            model=self.model,
            ledger_conn_id=self.ledger_conn_id,
            poll_interval=self.poke_interval,
            deadline=deadline,
        )

    def describe(self) -> str:
        """Say what is waited for, and why, if that is known."""
        why = f": {'; '.join(self._reasons)}" if self._reasons else ""
        return f"training data as of {self.as_of or 'its latest complete day'} complete and announced healthy{why}"

    def execute_complete(self, context: Context, event: dict[str, Any]) -> ReadyData:
        """Take the trigger's result. Before giving up, look again: for the reasons, which the trigger had."""
        if event["status"] == "timeout":
            with failing_clearly():
                ready = self.look(context)
            if ready is not None:
                return ready
        return super().execute_complete(context, event)
