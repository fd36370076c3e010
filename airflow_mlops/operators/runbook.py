"""Operators by which somebody on call intervenes: choose what to do, halt a model, let it go on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypedDict

from airflow.providers.standard.operators.branch import BaseBranchOperator

from airflow_mlops.durations import parse_duration
from airflow_mlops.exceptions import ConfigError
from airflow_mlops.hooks.ledger import LedgerHook
from airflow_mlops.hooks.tf_serving import TFServingHook
from airflow_mlops.moments import parse_day_or_moment
from airflow_mlops.operators.base import MlopsOperator, check_form, doc_of, owner_of, said

if TYPE_CHECKING:
    from airflow.sdk import Context


class ModelHalt(TypedDict):
    """Whether a model is halted now, by whom, why and until when."""

    model: str
    halted: bool
    who: str
    reason: str
    until: str | None


class ChooseOperator(BaseBranchOperator):
    """Go on with the task that is named; the others that follow are skipped.

    :param chosen: Id of a task that follows.
    """

    template_fields: Sequence[str] = ("chosen",)
    ui_color = "#e8f0fe"

    def __init__(self, *, chosen: str, **kwargs: Any) -> None:
        super().__init__(**{"doc_md": doc_of(type(self)), **kwargs})
        self.chosen = chosen

    def choose_branch(self, context: Context) -> str:
        """Return the id of the task."""
        return self.chosen


class PersonOperator(MlopsOperator):
    """Base of what a person does: somebody answers for it, and says why.

    :param model: Name of the model.
    :param who: Who answers for it; default is the user who triggered the run.
    :param reason: Why; kept in the ledger, and shown to whoever asks.
    :param ledger_conn_id: Airflow connection of type ``mlops_ledger``.
    """

    template_fields = (*MlopsOperator.template_fields, "model", "who", "reason", "ledger_conn_id")

    def __init__(
        self,
        *,
        model: str,
        who: str | None = None,
        reason: str | None = None,
        ledger_conn_id: str = LedgerHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.who = who
        self.reason = reason
        self.ledger_conn_id = ledger_conn_id

    def answered_for(self, context: Context) -> tuple[str, str]:
        """Return who answers for it, and why.

        :raises ConfigError: when the trigger says what its form has no field for.
        """
        check_form(self, context, self.model)
        run = context["dag_run"]
        user = getattr(run, "triggering_user_name", None) or f"whoever triggered {run.run_id}"
        return said(self.who) or user, said(self.reason) or "no reason was given"


class HoldsUntil:
    """Mixin for what holds until a moment, or until somebody lifts it."""

    until: str | None

    def ends(self) -> datetime | None:
        """Return when it ends; None when a person has to end it."""
        text = said(self.until)
        return parse_day_or_moment(text, "until") if text else None


class HaltModelOperator(HoldsUntil, PersonOperator):
    """Halt a model: no training starts, a running one registers nothing, nothing is deployed. What serves stays.

    Use it when something is wrong, and nobody knows yet what.

    :param until: When the halt runs out; empty means that it holds until somebody resumes.
    """

    template_fields = (*PersonOperator.template_fields, "until")

    def __init__(self, *, until: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.until = until

    def perform(self, context: Context) -> ModelHalt:
        """Halt, and return what holds."""
        from airflow_mlops.engine.halts import halt, require_trained

        who, reason = self.answered_for(context)
        ledger = LedgerHook(self.ledger_conn_id).get_conn()
        made = halt(ledger, self.model, who, reason, self.ends())
        try:
            require_trained(ledger, self.model, "nothing")
        except ConfigError as error:
            self.log.warning("%s If the name is right, it is halted before its first training.", error.headline)
        self.log.info("%s", made)
        until = made.until.isoformat() if made.until else None
        return ModelHalt(model=self.model, halted=True, who=who, reason=reason, until=until)


class RemindedOfPin(TypedDict):
    """Whether somebody was told that a pin is about to run out, and which pin there is."""

    told: bool
    pin: str | None


class RemindOfPinOperator(MlopsOperator):
    """Tell the notifiers, once a pin, that it is about to run out: then the next version that passes is deployed.

    Use it on a schedule, for models that somebody may have pinned.

    :param model: Name of the model.
    :param notify: Airflow notifiers, or functions that take a context.
    :param before: How long before its end a pin is told of.
    :param tf_serving_conn_id: Airflow connection of the server on which the model is pinned.
    :param ledger_conn_id: Airflow connection of type ``mlops_ledger``.
    """

    template_fields = (*MlopsOperator.template_fields, "model", "before", "tf_serving_conn_id", "ledger_conn_id")

    def __init__(
        self,
        *,
        model: str,
        notify: Sequence[Callable[..., Any]],
        before: str = "2d",
        tf_serving_conn_id: str = TFServingHook.default_conn_name,
        ledger_conn_id: str = LedgerHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.notify = notify
        self.before = before
        self.tf_serving_conn_id = tf_serving_conn_id
        self.ledger_conn_id = ledger_conn_id

    def perform(self, context: Context) -> RemindedOfPin:
        """Look at the pin, and tell of it when it ends soon and nobody was told yet."""
        from airflow_mlops.engine.serving.deployments import deployment, pin_to_tell_of, pin_was_told
        from airflow_mlops.notifications import Notice, tell

        ledger = LedgerHook(self.ledger_conn_id).get_conn()
        server = self.tf_serving_conn_id
        ending = pin_to_tell_of(ledger, server, self.model, parse_duration(self.before))
        if ending is not None:
            notice = Notice(
                event="pin_ends",
                model=self.model,
                owner=owner_of(self),
                headline=f"The pin of version {ending.version} of {self.model!r} on {server!r} is about to run out.",
                detail=str(ending),
                hint="After it the next version that passes its gates is deployed. To keep this one: action pin of "
                f"{self.model}.runbook.",
            )
            tell(self.notify, notice, context)
            pin_was_told(ledger, server, self.model, ending)
        pin = deployment(ledger, server, self.model)[0].pin
        return RemindedOfPin(told=ending is not None, pin=str(pin) if pin else None)


class ResumeModelOperator(PersonOperator):
    """End the halt of a model. A training that was held goes on; of what was skipped, clear the tasks."""

    def perform(self, context: Context) -> ModelHalt:
        """Resume, and say so."""
        from airflow_mlops.engine.halts import resume

        who, reason = self.answered_for(context)
        resume(LedgerHook(self.ledger_conn_id).get_conn(), self.model, who, reason)
        return ModelHalt(model=self.model, halted=False, who=who, reason=reason, until=None)
