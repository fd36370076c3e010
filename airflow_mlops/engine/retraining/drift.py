"""Drift: the last week of data against what the serving version was trained on, column by column, from profiles.

Columns are those of the feeds, and the computed features that the version reads.
The profile of each partition is read once for each version that serves, and counted into the bins of that version's
training split. The counts are in the ledger, and add up: what a week looks like is the sum of its days.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from airflow_mlops.contracts import ColumnProfile, Profile, Snapshot, Split
from airflow_mlops.engine.data import storage
from airflow_mlops.engine.data.exclusions import left_out
from airflow_mlops.engine.data.partitions import PartitionStore, parse_profile
from airflow_mlops.engine.data.profiles import histogram, merge, near_unique, quantiles
from airflow_mlops.engine.data.snapshots import find_snapshot
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.engine.retraining.feature_days import PREFIX, FeatureDays
from airflow_mlops.engine.retraining.fresh import Fresh
from airflow_mlops.exceptions import DataError
from airflow_mlops.partitioning import Partitioning

if TYPE_CHECKING:
    from airflow_mlops.engine.retraining.triggers import Watch

_log = logging.getLogger(__name__)

REFERENCE, COUNTED = "drift_reference", "drift_counted"
WEEK = timedelta(days=7)
"""Span of data that is compared: whatever follows the weekday is in it as often as it should be."""

ENOUGH_ROWS = 500
"""Fewer rows than this differ by chance: with ten bins their index is 0.02 on average where nothing has changed."""

_BINS = 10
_SHOWN = 5

Bins = Mapping[str, Any]
"""Of one column: ``edges`` of numbers, or ``values``; ``counts`` of the training split, the last one of missing values,
and ``moves``, the index of its second half against its first."""


@dataclass(frozen=True)
class Drift:
    """Column (``dataset.column``) → its index, for those beyond the bound, largest first; and what to say of it."""

    beyond: dict[str, float]
    largest: float | None
    words: str


def psi(expected: Sequence[int], found: Sequence[int]) -> float:
    """Return the population stability index of two counts of the same bins: 0 where they have the same shares.

    Half a row is added to each bin, so that an empty one is no infinity.
    """
    one, other = (np.asarray(counts, dtype=float) + 0.5 for counts in (expected, found))
    one, other = one / one.sum(), other / other.sum()
    return float(((other - one) * np.log(other / one)).sum())


@dataclass(frozen=True)
class Trained:
    """What a version was trained on, and where its profiles are.

    :param snapshot: Id of the snapshot.
    :param made_of: Dataset → key → revision of what the snapshot was made of.
    :param features: What the version reads: ``view:feature``.
    """

    ledger: Ledger
    store: PartitionStore
    home: Path
    watch: Watch
    snapshot: str
    made_of: Mapping[str, Mapping[str, str]]
    features: Sequence[str] = ()

    @property
    def days(self) -> FeatureDays:
        """The days of the features that it reads."""
        return FeatureDays(self.home, self.features)


def measure_drift(trained: Trained, fresh: Fresh, bound: float) -> Drift:
    """Hold the last week of sealed data, and of computed features, that a version has not seen against its training
    split.

    A feed without such a week, as one that has ended, says nothing, nor does what a person excluded. A column that
    moved as much within the training split itself, such as the month, is not counted.

    :param bound: Index from which on a column has drifted.
    :raises DataError: when the snapshot, or the profiles of its partitions, are gone.
    """
    weeks = {name: _last_week(trained, fresh, name) for name in trained.watch.inputs}
    unseen = {name: keys for name, keys in weeks.items() if keys}
    missing = ", ".join(sorted(set(weeks) - set(unseen)))
    if not unseen:
        return Drift({}, None, f"{missing}: not a week of data yet that the model has not seen")
    reference, last_seen = _reference(trained)
    views = {name: _last_week_of_view(trained, name, key) for name, key in last_seen.items()}
    counts = _counts(trained, reference, {**unseen, **{name: keys for name, keys in views.items() if keys}})
    found = {
        column: psi(bins["counts"], counts[column])
        for column, bins in reference.items()
        if column in counts and sum(counts[column]) >= ENOUGH_ROWS
    }
    restless = [column for column in found if reference[column]["moves"] >= bound]
    judged = {column: index for column, index in found.items() if column not in restless}
    ranked = sorted(judged.items(), key=lambda item: -item[1])
    beyond = {column: index for column, index in ranked if index >= bound}
    shown = ", ".join(f"{column} {index:.3f}" for column, index in (list(beyond.items()) or ranked)[:_SHOWN])
    words = f"PSI of {len(judged)} columns, bound {bound:g}: {shown or 'none has rows enough'}"
    if len(beyond) > _SHOWN:
        words += f" and {len(beyond) - _SHOWN} more"
    if restless:
        words += f"; not counted, as they moved in training already: {', '.join(sorted(restless)[:_SHOWN])}"
    if missing:
        words += f"; not a week of new data yet: {missing}"
    return Drift(beyond, ranked[0][1] if ranked else None, words)


def bins_of(halves: Sequence[Profile], dataset: str, skip: Sequence[str] = ()) -> dict[str, Bins]:
    """Return the bins of the columns that can be compared, by ``dataset.column``.

    :param halves: The profiles of the first and of the second half of a training split.
    :param skip: Columns that are left out, such as the label.
    """
    bins: dict[str, Bins] = {}
    for name, column in merge(halves).columns.items():
        made = None if name in skip else _bins(column)
        if made is None:
            continue
        parts = [counted(half.columns.get(name), made) for half in halves]
        moves = psi(parts[0], parts[1]) if len(parts) > 1 and all(map(sum, parts)) else 0.0
        total = [int(count) for count in np.sum(parts, axis=0)]
        bins[f"{dataset}.{name}"] = {**made, "counts": total, "moves": moves}
    return bins


def counted(column: ColumnProfile | None, bins: Bins) -> list[int]:
    """Return how many rows of a profile lie in each bin; the last one is of missing values, the one before of others.

    A column that is missing, or of another kind now, has nothing but missing values.
    """
    size = len(bins["values"]) + 1 if "values" in bins else len(bins["edges"]) - 1
    if column is None:
        return [0] * (size + 1)
    missing = column.nulls + column.nans
    rest = column.count - missing
    if "values" in bins:
        named = [column.top.get(value, 0) for value in bins["values"]]
        return [*named, max(rest - sum(named), 0), missing]
    made = histogram(column, bins["edges"])
    return [0] * size + [column.count] if made is None else [*made.counts, missing]


def _bins(column: ColumnProfile) -> Bins | None:
    """Return how a column is cut, or None where its values are nobody's business to compare: times, ids, constants."""
    if column.kind not in ("number", "category", "boolean") or near_unique(column):
        return None
    if column.top and column.top_error == 0:
        return {"values": list(column.top)[:_BINS]} if len(column.top) > 1 else None
    if column.kind != "number":
        return None
    edges = sorted({*quantiles(column, np.linspace(0, 1, _BINS + 1).tolist())})
    return {"edges": edges} if len(edges) > 2 else None


def _last_week(trained: Trained, fresh: Fresh, dataset: str) -> dict[str, str] | None:
    """Return key → revision of the last week of a dataset after what was seen; None when it is not a whole one yet."""
    seen = max(trained.made_of.get(dataset, {}), default="")
    sealed = {key: one["revision"] for key, one in fresh.after(dataset, seen).items()}
    return _of_last_week(sealed, trained.store.partitioning(dataset))


def _last_week_of_view(trained: Trained, view: str, seen: str) -> dict[str, str] | None:
    """Return the same of a feature view, but for days of the source that a person excluded."""
    cut = trained.days.partitioning(view)
    skip = left_out(trained.ledger, trained.watch.source, cut)
    computed = {key: mark for key, mark in trained.days.after(view, seen).items() if key not in skip}
    return _of_last_week(computed, cut)


def _of_last_week(sealed: Mapping[str, str], cut: Partitioning) -> dict[str, str] | None:
    if not sealed:
        return None
    since = cut.interval(max(sealed))[1] - WEEK
    if cut.interval(min(sealed))[0] > since:
        return None
    return {key: revision for key, revision in sealed.items() if cut.interval(key)[1] > since}


def _reference(trained: Trained) -> tuple[dict[str, Bins], dict[str, str]]:
    """Return the bins of a training split, and feature view → last day that it has seen; made once, from profiles."""
    ledger, store, watch, snapshot = trained.ledger, trained.store, trained.watch, trained.snapshot
    known = ledger.facts(REFERENCE, watch.model, key=snapshot, limit=1)
    if known:
        return dict(known[0].payload["columns"]), dict(known[0].payload.get("views", {}))
    made = find_snapshot(trained.home, snapshot)
    train = made.splits["train"]
    columns: dict[str, Bins] = {}
    for dataset in watch.inputs:
        cut = store.partitioning(dataset)
        keys = {
            key: revision
            for key, revision in sorted(trained.made_of.get(dataset, {}).items())
            if cut.interval(key)[1] > train.start and cut.interval(key)[0] < train.end
        }
        halves = _halves(list(_profiles(store, dataset, keys).values()))
        if halves:
            columns |= bins_of(halves, dataset, skip=[watch.label, watch.entity])
    if not columns:
        raise DataError(
            f"Nothing that snapshot {snapshot!r} was trained on has a profile with columns to compare.",
            detail=f"{', '.join(watch.inputs)} from {train.start:%Y-%m-%d} to {train.end:%Y-%m-%d}",
            hint="Seal these partitions again: each gets its profile when it is checked.",
        )
    of_views, views = _reference_of_views(trained.days, made, train)
    columns |= of_views
    ledger.record(REFERENCE, watch.model, {"columns": columns, "views": views}, key=snapshot)
    return columns, views


def _reference_of_views(days: FeatureDays, snapshot: Snapshot, train: Split) -> tuple[dict[str, Bins], dict[str, str]]:
    """Return the bins of the features that are stored, and view → last day that the snapshot has seen."""
    columns: dict[str, Bins] = {}
    views: dict[str, str] = {}
    for view, read in days.columns.items():
        pins = snapshot.feature_files.get(view.removeprefix(PREFIX), {})
        cut = days.partitioning(view)
        keys = [key for key in sorted(pins) if cut.interval(key)[1] > train.start and cut.interval(key)[0] < train.end]
        try:
            halves = _halves(days.pinned(snapshot, view, keys))
        except DataError as error:
            _log.warning("The drift of %s is not looked at: %s %s", view, error.headline, error.detail)
            continue
        if halves:
            others = {name for half in halves for name in half.columns} - read
            columns |= bins_of(halves, view, skip=sorted(others))
            views[view] = max(pins)
    return columns, views


def _halves(profiles: Sequence[Profile]) -> list[Profile]:
    """Return the first and the second half of some days, together."""
    middle = (len(profiles) + 1) // 2
    return [merge(part) for part in (profiles[:middle], profiles[middle:]) if part]


def _counts(
    trained: Trained, reference: Mapping[str, Bins], partitions: Mapping[str, Mapping[str, str]]
) -> dict[str, list[int]]:
    """Return column → counts of all partitions together; each one's profile is read once, and its counts are kept."""
    ledger, snapshot = trained.ledger, trained.snapshot
    found: dict[str, list[list[int]]] = {}
    for dataset, keys in partitions.items():
        mine = {name: bins for name, bins in reference.items() if name.startswith(f"{dataset}.")}
        subject, known = f"{trained.watch.model}/{dataset}", {}
        for fact in ledger.facts(COUNTED, subject, after_key=min(keys)[:-1], limit=None):
            if fact.payload["snapshot"] == snapshot:
                known[fact.key, fact.payload["revision"]] = fact.payload["counts"]
        new = {key: revision for key, revision in keys.items() if (key, revision) not in known}
        of_view = dataset in trained.days.columns
        made = trained.days.profiles(dataset, new) if of_view else _profiles(trained.store, dataset, new)
        for key, profile in made.items():
            counts = {
                name: counted(profile.columns.get(name.removeprefix(f"{dataset}.")), bins)
                for name, bins in mine.items()
            }
            told = {"snapshot": snapshot, "revision": new[key], "counts": counts}
            ledger.record(COUNTED, subject, told, key=key)
            known[key, new[key]] = counts
        for at in keys.items():
            for name, counts in known.get(at, {}).items():
                found.setdefault(name, []).append(counts)
    return {name: [sum(column) for column in zip(*rows, strict=True)] for name, rows in found.items()}


def _profiles(store: PartitionStore, dataset: str, keys: Mapping[str, str]) -> dict[str, Profile]:
    """Return key → profile of the revisions that have one."""
    paths = [store.profile_path(dataset, key, revision) for key, revision in keys.items()]
    contents = storage.read_if_there(paths)
    return {key: parse_profile(text) for key, text in zip(keys, contents, strict=True) if text is not None}
