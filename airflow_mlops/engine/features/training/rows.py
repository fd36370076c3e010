"""The rows of a training set: entities, their labels, and their features as known at the prediction time.

They are read a stretch of days at a time, so that memory does not grow with the window.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.contracts import Partition
from airflow_mlops.engine.data.arrow import arrow_type, fits
from airflow_mlops.engine.data.complete import Span
from airflow_mlops.engine.data.distinct import count_repeated
from airflow_mlops.engine.data.labels import is_known_at, known_times, latest_labels
from airflow_mlops.engine.data.partitions import PartitionStore, agreed_columns
from airflow_mlops.engine.data.splits import TIME, between, within, without
from airflow_mlops.engine.features.computing.compute import EVENT
from airflow_mlops.engine.features.computing.files import Paths
from airflow_mlops.engine.features.offline.reading import reading_files
from airflow_mlops.engine.features.project.schema import FeatureRepo, ServiceSchema
from airflow_mlops.engine.features.project.store import feast_errors
from airflow_mlops.engine.features.training.recipe import Recipe
from airflow_mlops.engine.features.training.slices import LeftOut
from airflow_mlops.exceptions import ConfigError, DataError, did_you_mean
from airflow_mlops.partitioning import Partitioning
from airflow_mlops.problems import as_label

if TYPE_CHECKING:
    from feast import FeatureStore

_TICK = timedelta(microseconds=1)

CHUNK_ROWS = 16_384
"""Rows that are read and joined at a time, if a day does not have more."""


class Rows(NamedTuple):
    """Labelled rows with their features, in the order of time; how many were left out, by why; and the times and slices
    of all that were not excluded, with whether they found their label.
    """

    table: pa.Table
    unlabelled: int
    excluded: int
    asked: pa.Table
    joined: pa.Array


def read_chunks(
    store: PartitionStore,
    feast: FeatureStore,
    repo: FeatureRepo,
    recipe: Recipe,
    *,
    sources: Sequence[Partition],
    labels: Sequence[Partition],
    files: Paths,
    cuts: Mapping[str, Partitioning],
    chunk_rows: int = CHUNK_ROWS,
) -> Iterator[Rows]:
    """Yield the rows that a recipe asks for, oldest first.

    :param sources: Partitions of its source, in the order of their days.
    :param labels: Partitions of its labels.
    :param files: The files of feature rows to read, and no others; of views without any, what their source has.
    :param cuts: Feature view → how its files are cut.
    :param chunk_rows: How many rows of the source to read at a time; whole days at least.
    :raises ConfigError: when a dataset lacks a column, a column is not of the type that an on-demand view asks for, or
        the label is none of its problem type.
    :raises DataError: when an entity is there twice, or the feature store loses one.
    """
    schema = repo.service(recipe.service)
    asked = Asked(repo, schema, recipe)
    _check_columns(
        sources, asked.columns, "entity, event time, keys, split column, weight, group, join keys and request columns"
    )
    asked.check(sources[0].columns)
    if not sources[0].columns[recipe.event_time].startswith("timestamp"):
        raise ConfigError(
            f"The event time {recipe.event_time!r} is of type {sources[0].columns[recipe.event_time]}.",
            detail=f"dataset {recipe.source!r}",
            hint="Name a column of times.",
        )
    _check_columns(sources, [*recipe.slices, *recipe.without_slices], "slices")
    left_out = LeftOut(recipe.without_slices)
    known_at = [recipe.known_at] if recipe.known_at else []
    _check_columns(
        labels, [recipe.entity, recipe.label, *recipe.heads, *known_at], "entity, label, heads and when they are known"
    )
    _check_entities(store, sources, recipe, chunk_rows)
    known = _labels(store, labels, recipe, chunk_rows)
    pa.default_memory_pool().release_unused()
    for days in _chunks(sources, chunk_rows):
        columns = list(dict.fromkeys([*asked.columns, *recipe.slices, *recipe.without_slices]))
        present = _of_window(store.read(days, columns), recipe)
        entities = left_out.rest(without(present, recipe.event_time, recipe.left_out))
        theirs = known.filter(pc.is_in(known[recipe.entity], value_set=entities[recipe.entity].combine_chunks()))
        labelled = entities.select(asked.columns).join(theirs, recipe.entity, join_type="inner")
        joined = pc.is_in(entities[recipe.entity], value_set=theirs[recipe.entity].combine_chunks())
        interval = store.partitioning(recipe.source).interval
        span = max(interval(days[0].key)[0], recipe.begin), interval(days[-1].key)[1]
        seen = {view: _seen(repo, view, by_key, cuts[view], span) for view, by_key in files.items()}
        with reading_files(seen):
            table = with_features(feast, recipe, asked, labelled)
        yield Rows(
            table,
            entities.num_rows - labelled.num_rows,
            present.num_rows - entities.num_rows,
            entities.select(list(dict.fromkeys([recipe.event_time, *recipe.slices]))),
            joined,
        )
        del table, present, entities, theirs, labelled
        pa.default_memory_pool().release_unused()
    left_out.check_met(f"{recipe.source!r}, {recipe.window}")


def count_unread(store: PartitionStore, recipe: Recipe, partitions: Sequence[Partition]) -> int:
    """Return how many rows of the window lie in partitions that are left out whole.

    Of days that the window cuts only the times are read, of the others nothing. Where that fails they count as if
    they were not sealed: what is left out must not be in the way.
    """
    count = 0
    for partition in partitions:
        begin, end = store.partitioning(partition.dataset).interval(partition.key)
        if recipe.begin <= begin and end <= recipe.label_cut:
            count += partition.rows
        else:
            try:
                rows = store.read([partition], [recipe.event_time])
            except DataError:
                continue
            count += pc.sum(within(rows[recipe.event_time].cast(TIME), recipe.begin, recipe.label_cut)).as_py() or 0
    return count


class Asked:
    """What a recipe asks of its source's columns, and of the feature store."""

    def __init__(self, repo: FeatureRepo, schema: ServiceSchema, recipe: Recipe) -> None:
        self.recipe, self.service, self.request = recipe, recipe.service, schema.request
        self.features = schema.features
        mapped = ((schema.join_keys.get(view, {}), repo.views[view].keys) for view in schema.views)
        self.join_keys = list(dict.fromkeys(names.get(key, key) for names, keys in mapped for key in keys))
        split_by = [] if recipe.split_rule.column is None else [recipe.split_rule.column]
        self.sent = list(dict.fromkeys([recipe.entity, *self.join_keys, *self.request]))
        more = [name for name in (recipe.weight, recipe.group) if name]
        self.columns = list(dict.fromkeys([*self.sent, recipe.event_time, *recipe.keys, *split_by, *more]))

    def check(self, known: dict[str, str]) -> None:
        """Refuse columns that cannot be told from features, or that on-demand views cannot take; heads among them."""
        if told := [name for name in self.recipe.heads if name in {*self.features, *self.columns}]:
            raise ConfigError(
                f"The head {told[0]!r} is something that the model is told, or asked with.",
                detail=f"features of {self.service!r}: {', '.join(self.features)}; columns of {self.recipe.source!r}: "
                f"{', '.join(self.columns)}",
                hint="A head is known only with the label: rename the one or the other.",
            )
        if both := [name for name in self.features if name in {*self.sent, *self.recipe.keys}]:
            raise ConfigError(
                f"{both[0]!r} is a column of {self.recipe.source!r} and a feature of {self.service!r}.",
                detail=f"both: {', '.join(both)}",
                hint="Give the feature another name, or take the column out of the keys.",
            )
        for name, wanted in self.request.items():
            if not fits(known[name], wanted):
                raise ConfigError(
                    f"Column {name!r} of {self.recipe.source!r} is of type {known[name]}, not {wanted}.",
                    detail=f"an on-demand view of feature service {self.service!r} is computed from it",
                    hint="Change the type in its RequestSource, or the column's in the feed.",
                )


def _chunks(partitions: Sequence[Partition], rows: int) -> Iterator[list[Partition]]:
    """Yield neighbouring partitions that together have at most so many rows, or one alone."""
    chunk: list[Partition] = []
    for partition in partitions:
        if chunk and sum(one.rows for one in chunk) + partition.rows > rows:
            yield chunk
            chunk = []
        chunk.append(partition)
    if chunk:
        yield chunk


def _seen(repo: FeatureRepo, view: str, by_key: Mapping[str, Path], cut: Partitioning, span: Span) -> list[Path]:
    """Return the files of a view with rows that predictions within a span can see."""
    lives = repo.views[view].ttl_seconds
    first = "" if lives is None else cut.key(span[0] - timedelta(seconds=lives))
    last = cut.key(span[1] - _TICK)
    return [file for key, file in by_key.items() if first <= key <= last]


def with_features(feast: FeatureStore, recipe: Recipe, asked: Asked, labelled: pa.Table) -> pa.Table:
    """Put the features beside their entities, in the order of time; the feature store may lose or double none."""
    sent = pa.table({**{name: _sent(asked, labelled, name) for name in asked.sent}, EVENT: labelled[recipe.event_time]})
    if not sent.num_rows:
        retrieved = pa.schema([(name, arrow_type(kind)) for name, kind in asked.features.items()]).empty_table()
        retrieved = retrieved.append_column(recipe.entity, sent[recipe.entity])
    else:
        with feast_errors():
            job = feast.get_historical_features(
                entity_df=sent.to_pandas(integer_object_nulls=True),
                features=feast.get_feature_service(recipe.service),
                # Unless the feature store's owner has said otherwise, only what was known by then.
                filter_by_created_timestamp=getattr(feast.config.offline_store, "knowledge_time", True),
            )
            retrieved = job.to_arrow().select([recipe.entity, *asked.features])
    labelled, retrieved = labelled.sort_by(recipe.entity), retrieved.sort_by(recipe.entity)
    entities = labelled[recipe.entity].combine_chunks()
    if not entities.equals(retrieved[recipe.entity].cast(entities.type).combine_chunks()):
        raise DataError(
            "The feature store did not return the rows that it was asked for.",
            detail=f"asked for {labelled.num_rows}, got {retrieved.num_rows}",
            hint="Use an offline store that keeps entities without features, such as `type: duckdb`.",
        )
    for name, kind in asked.features.items():
        labelled = labelled.append_column(name, _received(name, retrieved[name], kind))
    return labelled.sort_by([(recipe.event_time, "ascending"), (recipe.entity, "ascending")])


def _sent(asked: Asked, rows: pa.Table, name: str) -> pa.ChunkedArray:
    column = rows[name]
    if name not in asked.request:
        return column
    try:
        return column.cast(arrow_type(asked.request[name]))
    except pa.ArrowInvalid as error:
        raise DataError(
            f"Column {name!r} of {asked.recipe.source!r} holds values that are no {asked.request[name]}.",
            detail=f"type {column.type}: {error}",
            hint="An on-demand view is computed from it: change the type in its RequestSource, or mend the feed.",
        ) from None


def _received(name: str, column: pa.ChunkedArray, kind: str) -> pa.ChunkedArray:
    if pa.types.is_floating(column.type) and kind.startswith(("int", "uint")):
        # Whole numbers, some missing, come as floats by way of pandas.
        column = pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
    try:
        return column.cast(arrow_type(kind))
    except pa.ArrowInvalid as error:
        raise DataError(
            f"Feature {name!r} came as {column.type}, and not all of it is {kind}.",
            detail=str(error),
            hint="Correct its type in the feature repository, or what computes it.",
        ) from None


def _of_window(rows: pa.Table, recipe: Recipe) -> pa.Table:
    place = rows.schema.get_field_index(recipe.event_time)
    rows = rows.set_column(place, recipe.event_time, rows[recipe.event_time].cast(TIME))
    return between(rows, recipe.event_time, recipe.begin, recipe.label_cut)


def _check_entities(store: PartitionStore, partitions: Sequence[Partition], recipe: Recipe, chunk_rows: int) -> None:
    """Refuse an entity that does not identify a row."""
    columns = list(dict.fromkeys([recipe.entity, recipe.event_time]))
    read = (_of_window(store.read(days, columns), recipe)[recipe.entity] for days in _chunks(partitions, chunk_rows))
    entities = pa.chunked_array(
        [chunk for some in read for chunk in some.chunks], arrow_type(partitions[0].columns[recipe.entity])
    )
    if repeated := count_repeated(entities):
        raise DataError(
            f"{repeated} of {len(entities)} rows of {recipe.source!r} have a {recipe.entity!r} that is null or not "
            "their own.",
            detail="within the window of the snapshot",
            hint="The entity must identify a row; see whether a day landed twice.",
        )


def _labels(store: PartitionStore, partitions: Sequence[Partition], recipe: Recipe, chunk_rows: int) -> pa.Table:
    """Return entity and label, where it is known."""
    known, known_at = partitions[0].columns, recipe.known_at or partitions[0].event_time
    excluded, heads = recipe.excluded, recipe.heads
    columns = list(dict.fromkeys([recipe.entity, known_at, recipe.label, *heads]))
    read = (store.read(days, columns) for days in _chunks(partitions, chunk_rows))
    if recipe.known_at:
        if not is_known_at(known[known_at]):
            raise ConfigError(
                f"{known_at!r}, when the label {recipe.label!r} is known, is of type {known[known_at]}.",
                detail=f"dataset {recipe.labels!r}",
                hint="Name a column of times or dates in Label(known_at=...).",
            )
        timezone = store.partitioning(recipe.labels).timezone
        read = (_known_by(some, recipe, timezone) for some in read)
    if recipe.labels != recipe.source:  # of the source itself, excluded rows are no rows of the window anyway
        read = (without(some, known_at, excluded.get(recipe.labels, ())) for some in read)
    rows = pa.concat_tables(list(read))
    for column, problem in {recipe.label: recipe.problem, **heads}.items():
        rows = as_label(rows, column, f"dataset {recipe.labels!r}", problem)
    return latest_labels(rows, recipe.entity, known_at, recipe.label, recipe.labels, heads=heads).combine_chunks()


def _known_by(rows: pa.Table, recipe: Recipe, timezone: str) -> pa.Table:
    """Return the rows whose label was known at the cut; without a time it is not known yet."""
    times = known_times(rows[recipe.known_at], timezone)
    return rows.filter(pc.fill_null(pc.less(times, pa.scalar(recipe.as_of, TIME)), False))


def _check_columns(partitions: Sequence[Partition], columns: Sequence[str], what: str) -> None:
    dataset, known = partitions[0].dataset, partitions[0].columns
    for column in columns:
        if column not in known:
            raise ConfigError(
                f"Dataset {dataset!r} has no column {column!r}.{did_you_mean(column, known)}",
                detail=f"looked up there: {what}; it has: {', '.join(known)}",
                hint="Correct the name in the pipeline, or the join key or request column in the feature repository.",
            )
    agreed_columns(partitions, columns)
