"""From the offline to the online store, in order: what is newer is never overwritten by what is older.

Feast writes whatever window it is told, and on most online stores the last writer wins. So each feature view
has a watermark in the ledger, ``feature_watermark:<project>:<view>``: everything stamped before it is online.
It moves forward only, after the values are written, by the one process that holds the project's lock.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from airflow_mlops.engine.features.apply import ensure_applied
from airflow_mlops.engine.features.location import Location
from airflow_mlops.engine.features.schema import FeatureRepo, feature_file
from airflow_mlops.engine.features.store import feast_errors, open_store, project_lock, quietly
from airflow_mlops.engine.locks import locked
from airflow_mlops.exceptions import ConfigError, DataError, TransientError

if TYPE_CHECKING:
    from feast import FeatureStore

    from airflow_mlops.engine.ledger import Ledger, Pointer

_TICK = timedelta(microseconds=1)  # Feast's windows include both ends; ours are [start, end)


class MaterializedView(TypedDict):
    """One feature view: ``start`` (ISO, UTC) of the window written, None when the values stay offline only."""

    online: bool
    start: str | None
    watermark: str


class Materialized(TypedDict):
    """What :func:`materialize` did."""

    service: str
    until: str
    views: dict[str, MaterializedView]


def materialize(location: Location, service: str, *, until: datetime, ledger: Ledger) -> Materialized:
    """Bring the online store up to ``until`` for every feature view of a service.

    The window is ``[watermark, until)``, cut to the view's time to live: older values may not be served anyway.
    A view whose watermark is at ``until`` or later is left alone: an old day that was computed again is for
    training only. Killed at any point, the next call writes the same window again.

    The repository is applied first when its definitions changed.

    :param until: End of the window, in UTC; not in the future.
    :raises ConfigError: when ``until`` lies in the future, or the service is unknown.
    :raises DataError: when a day of the window was not computed: its values would be skipped for ever.
    :raises TransientError: when the registry or the ledger does not answer.
    """
    if until > datetime.now(UTC):
        raise ConfigError(
            "Features cannot be materialised into the future.",
            detail=f"until {until.isoformat()}",
            hint="Wait until the day is over: its values are not known yet.",
        )
    repo = ensure_applied(location, ledger)
    views = repo.service(service).views
    store = open_store(location)
    with locked(project_lock(location.home, repo.project)):
        done = {view: _materialize_view(store, location.home, repo, view, until=until, ledger=ledger) for view in views}
    return {"service": service, "until": until.isoformat(), "views": done}


def _materialize_view(
    store: FeatureStore, home: Path, repo: FeatureRepo, view: str, *, until: datetime, ledger: Ledger
) -> MaterializedView:
    name = f"feature_watermark:{repo.project}:{view}"
    pointer = ledger.pointer(name)
    watermark = datetime.fromisoformat(pointer.value["until"]) if pointer else None
    if watermark is not None and watermark >= until:
        return {"online": watermark == until, "start": None, "watermark": watermark.isoformat()}
    start = _window_start(home, view, repo.views[view].ttl_seconds, watermark, until)
    with quietly(), feast_errors():
        store.materialize(start_date=start, end_date=until - _TICK, feature_views=[view])
    _move(ledger, name, pointer, until)
    return {"online": True, "start": start.isoformat(), "watermark": until.isoformat()}


def _window_start(
    home: Path, view: str, ttl_seconds: float | None, watermark: datetime | None, until: datetime
) -> datetime:
    """Return where the window starts: no value before it can still be served, and no day after it is missing."""
    computed = {path.stem for path in feature_file(home, view, "*").parent.glob("[!.]*.parquet")}
    earliest = datetime.fromisoformat(min(computed)).replace(tzinfo=UTC) if computed else until - _TICK
    bounds = [earliest]
    if watermark is not None:
        bounds.append(watermark)
    if ttl_seconds is not None:
        bounds.append(until - timedelta(seconds=ttl_seconds))
    start = max(bounds)
    first, last = start.date(), (until - _TICK).date()
    days = [str(first + timedelta(days=n)) for n in range((last - first).days + 1)]
    missing = [day for day in days if day not in computed]
    if missing:
        raise DataError(
            f"The rows of feature view {view!r} for {missing[0]} were not computed.",
            detail=f"window {start.isoformat()} to {until.isoformat()}; missing: {', '.join(missing[:7])}",
            hint="Run the features DAG for the missing days first, oldest first.",
        )
    return start


def _move(ledger: Ledger, name: str, expected: Pointer | None, until: datetime) -> None:
    if not ledger.swap(name, {"until": until.isoformat()}, expected=expected):
        raise TransientError(
            "Somebody else moved the watermark of a feature view at the same moment.",
            detail=name,
            hint="Try again; if it goes on, two installations with different homes share one ledger.",
        )
