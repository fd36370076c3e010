"""Whether the upstream has landed a day."""

from __future__ import annotations

from pathlib import Path
from typing import TypedDict

from airflow_mlops.engine.data.parquet import readable
from airflow_mlops.engine.data.partitions import day_bounds

MARKER = "_SUCCESS"
"""The upstream writes it last; without it, the day is still landing."""


class Arrival(TypedDict):
    """What has landed: the folder, how many Parquet files, how many bytes."""

    uri: str
    files: int
    bytes: int


def look_for(feed: Path, key: str) -> Arrival | None:
    """Look once for a day of a feed. None means that it has not landed completely.

    :param feed: Folder with one folder a day.
    :param key: Partition key, a UTC day.
    :raises DataError: when the folder cannot be read.
    :raises ConfigError: when the key is not a day.
    """
    day_bounds(key)
    folder = feed / key
    with readable(folder):
        if not (folder / MARKER).exists():
            return None
        sizes = [path.stat().st_size for path in folder.iterdir() if path.suffix == ".parquet"]
    return {"uri": str(folder), "files": len(sizes), "bytes": sum(sizes)}
