"""HTML from templates: everything escaped, no script but our own, nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, PackageLoader, StrictUndefined

from airflow_mlops.engine.data.charts import number
from airflow_mlops.ui.drawing import direction, sparkline

STATIC = Path(__file__).parent / "static"
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "private, no-cache",
}
_UNITS = (("d", 86_400), ("h", 3_600), ("min", 60))


def page(request: Request, template: str, told: Mapping[str, Any], code: int = 200) -> HTMLResponse:
    """Return a page.

    :param template: Name of a file in the folder ``html``.
    :param told: What it shows.
    """
    mounted: str = request.scope.get("root_path", "")
    base = mounted.removesuffix("/mlops")
    text = _templates().get_template(template).render(root=f"{base}/mlops", base=base, now=datetime.now(UTC), **told)
    return HTMLResponse(text, code, headers=HEADERS)


@cache
def _templates() -> Environment:
    made = Environment(
        loader=PackageLoader("airflow_mlops.ui", "html"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"age": age, "moment": moment, "number": number, "length_of_time": length, "spark": sparkline}
    made.filters["direction"] = direction
    return made


def moment(at: datetime | None) -> str:
    """Write a time in UTC, to the minute."""
    return "" if at is None else f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def age(at: datetime | None) -> str:
    """Write how long ago a time is, or how far away, in one unit."""
    if at is None:
        return ""
    seconds = (datetime.now(UTC) - at).total_seconds()
    words = length(abs(seconds))
    return f"in {words}" if seconds < 0 else f"{words} ago"


def length(seconds: float) -> str:
    """Write a length of time in its largest unit."""
    unit, size = next(((unit, size) for unit, size in _UNITS if seconds >= size), ("s", 1))
    return f"{seconds / size:.0f} {unit}"
