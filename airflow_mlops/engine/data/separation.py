"""How well one feature alone tells the label."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

_ENOUGH = 10
"""Rows of each class below which a feature may well separate them by chance."""
_BINS = 256


def random() -> np.random.Generator:
    """Rows are drawn by chance because their order may have a rhythm, and with a seed because verdicts repeat."""
    return np.random.default_rng(0)


def separation(column: pa.ChunkedArray, positive: np.ndarray) -> float:
    """Return how well a feature separates two classes, either way round: an AUC from 0.5 to 1."""
    return max((max(auc, 1 - auc) for auc in _aucs(column, positive)), default=0.5)


def binned(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return numbers as the texts of their bins, so that the middle ones can be told too; others as they are."""
    numbers = _numbers(column)
    if numbers is None:
        return column
    known = ~np.isnan(numbers)
    edges = np.unique(np.quantile(numbers[known], np.linspace(0, 1, _BINS + 1))) if known.any() else np.empty(0)
    places = np.searchsorted(edges, numbers, "left").astype(str)
    return pa.chunked_array([pa.array(places, pa.string(), mask=~known)])


def correlation(column: pa.ChunkedArray, values: np.ndarray) -> float:
    """Return how closely a feature follows numbers: the absolute rank correlation (Spearman), from 0 to 1.

    Of texts: that of the mean of their category in the other half of the rows.
    """
    numbers = _numbers(column)
    if numbers is not None:
        known = ~np.isnan(numbers)
        return _rank_correlation(numbers[known], values[known])
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return 0.0
    codes = pc.fill_null(column.combine_chunks().cast(pa.string()), "").dictionary_encode().indices.to_numpy()
    learned = np.zeros(len(codes), dtype=bool)
    learned[random().permutation(len(codes))[: len(codes) // 2]] = True
    size = int(codes.max(initial=0)) + 1
    seen = np.bincount(codes[learned], minlength=size)
    sums = np.bincount(codes[learned], weights=values[learned], minlength=size)
    means = np.divide(sums, seen, out=np.full(size, float(np.mean(values))), where=seen > 0)
    return _rank_correlation(means[codes[~learned]], values[~learned])


def _rank_correlation(one: np.ndarray, other: np.ndarray) -> float:
    if len(one) < 2 * _ENOUGH or not np.ptp(one) or not np.ptp(other):
        return 0.0
    return abs(float(pd.Series(one).rank().corr(pd.Series(other).rank())))


def _numbers(column: pa.ChunkedArray) -> np.ndarray | None:
    """Return a column as floats, NaN where there is no value; None of one that is no number."""
    kind = column.type
    if pa.types.is_temporal(kind):
        column, kind = column.cast(pa.int64()), pa.int64()
    if not (pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        return None
    return np.asarray(column.cast(pa.float64(), safe=False).to_numpy(), dtype=np.float64)


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
    learned, drawn = np.zeros(len(codes), dtype=bool), random()
    for rows in (np.flatnonzero(positive), np.flatnonzero(~positive)):
        learned[drawn.permutation(rows)[: len(rows) // 2]] = True
    scored, size = ~learned, int(codes.max()) + 1
    seen = np.bincount(codes[learned], minlength=size)
    hits = np.bincount(codes[learned], weights=positive[learned], minlength=size)
    rate = np.divide(hits, seen, out=np.full(size, positive[learned].mean()), where=seen > 0)
    return _auc(rate[codes[scored]], positive[scored])


def _auc(values: np.ndarray, positive: np.ndarray) -> float:
    """Return the probability that a positive has the larger value, ties counting half (Mann-Whitney)."""
    negatives, positives = np.sort(values[~positive]), values[positive]
    if min(len(negatives), len(positives)) < _ENOUGH:
        return 0.5
    below = np.searchsorted(negatives, positives, "left") + np.searchsorted(negatives, positives, "right")
    return float(below.mean() / 2 / len(negatives))
