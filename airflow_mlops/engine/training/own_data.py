"""A training set of Parquet files that somebody brings along, with features and label in them: no feature store.

It becomes a snapshot like any other, so that everything after it works alike. What then cannot be promised is said when
it is made, a line each.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from airflow_mlops.contracts import Snapshot, SplitName, SplitRule
from airflow_mlops.engine.data import storage
from airflow_mlops.engine.data.files import identity, sha256
from airflow_mlops.engine.data.parquet import column_types, difference, parquet_files, readable
from airflow_mlops.engine.data.snapshot_writer import Columns, SnapshotWriter
from airflow_mlops.engine.data.splits import BY_TIME, TIME, SplitRows, by_entity
from airflow_mlops.engine.data.storage import AnyPath
from airflow_mlops.engine.training.inputs import read_inputs
from airflow_mlops.exceptions import ConfigError, DataError, did_you_mean
from airflow_mlops.problems import as_label, check_groups, problem_of

FILES = "files"
"""The dataset that such a snapshot names."""
ROW = "row_number"
"""Column that identifies a row where nobody named one."""
WHEN = "row_time"
"""Column of the event time, which such rows do not have: all are of one moment."""
SHARE = 0.1
"""Of validation and of test, where all rows come together."""

_NEVER = datetime(1970, 1, 1, tzinfo=UTC)
_BATCH_ROWS = 131_072
_UNCHECKED = (
    "Whether a feature was known at the time of its row is not checked: the rows have no times.",
    "Whether a label was known by then is not checked, nor whether the days of the labels are alike.",
    "Late data marks no model that was trained on these files.",
    "The training set cannot be built again from pins: keep the files, or this snapshot.",
)

log = logging.getLogger(__name__)


class OwnColumns(NamedTuple):
    """What the columns of the files are.

    :param label: Of what is predicted.
    :param problem: Problem type, see :mod:`airflow_mlops.problems`; empty: by the label.
    :param weight: Of what a row counts; empty: all the same.
    :param group: Of the rows that are ranked against each other; empty unless for a ranking.
    :param heads: Of further labels: column → problem type, empty likewise; null in a row where it is not known.
    :param entity: Of what a row is about, which may be in one split only, once; empty: that is not checked.
    :param inputs: Model inputs; empty: all columns that are nothing else.
    """

    label: str
    problem: str = ""
    weight: str = ""
    group: str = ""
    entity: str = ""
    inputs: Sequence[str] = ()
    heads: Mapping[str, str] = MappingProxyType({})

    @property
    def labels(self) -> dict[str, str]:
        """All that is predicted: column → problem type, the label first."""
        return {self.label: self.problem, **self.heads}


def snapshot_of_files(
    home: Path,
    model: str,
    train: AnyPath,
    columns: OwnColumns,
    *,
    validation: AnyPath | None = None,
    test: AnyPath | None = None,
) -> Snapshot:
    """Freeze Parquet files as a training set. The same files and columns give the same snapshot.

    Without ``validation`` and ``test`` a tenth of the rows each is taken out of ``train`` for them, by the hash of the
    group, else of the entity, else of the row's place in the files.

    :param home: The home folder.
    :param model: Name of the model.
    :param train: A Parquet file, a folder of them, or a folder with a pattern such as ``*.parquet``.
    :raises ConfigError: when a column is not there, or only one of ``validation`` and ``test`` is given.
    :raises DataError: when there are no files, they differ in their columns, a label is null, a feature is of a type
        that no model takes, or a split cannot be learned from.
    """
    if (validation is None) != (test is None):
        raise ConfigError(
            "There is data to validate with or to test with, and not both.",
            detail=f"validation {validation}, test {test}",
            hint="Give both, validation_data= and test_data=; or neither: then a tenth of data= is taken for each.",
        )
    given: dict[SplitName, AnyPath] = {"train": train}
    if validation is not None and test is not None:
        given |= {"validation": validation, "test": test}
    with ExitStack() as here:
        files = {name: here.enter_context(storage.on_disk(parquet_files(path))) for name, path in given.items()}
        digests = {name: {file.name: sha256(file) for file in some} for name, some in files.items()}
        _check_different(digests, given)
        schema = _agreed(files, given)
        columns = _complete(columns, schema, train)
        problem, *of_heads = _problems(columns, files["train"], train)
        columns = columns._replace(problem=problem, heads=dict(zip(columns.heads, of_heads, strict=True)))
        _log_unchecked(columns)
        rule = BY_TIME
        if len(given) == 1:
            apart = columns.group or columns.entity or ROW
            rule = SplitRule(kind="entity", column=apart, validation=SHARE, test=SHARE)
        written = Columns(
            columns.entity or ROW, WHEN, columns.inputs, columns.label, columns.problem, columns.weight, columns.group,
            columns.heads,
        )  # fmt: skip
        first = 0
        with SnapshotWriter(home, written, apart=rule.column) as writer:
            for name, some in files.items():
                for rows in _rows(some, schema, given[name]):
                    made = _as_written(rows, columns, first, f"{given[name]}")
                    first += rows.num_rows
                    writer.add(
                        {name: SplitRows(made, _NEVER, _NEVER)}
                        if rule.kind == "time"
                        else by_entity(made, rule, _NEVER, _NEVER)
                    )
            return writer.publish(
                model=model,
                partitions={FILES: {name: identity(some) for name, some in digests.items()}},
                files={name: str(path) for name, path in given.items()},
                feature_service="",
                as_of=_NEVER,
                label_cut=_NEVER,
                unlabelled_rows=0,
                split_rule=rule,
            )


def check_validated_files(snapshot: Snapshot, batch_hash: str) -> None:
    """Refuse to train on other files than those that were validated.

    :param batch_hash: Of the validation's result; see :func:`~airflow_mlops.engine.data.partitions.batch_hash`.
    :raises DataError: when they are not those of the training split.
    """
    trained = snapshot.partitions[FILES]["train"]
    if batch_hash != trained:
        raise DataError(
            "What was validated is not what would be trained on.",
            detail=f"validated {batch_hash[:16]}; {snapshot.files['train']} is {trained[:16]}",
            hint="Validate the same folder, and let nothing write to it until the training has read it.",
        )


def _check_different(digests: Mapping[SplitName, Mapping[str, str]], given: Mapping[SplitName, AnyPath]) -> None:
    """Refuse a file that is in two splits, under whatever name."""
    contents = [digest for some in digests.values() for digest in set(some.values())]
    if len(set(contents)) < len(contents):
        raise DataError(
            "The same file is in two splits.",
            detail="; ".join(f"{name}: {path}" for name, path in given.items()),
            hint="Rows that were trained on say nothing of a model: keep others apart for validation and test.",
        )


def _agreed(files: Mapping[SplitName, Sequence[Path]], given: Mapping[SplitName, AnyPath]) -> pa.Schema:
    """Return the columns that all files have."""
    agreed: pa.Schema | None = None
    for name, some in files.items():
        for file in some:
            with readable(given[name]):
                schema = pq.read_schema(file).remove_metadata()
            if agreed is None:
                agreed = schema
            elif not schema.equals(agreed):
                raise DataError(
                    "The Parquet files of one training have different columns.",
                    detail=f"{name} {given[name]}, {file.name}: "
                    f"{difference(column_types(agreed), column_types(schema))}",
                    hint="All files to train, to validate and to test with need the same columns and types.",
                )
    assert agreed is not None, "parquet_files finds one or raises"
    if repeated := sorted({name for name in agreed.names if agreed.names.count(name) > 1}):
        raise DataError(
            f"The Parquet files have the column {repeated[0]!r} more than once.", detail=f"{given['train']}"
        )
    return agreed


def _complete(columns: OwnColumns, schema: pa.Schema, path: AnyPath) -> OwnColumns:
    """Return the columns with all inputs named, all of which are there, and of types that a model takes."""
    named = {what: getattr(columns, what) for what in ("label", "weight", "group", "entity")}
    others = {name for name in named.values() if name} | set(columns.heads)
    inputs = tuple(columns.inputs) or tuple(name for name in schema.names if name not in others)
    of_heads = [("heads", name) for name in columns.heads]
    for what, name in [*named.items(), *of_heads, *(("inputs", name) for name in inputs)]:
        if name and name not in schema.names:
            raise ConfigError(
                f"The files have no column {name!r}.{did_you_mean(name, schema.names)}",
                detail=f"{what}={name!r}; {path} has: {', '.join(schema.names)}",
                hint=f"Name a column of the files in {what}=.",
            )
    if columns.label in inputs or not inputs or {ROW, WHEN} & set(schema.names):
        raise ConfigError(
            "The columns of the files do not make a training set.",
            detail=f"inputs: {', '.join(inputs) or 'none'}; label: {columns.label}",
            hint=f"There must be inputs, the label must not be one, and no column may be called {ROW} or {WHEN}.",
        )
    if both := [name for name in columns.heads if name in {*named.values(), *columns.inputs}]:
        raise ConfigError(
            f"The column {both[0]!r} is a head, and something else too.",
            detail=f"heads: {', '.join(columns.heads)}; {named}; inputs: {', '.join(columns.inputs) or 'the others'}",
            hint="A head is a column of its own, which the model predicts and is never told.",
        )
    said = f"problem={columns.problem!r} with group={columns.group!r}"
    check_groups(columns.labels.values(), columns.group, said)
    if columns.weight and not _is_number(schema.field(columns.weight).type):
        raise ConfigError(
            f"The weight {columns.weight!r} is no number but {schema.field(columns.weight).type}.",
            hint="A weight is a number from 0 on: name the column of what a row counts.",
        )
    nothing = _plain(schema.empty_table())
    read_inputs(nothing, {name: str(nothing.schema.field(name).type) for name in inputs})
    return columns._replace(inputs=inputs)


def _problems(columns: OwnColumns, files: Sequence[Path], path: AnyPath) -> list[str]:
    """Return the problem type of label and heads, by all labels to train with: a part may look like another one's."""
    with readable(path):
        labels = pa.concat_tables([pq.read_table(file, columns=list(columns.labels)) for file in files])
    if not labels.num_rows:
        raise DataError("There are no rows to train on.", detail=f"{path}", hint="See what should have written them.")
    return [
        said or problem_of(as_label(labels, label, f"{path}")[label].type).name
        for label, said in columns.labels.items()
    ]


def _rows(files: Sequence[Path], schema: pa.Schema, path: AnyPath) -> Iterator[pa.Table]:
    for file in files:
        with readable(path), pq.ParquetFile(file, pre_buffer=False) as parquet:
            for batch in parquet.iter_batches(_BATCH_ROWS):
                yield pa.Table.from_batches([batch]).cast(schema)


def _plain(rows: pa.Table) -> pa.Table:
    """Return rows with categories as the texts that they are."""
    for place, field in enumerate(rows.schema):
        if pa.types.is_dictionary(field.type) or pa.types.is_large_string(field.type):
            rows = rows.set_column(place, field.name, rows[place].cast(pa.string()))
    return rows


def _as_written(rows: pa.Table, columns: OwnColumns, first: int, where: str) -> pa.Table:
    """Return rows with a label that is known, and with what a snapshot has beside the inputs."""
    rows = _plain(rows)
    for label, problem in columns.labels.items():
        rows = as_label(rows, label, where, problem)
    if unknown := rows[columns.label].null_count:
        raise DataError(
            f"The label {columns.label!r} is null in {unknown} rows.",
            detail=where,
            hint="Leave rows out whose label is not known: it is never read as negative.",
        )
    count = rows.num_rows
    rows = rows.append_column(ROW, pa.array(np.arange(first, first + count, dtype=np.int64)))
    return rows.append_column(WHEN, pa.repeat(pa.scalar(_NEVER, TIME), count))


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _log_unchecked(columns: OwnColumns) -> None:
    unchecked = list(_UNCHECKED)
    if not columns.entity:
        unchecked.insert(0, "Whether something is in two splits is not checked: no column says what a row is about.")
    for line in unchecked:
        log.warning("%s", line)
