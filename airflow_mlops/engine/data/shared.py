"""A home folder on object storage: workers share the bucket, and each keeps what it used in a local cache.

All code takes the home folder as a ``Path``. When it is the cache of a home on object storage, :func:`share` says so
once a process; :func:`fetch` then makes something be here before it is looked at, and :func:`send` makes it be there
before it counts. Below any other folder both do nothing.

===============================  ==========================  ================================================
``snapshots/<id>/``              there with                  never changes; asked for once
``trainings/<id>/``              there with ``result.json``  a training's scratch until then
``jobs/<id>/``                   there with ``spec.json``    never changes; what is trained elsewhere, and its code
``progress/<id>/``               file by file                how far that is, or why it failed
``checkpoints/<id>/``            file by file                what a training goes on from, until it is done
``staged/<dataset>/<key>/``      there with its note         replaced as a whole
``quarantine/<…>/<…>/<batch>/``  there with ``result.json``  never changes
``registry/<model>/<version>/``  there with its graph        what was fetched to be deployed
``predictions/<…>/<…>/<id>/``    file by file                until they are sealed
``features/<view>/``             file by file
``evaluations/<model hash>/``    file by file; of models that were not trained here
``reports/``                     file by file
``backfills/<model>/``           file by file             what a backfill worked out ahead of its turn
===============================  ==========================  ================================================

A folder is uploaded with that file last, and without it is not there. All else below a home folder is of one machine:
Feast's SQLite files, locks, profiles of feature files, the model store. Sealed partitions and what lands are read and
written in the bucket itself: see :func:`origin`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from airflow_mlops.engine.data import storage
from airflow_mlops.engine.data.files import replacing
from airflow_mlops.engine.data.mirror import Mirror, Stored
from airflow_mlops.engine.data.storage import AnyPath, RemotePath


class _Kind(NamedTuple):
    """How deep what is published as one lies, its last file, whether it never changes once that is there.

    ``deep``: without a last file, fetched with the folders in it.
    """

    depth: int
    last: str | None
    frozen: bool = False
    deep: bool = False


_KINDS = {
    "snapshots": _Kind(2, "manifest.json", frozen=True),
    "trainings": _Kind(2, "result.json"),
    "jobs": _Kind(2, "spec.json", frozen=True),
    "progress": _Kind(2, None),
    "checkpoints": _Kind(2, None, deep=True),
    "staged": _Kind(3, "_staged.json"),
    "quarantine": _Kind(4, "result.json", frozen=True),
    "registry": _Kind(3, "saved_model.pb"),
    "predictions": _Kind(4, None),
    "features": _Kind(2, None),
    "evaluations": _Kind(2, None),
    "reports": _Kind(1, None),
    "backfills": _Kind(2, None),
}

_shares: dict[Path, Mirror] = {}


class _Place(NamedTuple):
    """Something below a shared home. ``unit`` is what it is published with; ``name`` it itself."""

    mirror: Mirror
    kind: _Kind
    unit: str
    name: str

    @property
    def mark(self) -> str | None:
        """The file without which the unit is not there."""
        return self.kind.last and f"{self.unit}/{self.kind.last}"

    @property
    def is_unit(self) -> bool:
        return self.unit == self.name


def share(local: Path, remote: RemotePath) -> Path:
    """Let a folder of this machine be the cache of a home on object storage, for this process; return it.

    Paths in it are handed from task to task: it must be the same one on all machines.
    """
    local = local.absolute()
    local.mkdir(parents=True, exist_ok=True)
    _shares[local] = Mirror(local, remote)
    return local


def is_shared(home: Path) -> bool:
    """Return whether a home folder is the cache of one on object storage."""
    return _share_of(home) is not None


def origin(path: Path) -> AnyPath:
    """Return the path on object storage of which this one is the cache; itself, if it is none."""
    mirror = _share_of(path)
    if mirror is None:
        return path
    remote = mirror.remote
    for part in path.absolute().relative_to(mirror.local).parts:
        remote = remote / part
    return remote


def fetch(path: Path, *, again: bool = False) -> None:
    """Make a file or folder be here as it is in the shared home, with what it was published with.

    What the home has no more is removed here too. The folder of a feature view is fetched without what was superseded.

    :param again: Even what never changes: a file here is not what it was.
    :raises DataError: when access is refused.
    :raises TransientError: when the storage does not answer.
    """
    place = _place(path)
    if place is None:
        return
    mirror = place.mirror
    if place.mark is None and not place.is_unit:
        known, found = mirror.known(place.name), mirror.at(place.name)  # in this order, or what is sent now is dropped
        there = {} if found is None else {place.name: found}
    else:
        if place.kind.frozen and not again and (mirror.local / str(place.mark)).is_file():
            return
        known = mirror.known(place.unit)
        deep = place.mark is not None or place.kind.deep
        there = mirror.below(place.unit, deep=deep)
        if not deep:
            known = {name: one for name, one in known.items() if name.count("/") == place.kind.depth}
        elif place.mark is not None and place.mark not in there:
            there = {}
    mirror.drop(sorted(known.keys() - there.keys(), key=lambda name: name != place.mark))
    mirror.fetch(there, known, last=place.mark)


def send(made: Path, final: Path | None = None) -> None:
    """Make a file or folder be in the shared home; a folder's last file when all others are there.

    A folder that never changes is left alone when it is there, and so is any of which the same is. Else it replaces
    what was.

    :param made: What is uploaded.
    :param final: What it is to be, if that is not where it lies.
    :raises DataError: when access is refused.
    :raises TransientError: when the storage does not answer, or loses what it was given.
    """
    place = _place(final or made)
    if place is None:
        return
    mirror = place.mirror
    if not place.is_unit or place.mark is None:
        mirror.send_file(made, place.name)
        return
    files = {f"{place.unit}/{path.relative_to(made).as_posix()}": path for path in _visible(made)}
    known, there = mirror.known(place.unit), mirror.below(place.unit, deep=True)
    if place.mark in there and (place.kind.frozen or (final in (None, made) and _is_same(files, known, there))):
        return
    if there and not place.kind.frozen:  # the others hold the same bytes: another may be sending them
        withdraw(final or made)
    mirror.send_folder(files, place.unit, place.mark)


def withdraw(path: Path) -> None:
    """Remove a folder that is published as one from the shared home, its mark first; what is here stays."""
    place = _place(path)
    if place is not None and place.is_unit:
        discard(path)


def stored(folder: Path) -> dict[str, Stored] | None:
    """Return all that the shared home has in a folder, by names from the home on; None of a home of this machine.

    :raises DataError: when access is refused.
    :raises TransientError: when the storage does not answer.
    """
    mirror = _share_of(folder)
    return None if mirror is None else mirror.below(folder.absolute().relative_to(mirror.local).as_posix(), deep=True)


def discard(path: Path) -> None:
    """Remove a file or a folder from the shared home, its mark first; what is here stays.

    :raises DataError: when access is refused.
    :raises TransientError: when the storage does not answer.
    """
    place = _place(path)
    if place is not None:
        remote = place.mirror.remote / place.name
        with storage.reaching(remote):
            storage.remove(remote, first=place.kind.last if place.is_unit else None)


@contextmanager
def publishing(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling to write to; when the block ends well, it is sent, and becomes ``path`` in one rename.

    Sent first: whoever fetches meanwhile must not put back what was before.
    """
    with replacing(path) as temporary:
        yield temporary
        send(temporary, path)


def fetch_views(home: Path, views: Iterable[str]) -> None:
    """Fetch the current feature files of some views."""
    for view in views:
        fetch(home / "features" / view)


def _share_of(path: Path) -> Mirror | None:
    if not _shares:
        return None
    path = path.absolute()
    return next((_shares[folder] for folder in (path, *path.parents) if folder in _shares), None)


def _place(path: Path) -> _Place | None:
    mirror = _share_of(path)
    if mirror is None:
        return None
    parts = path.absolute().relative_to(mirror.local).parts
    kind = _KINDS.get(parts[0]) if parts else None
    if kind is None or len(parts) < kind.depth:
        return None
    return _Place(mirror, kind, "/".join(parts[: kind.depth]), "/".join(parts))


def _is_same(files: Iterable[str], known: Mapping[str, Stored], there: Mapping[str, Stored]) -> bool:
    """Return whether all files of a folder are in the shared home as they are here."""
    return all(name in known and name in there and known[name].version == there[name].version for name in files)


def _visible(folder: Path) -> list[Path]:
    found = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return [path for path in found if not any(part[0] == "." for part in path.relative_to(folder).parts)]
