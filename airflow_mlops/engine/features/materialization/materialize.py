"""From the offline to the online store: no day is lost, and what is newer is never overwritten by what is older.

Work is cut into chunks, a feature view and a span of time each. Chunks may run at once, in any order, twice, and be
killed: each writes the latest rows of its span, guarded row by row by their event time, and then says so in the
view's watermark (:mod:`~airflow_mlops.engine.features.materialization.watermarks`), which moves over contiguous
success only. Nobody is kept from reading meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypedDict

from airflow_mlops.contracts import content_hash
from airflow_mlops.engine.data.shared import fetch_views
from airflow_mlops.engine.features.computing.provenance import read_inputs
from airflow_mlops.engine.features.governance.apply import ensure_applied
from airflow_mlops.engine.features.materialization.chunks import (
    CHUNK_BYTES,
    TICK,
    Chunk,
    as_chunk,
    computed_keys,
    cut,
    digests,
    due,
)
from airflow_mlops.engine.features.materialization.intervals import record_interval, release
from airflow_mlops.engine.features.materialization.watermarks import Span, Watermark, forget, pointer_name, watermarks
from airflow_mlops.engine.features.project.location import Location
from airflow_mlops.engine.features.project.schema import feature_file, partitioning_of
from airflow_mlops.engine.features.project.secrets import without_secrets
from airflow_mlops.engine.features.project.settings import read_settings
from airflow_mlops.engine.features.project.store import feast_errors, open_store, quietly, restore_online
from airflow_mlops.engine.locks import locked
from airflow_mlops.exceptions import ConfigError, DataError
from airflow_mlops.moments import parse_moment

if TYPE_CHECKING:
    from pathlib import Path

    from feast import FeatureStore, FeatureView

    from airflow_mlops.engine.features.project.schema import FeatureRepo
    from airflow_mlops.engine.ledger import Ledger


class MaterializedView(TypedDict):
    """One feature view: ``start`` (ISO, UTC) of the earliest span written, None when nothing was due."""

    online: bool
    start: str | None
    watermark: str


class Materialized(TypedDict):
    """What :func:`materialize` did."""

    service: str
    until: str
    views: dict[str, MaterializedView]


class MaterializedChunk(TypedDict):
    """What :func:`materialize_chunk` did: ``rows`` is how many keys it read, None when it was online already.

    ``watermark`` is the view's (ISO, UTC), None while what comes before this chunk is not online.
    """

    view: str
    start: str
    end: str
    rows: int | None
    watermark: str | None


def materialize(location: Location, service: str, *, until: datetime, ledger: Ledger) -> Materialized:
    """Bring the online store up to ``until`` for every feature view of a service.

    :param until: End of the window, in UTC; not in the future.
    :raises ConfigError: as :func:`plan_chunks`.
    :raises DataError: as :func:`plan_chunks`.
    :raises TransientError: as :func:`plan_chunks`.
    """
    work = _Work(location, ledger)
    chunks = work.plan(service, until, CHUNK_BYTES)
    for chunk in chunks:
        work.write(chunk)
    views = work.repo.service(service).views
    written = {view: min((chunk["start"] for chunk in chunks if chunk["view"] == view), default=None) for view in views}
    reached = watermarks(ledger, work.repo.project, views)
    return {
        "service": service,
        "until": until.isoformat(),
        "views": {view: _summary(reached[view].until, written[view], until) for view in views},
    }


def plan_chunks(
    location: Location, service: str, *, until: datetime, ledger: Ledger, chunk_bytes: int = CHUNK_BYTES
) -> list[Chunk]:
    """Return what must be written so that a service is online up to ``until``, oldest first.

    That is, for each feature view and within its time to live: what was never written, gaps that failed chunks left,
    and days that were computed again since they were written; all of it, when the online store lost the view's table.
    The repository is applied first when it changed, and views that a killed run of Feast's own materialisation left
    unreadable are made readable.

    :param until: End of the window, in UTC; not in the future.
    :param chunk_bytes: What a chunk may take in memory, by what the files say of their rows.
    :raises ConfigError: when ``until`` lies in the future or has no time zone, or the service is unknown.
    :raises DataError: when a day of the window was not computed: its values would be skipped for ever.
    :raises TransientError: when the registry or the ledger does not answer.
    """
    return _Work(location, ledger).plan(service, until, chunk_bytes)


def computed_until(location: Location, service: str, ledger: Ledger) -> datetime:
    """Return up to when the rows of all views of a service are computed: the end of the last partition of each.

    :raises DataError: when nothing was computed of a view.
    """
    work, ends = _Work(location, ledger), []
    for view in work.repo.service(service).views:
        if work.is_ours(view):
            fetch_views(location.home, [view])
            keys = computed_keys(location.home, view)
            if not keys:
                raise DataError(
                    f"No row of feature view {view!r} was computed.",
                    detail=f"service {service!r}, home {location.home}",
                    hint="Compute them first: airflow-mlops features compute, or the features DAG.",
                )
            ends.append(partitioning_of(location.home, view).interval(max(keys))[1])
    return min(ends, default=datetime.now(UTC))


def materialize_chunk(location: Location, chunk: Chunk, *, ledger: Ledger) -> MaterializedChunk:
    """Write one chunk online, and move the view's watermark. May be repeated, and killed at any point.

    :raises ConfigError: when it ends in the future, or the view is not one of the repository.
    :raises DataError: when a day of it was not computed, or its rows cannot be read.
    :raises TransientError: when the registry, the online store or the ledger does not answer.
    """
    return _Work(location, ledger).write(chunk)


def _summary(reached: datetime | None, start: str | None, until: datetime) -> MaterializedView:
    watermark = reached or until  # a view that is not served online has none
    return {"online": start is not None or reached == until, "start": start, "watermark": watermark.isoformat()}


class _Work:
    """One Feast project, opened to be written online."""

    def __init__(self, location: Location, ledger: Ledger) -> None:
        self.home: Path = location.home
        self.ledger = ledger
        self.repo: FeatureRepo = ensure_applied(location, ledger)
        self.store: FeatureStore = open_store(location)
        self.address = content_hash(without_secrets(read_settings(location).get("online_store")))[:16]

    def is_ours(self, name: str) -> bool:
        """Return whether the rows of a view are computed into the home folder."""
        return self._has_files(self._view(name))

    def plan(self, service: str, until: datetime, chunk_bytes: int) -> list[Chunk]:
        _check_end(until, "until")
        if chunk_bytes < 1:
            raise ConfigError(f"chunk_bytes={chunk_bytes} is not a size.", hint="It is in bytes, such as 67108864.")
        views = self.repo.service(service).views
        fetch_views(self.home, views)
        release(self.store, self.home, views)
        for lost in restore_online(self.store):
            forget(self.ledger, self.repo.project, lost)
        return [chunk for view in views for chunk in self._plan_view(view, until.astimezone(UTC), chunk_bytes)]

    def write(self, chunk: Chunk) -> MaterializedChunk:
        name, span, since = chunk["view"], _span_of(chunk), parse_moment(chunk["since"], "since")
        _check_end(span[1], "end")
        fetch_views(self.home, [name])
        with locked(self.home / "feast" / f"{self.repo.project}.{name}.lock"):
            before, rows = self._watermark(name), None
            if not self._is_done(before, name, span):
                rows, span, files = self._write_rows(name, span, before)
                record_interval(self.store, self.home, name, span)
                before = self._move(name, span, since, files)
        start, end = (moment.isoformat() for moment in span)
        watermark = before.until.isoformat() if before.until else None
        return {"view": name, "start": start, "end": end, "rows": rows, "watermark": watermark}

    def _plan_view(self, name: str, until: datetime, chunk_bytes: int) -> list[Chunk]:
        from airflow_mlops.engine.features.materialization.write import is_guarded

        view, watermark, ttl = self._view(name), self._watermark(name), self._ttl(name)
        if not view.online:
            return []
        if self._has_files(view):
            since, spans = due(self.home, name, watermark, ttl, until)
        else:
            since = datetime.fromtimestamp(0, UTC) if ttl is None else max(until, watermark.until or until) - ttl
            spans = watermark.missing(since, until)
        if spans and not is_guarded(self.store, view):
            # Nothing keeps Feast's writers from putting older values over newer ones: all in one go.
            spans = [(spans[0][0], max(until, watermark.newest or until))]
            return [as_chunk(name, spans[0], since)]
        if self._has_files(view):
            event = view.batch_source.timestamp_field
            return cut(self.home, name, spans, event=event, since=since, chunk_bytes=chunk_bytes)
        return [as_chunk(name, span, since) for span in spans]

    def _write_rows(self, name: str, span: Span, before: Watermark) -> tuple[int, Span, dict[str, str]]:
        """Write a span; return its keys, the span, and what it was read from: taken before, so that a file replaced
        meanwhile is written again.
        """
        from airflow_mlops.engine.features.materialization.write import is_guarded, write_latest

        view = self._view(name)
        guarded = is_guarded(self.store, view)
        if not guarded:
            span = span[0], max(span[1], before.newest or span[1])
        files = digests(self.home, name, span) if self._has_files(view) else {}
        with quietly(), feast_errors():
            return (write_latest if guarded else _by_feast)(self.store, view, span), span, files

    def _move(self, name: str, span: Span, since: datetime, files: Mapping[str, str]) -> Watermark:
        newest = max(files, default=None)
        inputs = read_inputs(self.home, [name], *self._interval(name, newest)) if newest else {}
        code = next((found.code for found in inputs.values() if found is not None), None)

        def change(value: dict[str, Any] | None) -> dict[str, Any]:
            known = self._here(name, Watermark.of(value))
            return known.with_written(span, since=since, files=files, code=code, ttl=self._ttl(name)).to_value()

        pointer = self.ledger.move(pointer_name(self.repo.project, name), change)
        return Watermark.of(pointer.value if pointer else None)

    def _is_done(self, watermark: Watermark, name: str, span: Span) -> bool:
        """Return whether another run wrote exactly this since it was planned."""
        if watermark.missing(*span):
            return False
        view = self._view(name)
        if not self._has_files(view):
            return True
        found = digests(self.home, name, span)
        written = [piece for day, one in found.items() for piece in watermark.written_from(day, one)]
        return not Watermark(ahead=tuple(sorted(written))).missing(*span)

    def _watermark(self, name: str) -> Watermark:
        return self._here(name, watermarks(self.ledger, self.repo.project, [name])[name])

    def _here(self, name: str, watermark: Watermark) -> Watermark:
        """Return what is known of the online store that is configured now: nothing of one that it replaced."""
        partitioning = partitioning_of(self.home, name)
        if watermark.store not in (None, self.address):
            return Watermark(store=self.address, partitioning=partitioning)
        return replace(watermark, store=self.address, partitioning=partitioning)

    def _interval(self, name: str, key: str) -> Span:
        return partitioning_of(self.home, name).interval(key)

    def _view(self, name: str) -> FeatureView:
        if name not in self.repo.views:
            raise ConfigError(
                f"There is no feature view {name!r} any more.",
                detail=f"Feast project {self.repo.project!r} has: {', '.join(sorted(self.repo.views))}",
                hint="It was planned before the repository changed: clear the planning task.",
            )
        with feast_errors():
            return self.store.get_feature_view(name)

    def _ttl(self, name: str) -> timedelta | None:
        seconds = self.repo.views[name].ttl_seconds
        return None if seconds is None else timedelta(seconds=seconds)

    def _has_files(self, view: FeatureView) -> bool:
        """Return whether a view reads the day files that we compute, and not a table or files of somebody else's."""
        path = str(getattr(view.batch_source, "path", ""))
        return path == str(feature_file(self.home, view.name, "*"))


def _by_feast(store: FeatureStore, view: FeatureView, span: Span) -> int:
    """Let Feast's engine write a span, without the mark that keeps others from reading; it says nothing of rows."""
    from tqdm import tqdm  # type: ignore[import-untyped]

    store._get_provider().materialize_single_feature_view(
        config=store.config,
        feature_view=view,
        start_date=span[0],
        end_date=span[1] - TICK,
        registry=store.registry,
        project=store.project,
        tqdm_builder=lambda length: tqdm(total=length, disable=True),
    )
    return 0


def _span_of(chunk: Chunk) -> Span:
    return parse_moment(chunk["start"], "start"), parse_moment(chunk["end"], "end")


def _check_end(moment: datetime, name: str) -> None:
    if moment.tzinfo is None:
        raise ConfigError(f"{name}={moment.isoformat()} has no time zone.", hint="Use a moment in UTC.")
    if moment > datetime.now(UTC):
        raise ConfigError(
            "Features cannot be materialised into the future.",
            detail=f"{name} {moment.isoformat()}",
            hint="Wait until the day is over: its values are not known yet.",
        )
