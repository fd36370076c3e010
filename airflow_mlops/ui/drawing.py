"""Small drawings as SVG: a metric over versions, and what happened on one axis. Colours come from the style sheet."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta

from markupsafe import Markup

from airflow_mlops.engine.data.charts import number
from airflow_mlops.engine.overview.timeline import LANES, Timeline
from airflow_mlops.problems import less_is_better

_SPARK = (120, 28)
_LEFT, _CHART, _LANE, _TICKS = 100, 150, 34, 7


def direction(metric: str) -> str:
    """Say which way a metric is better, where that is known: a line that rises may be bad news."""
    less = less_is_better(metric)
    return "" if less is None else "less is better" if less else "more is better"


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

    Places along the axis are shares of the width, so that texts and marks are of one size in any window.

    :param root: Address of the model's page: events of a version lead to the version.
    """
    moments = [event.at for event in line.events] + [at for at, _, _ in line.points]
    if not moments:
        return Markup("")
    start, end = min(moments), max(moments)
    spread = max((end - start).total_seconds(), 1.0)

    def x(at: datetime) -> float:
        return (at - start).total_seconds() / spread * 100

    height = _CHART + len(LANES) * _LANE + 24
    names = [*_metric_names(line), *(_text(0, y + 4, lane) for y, lane in _lanes())]
    plot = [*_metric(line, x, root), *_events(line, x, root), *_axis(start, end, height)]
    return Markup(
        '<div class="timeline"><svg width="{}" height="{}">{}</svg>'
        '<svg class="plot" height="{}" role="group" aria-label="timeline">{}</svg></div>'
    ).format(_LEFT, height, Markup("").join(names), height, Markup("").join(plot))


def _lanes() -> Iterator[tuple[float, str]]:
    """Yield the height of the middle of each lane, and its name."""
    for index, lane in enumerate(LANES):
        yield _CHART + index * _LANE + _LANE / 2, lane


def _metric_names(line: Timeline) -> list[Markup]:
    if not line.points:
        return [_text(0, 70, "no version has a metric yet", "quiet")]
    values = [value for _, _, value in line.points]
    told = [_text(0, 18, line.metric), _text(0, 36, f"max {number(max(values))}", "quiet")]
    told.append(_text(0, 54, direction(line.metric), "quiet"))
    return [*told, _text(0, _CHART - 16, f"min {number(min(values))}", "quiet")]


def _metric(line: Timeline, x: Callable[[datetime], float], root: str) -> list[Markup]:
    if not line.points:
        return []
    ys = _scaled([value for _, _, value in line.points], _CHART - 16, 14)
    path = " ".join(f"{x(at):.2f},{y:.1f}" for (at, _, _), y in zip(line.points, ys, strict=True))
    made = [
        Markup(
            '<svg viewBox="0 0 100 {}" height="{}" preserveAspectRatio="none">'
            '<polyline class="line" points="{}"/></svg>'
        ).format(_CHART, _CHART, path)
    ]
    for (at, version, value), y in zip(line.points, ys, strict=True):
        title = f"version {version}: {line.metric} {number(value)}, {at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
        made.append(_mark(x(at), y, "point", title, f"{root}/versions/{version}"))
    return made


def _events(line: Timeline, x: Callable[[datetime], float], root: str) -> list[Markup]:
    made = []
    for y, lane in _lanes():
        made.append(Markup('<line class="lane" x1="0" x2="100%" y1="{}" y2="{}"/>').format(y, y))
        for event in reversed(line.events):
            if event.lane == lane:
                title = f"{event.at.astimezone(UTC):%Y-%m-%d %H:%M} UTC: {event.title}"
                title += f" ({event.detail})" if event.detail else ""
                goes = f"{root}/versions/{event.version}" if event.version is not None else ""
                made.append(_mark(x(event.at), y, event.kind, title, goes))
    return made


def _mark(x: float, y: float, kind: str, title: str, goes: str) -> Markup:
    """Draw an event: a diamond where it is bad, else a dot."""
    shape = Markup('<path d="M0-7L7 0L0 7L-7 0Z"/>' if kind == "bad" else '<circle r="5"/>')
    mark = Markup('<svg class="dot {}" x="{}%" y="{}"><title>{}</title>{}</svg>').format(
        kind, f"{x:.2f}", f"{y:.1f}", title, shape
    )
    return Markup('<a href="{}" aria-label="{}" tabindex="-1">{}</a>').format(goes, title, mark) if goes else mark


def _axis(start: datetime, end: datetime, height: float) -> list[Markup]:
    span = end - start
    text = "%Y-%m-%d" if span > timedelta(days=3) else "%m-%d %H:%M"
    ticks = _TICKS if span > timedelta(minutes=_TICKS) else 1
    made = []
    for index in range(ticks):
        share = index / max(1, ticks - 1)
        at = (start + span * share).astimezone(UTC)
        # In a narrow window there is room for every second one.
        where = "start" if index == 0 else "end" if index == ticks - 1 else "even" if index % 2 == 0 else "odd"
        made.append(_text(f"{share:.0%}", height - 6, at.strftime(text), f"quiet tick {where}"))
    return made


def _text(x: float | str, y: float, words: str, kind: str = "") -> Markup:
    return Markup('<text class="{}" x="{}" y="{}">{}</text>').format(kind, x, y, words)


def _scaled(values: Sequence[float], low: float, high: float) -> list[float]:
    """Return heights: ``low`` for the smallest value, ``high`` for the largest; the middle where all are alike."""
    least, most = min(values), max(values)
    if most == least:
        return [(low + high) / 2] * len(values)
    return [low - (value - least) / (most - least) * (low - high) for value in values]
