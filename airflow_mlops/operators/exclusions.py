"""Operators by which somebody on call keeps a window of bad data out of every training set, or lets it in again."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypedDict

from airflow_mlops.exceptions import ConfigError
from airflow_mlops.hooks.ledger import LedgerHook
from airflow_mlops.moments import parse_day
from airflow_mlops.operators.base import require, said
from airflow_mlops.operators.runbook import PersonOperator

if TYPE_CHECKING:
    from datetime import datetime

    from airflow.sdk import Context

    from airflow_mlops.contracts import Exclusion


class ExcludedWindow(TypedDict):
    """A window of a dataset, whether it is excluded now, and who says so, and why."""

    model: str
    dataset: str
    start: str
    end: str
    excluded: bool
    who: str
    reason: str


class Confirmed:
    """Mixin for what reaches far: whoever asks for it says why, and writes the model's name."""

    model: str
    reason: str | None
    confirm: str

    def check_confirmed(self) -> None:
        """Refuse it without a reason, or when another name, or none, was written.

        :raises ConfigError: then.
        """
        require(said(self.reason), "reason", "Say why in the field Why: it is kept in the ledger with your name.")
        if said(self.confirm) != self.model:
            raise ConfigError(
                f"This was not confirmed for {self.model!r}.",
                detail=f"confirm={said(self.confirm)!r}",
                hint=f"Write the name of the model in the field Confirm: {self.model}.",
            )


class WindowOperator(Confirmed, PersonOperator):
    """Base of what a person says of a window of days.

    :param dataset: Dataset of a feed.
    :param first: First day (ISO).
    :param last: Last day (ISO), included; empty: the first one.
    :param confirm: The name of the model, as somebody wrote it.
    """

    template_fields = (*PersonOperator.template_fields, "dataset", "first", "last", "confirm")

    def __init__(self, *, dataset: str, first: str, last: str = "", confirm: str = "", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dataset = dataset
        self.first = first
        self.last = last
        self.confirm = confirm

    def asked(self) -> tuple[str, datetime, datetime]:
        """Return dataset and window, once they are confirmed."""
        from airflow_mlops.engine.data.exclusions import window_of_days

        self.check_confirmed()
        first = require(said(self.first), "first", "Name the first day of the window.")
        days = parse_day(first, "first"), parse_day(said(self.last) or first, "last")
        return require(said(self.dataset), "dataset", "Name the dataset of a feed."), *window_of_days(*days)

    def told(self, exclusion: Exclusion, who: str, reason: str, *, excluded: bool) -> ExcludedWindow:
        """Return what holds now."""
        start, end = exclusion.start.isoformat(), exclusion.end.isoformat()
        return ExcludedWindow(
            model=self.model, dataset=exclusion.dataset, start=start, end=end, excluded=excluded, who=who, reason=reason
        )


class ExcludeWindowOperator(WindowOperator):
    """Keep the rows of some days out of every training set, until somebody lifts that. The same days again change
    nothing.

    Use it when days turn out to be wrong after they were sealed, such as those of an outage.

    Where features are computed from the dataset, their days must be computed again: the log says how.
    """

    def perform(self, context: Context) -> ExcludedWindow:
        """Exclude them, unless nothing at all would be left."""
        from airflow_mlops.engine.data.exclusions import check_something_left, exclude, exclusions, outside

        (dataset, start, end), (who, reason) = self.asked(), self.answered_for(context)
        ledger = LedgerHook(self.ledger_conn_id).get_conn()
        store = self.partition_store(ledger)
        keys, cut = store.keys(dataset), store.partitioning(dataset)
        check_something_left(ledger, dataset, start, end, keys, cut)
        known = {one.id for one in exclusions(ledger, dataset)}
        made = exclude(ledger, dataset, start, end, reason, who)
        if made.id in known:
            self.log.info("It is excluded already, by %s: %s. Nothing was changed.", made.who, made.reason)
        elif nothing := outside(start, end, keys, cut):
            self.log.warning("%s", nothing)
        else:
            span = f"--from {start.date()} --to {(end - timedelta(days=1)).date()}"
            self.log.info("Next: trigger %s.backfill, or airflow-mlops backfill plan PIPELINE %s.", self.model, span)
            self.log.info("It says who learned from %s of then, and which features to compute again.", dataset)
        return self.told(made, made.who, made.reason, excluded=True)


class LiftExclusionOperator(WindowOperator):
    """Let the rows of some days into training sets again: those of one exclusion, by its first and last day.

    Use it when the days of an :class:`ExcludeWindowOperator` were mended, or were right after all.
    """

    def perform(self, context: Context) -> ExcludedWindow:
        """Lift it."""
        from airflow_mlops.engine.data.exclusions import excluded_as, lift

        (dataset, start, end), (who, reason) = self.asked(), self.answered_for(context)
        ledger = LedgerHook(self.ledger_conn_id).get_conn()
        lifted = lift(ledger, excluded_as(ledger, dataset, start, end).id, reason, who)
        return self.told(lifted, who, reason, excluded=False)
