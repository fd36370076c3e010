"""Small SVG drawings of a column's distribution, over that of a reference where there is one.

Bars are the batch, the line or tick is the reference, both as shares of their own rows. Colours come from the page's
style sheet by class.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from html import escape

import numpy as np

from airflow_mlops.contracts import ColumnProfile
from airflow_mlops.engine.data.profiles import histogram, quantiles

WIDTH, HEIGHT = 320, 72
_AXIS = 14
_ROW = 17
_BINS = 32
_LEFT = 110
_LABELS = 12
"""Most values that are named in a drawing."""


def number(value: float | None) -> str:
    """Write a number with four significant digits, thousands apart."""
    if value is None or math.isnan(value):
        return "none"
    if abs(value) >= 1e15 or 0 < abs(value) < 1e-4 or math.isinf(value):
        return f"{value:.3g}"
    digits = max(0, 3 - math.floor(math.log10(abs(value)))) if value else 0
    text = f"{value:,.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def instant(microseconds: float | None) -> str:
    """Write a time, given in microseconds since the epoch, in UTC and to the minute."""
    if microseconds is None or math.isnan(microseconds):
        return "none"
    try:
        return f"{datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=microseconds):%Y-%m-%d %H:%M}"
    except OverflowError:
        return f"{microseconds:.3g} µs"


def distribution(column: ColumnProfile, reference: ColumnProfile | None) -> str:
    """Draw a number or time column as a histogram. The outermost bars hold what lies beyond them, too.

    Times are drawn without the reference: the days it comes from are others.
    """
    if column.kind == "time" or (reference is not None and reference.kind != column.kind):
        reference = None
    edges = _edges(column, reference)
    found = histogram(column, edges) if edges else None
    if found is None:
        return ""
    beside = histogram(reference, edges) if reference is not None else None
    shares, others = _shares(found.counts), _shares(beside.counts) if beside else []
    tallest = max([*shares, *others])
    step, base = WIDTH / len(shares), HEIGHT - _AXIS
    bars = "".join(
        f"M{index * step + 0.5:.1f} {base}v{-share / tallest * base:.1f}h{step - 1:.1f}V{base}z"
        for index, share in enumerate(shares)
        if share
    )
    line = "".join(f"V{base - share / tallest * base:.1f}h{step:.1f}" for share in others)
    text = instant if column.kind == "time" else number
    half = 0.5 if "int" in column.type else 0  # whole numbers stand in the middle of their bins
    return _svg(
        HEIGHT,
        f"from {text(column.min)} to {text(column.max)}",
        f'<path class="bar" d="{bars}"/>'
        + (f'<path class="line" d="M0 {base}{line}V{base}"/>' if line else "")
        + f'<text x="0" y="{HEIGHT - 2}">{escape(text(edges[0] + half))}</text>'
        + f'<text x="{WIDTH}" y="{HEIGHT - 2}" class="end">{escape(text(edges[-1] - half))}</text>',
    )


def _edges(column: ColumnProfile, reference: ColumnProfile | None) -> list[float]:
    """Return bins from the 1st to the 99th percentile of both, so that a few outliers do not flatten the rest."""
    known = [part for part in (column, reference) if part is not None and part.quantiles]
    if not column.quantiles:
        return []
    low, high = (
        pick(quantile for part in known for quantile in quantiles(part, ranks))
        for pick, ranks in ((min, [0.01]), (max, [0.99]))
    )
    if not math.isfinite(high - low):
        return []
    if "int" in column.type or low == high:
        step = max(1, math.ceil((high - low + 1) / _BINS))
        return list(np.arange(low - 0.5, high + 0.5 + step, step))
    return [float(edge) for edge in np.linspace(low, high, _BINS + 1)]


def categories(column: ColumnProfile, reference: ColumnProfile | None, known: Collection[str]) -> str:
    """Draw the most frequent values of a column and of the reference, one of which may have vanished.

    :param known: Values that may be named. All others, which may be about a person, are drawn as one.
    """
    if reference is not None and (reference.kind != column.kind or not reference.top):
        reference = None
    here = _top_shares(column)
    there = _top_shares(reference) if reference is not None else {}
    if not here:
        return ""
    every = {**here, **there}
    largest = {value: max(here.get(value, 0), there.get(value, 0)) for value in every if value in known}
    named = sorted(sorted(largest, key=lambda value: -largest[value])[:_LABELS], key=lambda value: -here.get(value, 0))
    rest, rest_there = (max(0.0, 1 - sum(shares.get(value, 0) for value in named)) for shares in (here, there))
    others = len(every) - len(named)
    widest = max([*map(largest.__getitem__, named), *([rest, rest_there if there else 0] if others else [])])
    drawn = [
        _bar(row, value, here.get(value, 0), there.get(value, 0) if there else None, widest)
        for row, value in enumerate(named)
    ]
    if others:
        label = f"{others}{'+' if column.top_error else ''} other{'s' if others > 1 else ''}"
        drawn.append(_bar(len(named), label, rest, rest_there if there else None, widest))
    return _svg(len(drawn) * _ROW, f"shares of {len(named)} values", "".join(drawn))


def _top_shares(column: ColumnProfile) -> dict[str, float]:
    known = column.count - column.nulls
    return {value: count / known for value, count in column.top.items()}


def _label(row: int, value: str, share: float) -> str:
    shown = value if len(value) <= 16 else value[:15] + "…"
    return (
        f'<text x="{_LEFT - 6}" y="{row * _ROW + 12}" class="end">{escape(shown) or "(empty)"}</text>'
        f'<text x="{WIDTH}" y="{row * _ROW + 12}" class="end">{share:.1%}</text>'
    )


def _bar(row: int, value: str, share: float, beside: float | None, widest: float) -> str:
    room, y = WIDTH - _LEFT - 46, row * _ROW
    bar = f'<rect class="bar" x="{_LEFT}" y="{y + 3}" width="{share / widest * room:.1f}" height="{_ROW - 6}"/>'
    line = (
        "" if beside is None else f'<path class="line" d="M{_LEFT + beside / widest * room:.1f} {y + 1}v{_ROW - 2}"/>'
    )
    return _label(row, value, share) + bar + line


def _shares(counts: Sequence[float]) -> list[float]:
    total = sum(counts) or 1
    return [count / total for count in counts]


def _svg(height: float, title: str, inside: str) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img">'
        f"<title>{escape(title)}</title>{inside}</svg>"
    )
