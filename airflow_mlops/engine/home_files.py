"""What lies in a home folder, on this machine or in a bucket, and when somebody last touched it."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from airflow_mlops.engine.data import files
from airflow_mlops.engine.data.shared import discard, stored


class Lying(NamedTuple):
    """A file or a folder with all that is in it. Of a home on object storage it is the path in the cache."""

    path: Path
    bytes: int
    touched: datetime


def lying(home: Path, pattern: str) -> list[Lying]:
    """Return what fits a pattern such as ``reports/*``, or folders only, ``snapshots/*/``; what is hidden is left out.

    Of a home on object storage that is what the bucket has, whether whole or half removed.
    """
    there = stored(home / pattern.partition("/")[0])
    if there is None:
        return [here(path) for path in sorted(home.glob(pattern)) if path.name[0] != "."]
    wanted, folders = pattern.rstrip("/").split("/"), pattern.endswith("/")
    found: dict[tuple[str, ...], Lying] = {}
    for name, one in there.items():
        parts = tuple(name.split("/"))
        if len(parts) < len(wanted) + folders or not all(map(fnmatchcase, parts, wanted)):
            continue
        parts = parts[: len(wanted)]
        if any(part[0] == "." for part in parts):
            continue
        # A file of which the storage does not say when it was written is not known to be old.
        written = datetime.now(UTC) if one.modified is None else one.modified.astimezone(UTC)
        known = found.get(parts, Lying(home.joinpath(*parts), 0, written))
        found[parts] = Lying(known.path, known.bytes + one.bytes, max(known.touched, written))
    return [found[parts] for parts in sorted(found)]


def here(path: Path) -> Lying:
    """Return what lies at a path of this machine."""
    inside = [path] if path.is_file() else path.rglob("*")
    return Lying(path, sum(one.stat().st_size for one in inside if one.is_file()), _touched(path))


def drop(path: Path) -> None:
    """Make it invisible at once, in the bucket by the file without which it is not there; then let it go."""
    discard(path)
    gone = files.temporary_sibling(path)
    try:
        path.rename(gone)
    except FileNotFoundError:
        return  # another sweep was faster, or this machine never had it
    if gone.is_dir():
        shutil.rmtree(gone, ignore_errors=True)
    else:
        gone.unlink(missing_ok=True)


def _touched(path: Path) -> datetime:
    """Return when somebody last made, moved or used a file or a folder. A training in use has a new lock inside."""
    found = [path.stat(), *(inner.stat() for inner in (path.iterdir() if path.is_dir() else ()))]
    return datetime.fromtimestamp(max(max(one.st_mtime, one.st_ctime) for one in found), UTC)
