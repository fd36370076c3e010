"""The point-in-time join itself: columns in, positions of rows out.

Keys and times are numbered, so that one sort and one binary search find every answer. A row is known from the later
of its event and its creation. Sorted by key and by that moment, without the rows of which a later event was known
already, the last row known at a time is the one that counts: whether facts became known late, were corrected, or
were announced before they happened.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Numbers = NDArray[np.int64]
Flags = NDArray[np.bool_]

_NOBODY = -1
_DENSE = 2**31


class TiedError(Exception):
    """Features must be read to decide between rows."""


class History(NamedTuple):
    """The rows of a feature view.

    :param keys: Columns of the join key.
    :param event: When it happened, in ticks.
    :param created: When it became known, in ticks.
    :param features: They decide between rows of one key, event and creation: the greatest counts, column by column,
        null the least. What is equal in all of them is equal for everybody. None when they were not read: then rows
        between which they must decide raise :class:`TiedError`.
    """

    keys: Sequence[pa.ChunkedArray]
    event: Numbers
    created: Numbers
    features: pa.Table | None


def latest_as_of(
    history: History,
    keys: Sequence[pa.ChunkedArray],
    times: Numbers,
    *,
    as_created: bool,
    oldest: Numbers | None,
) -> pa.Array:
    """Return the position of the row that counted for each key at its time, null where none did.

    :param keys: Columns of the keys that are asked for, of the types of the history's. Null equals nothing.
    :param times: The times that are asked for, in the history's ticks.
    :param as_created: Whether a row counts from its creation on, or from its event on.
    :param oldest: The oldest event that may count for each, in ticks; None when rows live for ever.
    """
    ours, theirs = _numbered(history, keys, len(times))
    rows = np.flatnonzero(ours != _NOBODY)
    if not len(rows):
        return pa.nulls(len(times), pa.int64())
    known = np.maximum(history.event, history.created) if as_created else history.event
    moments, moment = _ranked(known[rows])
    place, rows = _last_of_each(history, ours[rows] * len(moments) + moment, rows)
    if as_created:
        newest = _no_newer_before(ours[rows], history.event[rows])
        place, rows = place[newest], rows[newest]
    until = np.searchsorted(moments, times, side="right") - 1
    position = np.searchsorted(place, theirs * len(moments) + until, side="right") - 1
    found = rows[position]
    seen = (position >= 0) & (ours[found] == theirs)  # otherwise it is the last row of the key before
    if oldest is not None:
        seen &= history.event[found] >= oldest
    return pa.array(found, mask=~seen)


def latest(history: History) -> Numbers:
    """Return the position of the last event of each key, in the order of the rows. Null is a key here."""
    keys = np.zeros(len(history.event), np.int64)
    for column in history.keys:
        codes = pc.dictionary_encode(column.combine_chunks(), null_encoding="encode")
        keys = _combined(keys, codes.indices.to_numpy(), len(codes.dictionary))
    moments, moment = _ranked(history.event)
    _, rows = _last_of_each(history, keys * len(moments) + moment, np.arange(len(history.event)))
    return np.sort(rows[_ends(keys[rows])])


def _numbered(history: History, asked: Sequence[pa.ChunkedArray], count: int) -> tuple[Numbers, Numbers]:
    """Number the keys, equal ones alike; those that are null, or that nobody asks for, are nobody's."""
    numbers = np.zeros(len(history.event) + count, np.int64)
    for ours, theirs in zip(history.keys, asked, strict=True):
        encoded = pc.dictionary_encode(theirs.combine_chunks())
        values = encoded.dictionary
        codes = [pc.index_in(ours, values, skip_nulls=True), encoded.indices]
        numbers = _combined(numbers, np.concatenate([_codes(code) for code in codes]), len(values))
    return numbers[: len(history.event)], numbers[len(history.event) :]


def _codes(column: pa.Array | pa.ChunkedArray) -> Numbers:
    return column.fill_null(_NOBODY).to_numpy()


def _combined(numbers: Numbers, codes: Numbers, count: int) -> Numbers:
    """Number the pairs of two numbers, the second one of ``count``; nobody's stay nobody's."""
    pairs = np.where((numbers == _NOBODY) | (codes == _NOBODY), _NOBODY, numbers * count + codes)
    if pairs.max(initial=0) < _DENSE:
        return pairs
    values, dense = np.unique(pairs, return_inverse=True)
    return dense + (_NOBODY if values[0] == _NOBODY else 0)


def _ranked(times: Numbers) -> tuple[Numbers, Numbers]:
    """Return the distinct times in order, and which of them each is: small numbers, so that places fit 64 bits."""
    encoded = pc.dictionary_encode(pa.array(times))
    values = encoded.dictionary.to_numpy()
    order = np.argsort(values)
    rank = np.empty(len(values), np.int64)
    rank[order] = np.arange(len(values))
    return values[order], rank[encoded.indices.to_numpy()]


def _last_of_each(history: History, place: Numbers, rows: Numbers) -> tuple[Numbers, Numbers]:
    """Return the places in order, each once, and the row that counts there: the latest event, of those the latest
    created, of those the one with the greatest features.
    """
    order = np.argsort(place)
    place, rows = place[order], rows[order]
    several = _not_alone(_begins(place))
    if several.any():
        rows[several] = _in_order(history, place[several], rows[several])
    last = _ends(place)
    return place[last], rows[last]


def _in_order(history: History, place: Numbers, rows: Numbers) -> Numbers:
    """Return the rows of each place in order of event, creation, and features; the places are in order."""
    event, created = history.event[rows], history.created[rows]
    order = np.lexsort((created, event, place))
    rows = rows[order]
    begins = _begins(place, event[order], created[order])
    equal = _not_alone(begins)
    if equal.any():
        if history.features is None:
            raise TiedError
        rows[equal] = _by_features(history.features, rows[equal], np.cumsum(begins, dtype=np.int64)[equal])
    return rows


def _by_features(features: pa.Table, rows: Numbers, group: Numbers) -> Numbers:
    """Return the rows of each group in order of their features. DuckDB orders every type: NaN, and lists too."""
    columns = [*features.take(pa.array(rows)).columns, pa.array(group), pa.array(rows)]
    names = [f"c{number}" for number in range(len(columns))]
    order = ", ".join(f"{name} NULLS FIRST" for name in (names[-2], *names[:-2]))
    with duckdb.connect() as connection:
        connection.register("tied", pa.table(columns, names))
        return connection.sql(f"SELECT {names[-1]} FROM tied ORDER BY {order}").to_arrow_table()[names[-1]].to_numpy()


def _no_newer_before(key: Numbers, event: Numbers) -> Flags:
    """Flag the rows, in order of key and of when they became known, whose event is the latest known by then."""
    if not np.any((np.diff(event) < 0) & (np.diff(key) == 0)):
        return np.ones(len(key), bool)
    moments, moment = _ranked(event)
    place = key * len(moments) + moment
    return place == np.maximum.accumulate(place)


def _begins(*columns: Numbers) -> Flags:
    """Flag the rows that differ from the row before."""
    begins = np.ones(len(columns[0]), bool)
    begins[1:] = np.logical_or.reduce([column[1:] != column[:-1] for column in columns])
    return begins


def _ends(column: Numbers) -> Flags:
    """Flag the rows that differ from the row after."""
    ends = np.ones(len(column), bool)
    ends[:-1] = column[1:] != column[:-1]
    return ends


def _not_alone(begins: Flags) -> Flags:
    """Flag the rows that are equal to the row before or after."""
    ends = np.ones(len(begins), bool)
    ends[:-1] = begins[1:]
    return ~(begins & ends)
