"""The rows of a training set: entities, their labels, and their features as known at the prediction time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.contracts import Partition
from airflow_mlops.engine.data.labels import latest_labels
from airflow_mlops.engine.data.partitions import PartitionStore, day_bounds
from airflow_mlops.engine.data.splits import TIME, between, within, without
from airflow_mlops.engine.features.compute import EVENT
from airflow_mlops.engine.features.recipe import Recipe
from airflow_mlops.engine.features.schema import FeatureRepo
from airflow_mlops.engine.features.store import feast_errors
from airflow_mlops.exceptions import ConfigError, DataError, did_you_mean

if TYPE_CHECKING:
    from feast import FeatureStore


class Rows(NamedTuple):
    """Labelled rows with their features, in the order of time; and how many were left out, by why."""

    table: pa.Table
    unlabelled: int
    excluded: int


def read_rows(
    store: PartitionStore,
    feast: FeatureStore,
    repo: FeatureRepo,
    recipe: Recipe,
    *,
    sources: Sequence[Partition],
    labels: Sequence[Partition],
) -> Rows:
    """Read what a recipe asks for.

    :param sources: Partitions of its source.
    :param labels: Partitions of its labels.
    :raises ConfigError: when a dataset lacks a column, or the label is not true or false.
    :raises DataError: when an entity is there twice, or the feature store loses one.
    """
    schema = repo.service(recipe.service)
    wanted = [*recipe.keys, *(key for view in schema.views for key in repo.views[view].keys)]
    if recipe.split_rule.column is not None:
        wanted.append(recipe.split_rule.column)
    present = _entities(store, sources, recipe, wanted)
    entities = without(present, recipe.event_time, recipe.left_out)
    labelled = entities.join(_labels(store, labels, recipe), recipe.entity, join_type="inner")
    with feast_errors():
        job = feast.get_historical_features(
            entity_df=labelled.drop_columns([recipe.label]).rename_columns({recipe.event_time: EVENT}).to_pandas(),
            features=feast.get_feature_service(recipe.service),
            filter_by_created_timestamp=True,
        )
        retrieved = job.to_arrow()
    return Rows(
        _joined(labelled, retrieved, recipe.entity, recipe.event_time, schema.features),
        unlabelled=entities.num_rows - labelled.num_rows,
        excluded=present.num_rows - entities.num_rows,
    )


def count_unread(store: PartitionStore, recipe: Recipe, partitions: Sequence[Partition]) -> int:
    """Return how many rows of the window lie in partitions that are left out whole.

    Of days that the window cuts only the times are read, of the others nothing. Where that fails they count as if
    they were not sealed: what is left out must not be in the way.
    """
    count = 0
    for partition in partitions:
        begin, end = day_bounds(partition.key)
        if recipe.begin <= begin and end <= recipe.label_cut:
            count += partition.rows
        else:
            try:
                rows = store.read([partition], [recipe.event_time])
            except DataError:
                continue
            count += pc.sum(within(rows[recipe.event_time].cast(TIME), recipe.begin, recipe.label_cut)).as_py() or 0
    return count


def _entities(store: PartitionStore, partitions: Sequence[Partition], recipe: Recipe, keys: Sequence[str]) -> pa.Table:
    columns = list(dict.fromkeys([recipe.entity, recipe.event_time, *keys]))
    _check_columns(partitions, columns, "entity, event time, keys, split column and join keys of the feature service")
    rows = store.read(partitions, columns)
    place = rows.schema.get_field_index(recipe.event_time)
    rows = rows.set_column(place, recipe.event_time, rows[recipe.event_time].cast(TIME))
    rows = between(rows, recipe.event_time, recipe.begin, recipe.label_cut)
    repeated = rows.num_rows - pc.count_distinct(rows[recipe.entity], mode="only_valid").as_py()
    if repeated:
        raise DataError(
            f"{repeated} of {rows.num_rows} rows of {recipe.source!r} have a {recipe.entity!r} that is null or not "
            "their own.",
            detail="within the window of the snapshot",
            hint="The entity must identify a row; see whether a day landed twice.",
        )
    return rows


def _labels(store: PartitionStore, partitions: Sequence[Partition], recipe: Recipe) -> pa.Table:
    """Return entity and label, where it is known."""
    _check_columns(partitions, [recipe.entity, recipe.label], "entity and label")
    known, known_at = partitions[0].columns, partitions[0].event_time
    if known[recipe.label] != "bool":
        raise ConfigError(
            f"The label {recipe.label!r} is of type {known[recipe.label]}, not bool.",
            detail=f"dataset {recipe.labels!r}",
            hint="Let the feed carry true, false, and null where it is unknown.",
        )
    rows = store.read(partitions, list(dict.fromkeys([recipe.entity, known_at, recipe.label])))
    rows = without(rows, known_at, recipe.excluded.get(recipe.labels, ()))
    return latest_labels(rows, recipe.entity, known_at, recipe.label, recipe.labels)


def _check_columns(partitions: Sequence[Partition], columns: Sequence[str], what: str) -> None:
    dataset, known = partitions[0].dataset, partitions[0].columns
    for column in columns:
        if column not in known:
            raise ConfigError(
                f"Dataset {dataset!r} has no column {column!r}.{did_you_mean(column, known)}",
                detail=f"looked up there: {what}; it has: {', '.join(known)}",
                hint="Correct the name in the pipeline, or the entity's join key in the feature repository.",
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
