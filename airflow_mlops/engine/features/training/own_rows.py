"""A training set of rows that somebody brings along: entities, times and labels; the features come from Feast.

Nothing has to be sealed. What then cannot be promised is said when it is built: nobody can tell whether a label was
known by then, late data finds no model, and the set cannot be built again from pins.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from airflow_mlops.contracts import Snapshot, SplitRule
from airflow_mlops.engine.data import storage
from airflow_mlops.engine.data.distinct import count_repeated
from airflow_mlops.engine.data.lateness import record_snapshot
from airflow_mlops.engine.data.own_query import answer_of
from airflow_mlops.engine.data.parquet import parquet_files, readable
from airflow_mlops.engine.data.shared import fetch_views
from airflow_mlops.engine.data.snapshot_writer import Columns, SnapshotWriter
from airflow_mlops.engine.data.splits import BY_TIME, TIME, by_entity, by_time
from airflow_mlops.engine.features.governance.consumers import applied
from airflow_mlops.engine.features.governance.lint import check_training_use
from airflow_mlops.engine.features.project.schema import describe
from airflow_mlops.engine.features.project.store import open_store
from airflow_mlops.engine.features.training.recipe import Recipe
from airflow_mlops.engine.features.training.rows import Asked, with_features
from airflow_mlops.engine.features.training.slices import LeftOut
from airflow_mlops.engine.features.training.training_data import with_shares
from airflow_mlops.exceptions import ConfigError, DataError, did_you_mean
from airflow_mlops.problems import as_label

if TYPE_CHECKING:
    from airflow_mlops.engine.data.storage import AnyPath
    from airflow_mlops.engine.features.project.location import Location
    from airflow_mlops.engine.ledger import Ledger

OWN = "entities"
"""The dataset that such a snapshot names."""

_TICK = timedelta(microseconds=1)
_log = logging.getLogger(__name__)


def read_rows(rows: AnyPath | str) -> pa.Table:
    """Return rows of a Parquet file or a folder of them; or what DuckDB answers to a query.

    :param rows: A path, or text that begins with SELECT, FROM or WITH.
    :raises DataError: when they cannot be read.
    """
    if isinstance(rows, str):
        with answer_of(rows) as batches:
            return batches.read_all()
    files = [rows] if str(rows).endswith(".parquet") else parquet_files(rows)
    with readable(rows), storage.on_disk(files) as here:
        return pa.concat_tables([pq.read_table(file) for file in here], promote_options="default")


def build_snapshot_of_rows(
    location: Location,
    rows: pa.Table,
    *,
    model: str,
    entity: str,
    event_time: str,
    service: str,
    label: str,
    validation: timedelta,
    test: timedelta,
    keys: Sequence[str] = (),
    problem: str = "",
    heads: Mapping[str, str] = MappingProxyType({}),
    weight: str = "",
    group: str = "",
    split_rule: SplitRule = BY_TIME,
    without_slices: Mapping[str, Sequence[str]] = MappingProxyType({}),
    ledger: Ledger | None = None,
) -> Snapshot:
    """Put features beside rows of one's own, as they were known at each row's time, and freeze the training set.

    :param rows: One an entity: entity, time, label, join keys, request columns, inputs.
    :param entity: Column that identifies a row.
    :param event_time: Column with the prediction time.
    :param service: Feast feature service, of any offline store.
    :param label: Column of what is predicted; null where it is not known: such rows are left out and counted.
    :param validation: The part before the last part of the rows' time: early stopping.
    :param test: The last part of it: evaluation only.
    :param keys: Columns that are inputs of the model themselves.
    :param problem: Problem type, see :mod:`airflow_mlops.problems`; empty: by the type of the label.
    :param heads: Further labels: column → problem type, empty likewise; null in a row where it is not known.
    :param weight: Column of what a row counts.
    :param group: Column of the rows that are ranked against each other.
    :param without_slices: Column → values, as text, of rows that are left out.
    :param ledger: Where the snapshot is written down; None when there is no ledger.
    :raises ConfigError: when a column is missing or of another type, or the service is unknown.
    :raises DataError: when an entity is there twice, or a split cannot be learned from.
    """
    feast = open_store(location)
    repo = describe(feast)
    rows, excluded = _without(_of_known_time(rows, event_time), without_slices)
    begin, end = _span(rows, event_time)
    recipe = Recipe(
        source=OWN, entity=entity, event_time=event_time, keys=tuple(keys), service=service, labels=OWN, label=label,
        begin=begin, label_cut=end, as_of=end, start=begin,
        split_rule=with_shares(split_rule, validation / (end - begin), test / (end - begin)),
        validation=validation, test=test, excluded={}, problem=problem, heads=heads, weight=weight, group=group,
    )  # fmt: skip
    known = applied(ledger, repo.project) if ledger is not None else None
    check_training_use(repo, service, model, begin, end, rules=(known or repo).rules)
    asked = Asked(repo, repo.service(service), recipe)
    fetch_views(location.home, repo.service(service).views)
    _check(rows, [*asked.columns, label, *heads], recipe)
    for column, said in {label: problem, **heads}.items():
        rows = as_label(rows, column, "the entities", said)
    asked.check({field.name: str(field.type) for field in rows.schema})
    rows = rows.select(list(dict.fromkeys([*asked.columns, label, *heads]))).sort_by(
        [(event_time, "ascending"), (entity, "ascending")]
    )
    labelled = rows.filter(pc.is_valid(rows[label]))
    table = with_features(feast, recipe, asked, labelled)
    _log.warning(
        "These rows were brought along: whether their labels were known by then is not checked, late data marks no "
        "model that was trained on them, and the training set cannot be built again from pins."
    )
    columns = Columns(entity, event_time, (*recipe.keys, *asked.features), label, problem, weight, group, heads)
    with SnapshotWriter(location.home, columns, apart=recipe.split_rule.column) as writer:
        if recipe.split_rule.kind == "entity":
            writer.add(by_entity(table, recipe.split_rule, begin, end))
        else:
            writer.add(by_time(table, event_time, begin, end, validation=validation, test=test))
        snapshot = writer.publish(
            model=model,
            partitions={OWN: {"rows": _digest(rows)}},
            feature_service=service,
            feature_project=repo.project,
            feature_definition=repo.definition_hash(service),
            feature_code={},
            feature_files={},
            as_of=end,
            label_cut=end,
            unlabelled_rows=rows.num_rows - labelled.num_rows,
            excluded_rows=excluded,
            without_slices={name: tuple(values) for name, values in without_slices.items()},
            split_rule=recipe.split_rule,
        )
    if ledger is not None:
        record_snapshot(ledger, snapshot)
    return snapshot


def _of_known_time(rows: pa.Table, event_time: str) -> pa.Table:
    """Return rows with their time in microseconds of UTC."""
    if event_time not in rows.schema.names:
        raise ConfigError(
            f"The entities have no column {event_time!r}.{did_you_mean(event_time, rows.schema.names)}",
            detail=f"there are: {', '.join(rows.schema.names)}",
            hint="Name their column of prediction times in event_time.",
        )
    kind = rows.schema.field(event_time).type
    if not pa.types.is_timestamp(kind) or kind.tz is None:
        raise ConfigError(
            f"{event_time!r} of the entities is {kind}: no moment.",
            hint="Give it a time zone: in pandas frame[...].dt.tz_localize('Europe/Berlin'), in a query "
            "timezone('Europe/Berlin', ...).",
        )
    if nulls := rows[event_time].null_count:
        raise DataError(f"{event_time!r} is null in {nulls} of {rows.num_rows} entities.", hint="Leave them out.")
    return rows.set_column(rows.schema.get_field_index(event_time), event_time, rows[event_time].cast(TIME, safe=False))


def _without(rows: pa.Table, slices: Mapping[str, Sequence[str]]) -> tuple[pa.Table, int]:
    """Return the rows of no such slice, and how many are left out."""
    if missing := [name for name in slices if name not in rows.schema.names]:
        raise ConfigError(
            f"The entities have no column {missing[0]!r}.{did_you_mean(missing[0], rows.schema.names)}",
            detail=f"rows are to be left out by {', '.join(slices)}",
            hint=f"Their columns: {', '.join(rows.schema.names)}.",
        )
    left_out = LeftOut(slices)
    rest = left_out.rest(rows)
    left_out.check_met("the rows that were brought along")
    return rest, rows.num_rows - rest.num_rows


def _span(rows: pa.Table, event_time: str) -> tuple[datetime, datetime]:
    if not rows.num_rows:
        raise DataError("There are no entities.", hint="See what the file or the query should give.")
    bounds = pc.min_max(rows[event_time])
    return bounds["min"].as_py(), bounds["max"].as_py() + _TICK


def _check(rows: pa.Table, columns: Sequence[str], recipe: Recipe) -> None:
    names = rows.schema.names
    if missing := [name for name in dict.fromkeys(columns) if name not in names]:
        raise ConfigError(
            f"The entities have no column {missing[0]!r}.{did_you_mean(missing[0], names)}",
            detail=f"missing: {', '.join(missing)}; there are: {', '.join(names)}",
            hint=f"They need entity, time, label, inputs, and what feature service {recipe.service!r} is asked with.",
        )
    if repeated := count_repeated(rows[recipe.entity]):
        raise DataError(
            f"{repeated} of {rows.num_rows} entities have a {recipe.entity!r} that is null or not their own.",
            hint="Name the column that identifies a row.",
        )


def _digest(rows: pa.Table) -> str:
    """Return the identity of rows, whatever file they came in."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as stream:
        stream.write_table(rows.combine_chunks())
    return hashlib.sha256(sink.getvalue()).hexdigest()[:16]
