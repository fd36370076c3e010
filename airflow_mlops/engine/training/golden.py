"""Golden inputs: what a model is asked at training time and again wherever it is loaded, and nobody's row.

They travel with the model into the registry and the model store, so they are made from the profile of the training
split: values that many rows share, and coarse numbers between its quantiles, put together at random.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from airflow_mlops.contracts import ColumnProfile, Profile
from airflow_mlops.engine.data.profiles import null_rate, quantiles
from airflow_mlops.engine.training.inputs import Columns
from airflow_mlops.exceptions import ConfigError

ROWS = 32
SHARED_BY = 10
"""Fewest rows that share a value before it may leave the data."""
SHARE = 0.05
"""Smallest share of the rows that do. What has less may be one person with many rows: rows are counted, not people."""
UNSEEN = "never seen in training"
"""A text that no model has in its vocabulary."""

_RANKS = (0.05, 0.25, 0.5, 0.75, 0.95)
_STEPS = 20
"""Numbers lie on a grid with so many steps or more from the 5th to the 95th percentile."""
_MISSING_EVERY = 8

Inputs = dict[str, list[Any]]


def golden_inputs(profile: Profile, like: Columns, seed: int) -> Inputs:
    """Return :data:`ROWS` rows of inputs that are no rows of a split; the same for the same split and seed.

    Texts, and whole numbers of few values, are values that :data:`SHARED_BY` rows and :data:`SHARE` of them have, and
    a text also :data:`UNSEEN`, in the last row. Other numbers lie between the 5th and the 95th percentile, on a coarse
    grid: one may happen to be somebody's, but is not taken from there. A feature that is missing in the split is
    missing in some rows. Each feature is drawn on its own. Vectors are those of the axes, and one of zeros; lists of
    texts hold :data:`UNSEEN`, or nothing.

    :param profile: Of the training split.
    :param like: Columns that have the types and the lengths of vectors.
    :raises ConfigError: when there are bytes among them: which ones a model can read is not to be guessed.
    """
    rng = np.random.default_rng(seed)
    made = {}
    for name, values in like.items():
        if values.ndim > 1:
            made[name] = _texts() if values.dtype == object else _vectors(values.shape[1])
        elif "binary" in profile.columns[name].type:
            raise ConfigError(
                f"No golden inputs can be made up for {name!r}: it holds bytes.",
                detail=f"type {profile.columns[name].type}; a model reads bytes of one format only",
                hint="Name rows that may leave the data: Trainer(golden='module:function').",
            )
        else:
            made[name] = _column(profile.columns[name], rng)
    return made


def as_columns(inputs: Mapping[str, Any], like: Columns) -> Columns:
    """Return inputs as the raw arrays that a model takes.

    :param like: Columns that have the types.
    :raises ConfigError: when they are not the model's inputs, or not of one length.
    """
    try:
        columns = {name: _as_array(inputs[name], values) for name, values in like.items()}
        lengths = {len(values) for values in columns.values()}
    except (KeyError, TypeError, ValueError) as error:
        raise _unusable(f"{type(error).__name__}: {error}", like) from None
    if set(inputs) != set(like) or len(lengths) != 1 or lengths == {0}:
        raise _unusable(f"inputs {sorted(inputs)}, rows {sorted(lengths)}", like)
    return columns


def _as_array(given: Any, like: np.ndarray) -> np.ndarray:
    made = np.asarray(given, dtype=like.dtype)
    if made.ndim != like.ndim or (like.dtype != object and made.shape[1:] != like.shape[1:]):
        told = "[rows, any]" if like.dtype == object else f"[rows, {', '.join(map(str, like.shape[1:]))}]"
        raise ValueError(f"shape {made.shape} instead of {told if like.ndim > 1 else '[rows]'}")
    return made


def _vectors(width: int) -> list[Any]:
    """Return vectors along the axes in turn, one way and the other, and in the last row of zeros."""
    made = np.zeros((ROWS, width))
    for row in range(ROWS - 1 if width else 0):
        made[row, row % width] = 1.0 if (row // width) % 2 == 0 else -1.0
    return list(made.tolist())


def _texts() -> list[Any]:
    return [[UNSEEN if row % _MISSING_EVERY else ""] for row in range(ROWS)]


def _unusable(detail: str, like: Columns) -> ConfigError:
    return ConfigError(
        "The golden inputs are not rows of the model's inputs.",
        detail=detail,
        hint=f"Return a mapping with a list of equal length for each of: {', '.join(like)}.",
    )


def _column(column: ColumnProfile, rng: np.random.Generator) -> list[Any]:
    if column.kind == "boolean":
        return [bool(row % 2) for row in rng.permutation(ROWS)]
    known = column.count - column.nulls - column.nans - column.infinities
    missing: Any = "" if column.kind == "category" else math.nan
    if not known:
        return [missing] * ROWS
    values: list[Any] = [value for value, count in column.top.items() if count >= max(SHARED_BY, SHARE * known)]
    drawn: list[Any]
    if column.kind == "category":
        drawn = [*_spread(values, ROWS - 1, rng), UNSEEN] if values else [UNSEEN] * ROWS
    elif values:
        drawn = _spread([int(value) for value in values], ROWS, rng)
    elif "int" in column.type:
        drawn = [round(value) for value in _numbers(column, known, rng)]
    else:
        drawn = _numbers(column, known, rng)
    if null_rate(column) * column.count >= SHARED_BY:
        for row in rng.permutation(ROWS - 1)[: ROWS // _MISSING_EVERY]:
            drawn[row] = missing
    return drawn


def _spread(values: list[Any], rows: int, rng: np.random.Generator) -> list[Any]:
    """Return so many of some values, each as often as the others, in any order."""
    return [values[place % len(values)] for place in rng.permutation(rows)]


def _numbers(column: ColumnProfile, known: int, rng: np.random.Generator) -> list[float]:
    """Return numbers spread over the ranks of a column, of which no single row's value can be read."""
    ranks = (rng.permutation(ROWS) + 0.5) / ROWS
    if known < 4 * SHARED_BY:
        return _steps(ranks)
    least = max(_RANKS[0], SHARED_BY / known)
    anchors = np.clip(_RANKS, least, 1 - least)
    at = np.asarray(quantiles(column, anchors.tolist()))
    width = float(at[-1]) - float(at[0])
    if not width:  # half of the rows share it
        return [float(at[0])] * ROWS
    if not math.isfinite(width):
        return _steps(ranks)
    digits = -math.floor(math.log10(width / _STEPS))
    step = 10.0**-digits
    # Never beyond what the rows have: a model may know no number above them, such as an index of an embedding.
    grid = np.clip(np.round(at / step) * step, np.ceil(at[0] / step) * step, np.floor(at[-1] / step) * step)
    values = np.interp(ranks, anchors, grid)
    return [round(float(value), digits) for value in values]


def _steps(ranks: np.ndarray) -> list[float]:
    """Return numbers from 0 to 1, for a column of which nothing may be told, or that has no width."""
    return [round(float(rank), 2) for rank in ranks]
