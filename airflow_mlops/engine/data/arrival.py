"""Whether the upstream has landed a day, completely and for good."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, NamedTuple, TypedDict

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ValidationError

from airflow_mlops.engine.data import landed, storage
from airflow_mlops.engine.data.parquet import readable
from airflow_mlops.engine.data.storage import AnyPath, Entry
from airflow_mlops.exceptions import ConfigError, DataError
from airflow_mlops.formats import format_of
from airflow_mlops.layout import Layout
from airflow_mlops.partitioning import DAILY, Partitioning

MARKER = "_SUCCESS"
"""The upstream writes it last; without it, the day is still landing."""


class Arrival(TypedDict):
    """What has landed: the folder, how many Parquet files, how many bytes."""

    uri: str
    files: int
    bytes: int


class _PromisedFile(BaseModel):
    name: str
    bytes: int
    rows: int | None = None
    sha256: str | None = None


class _UpstreamManifest(BaseModel):
    files: list[_PromisedFile]


class Look(NamedTuple):
    """One look at a day of a feed: what is there when the day is complete, else what is missing, in words."""

    arrival: Arrival | None
    missing: str = ""


def look(
    feed: AnyPath,
    key: str,
    *,
    marker: str | None = MARKER,
    manifest: str | None = None,
    min_rows: int = 0,
    settle: timedelta = timedelta(0),
    partitioning: Partitioning = DAILY,
    layout: Layout | None = None,
    told: bool = False,
) -> Look:
    """Look once for a day of a feed. It has landed when everything that was asked for holds, for each of its pieces.

    :param feed: Folder of the feed, on this machine or on object storage.
    :param key: Partition key.
    :param marker: File that the upstream writes last; None when it writes none.
    :param manifest: JSON file of the upstream, ``{"files": [{"name", "bytes", "rows"?, "sha256"?}]}``: exactly these
        Parquet files must be there, and be like that.
    :param min_rows: Rows that the Parquet files must have in all, by their footers.
    :param settle: How long ago the newest change must be, by the storage's clock.
    :param partitioning: Of which ``key`` is one.
    :param layout: Where a partition lies below ``feed``; default is a folder of its name.
    :param told: Whether something else has told that it is complete: then files are enough.
    :raises DataError: when the folder cannot be read, or the manifest is damaged.
    :raises ConfigError: when the key is none, or nothing was asked for.
    """
    pieces = (layout or Layout()).pieces(key, partitioning)
    if marker is None and manifest is None and min_rows < 1 and not settle and not told:
        raise ConfigError(
            "Nothing tells when a day has landed completely.",
            detail=f"{feed}: marker=None, manifest=None, min_rows={min_rows}",
            hint="Name the file that the upstream writes last in marker= or manifest=, or give min_rows= or settle=.",
        )
    looks = {
        piece: _look(feed, piece, pattern, marker, manifest, min_rows, settle) for piece, pattern in pieces.items()
    }
    missing = {piece: each.missing for piece, each in looks.items() if each.arrival is None}
    if len(pieces) == 1:
        return next(iter(looks.values()))
    if missing:
        first, why = next(iter(missing.items()))
        return Look(None, f"{len(pieces) - len(missing)} of {len(pieces)} pieces are complete; of {first}: {why}")
    arrivals = [each.arrival for each in looks.values() if each.arrival is not None]
    files, size = sum(one["files"] for one in arrivals), sum(one["bytes"] for one in arrivals)
    return Look({"uri": str(feed), "files": files, "bytes": size})


def _look(  # noqa: PLR0917
    feed: AnyPath, key: str, pattern: str, marker: str | None, manifest: str | None, min_rows: int, settle: timedelta
) -> Look:
    """Look for one piece."""
    with readable(feed):
        try:
            folder, matching = landed.found(feed, pattern)
            found = {entry.path.name: entry for entry in storage.entries(folder) if not entry.is_folder}
        except FileNotFoundError:
            storage.subfolders(feed)  # raises when it is the bucket that is not there
            return Look(None, f"nothing is there: {landed.unlike(feed, key)}")
    rows = [one for one in matching if format_of(one.path.name) and one.path.name not in (marker, manifest)]
    if not rows and marker is None and manifest is None:
        return Look(None, f"nothing fits {pattern!r}: {landed.unlike(folder, key)}")
    names = [str(entry.path.name) for entry in rows]
    unlike = len(set(names)) == len(names)
    files = {name if unlike else str(entry.path): entry for name, entry in zip(names, rows, strict=True)}
    missing = (
        _unmarked(found, marker, rows)
        or _unsettled(folder, [*found.values(), *rows], settle)
        or _unlike_manifest(folder, found, files, manifest)
        or _too_few_rows(files, min_rows)
    )
    if missing:
        return Look(None, missing)
    return Look({"uri": str(folder), "files": len(files), "bytes": sum(entry.bytes for entry in files.values())})


def look_for(feed: AnyPath, key: str, **asked: Any) -> Arrival | None:
    """Look once for a day of a feed, as :func:`look` does. None means that it has not landed completely."""
    return look(feed, key, **asked).arrival


def _unmarked(found: dict[str, Entry], marker: str | None, rows: Sequence[Entry]) -> str:
    if marker is None or marker in found:
        return ""
    if not found and not rows:
        return "nothing is there"
    below = "" if found else " below"
    return f"no marker {marker!r}, {len(found) or len(rows)} files{below}; if none is written, say arrived='still'"


def _unsettled(folder: AnyPath, found: list[Entry], settle: timedelta) -> str:
    if not settle or not found:
        return ""
    newest = max(entry.modified for entry in found if entry.modified is not None)
    age = storage.now(folder) - newest
    return "" if age >= settle else f"last changed {age.total_seconds():.0f} s ago, {settle.total_seconds():.0f} asked"


def _unlike_manifest(folder: AnyPath, found: dict[str, Entry], files: dict[str, Entry], manifest: str | None) -> str:
    if manifest is None:
        return ""
    if manifest not in found:
        return f"no manifest {manifest!r}, {len(found)} files"
    promised = _promised(folder / manifest)
    wrong = [problem for file in promised if (problem := _unlike(file, files.get(file.name)))]
    if wrong:
        there = len(promised) - len(wrong)
        return f"{there} of {len(promised)} files of the manifest are there ({wrong[0]})"
    unknown = files.keys() - {file.name for file in promised}
    return f"{sorted(unknown)[0]!r} is not in the manifest" if unknown else ""


def _promised(path: AnyPath) -> list[_PromisedFile]:
    with readable(path):
        contents = storage.read(path)
    try:
        return _UpstreamManifest.model_validate_json(contents).files
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise DataError(
            "The upstream's manifest cannot be read.",
            detail=f"{path}: {where + ': ' if where else ''}{first['msg']}",
            hint='It must be JSON like {"files": [{"name": "part-0.parquet", "bytes": 1024, "rows": 10}]}.',
        ) from None


def _unlike(file: _PromisedFile, entry: Entry | None) -> str:
    """Say how a file differs from what its manifest promised; nothing when it does not."""
    if entry is None:
        return f"{file.name!r} is not there"
    if entry.bytes != file.bytes:
        return f"{file.name!r} has {entry.bytes} of {file.bytes} bytes"
    if file.rows is not None and (rows := _rows(entry)) != file.rows:
        return f"{file.name!r} has " + ("no Parquet footer" if rows is None else f"{rows} rows, not {file.rows}")
    if file.sha256 is not None:
        with readable(entry.path):
            if storage.digest(entry.path) != file.sha256:
                return f"{file.name!r} has other bytes"
    return ""


def _too_few_rows(files: dict[str, Entry], min_rows: int) -> str:
    if min_rows < 1:
        return ""
    counts = {name: _rows(entry) for name, entry in files.items() if name.endswith(".parquet")}
    for name, count in counts.items():
        if count is None:
            return f"{name!r} is not complete: it has no Parquet footer"
    rows = sum(count or 0 for count in counts.values())
    return "" if rows >= min_rows else f"{rows} of at least {min_rows} rows"


def _rows(entry: Entry) -> int | None:
    """Return how many rows a Parquet file has by its footer; None when it has none yet."""
    with readable(entry.path), storage.opened(entry.path) as file:
        try:
            return int(pq.read_metadata(file).num_rows)
        except pa.ArrowInvalid:
            return None
