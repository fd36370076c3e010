"""Small drawings as SVG: a metric over versions, and what happened on one axis. Colours come from the style sheet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

from markupsafe import Markup, escape

from airflow_mlops.engine.data.charts import number
from airflow_mlops.engine.overview.timeline import LANES, Timeline

_SPARK = (120, 28)
_WIDTH, _LEFT, _CHART, _LANE, _TICKS = 1000, 92, 150, 34, 6
_PAD = 8


def sparkline(points: Sequence[tuple[int, float]], metric: str = "") -> Markup:
    """Draw the values of versions, oldest first."""
    if not points:
        return Markup("")
    width, height = _SPARK
    values = [value for _, value in points]
    ys = _scaled(values, height - 4, 4)
    step = (width - 8) / max(1, len(points) - 1)
    xs = [4 + index * step for index in range(len(points))]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(xs, ys, strict=True))
    first, last = points[0], points[-1]
    title = f"{metric} {number(first[1])} of version {first[0]} to {number(last[1])} of version {last[0]}"
    return Markup(
        '<svg class="spark" viewBox="0 0 {} {}" width="{}" height="{}" role="img"><title>{}</title>'
        '<polyline points="{}"/><circle cx="{}" cy="{}" r="2.5"/></svg>'
    ).format(width, height, width, height, title, line, f"{xs[-1]:.1f}", f"{ys[-1]:.1f}")


def drawn(line: Timeline, root: str) -> Markup:
    """Draw the metric of the versions, and below it what happened, each at its time.

    :param root: Address of the model's page: events of a version lead to the version.
    """
    moments = [event.at for event in line.events] + [at for at, _, _ in line.points]
    if not moments:
        return Markup("")
    start, end = min(moments), max(moments)
    spread = max((end - start).total_seconds(), 1.0)

    def x(at: datetime) -> float:
        return _LEFT + _PAD + (at - start).total_seconds() / spread * (_WIDTH - _LEFT - 2 * _PAD)

    height = _CHART + len(LANES) * _LANE + 24
    parts = [*_metric(line, x, root), *_lanes(line, x, root), *_axis(start, end, height)]
    return Markup('<svg class="timeline" viewBox="0 0 {} {}" role="group" aria-label="timeline">{}</svg>').format(
        _WIDTH, height, Markup("").join(parts)
    )


def _metric(line: Timeline, x: Callable[[datetime], float], root: str) -> list[Markup]:
    if not line.points:
        return [Markup('<text class="quiet" x="{}" y="70">no version has a metric yet</text>').format(_LEFT + _PAD)]
    values = [value for _, _, value in line.points]
    ys = _scaled(values, _CHART - 16, 14)
    path = " ".join(f"{x(at):.1f},{y:.1f}" for (at, _, _), y in zip(line.points, ys, strict=True))
    made = [
        Markup('<text x="0" y="18">{}</text><text class="quiet" x="0" y="36">{}</text>').format(
            line.metric, f"max {number(max(values))}"
        ),
        Markup('<text class="quiet" x="0" y="{}">{}</text>').format(_CHART - 16, f"min {number(min(values))}"),
        Markup('<polyline class="line" points="{}"/>').format(path),
    ]
    for (at, version, value), y in zip(line.points, ys, strict=True):
        title = f"version {version}: {line.metric} {number(value)}, {at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
        made.append(_dot(x(at), y, "point", title, f"{root}/versions/{version}"))
    return made


def _lanes(line: Timeline, x: Callable[[datetime], float], root: str) -> list[Markup]:
    made = []
    for index, lane in enumerate(LANES):
        y = _CHART + index * _LANE + _LANE / 2
        made.append(
            Markup('<line class="lane" x1="{}" x2="{}" y1="{}" y2="{}"/><text x="0" y="{}">{}</text>').format(
                _LEFT, _WIDTH, y, y, y + 4, lane
            )
        )
        for event in reversed(line.events):
            if event.lane == lane:
                title = f"{event.at.astimezone(UTC):%Y-%m-%d %H:%M} UTC: {event.title}"
                title += f" ({event.detail})" if event.detail else ""
                goes = f"{root}/versions/{event.version}" if event.version is not None else ""
                made.append(_dot(x(event.at), y, event.kind, title, goes))
    return made


def _dot(x: float, y: float, kind: str, title: str, goes: str) -> Markup:
    mark = Markup('<circle class="dot {}" cx="{}" cy="{}" r="5"><title>{}</title></circle>').format(
        kind, f"{x:.1f}", f"{y:.1f}", title
    )
    return Markup('<a href="{}" aria-label="{}" tabindex="-1">{}</a>').format(goes, title, mark) if goes else mark


def _axis(start: datetime, end: datetime, height: float) -> list[Markup]:
    made = []
    span = end - start
    text = "%Y-%m-%d" if span > timedelta(days=3) else "%m-%d %H:%M"
    ticks = _TICKS if span > timedelta(minutes=_TICKS) else 1
    for index in range(ticks):
        share = index / max(1, ticks - 1)
        at = (start + span * share).astimezone(UTC)
        place = _LEFT + _PAD + share * (_WIDTH - _LEFT - 2 * _PAD)
        anchor = "start" if index == 0 else "end" if index == ticks - 1 else "middle"
        made.append(
            Markup('<text class="quiet" x="{}" y="{}" text-anchor="{}">{}</text>').format(
                f"{place:.1f}", height - 6, anchor, escape(at.strftime(text))
            )
        )
    return made


def _scaled(values: Sequence[float], low: float, high: float) -> list[float]:
    """Return heights: ``low`` for the smallest value, ``high`` for the largest; the middle where all are alike."""
    least, most = min(values), max(values)
    if most == least:
        return [(low + high) / 2] * len(values)
    return [low - (value - least) / (most - least) * (low - high) for value in values]
