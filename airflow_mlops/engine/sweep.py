"""One sweep of all that ages: it says what would go, then removes it.

Whatever is older than ``keep`` goes, unless a model version needs it that serves, is loaded or pinned, can be gone back
to, or passed its gates last: its files in the model store, its training, its snapshot, and the partitions and feature
files from which that snapshot can be built again.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from airflow_mlops.contracts import Snapshot, VerdictStatus
from airflow_mlops.engine.data import files, storage
from airflow_mlops.engine.data.parquet import readable
from airflow_mlops.engine.data.partitions import PartitionStore
from airflow_mlops.engine.data.retention import RetentionReport, sweep_partitions
from airflow_mlops.engine.data.shared import origin
from airflow_mlops.engine.data.snapshots import MANIFEST
from airflow_mlops.engine.features.governance import consumers
from airflow_mlops.engine.home_files import Lying, drop, here, lying
from airflow_mlops.engine.locks import locked
from airflow_mlops.engine.serving.deployments import deployments, kept_versions, roles_of
from airflow_mlops.engine.serving.model_store import LOCK_FILE
from airflow_mlops.exceptions import ConfigError

if TYPE_CHECKING:
    from airflow_mlops.engine.ledger import Ledger

FACT = "sweep"
_SHORTEST = timedelta(days=1)


@dataclass(frozen=True)
class Aged:
    """A file or folder that is older than it need be; ``needed_by`` says why it stays all the same.

    ``kind`` is ``snapshot``, ``training``, ``checkpoints`` (of a training that is not done), ``job`` and
    ``progress`` (of a training elsewhere), ``features``, ``report``,
    ``quarantine``, ``staged``, ``predictions`` (that were never sealed), ``registry`` (its cache) or ``model`` (a
    version in a model store).
    """

    kind: str
    path: Path
    bytes: int
    needed_by: tuple[str, ...] = ()


@dataclass(frozen=True)
class SweepReport:
    """What is old: what goes, what stays because a kept model needs it; and the same of every dataset's partitions."""

    going: tuple[Aged, ...]
    staying: tuple[Aged, ...]
    datasets: tuple[RetentionReport, ...]

    @property
    def count(self) -> int:
        """How many files, folders and revisions go."""
        return len(self.going) + sum(len(one.removed) for one in self.datasets)

    @property
    def bytes(self) -> int:
        """How much goes."""
        revisions = (swept.bytes for found in self.datasets for swept in found.removed)
        return sum(one.bytes for one in self.going) + sum(revisions)


def sweep(
    home: Path,
    ledger: Ledger,
    store: PartitionStore,
    *,
    keep: timedelta,
    keep_data: timedelta | None = None,
    model_stores: Mapping[str, Path] | None = None,
    now: datetime,
    dry_run: bool = False,
) -> SweepReport:
    """Remove what nobody touched for longer than ``keep``, and what no kept model needs.

    Killed anywhere, the next sweep finishes it.

    :param store: The sealed partitions: what another revision replaced goes too.
    :param keep: A day at least, so that what runs now finds what it has made.
    :param keep_data: Age of the days of data that go too; None keeps all days.
    :param model_stores: Model server, by the name it has in the ledger → the folder of its models.
    :param dry_run: Remove nothing.
    :raises ConfigError: when ``keep`` is too short, or the ledger is that of another home.
    :raises TransientError: when the ledger does not answer.
    """
    if keep < _SHORTEST:
        raise ConfigError(
            "A sweep leaves what is younger than a day: a training that runs may need it.",
            detail=f"keep={keep}",
            hint="Keep a day, 1d, or longer.",
        )
    _check_known(home, ledger)
    kept = _Kept.now(ledger, home, now - keep)
    aged = list(_aged(home, ledger, kept, model_stores or {}))
    going = [one for one in aged if not one.needed_by]
    if not dry_run:
        _say(ledger, going, keep)
        for one in going:
            _remove(one, ledger)
        for folder in _folders(home):
            files.sweep(folder)
    with readable(store.root):
        datasets = [name for name in storage.subfolders(store.root) if name[0] != "."]
    sweep_dataset = partial(
        sweep_partitions,
        store,
        ledger,
        keep=keep_data,
        now=now,
        holding=kept.holding,
        replaced_before=now - keep,
        dry_run=dry_run,
    )
    return SweepReport(
        going=tuple(going),
        staying=tuple(one for one in aged if one.needed_by),
        datasets=tuple(sweep_dataset(name) for name in sorted(datasets)),
    )


def _check_known(home: Path, ledger: Ledger) -> None:
    """Refuse the ledger of another home: it would say of everything here that nobody needs it."""
    here = {one.path.name for one in lying(home, "snapshots/*/")}
    known = {fact.key for fact in ledger.facts("snapshot", limit=None)}
    known |= {fact.payload["snapshot"] for fact in ledger.facts(consumers.KIND, limit=None)}
    known |= {fact.payload.get("snapshot_id", "") for fact in ledger.facts("verdict", limit=None)}
    if here and not here & known:
        raise ConfigError(
            "The ledger knows none of the snapshots of this home: it is that of another one.",
            detail=f"{home}: {len(here)} snapshots; the ledger has {len(known)}",
            hint="Correct --home or --ledger. Nothing was removed.",
        )


@dataclass(frozen=True)
class _Kept:
    """Who needs what: model → version → why it is kept; snapshot → the kept versions that were trained on it.

    ``holding`` are the snapshots that must stay rebuildable: those, and the young ones.
    """

    oldest: datetime
    versions: Mapping[str, Mapping[int, str]]
    snapshots: Mapping[str, tuple[str, ...]]
    holding: frozenset[str]

    @classmethod
    def now(cls, ledger: Ledger, home: Path, oldest: datetime) -> _Kept:
        trained: dict[tuple[str, int], str] = {}
        passed: dict[str, set[int]] = defaultdict(set)
        cuts: dict[tuple[str, int], str] = {}
        for fact in ledger.facts(consumers.KIND, limit=None):
            trained[fact.subject, fact.payload["version"]] = fact.payload["snapshot"]
            cuts[fact.subject, fact.payload["version"]] = fact.payload.get("label_cut") or ""
        judged: set[tuple[str, int]] = set()
        for fact in ledger.facts("verdict", limit=None):  # the newest first
            version = fact.payload["version"]
            trained.setdefault((fact.subject, version), fact.payload.get("snapshot_id", ""))
            if (fact.subject, version) not in judged and fact.payload["status"] == VerdictStatus.PASS:
                passed[fact.subject].add(version)
            judged.add((fact.subject, version))
        deployed = defaultdict(list)
        for state in deployments(ledger):
            deployed[state.model].append(state)
        models = {model for model, _ in trained} | deployed.keys()
        versions = {model: roles_of(deployed.get(model, ())) for model in models}
        for model, numbers in passed.items():
            versions[model].setdefault(max(numbers), "passed its gates last")
            newest = max(numbers, key=lambda number: (cuts.get((model, number), ""), number))
            versions[model].setdefault(newest, "passed its gates, and knows the newest data")
        snapshots = defaultdict(list)
        for model, of_model in sorted(versions.items()):
            for version, why in sorted(of_model.items()):
                if identity := trained.get((model, version)):
                    snapshots[identity].append(_words(model, version, why))
        young = {one.path.name for one in lying(home, "snapshots/*/") if one.touched >= oldest}
        young |= {fact.key for fact in ledger.facts("snapshot", limit=None) if fact.at >= oldest}
        return cls(
            oldest=oldest,
            versions=versions,
            snapshots={identity: tuple(words) for identity, words in snapshots.items()},
            holding=frozenset({*snapshots, *young}),
        )

    def version(self, model: str, version: str) -> tuple[str, ...]:
        """Return why a version is kept, if it is."""
        why = self.versions.get(model, {}).get(int(version)) if version.isdecimal() else None
        return (_words(model, int(version), why),) if why else ()

    def aged(self, kind: str, one: Lying, needed_by: tuple[str, ...] = ()) -> Iterator[Aged]:
        """Yield what lies somewhere, if it is old."""
        if one.touched < self.oldest:
            yield Aged(kind, one.path, one.bytes, needed_by)


def _words(model: str, version: int, why: str) -> str:
    return f"{model} {version}, which {why}"


def _aged(home: Path, ledger: Ledger, kept: _Kept, model_stores: Mapping[str, Path]) -> Iterator[Aged]:
    for one in lying(home, "snapshots/*/"):
        needed_by = kept.snapshots.get(one.path.name, ())
        if needed_by or one.path.name not in kept.holding:  # asked for again since it was made
            yield from kept.aged("snapshot", one, needed_by)
    trainings = lying(home, "trainings/*/")
    for one, snapshot in zip(trainings, _snapshots_of(home, trainings), strict=True):
        yield from kept.aged("training", one, kept.snapshots.get(snapshot, ()))
    for one in lying(home, "checkpoints/*/"):
        yield from kept.aged("checkpoints", one)
    needed, unknown = _feature_files(home, kept)
    for one in lying(home, "features/*/superseded/*.parquet"):
        users = needed.get((one.path.parent.parent.name, one.path.stem), ())
        yield from kept.aged("features", one, (*users, *unknown))
    for kind, pattern in (
        ("job", "jobs/*"),
        ("progress", "progress/*"),
        ("report", "reports/*"),
        ("quarantine", "quarantine/*/*/*"),
        ("staged", "staged/*/*"),
        ("predictions", "predictions/*/*/*"),
    ):
        for one in lying(home, pattern):
            yield from kept.aged(kind, one)
    for one in lying(home, "registry/*/*"):
        yield from kept.aged("registry", one, kept.version(one.path.parent.name, one.path.name))
    yield from _aged_models(ledger, kept, model_stores)


def _aged_models(ledger: Ledger, kept: _Kept, model_stores: Mapping[str, Path]) -> Iterator[Aged]:
    for state in deployments(ledger):
        base = model_stores.get(state.server)
        for folder in [] if base is None else sorted((base / state.model).glob("*/")):
            if folder.name.isdecimal():
                yield from kept.aged("model", here(folder), kept.version(state.model, folder.name))


def _feature_files(home: Path, kept: _Kept) -> tuple[dict[tuple[str, str], tuple[str, ...]], tuple[str, ...]]:
    """Return (feature view, ``day.revision``) → the snapshots that read it; and those whose files nobody knows."""
    needed: dict[tuple[str, str], tuple[str, ...]] = {}
    unknown = []
    for identity in sorted(kept.holding):
        # Not fetched: of a bucket, that would be all rows of every kept snapshot.
        manifest = origin(home / "snapshots" / identity / MANIFEST)
        with storage.reaching(manifest):
            [found] = storage.read_if_there([manifest])
        try:
            pins = Snapshot.from_json(found or b"")
        except ValidationError:
            unknown.append(f"perhaps snapshot {identity}, whose manifest cannot be read")
            continue
        for view, days in pins.feature_files.items():
            for day, revision in days.items():
                key = view, f"{day}.{revision}"
                needed[key] = (*needed.get(key, ()), f"snapshot {identity}")
    return needed, tuple(unknown)


def _snapshots_of(home: Path, trainings: Sequence[Lying]) -> Iterator[str]:
    """Yield the snapshot of each training; nothing of one that never got so far as to say."""
    specs = [origin(one.path / "spec.json") for one in trainings]
    with storage.reaching(origin(home)):
        found = storage.read_if_there(specs)
    for content in found:
        try:
            yield str(json.loads(content or b"")["snapshot"]["id"])
        except (ValueError, KeyError, TypeError):
            yield ""


def _folders(home: Path) -> list[Path]:
    """Return where a sweep that was killed may have left what it had made invisible."""
    fixed = [home / name for name in ("snapshots", "trainings", "jobs", "progress", "checkpoints", "reports")]
    return [
        *fixed,
        *home.glob("features/*/superseded"),
        *home.glob("quarantine/*/*"),
        *home.glob("staged/*"),
        *home.glob("predictions/*/*"),
        *home.glob("registry/*"),
    ]


def _say(ledger: Ledger, going: list[Aged], keep: timedelta) -> None:
    """Write down what goes before it does."""
    for kind in sorted({one.kind for one in going}):
        names = ["/".join(one.path.parts[-2:]) for one in going if one.kind == kind]
        size = sum(one.bytes for one in going if one.kind == kind)
        ledger.record(FACT, kind, {"removed": names, "bytes": size, "keep": str(keep)})


def _remove(one: Aged, ledger: Ledger) -> None:
    if one.kind != "model":
        drop(one.path)
        return
    with locked(one.path.parent / LOCK_FILE):
        # Somebody may have asked for it since.
        if int(one.path.name) not in kept_versions(ledger, one.path.parent.name):
            drop(one.path)
