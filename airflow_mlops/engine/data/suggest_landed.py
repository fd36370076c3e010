"""A first suite and a first contract, drawn from files as they landed: before anything can be sealed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from airflow_mlops.contracts import Profile
from airflow_mlops.engine.data import storage
from airflow_mlops.engine.data.fitting import common, fit
from airflow_mlops.engine.data.landed import found
from airflow_mlops.engine.data.parquet import parquet_files, readable
from airflow_mlops.engine.data.profiles import merge, null_rate, profile_table
from airflow_mlops.engine.data.reading import Reader
from airflow_mlops.engine.data.staging import stage
from airflow_mlops.exceptions import DataError
from airflow_mlops.formats import format_of

if TYPE_CHECKING:
    from airflow_mlops.engine.data.storage import AnyPath
    from airflow_mlops.feeds import Partitions


def profiles_of_landed(folder: Path, options: Mapping[str, Any] | None = None) -> list[Profile]:
    """Return a profile of each folder of files below a feed's folder, or of each file where all lie in one.

    :param folder: Whatever its layout.
    :param options: Of the reader, for CSV and JSON.
    :raises DataError: when there are no files of rows, or they cannot be read.
    """
    with readable(folder):
        files = [entry.path for entry in found(folder, "**/*")[1] if format_of(entry.path.name)]
    if not files:
        raise DataError(
            "There are no files of rows.",
            detail=f"in {folder} and below; readable are .parquet, .csv, .tsv, .json, .jsonl and .orc, also with .gz",
            hint="Name the folder that the upstream lands in.",
        )
    groups: dict[str, list[Path]] = defaultdict(list)
    apart = len({file.parent for file in files}) == 1
    for file in files:
        groups[str(file if apart else file.parent)].append(file)
    with Reader(options) as reader:
        schema = common({str(file): reader.schema(file) for file in files})
        profiles = [_profile(folder.name, n, group, schema, reader) for n, group in enumerate(groups.values())]
    return [profile for profile in profiles if profile.rows] or profiles


def profiles_of_feed(feed: Partitions, locate: Callable[[str], AnyPath], most: int = 60) -> list[Profile]:
    """Return a profile of each partition that has landed of a feed, as it will be sealed: columns of its path included.

    :param locate: Turns the ``uri`` of a feed into a path.
    :param most: Of so many partitions, the oldest.
    :raises DataError: when none has landed, or one cannot be read.
    """
    profiles: list[Profile] = []
    place = locate(feed.uri)
    until = min(feed.ends_at or datetime.max.replace(tzinfo=UTC), datetime.now(UTC))
    with TemporaryDirectory() as folder:
        for key in feed.partitioning.keys(feed.starts_at, until):
            patterns = feed.placed.of(key, feed.partitioning)
            if not all(_has_rows(place, pattern) for pattern in patterns):
                continue
            staged = stage(
                place,
                key,
                Path(folder) / key,
                event_time=feed.event_time,
                layout=feed.placed,
                partitioning=feed.partitioning,
                naive_times=feed.naive_times,
                options=feed.reader,
            )
            made = locate(staged.uri) if "://" in staged.uri else Path(staged.uri)
            with storage.on_disk(parquet_files(made)) as files:
                rows = pa.concat_tables([pq.read_table(file, partitioning=None) for file in files])
            profiles.append(profile_table(rows, dataset=feed.dataset, key=key, revision="landed"))
            if len(profiles) == most:
                break
    if not profiles:
        raise DataError(
            f"No partition of {feed.dataset!r} has landed.",
            detail=f"{place}, layout {feed.layout!r}, from {feed.start}",
            hint="See whether uri, layout and start of the feed are right.",
        )
    return [profile for profile in profiles if profile.rows] or profiles


def _has_rows(place: AnyPath, pattern: str) -> bool:
    with readable(place):
        try:
            return any(format_of(entry.path.name) for entry in found(place, pattern)[1])
        except FileNotFoundError:
            return False


def suggest_contract(profiles: Sequence[Profile]) -> str:
    """Return the source of a function that returns a contract of what was seen, to be read and edited."""
    whole = merge(profiles)
    lines = [
        "from airflow_mlops.engine.data.checks import Column, SchemaContract",
        "",
        "",
        f"def {_name(whole.dataset)}() -> SchemaContract:",
        f'    """Drawn from {whole.rows} rows: read and edit."""',
        "    return SchemaContract(",
        '        version="1",',
        "        columns={",
    ]
    always = [name for name in whole.columns if all(name in profile.columns for profile in profiles)]
    for name in always:
        column = whole.columns[name]
        kind = "string" if column.type == "null" else column.type
        nullable = ", nullable=False" if not null_rate(column) else ""
        lines.append(f'            "{name}": Column("{kind}"{nullable}),')
    return "\n".join([*lines, "        },", "    )", ""])


def _profile(dataset: str, number: int, files: Sequence[Path], schema: pa.Schema, reader: Reader) -> Profile:
    there = {name for file in files for name in reader.schema(file).names}
    schema = pa.schema([field for field in schema if field.name in there])
    tables = [fit(table, schema, zone="UTC", where=str(file)) for file in files for table in reader.batches(file)]
    rows = pa.concat_tables(tables) if tables else schema.empty_table()
    return profile_table(rows, dataset=dataset, key=str(number), revision="landed")


def _name(dataset: str) -> str:
    made = "".join(letter if letter.isalnum() else "_" for letter in dataset)
    return made if made[:1].isalpha() else f"feed_{made}"
