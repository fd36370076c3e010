"""The operator that writes down what upstreams announced by asset events."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypedDict

from airflow_mlops.assets import announcements_asset
from airflow_mlops.exceptions import DataError, MlopsError
from airflow_mlops.hooks.ledger import LedgerHook
from airflow_mlops.operators.base import MlopsOperator

if TYPE_CHECKING:
    from datetime import datetime

    from airflow.sdk import Context

    from airflow_mlops.engine.ledger import Ledger


class RecordedAnnouncements(TypedDict):
    """What the run's asset events said: dataset → the state it was announced in last. ``skipped`` counts old ones."""

    states: dict[str, str]
    recorded: int
    skipped: int


class RecordAnnouncementsOperator(MlopsOperator):
    """Write into the ledger what upstreams announced of their data, by the asset events that triggered this run, in the
    order in which they were made.

    Use it in a DAG that is scheduled by such assets: trainings then hold while an upstream says that its data is bad.

    An event that is recorded already, or older than what was announced since by other ways, is skipped, so the task
    can be repeated. An event that says nothing clear fails the task once all others are recorded.

    :param ledger_conn_id: Airflow connection of type ``mlops_ledger``.
    """

    template_fields = (*MlopsOperator.template_fields, "ledger_conn_id")

    def __init__(self, *, ledger_conn_id: str = LedgerHook.default_conn_name, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.ledger_conn_id = ledger_conn_id

    def perform(self, context: Context) -> RecordedAnnouncements:
        """Record what the events say."""
        ledger = LedgerHook(self.ledger_conn_id).get_conn()
        events = sorted(_announcing(context["triggering_asset_events"].items()), key=lambda found: found[1].timestamp)
        told = {_teller(event) for _, event in events}
        result = RecordedAnnouncements(states={}, recorded=0, skipped=0)
        refused = []
        for dataset, event in events:
            try:
                state = self._record(ledger, dataset, event, told)
            except MlopsError as error:
                if error.retryable:
                    raise
                refused.append(f"{dataset} at {event.timestamp.isoformat()}: {error.headline}")
                continue
            result["recorded" if state else "skipped"] += 1
            if state:
                result["states"][dataset] = state
        if refused:
            raise DataError(
                f"{len(refused)} of {len(events)} announcements say nothing clear; the others are recorded.",
                detail="; ".join(refused),
                hint='The extra of the event must be {"state": "degraded" or "ok", "reason": "in words"}. Ask the '
                "upstream to announce again.",
            )
        return result

    def _record(self, ledger: Ledger, dataset: str, event: Any, told: set[str]) -> str | None:
        """Record one event and return its state; None when it was recorded before, or is no longer news."""
        from airflow_mlops.engine.data.announcements import announce
        from airflow_mlops.engine.data.sources import announcements

        who, known = _teller(event), announcements(ledger, dataset)
        if any(one.who == who or (one.who not in told and one.at > event.timestamp) for one in known):
            self.log.info("%s: the event of %s is recorded or outdated already.", dataset, event.timestamp)
            return None
        extra = event.extra or {}
        said = announce(ledger, dataset, str(extra.get("state")), str(extra.get("reason") or ""), who)
        self.log.info("%s is announced %s by %s: %s", dataset, said.state, said.who, said.reason)
        return said.state


def _announcing(triggering: Iterable[tuple[Any, Iterable[Any]]]) -> Iterable[tuple[str, Any]]:
    """Return dataset and event for every event of an announcements asset."""
    prefix = announcements_asset("").uri
    for asset, events in triggering:
        uri = getattr(asset, "uri", "")  # an alias has none
        if uri.startswith(prefix):
            for event in events:
                yield uri.removeprefix(prefix), event


def _teller(event: Any) -> str:
    """Say where an event comes from, in words that no other event has."""
    time: datetime = event.timestamp
    source = f"DAG {event.source_dag_id}" if event.source_dag_id else "Airflow's REST API"
    return f"{source}, asset event of {time.isoformat()}"
