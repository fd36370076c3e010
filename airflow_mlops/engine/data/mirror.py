"""Files of object storage, kept on this machine as well: what is here is what is there, and is fetched only once.

Beside the files lies ``.mirror/``: an index of what was fetched or sent (name, the storage's version of it, size and
time of the file here), and what is just being fetched. A file here counts as the one there while the storage still has
that version and nobody touched the file: no byte is read to find out.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from airflow_mlops.engine.data.files import sha256
from airflow_mlops.engine.data.storage import RemotePath, fresh, no_bucket, reaching
from airflow_mlops.exceptions import TransientError

_HIDDEN = ".mirror"
_MADE = "CREATE TABLE IF NOT EXISTS seen (name TEXT PRIMARY KEY, version TEXT, bytes INTEGER, written INTEGER)"
_PATIENCE = 60


class Stored(NamedTuple):
    """A file as the storage has it. ``version`` changes whenever it is written with other bytes."""

    version: str
    bytes: int
    modified: datetime | None


class Mirror:
    """A folder of this machine and a prefix on object storage, by relative names such as ``reports/a.html``."""

    def __init__(self, local: Path, remote: RemotePath) -> None:
        self.local, self.remote = local, remote

    def below(self, folder: str, *, deep: bool) -> dict[str, Stored]:
        """Return what the storage has in a folder, by name; nothing when it has no such folder."""
        path = self.remote / folder
        with reaching(path):
            fs = fresh(path)
            if deep:
                listed = fs.find(path.path, detail=True)
            else:
                try:
                    listed = {info["name"]: info for info in fs.ls(path.path, detail=True)}
                except FileNotFoundError as error:
                    if no_bucket(error):
                        raise
                    listed = {}
        start = len(self.remote.path.rstrip("/")) + 1
        files = {name[start:]: _stored(info) for name, info in listed.items() if info["type"] == "file"}
        return {name: found for name, found in files.items() if name.startswith(f"{folder}/")}

    def at(self, name: str) -> Stored | None:
        """Return a file as the storage has it."""
        path = self.remote / name
        with reaching(path):
            try:
                return _stored(fresh(path).info(path.path))
            except FileNotFoundError as error:
                if no_bucket(error):
                    raise
                return None

    # --- fetching -----------------------------------------------------------------------------------------

    def known(self, folder: str) -> dict[str, Stored]:
        """Return what was fetched or sent in a folder, or as one file, and lies here untouched."""
        with self._index() as index:
            rows = index.execute(
                "SELECT name, version, bytes, written FROM seen WHERE name = ? OR (name >= ? AND name < ?)",
                (folder, f"{folder}/", f"{folder}0"),
            ).fetchall()
        return {
            name: Stored(version, size, None)
            for name, version, size, written in rows
            if _looks(self.local / name) == (size, written)
        }

    def fetch(self, wanted: Mapping[str, Stored], known: Mapping[str, Stored], last: str | None = None) -> None:
        """Make files be here as the storage has them: those that differ are fetched, into place by a rename each.

        :param last: The file that comes last.
        """
        missing = {name: one for name, one in wanted.items() if name not in known or known[name].version != one.version}
        self._get({name: one for name, one in missing.items() if name != last})
        if last in missing:
            self._get({last: missing[last]})

    def drop(self, names: Iterable[str]) -> None:
        """Remove files here that the storage has no more."""
        gone = list(names)
        for name in gone:
            (self.local / name).unlink(missing_ok=True)
        if gone:
            with self._index() as index:
                index.executemany("DELETE FROM seen WHERE name = ?", [(name,) for name in gone])

    def _get(self, wanted: Mapping[str, Stored]) -> None:
        if not wanted:
            return
        arriving = self.local / _HIDDEN / uuid.uuid4().hex
        arriving.mkdir(parents=True)
        here = {name: arriving / str(n) for n, name in enumerate(wanted)}
        try:
            with reaching(self.remote / next(iter(wanted))):
                try:
                    fresh(self.remote).get(
                        [(self.remote / name).path for name in wanted], [str(path) for path in here.values()]
                    )
                except FileNotFoundError:
                    raise TransientError(
                        "A file was removed from the object storage while it was fetched.",
                        detail=f"one of {len(wanted)} in {(self.remote / next(iter(wanted))).parent}",
                        hint="Another task replaces it just now: try again.",
                    ) from None
            for name, path in here.items():
                if (moment := wanted[name].modified) is not None:
                    os.utime(path, (moment.timestamp(), moment.timestamp()))
            self._remember(wanted, here)  # not after: another process may have replaced one by then
            for name, path in here.items():
                (self.local / name).parent.mkdir(parents=True, exist_ok=True)
                path.replace(self.local / name)
        finally:
            shutil.rmtree(arriving, ignore_errors=True)

    # --- sending ------------------------------------------------------------------------------------------

    def send_file(self, made: Path, name: str) -> None:
        """Upload one file, and read it again: storage that acknowledges and loses what it was given must not pass.

        :raises TransientError: when it lost it.
        """
        self._put({name: made})
        self._remember({name: self._kept(name, made)}, {name: made})

    def send_folder(self, made: Mapping[str, Path], folder: str, last: str) -> None:
        """Upload files, by the names that they are to have; ``last`` when all others are there, whole in size.

        :raises TransientError: when the storage lost something.
        """
        others = {name: path for name, path in made.items() if name != last}
        self._put(others)
        stored = self.below(folder, deep=True)
        for name, path in others.items():
            if name not in stored or stored[name].bytes != path.stat().st_size:
                raise self._lost(name, path, stored.get(name))
        self._put({last: made[last]})
        stored[last] = self._kept(last, made[last])
        self._remember({name: stored[name] for name in made}, made)

    def _put(self, made: Mapping[str, Path]) -> None:
        if made:
            with reaching(self.remote / next(iter(made))):
                fresh(self.remote).put(
                    [str(path) for path in made.values()], [(self.remote / name).path for name in made]
                )

    def _kept(self, name: str, made: Path) -> Stored:
        """Return a file that was uploaded as the storage has it, byte for byte."""
        path, found = self.remote / name, self.at(name)
        with reaching(path):
            if found is None or hashlib.sha256(fresh(path).cat_file(path.path)).hexdigest() != sha256(made):
                raise self._lost(name, made, found)
        return found

    def _lost(self, name: str, made: Path, found: Stored | None) -> TransientError:
        there = "nothing is there" if found is None else f"{found.bytes} bytes, but not these, are there"
        return TransientError(
            "The object storage took a file and does not have it.",
            detail=f"{self.remote / name}: {made.stat().st_size} bytes were written, {there}",
            hint="Try again. If it stays so, see what else writes or removes below this prefix: a lifecycle rule, "
            "another home.",
        )

    # --- the index ----------------------------------------------------------------------------------------

    def _remember(self, stored: Mapping[str, Stored], files: Mapping[str, Path]) -> None:
        rows = [(name, found.version, *(_looks(files[name]) or (-1, -1))) for name, found in stored.items()]
        with self._index() as index:
            index.executemany("INSERT OR REPLACE INTO seen VALUES (?, ?, ?, ?)", rows)

    @contextmanager
    def _index(self) -> Iterator[sqlite3.Connection]:
        file = self.local / _HIDDEN / "index.db"
        file.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(file, timeout=_PATIENCE)
        try:
            with connection:
                connection.execute("PRAGMA synchronous = OFF")  # lost by a crash, it is only fetched again
                connection.execute(_MADE)
                yield connection
        finally:
            connection.close()


def _looks(path: Path) -> tuple[int, int] | None:
    """Return size and time of a file here."""
    with suppress(FileNotFoundError, NotADirectoryError):
        found = path.stat()
        return found.st_size, found.st_mtime_ns
    return None


def _stored(info: Mapping[str, Any]) -> Stored:
    written = info.get("LastModified") or info.get("created")
    version = str(info.get("ETag") or info.get("etag") or f"{written} {info['size']}")
    return Stored(version.strip('"'), info["size"] or 0, written)
