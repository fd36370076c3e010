"""What happened to a model and its data, on one axis: versions, deployments, halts, exclusions, bad partitions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from airflow_mlops.engine.data.announcements import FACT as ANNOUNCEMENT
from airflow_mlops.engine.data.exclusions import EXCLUDED, LIFTED
from airflow_mlops.engine.data.lateness import LATE
from airflow_mlops.engine.evaluation.approvals import FACT as VERDICT
from airflow_mlops.engine.halts import FACT as HALT
from airflow_mlops.engine.ledger import Fact, Ledger
from airflow_mlops.engine.overview.models import judged, key_metric
from airflow_mlops.engine.overview.partitions import blocked
from airflow_mlops.engine.retraining.registered import FACT as REGISTERED
from airflow_mlops.engine.serving.deployments import FACT as DEPLOYMENT

LANES = ("versions", "deployments", "halts", "data")
_MOST = 200
_VALIDATIONS = 1000
"""So many of a dataset, the last ones, are searched for partitions that were blocked."""


@dataclass(frozen=True)
class Event:
    """Something that happened. ``kind`` is ``good``, ``bad`` or ``neutral``; ``version`` where it is about one."""

    at: datetime
    lane: str
    kind: str
    title: str
    detail: str = ""
    version: int | None = None


@dataclass(frozen=True)
class Timeline:
    """The newest events, newest first, and the metric that stands for the model: (moment, version, value)."""

    events: tuple[Event, ...]
    metric: str
    points: tuple[tuple[datetime, int, float], ...]


def timeline(ledger: Ledger, model: str, datasets: Sequence[str], most: int = _MOST) -> Timeline:
    """Return what happened to a model and to the datasets that it is trained on.

    :param most: At most so many events of each sort.
    :raises TransientError: when the ledger does not answer.
    """
    with ledger.reading():
        made = ledger.facts(REGISTERED, model, limit=most)
        verdicts = ledger.facts(VERDICT, model, limit=most)
        events = [*_versions(made, verdicts), *_moves(ledger, model, most), *_halts(ledger, model, most)]
        for dataset in datasets:
            events += _data(ledger, dataset, most)
    metric = key_metric(verdicts[0].payload if verdicts else {}, made)
    points = [(fact.at, int(fact.key), fact.payload["metrics"].get(metric)) for fact in reversed(made)]
    events.sort(key=lambda event: event.at, reverse=True)
    return Timeline(tuple(events), metric, tuple(point for point in points if point[2] is not None))


def _versions(made: Sequence[Fact], verdicts: Sequence[Fact]) -> Iterator[Event]:
    for fact in made:
        yield Event(fact.at, "versions", "neutral", f"version {fact.key} trained", fact.payload["why"], int(fact.key))
    for fact in verdicts:
        one = judged(fact)
        kind = "good" if one.status == "PASS" else "bad"
        yield Event(fact.at, "versions", kind, f"version {one.version} judged {one.status}", one.reason, one.version)


def _moves(ledger: Ledger, model: str, most: int) -> Iterator[Event]:
    for fact in ledger.facts(DEPLOYMENT, model, limit=most):
        told = fact.payload
        serves = "nothing serves" if told["stable"] is None else f"version {told['stable']} serves"
        kind = (
            "bad" if told["action"] in ("rollback", "reject") else "good" if told["action"] == "promote" else "neutral"
        )
        title = f"{told['action']} on {told['server']}: {serves}"
        yield Event(fact.at, "deployments", kind, title, told["why"], told["stable"])


def _halts(ledger: Ledger, model: str, most: int) -> Iterator[Event]:
    for fact in ledger.facts(HALT, model, limit=most):
        action = fact.payload["action"]
        who = f"{action} by {fact.payload['who']}"
        yield Event(fact.at, "halts", "bad" if action == "halt" else "good", who, fact.payload["reason"])


def _data(ledger: Ledger, dataset: str, most: int) -> Iterator[Event]:
    for fact in ledger.facts(ANNOUNCEMENT, dataset, limit=most):
        told = fact.payload
        kind = "bad" if told["state"] == "degraded" else "good"
        yield Event(fact.at, "data", kind, f"{dataset} announced {told['state']} by {told['who']}", told["reason"])
    for fact in ledger.facts(EXCLUDED, dataset, limit=most):
        told = fact.payload
        window = f"{dataset} excluded from {told['start'][:16]} to {told['end'][:16]} by {told['who']}"
        yield Event(fact.at, "data", "bad", window, told["reason"])
    for fact in ledger.facts(LIFTED, dataset, limit=most):
        who = f"exclusion {fact.key} of {dataset} lifted by {fact.payload['who']}"
        yield Event(fact.at, "data", "good", who, fact.payload["reason"])
    for fact in ledger.facts(LATE, dataset, limit=most):
        yield Event(fact.at, "data", "neutral", f"{dataset} {fact.key} replaced by late data", "")
    for fact, reason in blocked(ledger, dataset, latest=_VALIDATIONS):
        yield Event(fact.at, "data", "bad", f"{dataset} {fact.key} blocked", reason)
