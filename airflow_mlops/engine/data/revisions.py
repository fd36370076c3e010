"""The files of one partition: its revisions, each with a manifest, and the one that counts."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import ValidationError

from airflow_mlops.contracts import Partition
from airflow_mlops.engine.data import storage
from airflow_mlops.engine.data.parquet import readable
from airflow_mlops.engine.data.storage import AnyPath
from airflow_mlops.exceptions import DataError

CURRENT = "current.json"
"""A copy of the manifest of the revision that counts."""

MANIFEST = "manifest.json"
"""Lies in every revision's folder; a folder without one is no revision."""

_DECIDED = "decided.json"


def load(manifest: AnyPath, folder: AnyPath) -> Partition | None:
    """Read a manifest of the partition in ``folder``; None when it is not there."""
    with readable(manifest):
        [contents] = storage.read_if_there([manifest])
    return None if contents is None else parse(contents, manifest, folder)


def parse(contents: bytes, manifest: AnyPath, folder: AnyPath) -> Partition:
    """Read a manifest. The files lie beside it, wherever the store is mounted today."""
    try:
        partition = Partition.from_json(contents)
    except ValidationError as error:
        raise DataError(
            "The manifest of a partition cannot be read.",
            detail=f"{manifest}: {error.error_count()} problems, the first: {error.errors()[0]['msg']}",
            hint="Seal the day again: clear the features DAG's run for it.",
        ) from None
    return partition.model_copy(update={"uri": str(folder / partition.revision)})


def publish(partition: Partition, made: Path, folder: AnyPath) -> Partition:
    """Make a revision visible, unless it is there already, and return what its manifest says.

    Bytes that came again are the same revision: the receipt of the first time stays, and a seal without a suite does
    not undo one with it.
    """
    final = folder / partition.revision
    try:
        known = load(final / MANIFEST, folder)
    except DataError:  # damaged
        known = None
        storage.remove(final)
    if known is not None:
        suite_hash = partition.suite_hash or known.suite_hash
        partition = partition.model_copy(update={"receipt": known.receipt, "suite_hash": suite_hash})
    if known is not None and _intact(partition, final):
        if known != partition:
            storage.write(final / MANIFEST, partition.to_json())
        return partition
    if known is not None:
        storage.remove(final)
    (made / MANIFEST).write_text(partition.to_json())
    try:
        storage.publish(made, final, last=MANIFEST)
    except OSError:
        if load(final / MANIFEST, folder) is None:
            raise
        return publish(partition, made, folder)  # another writer sealed the same bytes just now
    return partition


def _intact(partition: Partition, final: AnyPath) -> bool:
    try:
        return all(storage.digest(final / file.name) == file.sha256 for file in partition.files)
    except FileNotFoundError:
        return False


def make_current(partition: Partition, folder: AnyPath) -> None:
    """Let a revision be the one that counts; nothing is written when it is already."""
    manifest = partition.to_json()
    [present] = storage.read_if_there([folder / CURRENT])
    if present != manifest.encode():
        storage.write(folder / CURRENT, manifest)


def mark_decided(folder: AnyPath, pointer: str) -> None:
    """Write down, once, that the ledger's ``pointer`` decides on the partition in ``folder``."""
    if not is_decided(folder):
        storage.write(folder / _DECIDED, json.dumps({"pointer": pointer}))


def is_decided(folder: AnyPath) -> bool:
    """Return whether a ledger ever decided on the partition in ``folder``."""
    with readable(folder):
        return storage.read_if_there([folder / _DECIDED]) != [None]
