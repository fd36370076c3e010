"""Removing what is old or superseded, without ever removing silently what a model was trained on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_mlops.engine.data import files, storage
from airflow_mlops.engine.data.parquet import readable
from airflow_mlops.engine.data.partitions import FACT, PartitionStore
from airflow_mlops.engine.data.revisions import CURRENT, MANIFEST
from airflow_mlops.engine.data.tombstones import Tombstone, mark_removed, tombstones
from airflow_mlops.exceptions import ConfigError

if TYPE_CHECKING:
    from airflow_mlops.engine.ledger import Ledger

_Revision = tuple[str, str]
"""Partition key and revision."""


@dataclass(frozen=True)
class Swept:
    """A revision that retention looked at: ``reason`` is ``old`` or ``superseded``.

    ``needed_by`` names the snapshots that were built from it, as ``model/snapshot id``.
    """

    key: str
    revision: str
    bytes: int
    reason: str
    needed_by: tuple[str, ...]


@dataclass(frozen=True)
class RetentionReport:
    """What went, and what stays only because a snapshot needs it."""

    dataset: str
    removed: tuple[Swept, ...]
    kept: tuple[Swept, ...]


def _check_known(store: PartitionStore, ledger: Ledger, dataset: str, needed: Mapping[_Revision, set[str]]) -> None:
    """Refuse a ledger that never saw what lies here: it would say of everything that nobody needs it."""
    keys = store.keys(dataset)
    if not keys:
        return
    known = {(fact.key, fact.payload.get("revision")) for fact in ledger.facts(FACT, dataset, limit=None)}
    known |= set(needed)
    named = {key for key, _ in known}
    current = ((key, store.current(dataset, key)) for key in reversed(keys))
    # Of a partition that a sweep was killed over, none is current any more.
    if not any(one in known or (one[1] is None and one[0] in named) for one in current):
        raise ConfigError(
            f"The ledger knows none of the {len(keys)} partitions of {dataset!r}: it is that of another home.",
            detail=f"{store.root}: {keys[0]} to {keys[-1]}; the ledger has {len(known)} revisions of it",
            hint="Correct --home or --ledger. Nothing was removed.",
        )


def sweep_partitions(
    store: PartitionStore,
    ledger: Ledger,
    dataset: str,
    keep: timedelta | None,
    *,
    now: datetime,
    holding: Collection[str] | None = None,
    replaced_before: datetime | None = None,
    force: bool = False,
    dry_run: bool = False,
) -> RetentionReport:
    """Remove the revisions that another one replaced, and the days that ended longer than ``keep`` before ``now``.

    What a snapshot in the ledger needs stays, unless forced. Whatever goes leaves a tombstone, and with it
    :meth:`PartitionStore.get` says what went, when, and whom that hits. Killed anywhere, the next sweep finishes it.

    :param ledger: Knows what snapshots need (facts of kind ``snapshot``) and which revisions were ever current:
        one that never was may be another writer's who has not finished, and goes only with its day.
    :param keep: None keeps every day.
    :param holding: The snapshots, by id, for which partitions stay; None for all that the ledger knows.
    :param replaced_before: Only revisions that were replaced before go; None for all of them.
    :param force: Remove also what snapshots need.
    :param dry_run: Say what would go, and remove nothing.
    :raises ConfigError: when the ledger does not know the dataset: it is that of another home.
    """
    needed = _needed(ledger, dataset)
    _check_known(store, ledger, dataset, needed)
    oldest = datetime.min.replace(tzinfo=UTC) if keep is None else now - keep
    sweep = _Sweep(store, ledger, dataset, oldest, needed, replaced_before)
    removed: list[Swept] = []
    kept: list[Swept] = []
    for key in sweep.days():
        if not dry_run:
            sweep.finish(key)
        due = sweep.due(key)
        going = [swept for swept in due if force or not _held(swept, holding)]
        if not dry_run:
            sweep.remove(key, going, now)
        removed += going
        kept += [swept for swept in due if swept not in going]
    return RetentionReport(dataset, tuple(removed), tuple(kept))


def _held(swept: Swept, holding: Collection[str] | None) -> bool:
    """Whether one of the snapshots that were built from a revision is among those that count."""
    return any(holding is None or name.rpartition("/")[2] in holding for name in swept.needed_by)


def _needed(ledger: Ledger, dataset: str) -> Mapping[_Revision, set[str]]:
    """Return revision → the snapshots that were built from it."""
    needed = defaultdict(set)
    for fact in ledger.facts("snapshot", limit=None):
        for revision in fact.payload["partitions"].get(dataset, {}).items():
            needed[revision].add(f"{fact.subject}/{fact.key}")
    return needed


@dataclass(frozen=True)
class _Sweep:
    store: PartitionStore
    ledger: Ledger
    dataset: str
    oldest: datetime
    needed: Mapping[_Revision, set[str]]
    replaced_before: datetime | None

    def days(self) -> list[str]:
        """Return all days that have a folder, also those of which no revision counts."""
        folder = self.store.folder(self.dataset)
        with readable(folder):
            return list(filter(self.store.partitioning(self.dataset).is_key, storage.subfolders(folder)))

    def finish(self, key: str) -> None:
        """Remove what a sweep that was killed had marked and made invisible."""
        folder = self.store.folder(self.dataset, key)
        if isinstance(folder, Path):
            files.sweep(folder)
        stones = tombstones(folder)
        with readable(folder):
            for name in storage.subfolders(folder) if stones else []:
                if name in stones and storage.read_if_there([folder / name / MANIFEST]) == [None]:
                    storage.remove(folder / name)

    def due(self, key: str) -> list[Swept]:
        """Return the revisions of a day that are old, or were replaced."""
        old = self.store.partitioning(self.dataset).interval(key)[1] < self.oldest
        revisions = self.store.revisions(self.dataset, key)
        if not old and len(revisions) < 2:
            return []
        facts = self.ledger.facts(FACT, self.dataset, key=key, limit=None)
        young = {
            fact.payload["replaces"]
            for fact in facts
            if self.replaced_before is not None and fact.at >= self.replaced_before
        }
        replaced = {fact.payload["revision"] for fact in facts} - {self.store.current(self.dataset, key)} - young
        return [
            Swept(
                key=key,
                revision=found.revision,
                bytes=found.bytes,
                reason="old" if old else "superseded",
                needed_by=tuple(sorted(self.needed.get((key, found.revision), ()))),
            )
            for found in revisions
            if old or found.revision in replaced
        ]

    def remove(self, key: str, due: Sequence[Swept], now: datetime) -> None:
        """Say first what goes; then make it invisible; then let it go."""
        if not due:
            return
        store, folder = self.store, self.store.folder(self.dataset, key)
        stones = [
            Tombstone(
                revision=swept.revision,
                removed_at=now,
                needed_by=swept.needed_by,
                source=store.get(self.dataset, key, swept.revision).receipt.uri,
            )
            for swept in due
        ]
        mark_removed(folder, stones)
        for swept, stone in zip(due, stones, strict=True):
            payload = {**stone.model_dump(mode="json"), "reason": swept.reason, "bytes": swept.bytes}
            self.ledger.record("retention", self.dataset, payload, key=key)
        with readable(folder):
            if store.current(self.dataset, key) in {swept.revision for swept in due}:
                storage.remove(folder / CURRENT)
            for swept in due:
                storage.remove(store.profile_path(self.dataset, key, swept.revision))
                storage.remove(folder / swept.revision, first=MANIFEST)
