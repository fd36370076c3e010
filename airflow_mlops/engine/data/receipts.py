"""What a partition was made of, as it landed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime

from airflow_mlops.contracts import PartitionFile, Receipt
from airflow_mlops.engine.data import storage
from airflow_mlops.engine.data.files import identity
from airflow_mlops.engine.data.parquet import readable
from airflow_mlops.engine.data.storage import AnyPath

STAGED = "_staged.json"
"""Beside staged files: where they came from, file → SHA-256, bytes, and when the newest was written.

Beside extracted ones: of the table, the identity of its rows, when they were read, and when the newest was changed."""


def receipt(
    landed: AnyPath, sources: Sequence[AnyPath], files: Sequence[PartitionFile], sha256: str, manifest: str | None
) -> Receipt:
    """Return what was received: of staged files, what landed before they were staged.

    :param sha256: Identity of ``files``.
    :param manifest: Name of the upstream's own manifest in ``landed``.
    """
    with readable(landed):
        [note] = storage.read_if_there([landed / STAGED]) if storage.is_folder(landed) else [None]
        if note is not None:
            staged = json.loads(note)
            return Receipt(
                uri=staged["uri"],
                sha256=identity(staged["files"]),
                files=len(staged["files"]),
                bytes=staged["bytes"],
                written_at=datetime.fromisoformat(staged["written_at"]),
                changed_at=_moment(staged.get("changed_at")),
            )
        return Receipt(
            uri=str(landed),
            sha256=sha256,
            files=len(files),
            bytes=sum(file.bytes for file in files),
            written_at=max((storage.modified(source) for source in sources), default=None),
            manifest_sha256=None if manifest is None else storage.digest(landed / manifest),
        )


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
