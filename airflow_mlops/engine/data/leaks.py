"""What must not be in a training set: the label among its features, an entity twice, values that say nothing.

A leak is looked for one feature at a time, on rows drawn from the training split, the same ones every time. Several
features that tell the label only together are caught later, by the gate on models that are too good.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.contracts import SplitName
from airflow_mlops.engine.data.distinct import count_repeated
from airflow_mlops.engine.data.splits import SplitRows
from airflow_mlops.exceptions import DataError

PERFECT_AUC = 0.999
"""A single feature that separates the classes this well is the label under another name."""

_LOOKED_AT = 20_000
"""Rows on which a leak is looked for, at most; more say the same."""

_ENOUGH = 10
"""Rows of each class below which a feature may well separate them by chance."""


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
        if not pa.types.is_floating(rows.schema.field(place).type):
            continue
        column = rows.column(place)
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
        self._random = _random()
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


def check_leaks(rows: pa.Table, features: Sequence[str], label: str) -> None:
    """Refuse features that tell the label.

    :param rows: A sample of the training split.
    :raises DataError: naming the features.
    """
    positive = rows[label].to_numpy().astype(bool)
    telling = {name: auc for name in features if (auc := _telling(rows[name], positive)) >= PERFECT_AUC}
    if telling:
        raise DataError(
            f"A leak: {', '.join(telling)} alone tells the label {label!r}.",
            detail=", ".join(f"{name}: AUC {auc:.4f}" for name, auc in telling.items())
            + f" on {rows.num_rows} rows of the training split; a leak is from {PERFECT_AUC}",
            hint="It is known only with the label, or a copy of it. Take it out of the features or the keys.",
        )


def _telling(column: pa.ChunkedArray, positive: np.ndarray) -> float:
    """Return how well a feature alone separates the classes, either way round: an AUC from 0.5 to 1."""
    return max((max(auc, 1 - auc) for auc in _aucs(column, positive)), default=0.5)


def _aucs(column: pa.ChunkedArray, positive: np.ndarray) -> Iterator[float]:
    """Yield the AUC of whether there is a value, and that of the values there are."""
    known = np.ones(len(positive), dtype=bool)
    if column.null_count:
        known = column.is_valid().to_numpy()
        yield _auc(known, positive)
        column, positive = column.drop_null(), positive[known]
    kind = column.type
    if pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind):
        yield _auc(column.to_numpy(), positive)
    elif pa.types.is_temporal(kind):
        yield _auc(column.cast(pa.int64()).to_numpy(), positive)
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
        codes = column.combine_chunks().dictionary_encode().indices.to_numpy()
        yield _auc_of_categories(codes, positive)


def _auc_of_categories(codes: np.ndarray, positive: np.ndarray) -> float:
    """Score half of each class by the rate of positives of their category in the other half: an id is no leak then."""
    if len(codes) < 2 * _ENOUGH:
        return 0.5
    learned, random = np.zeros(len(codes), dtype=bool), _random()
    for rows in (np.flatnonzero(positive), np.flatnonzero(~positive)):
        learned[random.permutation(rows)[: len(rows) // 2]] = True
    scored, size = ~learned, int(codes.max()) + 1
    seen = np.bincount(codes[learned], minlength=size)
    hits = np.bincount(codes[learned], weights=positive[learned], minlength=size)
    rate = np.divide(hits, seen, out=np.full(size, positive[learned].mean()), where=seen > 0)
    return _auc(rate[codes[scored]], positive[scored])


def _random() -> np.random.Generator:
    """Rows are drawn by chance because their order may have a rhythm, and with a seed because verdicts repeat."""
    return np.random.default_rng(0)


def _auc(values: np.ndarray, positive: np.ndarray) -> float:
    """Return the probability that a positive has the larger value, ties counting half (Mann-Whitney)."""
    negatives, positives = np.sort(values[~positive]), values[positive]
    if min(len(negatives), len(positives)) < _ENOUGH:
        return 0.5
    below = np.searchsorted(negatives, positives, "left") + np.searchsorted(negatives, positives, "right")
    return float(below.mean() / 2 / len(negatives))
