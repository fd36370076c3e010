"""The files of a partition, wherever they lie in a feed, and what their path says of them."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase

from airflow_mlops.engine.data.storage import AnyPath, Entry, entries
from airflow_mlops.layout import literal

_FEW = 3


def found(feed: AnyPath, pattern: str) -> tuple[AnyPath, list[Entry]]:
    """Return the folder that a partition's pattern names without a wildcard, and all files that fit it, in order.

    :raises FileNotFoundError: when the folder is not there.
    """
    fixed, rest = literal(pattern)
    folder = feed
    for name in filter(None, fixed.split("/")):
        folder = folder / name
    return folder, sorted(_matching(folder, rest.split("/")), key=lambda entry: str(entry.path))


def unlike(feed: AnyPath, key: str) -> str:
    """Say what lies in a feed instead of what was looked for; what has the key in its name goes first."""
    try:
        names = [str(entry.path.name) for entry in entries(feed)]
    except FileNotFoundError:
        return f"{feed} is not there"
    near = [name for name in names if key in name] or names
    if not near:
        return f"{feed} is empty"
    return f"there {'is' if len(near) == 1 else 'are'} {', '.join(map(repr, near[:_FEW]))}{' …' if near[_FEW:] else ''}"


def path_columns(feed: AnyPath, file: AnyPath) -> dict[str, str]:
    """Return the columns that only a file's path has, from folders such as ``region=eu``."""
    inside = str(file).removeprefix(str(feed)).strip("/").split("/")[:-1]
    return dict(name.split("=", 1) for name in inside if "=" in name)


def _matching(folder: AnyPath, names: list[str]) -> Iterator[Entry]:
    first, rest = names[0], names[1:]
    for entry in entries(folder):
        name = str(entry.path.name)
        if first == "**":
            if entry.is_folder:
                yield from _matching(entry.path, names)
            elif rest and len(rest) == 1 and fnmatchcase(name, rest[0]):
                yield entry
        elif fnmatchcase(name, first):
            if rest and entry.is_folder:
                yield from _matching(entry.path, rest)
            elif not rest and not entry.is_folder:
                yield entry
