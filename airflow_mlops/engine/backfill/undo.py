"""The way back: let the partitions count again that a backfill replaced, as they were, with features computed of them.

Fact ``backfill_undone`` (subject: the plan's id).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow_mlops.engine.backfill.plan import Plan, Step, few
from airflow_mlops.engine.backfill.run import running
from airflow_mlops.engine.backfill.survey import Site
from airflow_mlops.engine.data.lateness import mark_late
from airflow_mlops.engine.data.partitions import FACT as PARTITION
from airflow_mlops.engine.history.load import Loaded, load_partitions
from airflow_mlops.engine.history.pace import FEATURES
from airflow_mlops.exceptions import DataError, GateError

if TYPE_CHECKING:
    from airflow_mlops.contracts import Partition

UNDONE = "backfill_undone"


@dataclass
class Undone:
    """What became of what a backfill replaced, by the names of its partitions.

    :param back: Partitions that are what they were before it.
    :param left: Partitions that somebody replaced since: they stay as they are.
    :param loaded: What was computed of their features.
    """

    back: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    loaded: Loaded = field(default_factory=Loaded)

    def lines(self) -> list[str]:
        """Say it in words."""
        groups = (("as they were before", self.back), ("replaced since, and left alone", self.left))
        lines = [f"{len(some)} partitions {what}: {few(some)}" for what, some in groups if some]
        return [*(lines or ["It replaced nothing."]), f"Features: {self.loaded}.", *map(str, self.loaded.refused)]


def undo(site: Site, plan: Plan, shown: str, who: str) -> Undone:
    """Go back to what a plan replaced. What it added stays: nothing was there before.

    Killed anywhere, the same call goes on. The next plan finds these partitions changed: other bytes have landed.

    :param shown: Hash of the plan that the person was shown who wants it undone.
    :raises GateError: when that is another one.
    :raises DataError: when a backfill is running, or a revision is kept no more.
    :raises TransientError: when the ledger or a storage does not answer.
    """
    if shown != plan.hash or not who.strip():
        raise GateError(
            f"Backfill {plan.id} is not undone: the hash is that of another plan.",
            detail=f"given {shown!r}, to be undone: {plan.hash}",
            hint="`airflow-mlops backfill status` prints what it did, and its hash.",
        )
    if busy := running(site.ledger, plan.model):
        raise DataError(
            f"Backfill {plan.id} cannot be undone while one of {plan.model!r} is running.",
            detail=f"plan {busy.id}",
            hint=f"Wait until it has ended, or end it: `airflow-mlops backfill cancel {busy.id}`.",
        )
    sealed = [step for step in plan.work if step.revision and step.dataset != FEATURES]
    replaced = [step for step in sealed if site.store.current(step.dataset, step.key) != step.revision]
    ours = [step for step in replaced if _latest(site, step)["replaces"] == step.revision]
    before = [site.store.get(step.dataset, step.key, step.revision) for step in ours]  # all are there, or none moves
    done = Undone([step.name for step in ours], [step.name for step in replaced if step not in ours])
    site.ledger.record(UNDONE, plan.id, {"who": who.strip()})
    for step, old in zip(ours, before, strict=True):
        _go_back(site, step, old)
    for step in sealed:
        now = _latest(site, step)
        if now["revision"] == step.revision and now["replaces"]:
            mark_late(site.ledger, step.dataset, step.key, now["replaces"], step.revision)
    done.loaded = load_partitions(
        site.pipeline,
        [],
        [step.key for step in plan.work if step.dataset == FEATURES],
        location=site.location,
        store=site.store,
        ledger=site.ledger,
        code_path=site.code_path,
        locate=site.locate,
    )
    return done


def _latest(site: Site, step: Step) -> dict[str, Any]:
    """Return what the ledger has of the revision that counts, and of the one that it replaced."""
    [latest] = site.ledger.facts(PARTITION, step.dataset, key=step.key, limit=1)
    return latest.payload


def _go_back(site: Site, step: Step, old: Partition) -> None:
    folder = site.store.folder(step.dataset, step.key) / old.revision
    site.store.seal(
        step.dataset,
        step.key,
        folder,
        event_time=old.event_time,
        batch_hash=None,
        suite_hash=old.suite_hash,
        may_be_empty=site.feed(step.dataset).may_be_empty,
    )
