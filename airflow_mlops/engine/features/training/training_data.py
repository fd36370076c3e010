"""Training data as it would have been known: entities, their features at prediction time, matured labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.contracts import Exclusion, Partition, Snapshot, SplitRule, ValidationResult
from airflow_mlops.engine.data.complete import Span, every_partition
from airflow_mlops.engine.data.exclusions import excluded_keys, exclusions
from airflow_mlops.engine.data.labels import LABEL_SHIFT, check_watermark
from airflow_mlops.engine.data.lateness import record_snapshot
from airflow_mlops.engine.data.partitions import PartitionStore
from airflow_mlops.engine.data.shared import fetch_views
from airflow_mlops.engine.data.snapshot_writer import Columns, SnapshotWriter
from airflow_mlops.engine.data.snapshots import check_whole
from airflow_mlops.engine.data.splits import BY_TIME, by_entity, by_time
from airflow_mlops.engine.data.validation import enforce
from airflow_mlops.engine.features.computing import provenance
from airflow_mlops.engine.features.computing.code import Code
from airflow_mlops.engine.features.computing.computed import check_computed, computed_for, few, one_code, stored_here
from airflow_mlops.engine.features.computing.files import check_unchanged, current_pins, pinned_paths
from airflow_mlops.engine.features.computing.provenance import ByFile
from airflow_mlops.engine.features.governance.consumers import applied
from airflow_mlops.engine.features.governance.lint import check_training_use
from airflow_mlops.engine.features.project.location import Location
from airflow_mlops.engine.features.project.schema import FeatureRepo, describe, partitioning_of
from airflow_mlops.engine.features.project.store import open_store
from airflow_mlops.engine.features.training.joins import MAX_JOIN_DROP, Joins, as_result, earlier_joins
from airflow_mlops.engine.features.training.recipe import Recipe
from airflow_mlops.engine.features.training.rows import CHUNK_ROWS, Rows, count_unread, read_chunks
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.exceptions import ConfigError, DataError, MlopsError, did_you_mean
from airflow_mlops.partitioning import Partitioning
from airflow_mlops.problems import problem_of


def build_training_snapshot(
    location: Location,
    *,
    store: PartitionStore,
    ledger: Ledger | None,
    model: str,
    source_dataset: str,
    entity: str,
    event_time: str,
    keys: Sequence[str],
    service: str,
    label_dataset: str,
    label: str,
    label_known_at: str = "",
    problem: str = "",
    heads: Mapping[str, str] = MappingProxyType({}),
    weight: str = "",
    group: str = "",
    matures_after: timedelta,
    window: timedelta,
    validation: timedelta,
    test: timedelta,
    as_of: datetime,
    start: date,
    split_rule: SplitRule = BY_TIME,
    label_shift: float = LABEL_SHIFT,
    code: Code | None = None,
    slices: Sequence[str] = (),
    min_joined: float | None = None,
    max_join_drop: float = MAX_JOIN_DROP,
    without: Sequence[Exclusion] = (),
    without_slices: Mapping[str, Sequence[str]] = MappingProxyType({}),
    report: Callable[[ValidationResult], None] | None = None,
    chunk_rows: int = CHUNK_ROWS,
) -> Snapshot:
    """Build the snapshot of a window that ends where labels have matured, and freeze it.

    Knowledge is cut where the labels' partition in which ``as_of`` lies begins, because whole ones are sealed: labels
    that came later are not used, and those before must all be there. Prediction times end ``matures_after`` earlier. A
    row without a label by then (cancelled, not yet landed) is left out and counted, never negative. Of several labels
    of an entity the last one counts. Features are read as they were known at the prediction time: a value that became
    known later counts for nothing.

    Rows in a window that somebody excluded are left out and counted, so that the splits, ``unlabelled_rows`` and
    ``excluded_rows`` together are all rows of the window. Days that are excluded whole need not be sealed; only the
    rows of those that are can be counted. They are no part of the snapshot's id, so that it is the same if such a day
    is sealed later: it then keeps the count of when it was built first.

    :param store: Where the sealed datasets are.
    :param ledger: Where the exclusions are, and where the snapshot is written down; None when there is no ledger.
    :param source_dataset: Sealed dataset with a row an entity: entity, prediction time, join keys.
    :param entity: Column that identifies a row in both datasets.
    :param event_time: Column of ``source_dataset`` with the prediction time.
    :param keys: Columns of ``source_dataset`` that are inputs of the model themselves.
    :param service: Feast feature service.
    :param label_dataset: Sealed dataset with the column ``label``, null where unknown.
    :param label_known_at: Column of ``label_dataset`` of when a label became known; default is its event time. With it,
        the label may be a column of ``source_dataset`` itself: it counts once it is known, whenever its row was sealed.
    :param problem: Problem type, see :mod:`airflow_mlops.problems`; empty: by the type of the label.
    :param heads: Further labels in ``label_dataset``: column → problem type, empty likewise. Null is no reason to leave
        a row out: it counts nothing for that head.
    :param weight: Column of ``source_dataset`` of what a row counts, in training and evaluation.
    :param group: Column of ``source_dataset`` of the rows that are ranked against each other.
    :param window: Length of the window, cut at ``start``; its last parts are ``validation`` and ``test``.
    :param start: First day that the datasets have.
    :param split_rule: By time, or by the hash of a column of ``source_dataset``. Its shares are those that
        ``validation`` and ``test`` have of ``window``, unless it says them.
    :param label_shift: See :meth:`~airflow_mlops.problems.Problem.check_days`.
    :param code: Identity of the transform of now, by
        :func:`~airflow_mlops.engine.features.computing.code.code_identity`: what other code computed is
        refused. None compares the days with each other only.
    :param slices: Columns of ``source_dataset`` in whose every value rows must find their label as usual.
    :param min_joined, max_join_drop: See :meth:`~airflow_mlops.engine.features.training.joins.Joins.check`.
    :param without: Windows of ``source_dataset`` whose rows only this snapshot leaves out. What features were computed
        from them stays: that takes an exclusion for all.
    :param without_slices: Column of ``source_dataset`` → values, as text, of rows that only this snapshot leaves out.
    :param report: Called with what that check said, before it refuses anything.
    :param chunk_rows: Rows that are read and joined at a time, whole days at least. Memory depends on it, the snapshot
        does not.
    :raises ConfigError: when the service or a column is unknown, ``as_of`` lies in the future, or the features must
        not be used for this model or window.
    :raises DataError: when labels have not come far enough, a day is missing or all are excluded, its features are
        missing, stale or of other code, an entity is there twice, too few rows
        found their label, the labels of a day are not believable, or a split
        cannot be learned from.
    :raises TransientError: when Feast's registry or the ledger does not answer, or features were computed again while
        they were read.
    """
    if label_dataset == source_dataset and not label_known_at:
        raise ConfigError(
            f"Nothing says since when the label {label!r} is known.",
            detail=f"it is a column of {source_dataset!r} itself, label_known_at=''",
            hint="Name the column of times from which it is known in label_known_at.",
        )
    begin, label_cut, known = _window(as_of, matures_after, window, start, store.partitioning(label_dataset))
    home = location.home
    feast = open_store(location)
    repo = describe(feast)
    recipe = Recipe(
        source=source_dataset,
        entity=entity,
        event_time=event_time,
        keys=tuple(keys),
        service=service,
        labels=label_dataset,
        label=label,
        begin=begin,
        label_cut=label_cut,
        as_of=known,
        start=store.partitioning(source_dataset).first(start),
        split_rule=with_shares(split_rule, validation / window, test / window),
        validation=validation,
        test=test,
        excluded={},
        slices=tuple(slices),
        known_at=label_known_at,
        problem=problem,
        heads=heads,
        weight=weight,
        group=group,
        without=tuple(without),
        without_slices=without_slices,
    )
    rules = (applied(ledger, repo.project) if ledger is not None else None) or repo
    check_training_use(repo, service, model, begin, label_cut, rules=rules.rules)
    ours = stored_here(feast, home, repo.service(service).views)
    fetch_views(home, ours)
    computed = computed_for(home, repo, recipe, ours)
    names = dict.fromkeys([source_dataset, label_dataset, *provenance.pins(computed)])
    recipe = replace(recipe, excluded={name: exclusions(ledger, name) if ledger else [] for name in names})
    of_source, of_labels = store.partitioning(source_dataset), store.partitioning(label_dataset)
    without_labels = excluded_keys(recipe.excluded[label_dataset], of_labels)
    check_watermark(store, label_dataset, begin, recipe.label_span[1], without_labels)
    present = provenance.list_used(store, computed, (source_dataset, recipe.span), (label_dataset, recipe.label_span))
    skipped = excluded_keys(recipe.left_out, of_source)
    sources = every_partition(present[source_dataset], source_dataset, of_source, recipe.span, skipped)
    labels = every_partition(present[label_dataset], label_dataset, of_labels, recipe.label_span, without_labels)
    if not sources or not labels:
        raise DataError(
            "Every partition of the window is excluded.",
            detail=f"prediction times {recipe.window}, {source_dataset!r} and {label_dataset!r}",
            hint="Lift an exclusion, or train on a longer or later window.",
        )
    check_computed(home, recipe, ours, computed, provenance.revisions(present))
    identity = one_code(recipe, computed, code)
    pins = current_pins(home, computed)
    chunks = read_chunks(
        store,
        feast,
        repo,
        recipe,
        sources=sources,
        labels=labels,
        files=pinned_paths(home, pins),
        cuts={view: partitioning_of(home, view) for view in pins},
        chunk_rows=chunk_rows,
    )
    since = min((one.since for one in computed.values() if one is not None), default=recipe.start)
    skipped &= set(of_source.keys(*recipe.span))
    with _writer(home, repo, recipe) as writer:
        written = _write(writer, recipe, chunks)
        earlier = earlier_joins(ledger, model, recipe) if ledger else []
        bounds = {"min_joined": min_joined, "max_join_drop": max_join_drop}
        outcomes = written.joins.check(earlier, min_joined=min_joined, max_join_drop=max_join_drop)
        joins = as_result(outcomes, recipe, model, len(written.labels) + written.unlabelled, bounds)
        if ledger is not None:
            ledger.record("validation", f"{model}.labels", joins.model_dump(mode="json"), key=str(known.date()))
        if report is not None:
            report(joins)
        enforce(joins)
        for column, said in {label: problem, **heads}.items():
            known_ones = written.labels.filter(pc.is_valid(written.labels[column]))
            found = problem_of(known_ones.schema.field(column).type, said)
            found.check_days(known_ones, event_time, column, label_shift)
        check_unchanged(home, pins)
        snapshot = writer.publish(
            **_contents(repo, recipe, written),
            unread_rows=count_unread(store, recipe, [one for one in present[source_dataset] if one.key in skipped]),
            model=model,
            partitions=_pins(computed, [*sources, *labels]),
            feature_code=identity,
            feature_files=pins,
            exclusions=recipe.exclusions(since),
        )
    if ledger is not None:
        record_snapshot(ledger, snapshot, label_joins=written.joins.whole)
    return snapshot


def rebuild_snapshot(
    location: Location,
    snapshot: Snapshot,
    *,
    store: PartitionStore,
    source_dataset: str,
    label_dataset: str,
) -> Snapshot:
    """Build a snapshot again from exactly the partition revisions, feature files and exclusions of then.

    What the features DAG computed since, from other data or by other code, does not count: the files that it replaced
    are there still.

    :param snapshot: Its manifest.
    :param source_dataset: The dataset with its entities.
    :param label_dataset: The dataset with its labels.
    :raises ConfigError: when it was not built from these datasets.
    :raises DataError: when partitions or feature files are gone, or the outcome is not the same, byte for byte: then
        nothing is written, and every difference that can be told is named.
    """
    home = location.home
    feast = open_store(location)
    repo = describe(feast)
    computed_here = repo.service(snapshot.feature_service).features
    validation, test = snapshot.splits["validation"], snapshot.splits["test"]
    excluded: dict[str, list[Exclusion]] = {}
    for one in snapshot.exclusions:
        excluded.setdefault(one.dataset, []).append(one)
    recipe = Recipe(
        source=source_dataset,
        entity=snapshot.entity,
        event_time=snapshot.event_time,
        keys=tuple(name for name in snapshot.features if name not in computed_here),
        service=snapshot.feature_service,
        labels=label_dataset,
        label=snapshot.label,
        known_at=snapshot.label_known_at,
        problem=snapshot.problem,
        heads={name: head.problem for name, head in snapshot.heads.items()},
        weight=snapshot.weight,
        group=snapshot.group,
        begin=snapshot.splits["train"].start,
        label_cut=snapshot.label_cut,
        as_of=snapshot.as_of,
        start=min(
            store.partitioning(name).interval(key)[0] for name, keys in snapshot.partitions.items() for key in keys
        ),
        split_rule=snapshot.split_rule,
        validation=validation.end - validation.start,
        test=test.end - test.start,
        excluded=excluded,
        without_slices=snapshot.without_slices,
    )
    sources, labels = _pinned(store, snapshot, recipe)
    fetch_views(home, snapshot.feature_files)
    chunks = read_chunks(
        store,
        feast,
        repo,
        recipe,
        sources=sources,
        labels=labels,
        files=pinned_paths(home, snapshot.feature_files),
        cuts={view: partitioning_of(home, view) for view in snapshot.feature_files},
    )
    with _writer(home, repo, recipe) as writer:
        written = _write(writer, recipe, chunks)
        rebuilt = writer.publish(
            **_contents(repo, recipe, written),
            unread_rows=snapshot.excluded_rows - written.excluded,  # as then: such days may have been sealed since
            model=snapshot.model,
            partitions=snapshot.partitions,
            feature_code=snapshot.feature_code,
            feature_files=snapshot.feature_files,
            exclusions=snapshot.exclusions,
            expected=snapshot,
        )
    check_whole(rebuilt)
    return rebuilt


class _Written(NamedTuple):
    """What came of the rows: how many were left out, by why; and of the others, time and label."""

    unlabelled: int
    excluded: int
    labels: pa.Table
    joins: Joins


def _writer(home: Path, repo: FeatureRepo, recipe: Recipe) -> SnapshotWriter:
    features = (*recipe.keys, *repo.service(recipe.service).features)
    columns = Columns(
        recipe.entity, recipe.event_time, features, recipe.label, recipe.problem, recipe.weight, recipe.group,
        recipe.heads,
    )  # fmt: skip
    return SnapshotWriter(home, columns, apart=recipe.split_rule.column)


def _write(writer: SnapshotWriter, recipe: Recipe, chunks: Iterable[Rows]) -> _Written:
    """Divide rows into splits as they come."""
    begin, end, rule = recipe.begin, recipe.label_cut, recipe.split_rule
    unlabelled = excluded = 0
    labels, joins = [], Joins(recipe)
    for rows in chunks:
        if rule.kind == "entity":
            splits = by_entity(rows.table, rule, begin, end)
        else:
            splits = by_time(rows.table, recipe.event_time, begin, end, validation=recipe.validation, test=recipe.test)
        writer.add(splits)
        unlabelled += rows.unlabelled
        excluded += rows.excluded
        joins.add(rows.asked, rows.joined)
        labels.append(rows.table.select([recipe.event_time, recipe.label, *recipe.heads]))
    return _Written(unlabelled, excluded, pa.concat_tables(labels), joins)


def _contents(repo: FeatureRepo, recipe: Recipe, written: _Written) -> dict[str, Any]:
    """Return what recipe and rows say about a snapshot."""
    return {
        "feature_service": recipe.service,
        "feature_project": repo.project,
        "feature_definition": repo.definition_hash(recipe.service),
        "as_of": recipe.as_of,
        "label_cut": recipe.label_cut,
        "label_known_at": recipe.known_at,
        "unlabelled_rows": written.unlabelled,
        "excluded_rows": written.excluded,
        "without_slices": {name: tuple(values) for name, values in recipe.without_slices.items()},
        "split_rule": recipe.split_rule,
    }


def _window(
    as_of: datetime, matures_after: timedelta, window: timedelta, start: date, of_labels: Partitioning
) -> tuple[datetime, datetime, datetime]:
    """Return the first prediction time, the end of the matured ones, and the moment of which knowledge is used."""
    if as_of.tzinfo is None:
        raise ConfigError(
            "as_of has no time zone.",
            detail=f"as_of={as_of.isoformat()}",
            hint="Give it one: datetime(..., tzinfo=UTC).",
        )
    if as_of > datetime.now(UTC):
        raise ConfigError(
            "A snapshot cannot know the future.",
            detail=f"as_of={as_of.isoformat()}",
            hint="Leave as_of empty, or give a moment that has passed.",
        )
    known = of_labels.floor(as_of)
    label_cut = known - matures_after
    begin = max(label_cut - window, of_labels.first(start))
    if begin >= label_cut:
        raise DataError(
            "No label has matured yet.",
            detail=f"data starts on {start}; labels of prediction times before {label_cut:%Y-%m-%d %H:%M} UTC have "
            f"matured by {known:%Y-%m-%d %H:%M} UTC",
            hint="Train later, or with a later as_of.",
        )
    return begin, label_cut, known


def with_shares(rule: SplitRule, validation: float, test: float) -> SplitRule:
    """Return a rule with these shares of the entities, where it has none of its own."""
    if rule.kind == "time":
        return rule
    shares = {"validation": validation, "test": test}
    return rule.model_copy(update={name: share for name, share in shares.items() if getattr(rule, name) is None})


def _pins(computed: ByFile, partitions: Iterable[Partition]) -> dict[str, dict[str, str]]:
    """Return every revision that goes in, by way of the features too."""
    pins = provenance.pins(computed)
    for partition in partitions:
        pins.setdefault(partition.dataset, {})[partition.key] = partition.revision
    return {name: dict(sorted(keys.items())) for name, keys in sorted(pins.items())}


def _pinned(store: PartitionStore, snapshot: Snapshot, recipe: Recipe) -> tuple[list[Partition], list[Partition]]:
    """Return the partitions, as pinned, that the entities and the labels come from.

    :raises DataError: naming all that is gone, and what became of it.
    """
    gone: list[str] = []

    def pinned(dataset: str, span: Span, excluded: Iterable[Exclusion]) -> list[Partition]:
        if dataset not in snapshot.partitions:
            raise ConfigError(
                f"Snapshot {snapshot.id!r} was not built from {dataset!r}.{did_you_mean(dataset, snapshot.partitions)}",
                hint=f"It was built from {', '.join(snapshot.partitions)}.",
            )
        found = []
        partitioning = store.partitioning(dataset)
        wanted = set(partitioning.keys(*span, without=excluded_keys(excluded, partitioning)))
        for key, revision in snapshot.partitions[dataset].items():
            if key not in wanted:
                continue
            try:
                found.append(store.get(dataset, key, revision))
            except MlopsError as error:
                if error.retryable:
                    raise
                gone.append(f"{dataset} {key} {revision}: {error.headline} {error.detail}".strip())
        return found

    sources = pinned(recipe.source, recipe.span, recipe.left_out)
    labels = pinned(recipe.labels, recipe.label_span, recipe.excluded.get(recipe.labels, []))
    if gone:
        raise DataError(
            f"{len(gone)} of the partitions that snapshot {snapshot.id!r} was built from are gone.",
            detail=few(gone, "\n    "),
            hint="Seal the same bytes again, from the upstream or a backup: they give the same revision. Or train on "
            "a new snapshot; it will be another one.",
        )
    return sources, labels
