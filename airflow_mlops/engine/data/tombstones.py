"""What is left of a revision that retention removed: when it went, and who needed it.

``partitions/<dataset>/<key>/removed.json`` holds one for each. It is written before anything is deleted.
"""

from __future__ import annotations

import json
from datetime import datetime

from pydantic import TypeAdapter, ValidationError

from airflow_mlops.contracts import Record
from airflow_mlops.engine.data.storage import AnyPath, reaching, read_if_there, write
from airflow_mlops.exceptions import DataError

_REMOVED = "removed.json"


class Tombstone(Record):
    """A removed revision. ``needed_by`` names the snapshots that were built from it, as ``model/snapshot id``."""

    revision: str
    removed_at: datetime
    needed_by: tuple[str, ...]
    source: str

    def __str__(self) -> str:
        """Say when it went, and whom that hits."""
        needed = f"; needed by snapshot {', '.join(self.needed_by)}" if self.needed_by else "; no snapshot needed it"
        return f"removed by retention on {self.removed_at:%Y-%m-%d %H:%M} UTC{needed}"


_STONES = TypeAdapter(dict[str, Tombstone])


def tombstones(folder: AnyPath) -> dict[str, Tombstone]:
    """Return revision → tombstone of the partition in ``folder``.

    :raises DataError: when what is written there is damaged.
    """
    path = folder / _REMOVED
    with reaching(path):
        [contents] = read_if_there([path])
    try:
        return _STONES.validate_json(contents or "{}")
    except ValidationError as error:
        raise DataError(
            "The list of what retention removed cannot be read.",
            detail=f"{path}: {error.error_count()} problems, the first: {error.errors()[0]['msg']}",
            hint="Remove the file, or restore it from a backup. It says only which revisions went, and when.",
        ) from None


def mark_removed(folder: AnyPath, stones: list[Tombstone]) -> None:
    """Write down that revisions are about to be removed."""
    marked = {**tombstones(folder), **{stone.revision: stone for stone in stones}}
    contents = {name: stone.model_dump(mode="json") for name, stone in sorted(marked.items())}
    with reaching(folder):
        write(folder / _REMOVED, json.dumps(contents, indent=2))
