"""What must not be in a training set: the label among its features, an entity twice, values that say nothing.

A leak is looked for one feature at a time, on rows drawn from the training split, the same ones every time. Several
features that tell the label only together are caught later, by the gate on models that are too good.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.contracts import SplitName
from airflow_mlops.engine.data.arrow import is_list
from airflow_mlops.engine.data.distinct import count_repeated
from airflow_mlops.engine.data.separation import random
from airflow_mlops.engine.data.splits import SplitRows
from airflow_mlops.exceptions import DataError
from airflow_mlops.problems import Problem

_LOOKED_AT = 20_000
"""Rows on which a leak is looked for, at most; more say the same."""


def check_apart(splits: Mapping[SplitName, SplitRows], entity: str, column: str | None) -> None:
    """Refuse rows of one entity, and values of the column that was split by, on two sides.

    :param entity: Column that identifies a row.
    :param column: Column that the split keeps together, if it was split by one.
    :raises DataError: naming the column and how many values are concerned.
    """
    entities = pa.concat_tables([split.rows.select([entity]) for split in splits.values()])[entity]
    if repeated := count_repeated(entities):
        raise DataError(
            f"{repeated} rows of the snapshot repeat an entity.",
            detail=f"{len(entities)} rows, column {entity!r}",
            hint="An entity on two sides of a split would let the model remember instead of learn.",
        )
    if column is None:
        return
    values = [pc.unique(split.rows[column].combine_chunks()) for split in splits.values()]
    shared = sum(map(len, values)) - len(pc.unique(pa.concat_arrays(values)))
    if shared:
        raise DataError(
            f"{shared} values of {column!r} are on two sides of the split.",
            detail=f"rows: {', '.join(f'{name} {split.rows.num_rows}' for name, split in splits.items())}",
            hint="A split by entity keeps all rows of a value together: was the column changed after the split?",
        )


def known(rows: pa.Table, features: Sequence[str]) -> tuple[pa.Table, dict[str, int]]:
    """Return the rows with NaN in a feature read as what it is, a missing value; and feature → how many infinities."""
    infinite = {}
    for name in features:
        place = rows.schema.get_field_index(name)
        column = rows.column(place)
        if is_list(column.type) and pa.types.is_floating(column.type.value_type):
            if endless := pc.sum(pc.is_inf(pc.list_flatten(column))).as_py():
                infinite[name] = endless
            continue
        if not pa.types.is_floating(column.type):
            continue
        if endless := pc.sum(pc.is_inf(column)).as_py():
            infinite[name] = endless
        if pc.any(pc.is_nan(column)).as_py():
            there = pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
            rows = rows.set_column(place, rows.schema.field(place), there)
    return rows, infinite


def check_values(where: str, rows: int, infinite: Mapping[str, int], valid: Mapping[str, int]) -> None:
    """Refuse features that hold infinities, and features without any value.

    :param where: Split and times, in words.
    :param infinite: Feature → how many infinities.
    :param valid: Feature → how many values.
    :raises DataError: naming the features.
    """
    if endless := {name: count for name, count in infinite.items() if count}:
        raise DataError(
            f"Features are infinite: {', '.join(endless)}.",
            detail=", ".join(f"{name}: {count} of {rows} rows" for name, count in endless.items()),
            hint="See what the transform divides by; what cannot be computed is missing, not infinite.",
        )
    if empty := [name for name, count in valid.items() if not count]:
        raise DataError(
            f"Features have no value at all in the {where}: {', '.join(empty)}.",
            detail=f"{rows} rows",
            hint="See whether their join keys still match, whether these days were computed, and whether their values "
            "were known by then: what was created later counts only with `knowledge_time: false` in the feature store.",
        )


class Sample:
    """Rows drawn by chance from a table that comes in parts, the same ones whatever the parts."""

    def __init__(self, size: int = _LOOKED_AT) -> None:
        self.size = size
        self._random = random()
        self._places = np.empty(0)
        self._rows: pa.Table | None = None

    def add(self, rows: pa.Table) -> None:
        """Look at the next rows."""
        places = np.concatenate([self._places, self._random.random(rows.num_rows)])
        table = rows if self._rows is None else pa.concat_tables([self._rows, rows])
        if len(places) > self.size:
            kept = np.argpartition(places, self.size)[: self.size]
            places, table = places[kept], table.take(kept)
        self._places, self._rows = places, table.combine_chunks()

    @property
    def rows(self) -> pa.Table | None:
        """What was drawn, in the order of chance; None before the first rows."""
        return None if self._rows is None else self._rows.take(np.argsort(self._places))


def check_leaks(rows: pa.Table, features: Sequence[str], label: str, problem: Problem) -> None:
    """Refuse features that tell the label.

    :param rows: A sample of the training split; those in which the label is known count.
    :raises DataError: naming the features.
    """
    unit, bound = problem.leak
    rows = rows.filter(pc.is_valid(rows[label]))
    labels = rows[label].to_numpy()
    telling = {name: told for name in features if (told := problem.telling(rows[name], labels)) >= bound}
    if telling:
        raise DataError(
            f"A leak: {', '.join(telling)} alone tells the label {label!r}.",
            detail=", ".join(f"{name}: {unit} {told:.4f}" for name, told in telling.items())
            + f" on {rows.num_rows} rows of the training split; a leak is from {bound}",
            hint="It is known only with the label, or a copy of it. Take it out of the features or the keys.",
        )
