"""The files of feature rows: the current one of each day, and those that it replaced.

::

    features/<view>/<day>.parquet                             what counts now
    features/<view>/superseded/<day>.<revision>.parquet       what counted before
    features/<view>/partitioning.json                         how time is cut into files, if not by the UTC day

A revision is the start of the SHA-256 of a file. What a snapshot was built from stays until no kept
model needs it; see :mod:`airflow_mlops.engine.sweep`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from airflow_mlops.engine.data.files import sha256
from airflow_mlops.engine.data.parquet import listing, readable
from airflow_mlops.engine.data.shared import fetch, publishing
from airflow_mlops.engine.features.project.schema import PARTITIONING, feature_file, partitioning_of
from airflow_mlops.engine.locks import locked
from airflow_mlops.exceptions import ConfigError, DataError, TransientError
from airflow_mlops.partitioning import DAILY, Partitioning

Pins = Mapping[str, Mapping[str, str]]
"""Feature view → day → revision of its file."""

Paths = Mapping[str, Mapping[str, Path]]
"""Feature view → day → where its rows are."""


def revision_of(file: Path) -> str:
    """Return the revision that a file of rows is.

    :raises DataError: when it cannot be read.
    """
    with readable(file):
        return sha256(file)[:16]


def superseded_file(home: Path, view: str, key: str, revision: str) -> Path:
    """Return where a revision of a day's rows lies once another one has replaced it."""
    return feature_file(home, view, key).parent / "superseded" / f"{key}.{revision}.parquet"


def write_day(home: Path, view: str, key: str, rows: pa.Table, partitioning: Partitioning = DAILY) -> None:
    """Make rows the current ones of a partition. What they replace is kept; the same bytes change nothing.

    :raises ConfigError: when the files of the view are of other partitions.
    """
    file = feature_file(home, view, key)
    if (known := partitioning_of(home, view)) != partitioning:
        if known != DAILY or any(file.parent.glob("[!.]*.parquet")):
            raise ConfigError(
                f"The rows of feature view {view!r} are cut into other partitions already.",
                detail=f"{file.parent} is {known}, the pipeline's source is {partitioning}",
                hint="Give the view another name, or let one pipeline compute it.",
            )
        with publishing(file.with_name(PARTITIONING)) as made:
            made.write_text(json.dumps(asdict(partitioning)))
    with locked(file.parent / ".lock"), publishing(file) as made:
        pq.write_table(rows, made)
        fetch(file)
        if file.exists() and (replaced := revision_of(file)) != revision_of(made):
            with publishing(superseded_file(home, view, key, replaced)) as copy:
                shutil.copyfile(file, copy)


def current_pins(home: Path, files: Iterable[tuple[str, str]]) -> dict[str, dict[str, str]]:
    """Return the revisions that are current, of some days' files, as (feature view, day).

    :raises DataError: when a file cannot be read.
    """
    pins: dict[str, dict[str, str]] = {}
    for view, day in sorted(files):
        pins.setdefault(view, {})[day] = revision_of(feature_file(home, view, day))
    return pins


def check_unchanged(home: Path, pins: Pins) -> None:
    """Refuse what was read from files that were replaced while it was read.

    :raises TransientError: naming them.
    """
    now = current_pins(home, ((view, day) for view, days in pins.items() for day in days))
    if changed := [f"{view} {day}" for view, days in pins.items() for day in days if now[view][day] != days[day]]:
        raise TransientError(
            f"The rows of {len(changed)} days were computed again while they were read.",
            detail=listing(changed),
            hint="Try again once the features DAG is done.",
        )


def pinned_paths(home: Path, pins: Pins) -> dict[str, dict[str, Path]]:
    """Return where the files of some revisions are now: current, or superseded since.

    :raises DataError: naming those that are gone, or are not what they were.
    """
    paths: dict[str, dict[str, Path]] = {}
    gone = []
    for view, days in pins.items():
        for day, revision in days.items():
            places = feature_file(home, view, day), superseded_file(home, view, day, revision)
            found = [place for place in places if _is(place, revision)]
            if not found:
                fetch(places[1])
                found = [place for place in places[1:] if _is(place, revision)]
            if found:
                paths.setdefault(view, {})[day] = found[0]
            else:
                gone.append(f"{view} {day} {revision}")
    if gone:
        raise DataError(
            f"{len(gone)} of the feature files that were pinned are gone.",
            detail=f"neither current nor superseded in {home / 'features'}: {listing(gone)}",
            hint="Put them back from a backup. With the code and the partitions of then, the features DAG computes "
            "the same bytes again.",
        )
    return paths


def _is(file: Path, revision: str) -> bool:
    return file.exists() and revision_of(file) == revision
