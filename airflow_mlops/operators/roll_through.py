"""The operator by which somebody on call decides to go forward through a bad time, and not back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from airflow.sdk.exceptions import DagRunTriggerException

from airflow_mlops.hooks.ledger import LedgerHook
from airflow_mlops.operators.exclusions import Confirmed
from airflow_mlops.operators.tf_serving import ByPerson

if TYPE_CHECKING:
    from airflow.sdk import Context


class TFServingRollThroughOperator(Confirmed, ByPerson):
    """Go forward: lift the pin, let the next version that passes its gates be deployed however often it was rolled
    back, and start ``<model>.train`` now. No gate is passed over, and what was rolled back stays out.

    Use it when what serves is bad, and no version that one could go back to is good.

    :param confirm: The name of the model, as somebody wrote it.
    """

    stopped_by_halt = "surely"
    template_fields = (*ByPerson.template_fields, "confirm")

    def __init__(self, *, confirm: str = "", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.confirm = confirm

    def perform(self, context: Context) -> NoReturn:
        """Write it down, and have Airflow start the training."""
        from airflow_mlops.engine.serving.flapping import roll_through

        self.check_confirmed()
        who, reason = self.answered_for(context)
        ledger = LedgerHook(self.ledger_conn_id).get_conn()
        state = roll_through(ledger, self.tf_serving_conn_id, self.model, who, reason)
        self.log.info("Version %s serves until the next one has passed its gates.", state.stable)
        words = f"roll through, by {who}: {reason}"
        # Raised here and not by Airflow's operator for it, which takes a quarter of a second to import at each parse.
        raise DagRunTriggerException(
            trigger_dag_id=f"{self.model}.train",
            dag_run_id=f"roll_through__{context['ti'].run_id}",
            conf={"reason": words},
            note=words,
            reset_dag_run=False,
            skip_when_already_exists=True,
            wait_for_completion=False,
            allowed_states=["success"],
            failed_states=["failed"],
            poke_interval=60,
            deferrable=False,
        )
