"""Late arrivals: a sealed day is sealed again with other content, and models have seen the old one.

Facts: ``snapshot`` (subject: the model, key: the snapshot) says what a training set was made of, ``late_arrival``
(subject: the dataset, key: the partition) that a partition was replaced, ``taint`` (as ``snapshot``) that a
training set holds what was replaced. A taint is for ever; a retraining makes a snapshot without it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from airflow_mlops.contracts import Snapshot
from airflow_mlops.engine.ledger import Fact, Ledger
from airflow_mlops.exceptions import ConfigError, did_you_mean

SNAPSHOT, LATE, TAINT, VERDICT = "snapshot", "late_arrival", "taint", "verdict"
_RECENT = 2000


class Taint(NamedTuple):
    """A snapshot that was made of a revision which late data has replaced since."""

    model: str
    snapshot: str
    dataset: str
    key: str
    old: str
    new: str
    at: datetime

    def __str__(self) -> str:
        return f"{self.model} {self.snapshot}: {self.dataset} {self.key} was {self.old}, is {self.new}"


class LateArrival(NamedTuple):
    """A partition that was replaced, and the snapshots (model, id) that it taints."""

    dataset: str
    key: str
    old: str
    new: str
    tainted: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        models = ", ".join(sorted({model for model, _ in self.tainted})) or "none"
        return f"revision {self.old} became {self.new}; {len(self.tainted)} snapshots tainted, of the models: {models}"


def mark_late(
    ledger: Ledger, dataset: str, key: str, old: str, new: str, *, diff: Mapping[str, Any] | None = None
) -> LateArrival:
    """Write down that a partition was replaced, and taint every snapshot that was made of the old revision.

    Marking the same again changes nothing, and finishes what was cut off.

    :param old: Revision that was replaced.
    :param new: Revision that counts now.
    :param diff: What changed, in counts, for people to read.
    :raises TransientError: when the ledger's database does not answer.
    """
    replaced = {"old": old, "new": new}
    last = ledger.facts(LATE, dataset, key=key, limit=1)
    if not last or not replaced.items() <= last[0].payload.items():
        ledger.record(LATE, dataset, {**replaced, "diff": dict(diff) if diff else None}, key=key)
    seen = [
        fact
        for fact in ledger.facts(SNAPSHOT, limit=None)
        if fact.payload["partitions"].get(dataset, {}).get(key) == old
    ]
    for fact in seen:
        _taint(ledger, fact.subject, fact.key, {"dataset": dataset, "key": key, **replaced})
    return LateArrival(dataset, key, old, new, tuple((fact.subject, fact.key) for fact in reversed(seen)))


def record_snapshot(
    ledger: Ledger, snapshot: Snapshot, *, label_joins: Mapping[str, Mapping[str, Sequence[int]]] | None = None
) -> None:
    """Write down once what a snapshot was made of, so that late data finds it.

    It is tainted at once by what was replaced while it was being built.

    :param label_joins: How many rows found their label: the next snapshots are held against it.
    :raises TransientError: when the ledger's database does not answer.
    """
    if not ledger.facts(SNAPSHOT, snapshot.model, key=snapshot.id, limit=1):
        made = snapshot.model_dump(mode="json", include={"partitions", "as_of", "label_cut", "exclusions"})
        if label_joins is not None:
            made["label_joins"] = label_joins
        ledger.record(SNAPSHOT, snapshot.model, made, key=snapshot.id)
    for dataset, revisions in snapshot.partitions.items():
        replaced: dict[str, Fact] = {}
        for late in ledger.facts(LATE, dataset, limit=None):
            replaced.setdefault(late.key, late)
        for key, late in replaced.items():
            old, new = late.payload["old"], late.payload["new"]
            if revisions.get(key) == old:
                _taint(ledger, snapshot.model, snapshot.id, {"dataset": dataset, "key": key, "old": old, "new": new})


def require_model(ledger: Ledger, model: str) -> None:
    """Refuse a name that no snapshot and no verdict has: that nothing of it is tainted would be no news.

    :raises ConfigError: with the nearest name there is.
    :raises TransientError: when the ledger's database does not answer.
    """
    if is_known(ledger, model):
        return
    known = known_models(ledger)
    raise ConfigError(
        f"There is no model {model!r}.{did_you_mean(model, known)}",
        detail="no snapshot of it was built, no version of it judged",
        hint=f"Models: {', '.join(known) or 'none yet; the train DAG builds their snapshots'}.",
    )


def is_known(ledger: Ledger, model: str) -> bool:
    """Return whether a snapshot or a verdict has this name."""
    return any(ledger.facts(kind, model, limit=1) for kind in (SNAPSHOT, VERDICT))


def known_models(ledger: Ledger) -> list[str]:
    """Return the names that recent snapshots and verdicts have."""
    return sorted({fact.subject for kind in (SNAPSHOT, VERDICT) for fact in ledger.facts(kind, limit=_RECENT)})


def taints(ledger: Ledger, model: str) -> list[Taint]:
    """Return the taints of a model's snapshots, newest first.

    :raises TransientError: when the ledger's database does not answer.
    """
    return [
        Taint(model=model, snapshot=fact.key, at=fact.at, **fact.payload)
        for fact in ledger.facts(TAINT, model, limit=None)
    ]


def tainted_versions(ledger: Ledger, model: str) -> dict[int, list[Taint]]:
    """Return version → taints of the snapshot that it was trained on, for the versions that were judged.

    :raises TransientError: when the ledger's database does not answer.
    """
    by_snapshot: dict[str, list[Taint]] = {}
    for taint in taints(ledger, model):
        by_snapshot.setdefault(taint.snapshot, []).append(taint)
    judged = (
        (fact.payload["version"], fact.payload.get("snapshot_id")) for fact in ledger.facts(VERDICT, model, limit=None)
    )
    return {version: by_snapshot[snapshot] for version, snapshot in judged if snapshot in by_snapshot}


def _taint(ledger: Ledger, model: str, snapshot: str, payload: dict[str, str]) -> None:
    if all(fact.payload != payload for fact in ledger.facts(TAINT, model, key=snapshot, limit=None)):
        ledger.record(TAINT, model, payload, key=snapshot)
