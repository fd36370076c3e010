"""The operator by which somebody on call lets no version answer, where none is good."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypedDict

from airflow_mlops.operators.exclusions import Confirmed
from airflow_mlops.operators.tf_serving import ByPerson

if TYPE_CHECKING:
    from airflow.sdk import Context


class WithdrawnModel(TypedDict):
    """A model of which no version serves, and those that may not come back by themselves."""

    model: str
    rolled_back: list[int]


class TFServingWithdrawModelOperator(Confirmed, ByPerson):
    """Let no version of a model answer: for when what serves is bad, and nothing that is kept is good.

    Callers are refused at once, by HTTP 400 where they name the label ``stable``, 404 where they name none, and use
    what they have in place of a prediction. The next version that passes its gates is deployed as always.

    :param confirm: The name of the model, as somebody wrote it.
    """

    template_fields = (*ByPerson.template_fields, "confirm")

    def __init__(self, *, confirm: str = "", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.confirm = confirm

    def perform(self, context: Context) -> WithdrawnModel:
        """Unload what serves."""
        self.check_confirmed()
        who, reason = self.answered_for(context)
        ti = context["ti"]
        with self.rollout(context) as rollout:
            state = rollout.withdraw(who, reason, request=f"withdrawn by {ti.dag_id} {ti.run_id}")
        self.log.info("No version of %s serves: callers are refused at once.", self.model)
        return WithdrawnModel(model=self.model, rolled_back=list(state.rolled_back))
