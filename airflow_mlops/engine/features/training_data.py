"""Training data as it would have been known: entities, their features at prediction time, matured labels."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.contracts import Partition, Snapshot, SplitName
from airflow_mlops.engine.data.partitions import read_partitions
from airflow_mlops.engine.data.snapshots import SplitRows, write_snapshot
from airflow_mlops.engine.features.compute import EVENT, every_day
from airflow_mlops.engine.features.store import FeatureRepo, describe, feast_errors, feature_file, open_store
from airflow_mlops.exceptions import ConfigError, DataError, did_you_mean

_TIME = pa.timestamp("us", tz="UTC")


class Window(NamedTuple):
    """Prediction times in ``[begin, label_cut)``, as known at ``as_of``."""

    begin: datetime
    label_cut: datetime
    as_of: datetime

    @property
    def days(self) -> tuple[date, date]:
        """First and last day with prediction times."""
        return self.begin.date(), (self.label_cut - timedelta(microseconds=1)).date()


def build_training_snapshot(
    home: Path,
    repo_path: Path,
    *,
    model: str,
    source_dataset: str,
    entity: str,
    event_time: str,
    keys: Sequence[str],
    service: str,
    label_dataset: str,
    label: str,
    matures_after: timedelta,
    window: timedelta,
    validation: timedelta,
    test: timedelta,
    as_of: datetime,
    start: date,
) -> Snapshot:
    """Build the snapshot of a window that ends where labels have matured, and freeze it.

    Knowledge is cut at the UTC midnight before ``as_of``, because whole days are sealed: labels that came later
    are not used. Prediction times end ``matures_after`` earlier. A row without a label by then (cancelled, not
    yet landed) is left out and counted, never negative. Features are read as they were known at the prediction
    time: a value that became known later counts for nothing.

    :param source_dataset: Sealed dataset with a row an entity: entity, prediction time, join keys.
    :param entity: Column that identifies a row in both datasets.
    :param event_time: Column of ``source_dataset`` with the prediction time.
    :param keys: Columns of ``source_dataset`` that are inputs of the model themselves.
    :param service: Feast feature service.
    :param label_dataset: Sealed dataset with the boolean column ``label``, null where unknown.
    :param window: Length of the window, cut at ``start``; its last parts are ``validation`` and ``test``.
    :param start: First day that the datasets have.
    :raises ConfigError: when the service or a column is unknown, or ``as_of`` lies in the future.
    :raises DataError: when a day is missing, an entity is there twice, or a split cannot be learned from.
    :raises TransientError: when Feast's registry does not answer.
    """
    span = _window(as_of, matures_after, window, start)
    store = open_store(repo_path, home)
    repo = describe(store)
    schema = repo.service(service)
    sources = every_day(home, source_dataset, *span.days)
    labels = every_day(home, label_dataset, span.begin.date(), (span.as_of - timedelta(days=1)).date())
    _check_computed(home, repo, service, span)
    entities = _entities(sources, entity, event_time, [*keys, *_join_keys(repo, service)], span)
    labelled = _with_labels(entities, labels, entity, label)
    with feast_errors():
        job = store.get_historical_features(
            entity_df=labelled.drop_columns([label]).rename_columns({event_time: EVENT}).to_pandas(),
            features=store.get_feature_service(service),
            filter_by_created_timestamp=True,
        )
        retrieved = job.to_arrow()
    rows = _joined(labelled, retrieved, entity, event_time, schema.features)
    test_start = span.label_cut - test
    bounds = [span.begin, test_start - validation, test_start, span.label_cut]
    names: tuple[SplitName, ...] = ("train", "validation", "test")
    return write_snapshot(
        home,
        {
            name: SplitRows(_between(rows, event_time, first, last), first, last)
            for name, first, last in zip(names, bounds[:-1], bounds[1:], strict=True)
        },
        model=model,
        partitions={
            name: {partition.key: partition.revision for partition in used}
            for name, used in ((source_dataset, sources), (label_dataset, labels))
        },
        feature_service=service,
        definition_hash=repo.definition_hash(service),
        features={key: str(rows.schema.field(key).type) for key in (*keys, *schema.features)},
        entity=entity,
        event_time=event_time,
        label=label,
        as_of=span.as_of,
        label_cut=span.label_cut,
        unlabelled_rows=entities.num_rows - labelled.num_rows,
    )


def _window(as_of: datetime, matures_after: timedelta, window: timedelta, start: date) -> Window:
    if as_of > datetime.now(UTC):
        raise ConfigError(
            "A snapshot cannot know the future.",
            detail=f"as_of={as_of.isoformat()}",
            hint="Leave as_of empty, or give a moment that has passed.",
        )
    midnight = datetime.combine(as_of.astimezone(UTC).date(), time(), UTC)
    label_cut = midnight - matures_after
    begin = max(label_cut - window, datetime.combine(start, time(), UTC))
    if begin >= label_cut:
        raise DataError(
            "No label has matured yet.",
            detail=f"data starts on {start}; labels of prediction times before {label_cut:%Y-%m-%d %H:%M} UTC have "
            f"matured by {midnight:%Y-%m-%d}",
            hint="Train later, or with a later as_of.",
        )
    return Window(begin, label_cut, midnight)


def _join_keys(repo: FeatureRepo, service: str) -> list[str]:
    return [key for view in repo.service(service).views for key in repo.views[view].keys]


def _check_computed(home: Path, repo: FeatureRepo, service: str, span: Window) -> None:
    """A day whose features were never computed would silently be a day of missing values."""
    first, last = span.days
    days = [str(first + timedelta(days=n)) for n in range((last - first).days + 1)]
    for view in repo.service(service).views:
        missing = [day for day in days if not feature_file(home, view, day).exists()]
        if missing:
            raise DataError(
                f"The rows of feature view {view!r} for {missing[0]} were not computed.",
                detail=f"window {first} to {last}; missing: {', '.join(missing[:7])}{' …' if missing[7:] else ''}",
                hint="Run the features DAG for the missing days first, oldest first.",
            )


def _entities(partitions: list[Partition], entity: str, event_time: str, keys: Sequence[str], span: Window) -> pa.Table:
    columns = list(dict.fromkeys([entity, event_time, *keys]))
    known = partitions[0].columns
    for column in columns:
        if column not in known:
            raise ConfigError(
                f"Dataset {partitions[0].dataset!r} has no column {column!r}.{did_you_mean(column, known)}",
                detail="entity, event time, keys and the join keys of the feature service are looked up there; "
                f"it has: {', '.join(known)}",
                hint="Correct the name in the pipeline, or the entity's join key in the feature repository.",
            )
    rows = read_partitions(partitions, columns)
    rows = rows.set_column(rows.schema.get_field_index(event_time), event_time, rows[event_time].cast(_TIME))
    rows = _between(rows, event_time, span.begin, span.label_cut)
    _check_unique(rows[entity], entity, partitions[0].dataset)
    return rows


def _with_labels(entities: pa.Table, partitions: list[Partition], entity: str, label: str) -> pa.Table:
    """Return the entities whose label is known."""
    dataset, known = partitions[0].dataset, partitions[0].columns
    for column in (entity, label):
        if column not in known:
            raise ConfigError(
                f"Dataset {dataset!r} has no column {column!r}.{did_you_mean(column, known)}",
                detail=f"it has: {', '.join(known)}",
                hint="Correct the Label, or the entity, of the pipeline.",
            )
    if known[label] != "bool":
        raise ConfigError(
            f"The label {label!r} is of type {known[label]}, not bool.",
            detail=f"dataset {dataset!r}",
            hint="Let the feed carry true, false, and null where it is unknown.",
        )
    labels = read_partitions(partitions, [entity, label])
    labels = labels.filter(pc.is_valid(labels[label]))
    _check_unique(labels[entity], entity, dataset)
    return entities.join(labels, entity, join_type="inner")


def _check_unique(column: pa.ChunkedArray, name: str, dataset: str) -> None:
    repeated = len(column) - pc.count_distinct(column, mode="only_valid").as_py()
    if repeated:
        raise DataError(
            f"{repeated} of {len(column)} rows of {dataset!r} have a {name!r} that is null or not their own.",
            detail="within the window of the snapshot",
            hint="The entity must identify a row; see whether a day landed twice.",
        )


def _joined(
    labelled: pa.Table, retrieved: pa.Table, entity: str, event_time: str, features: dict[str, str]
) -> pa.Table:
    """Put the features beside their entities; none may be lost or doubled on the way through the store."""
    labelled, retrieved = labelled.sort_by(entity), retrieved.sort_by(entity)
    if not labelled[entity].combine_chunks().equals(retrieved[entity].cast(labelled[entity].type).combine_chunks()):
        raise DataError(
            "The feature store did not return the rows that it was asked for.",
            detail=f"asked for {labelled.num_rows}, got {retrieved.num_rows}",
            hint="Use an offline store that keeps entities without features: `type: duckdb` does, dask does not.",
        )
    for name, kind in features.items():
        labelled = labelled.append_column(name, retrieved[name].cast(pa.type_for_alias(kind)))
    return labelled.sort_by([(event_time, "ascending"), (entity, "ascending")])


def _between(rows: pa.Table, column: str, start: datetime, end: datetime) -> pa.Table:
    first, last = pa.scalar(start, _TIME), pa.scalar(end, _TIME)
    return rows.filter(pc.and_(pc.greater_equal(rows[column], first), pc.less(rows[column], last)))
