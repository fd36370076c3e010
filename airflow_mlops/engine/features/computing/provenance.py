"""From what each day's features were computed: kept in the Parquet files' own metadata, compared with what is there.

``airflow_mlops.inputs`` holds dataset → partition key → revision; ``airflow_mlops.excluded`` holds the first day of
the history that was read and, by dataset, the windows of it that were left out; ``airflow_mlops.code`` the identity
of the transform's code.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from airflow_mlops.contracts import Exclusion, Partition
from airflow_mlops.engine.data.complete import Span
from airflow_mlops.engine.data.exclusions import exclusions
from airflow_mlops.engine.data.parquet import readable
from airflow_mlops.engine.data.partitions import PartitionStore
from airflow_mlops.engine.features.computing.code import Code
from airflow_mlops.engine.features.project.schema import feature_file, partitioning_of
from airflow_mlops.engine.ledger import Ledger

_INPUTS, _EXCLUDED, _CODE = b"airflow_mlops.inputs", b"airflow_mlops.excluded", b"airflow_mlops.code"

ByFile = Mapping[tuple[str, str], "Inputs | None"]
"""(feature view, key) → its inputs; None when the file does not say."""

Revisions = Mapping[str, Mapping[str, str]]
"""Dataset → partition key → revision."""


class Inputs(NamedTuple):
    """What a day of features was computed from.

    ``excluded`` is dataset → windows left out, as ``[start, end)`` in ISO, cut to the history from ``since`` to
    ``until``, the end of the partition; ``code`` says by which code, see
    :func:`~airflow_mlops.engine.features.computing.code.code_identity`.
    """

    since: datetime
    until: datetime
    partitions: Revisions
    excluded: Mapping[str, Sequence[Sequence[str]]]
    code: str

    @classmethod
    def of(
        cls,
        since: datetime,
        until: datetime,
        used: Mapping[str, Sequence[Partition]],
        excluded: Mapping[str, list[Exclusion]],
        code: str,
    ) -> Inputs:
        """Return the inputs of what was computed from partitions that hold ``[since, until)``."""
        left_out = {name: windows(excluded.get(name, ()), since, until) for name in used}
        return cls(since, until, revisions(used), left_out, code)

    def written_into(self, table: pa.Table) -> pa.Table:
        """Return a table whose Parquet file will say what it was computed from."""
        midnight = self.since.time() == time()
        since = str(self.since.date()) if midnight else self.since.isoformat()
        excluded = {"since": since, "windows": self.excluded}
        return table.replace_schema_metadata(
            {_INPUTS: _json(self.partitions), _EXCLUDED: _json(excluded), _CODE: self.code.encode()}
        )


def read_inputs(home: Path, views: Iterable[str], *span: date | datetime) -> dict[tuple[str, str], Inputs | None]:
    """Return (view, key) → its inputs, for the files there are; None for a file that does not say.

    Only the footers of the files are read.

    :param span: Two bounds, as :meth:`~airflow_mlops.partitioning.Partitioning.span` takes them.
    """
    known: dict[tuple[str | bytes, ...], Inputs] = {}
    found = {}
    for view in views:
        partitioning = partitioning_of(home, view)
        for key in partitioning.keys(*partitioning.span(*span)):
            if (file := feature_file(home, view, key)).exists():
                found[view, key] = _read(file, key, partitioning.interval(key)[1], known)
    return found


def stale_days(
    home: Path,
    store: PartitionStore,
    views: Sequence[str],
    first: date | datetime,
    last: date | datetime,
    *,
    ledger: Ledger | None,
    code: Code | None = None,
) -> list[str]:
    """Return the days whose features were computed from partitions that were replaced since, oldest first.

    So are those that were computed before a window of their history was excluded, or an exclusion lifted, and those
    that other code computed. Days that were never computed are not among them.

    :param first, last: Two bounds, as :meth:`~airflow_mlops.partitioning.Partitioning.span` takes them.
    :param ledger: Where the exclusions are; None when there is no ledger.
    :param code: Identity of the code of now; None where it is not known, and not compared.
    :raises TransientError: when the ledger does not answer.
    """
    inputs = read_inputs(home, views, first, last)
    excluded = {name: exclusions(ledger, name) if ledger else [] for name in pins(inputs)}
    stale = compare(inputs, revisions(list_used(store, inputs)), excluded)
    return sorted({*stale, *other_code(inputs, code)}) if code is not None else stale


def other_code(inputs: ByFile, code: Code) -> list[str]:
    """Return the days whose features other code computed, as far as they say."""
    return sorted({day for (view, day), found in inputs.items() if found is not None and found.code != code.of(view)})


def compare(inputs: ByFile, present: Revisions, excluded: Mapping[str, list[Exclusion]]) -> list[str]:
    """Return the days whose features were not computed from the revisions ``present``, with ``excluded`` left out.

    A partition that is not among them any more is compared with the one that the newest day used.
    """
    expected = {name: {**kept, **present.get(name, {})} for name, kept in pins(inputs).items()}
    stale = set()
    for (_, day), found in inputs.items():
        if (
            found is None
            or any(
                expected[name][key] != revision
                for name, keys in found.partitions.items()
                for key, revision in keys.items()
            )
            or other_windows(found, excluded)
        ):
            stale.add(day)
    return sorted(stale)


def other_windows(found: Inputs, excluded: Mapping[str, list[Exclusion]]) -> bool:
    """Return whether some features were computed with other windows left out than are excluded now."""
    return any(
        kept != windows(excluded.get(name, ()), found.since, found.until) for name, kept in found.excluded.items()
    )


def list_used(store: PartitionStore, inputs: ByFile, *more: tuple[str, Span]) -> dict[str, list[Partition]]:
    """Return what there is now of the partitions that some features were computed from; one listing a dataset.

    :param more: Other spans of datasets, to list with them.
    """
    spans: dict[str, Span] = {}
    for name, keys in pins(inputs).items():
        if keys:
            interval = store.partitioning(name).interval
            spans[name] = interval(min(keys))[0], interval(max(keys))[1]
    for name, span in more:
        known = spans.get(name, span)
        spans[name] = min(known[0], span[0]), max(known[1], span[1])
    return {name: store.list(name, *span) for name, span in spans.items()}


def revisions(partitions: Mapping[str, Iterable[Partition]]) -> Revisions:
    """Return dataset → partition key → revision."""
    return {name: {one.key: one.revision for one in found} for name, found in partitions.items()}


def pins(inputs: ByFile) -> dict[str, dict[str, str]]:
    """Return all partitions that some features were computed from; of several revisions that of the newest day."""
    found: dict[str, dict[str, str]] = {}
    for _, one in sorted(inputs.items(), key=lambda item: item[0][1]):
        for name, keys in one.partitions.items() if one is not None else ():
            found.setdefault(name, {}).update(keys)
    return found


def windows(excluded: Iterable[Exclusion], start: datetime, end: datetime) -> list[list[str]]:
    """Return what exclusions leave out of a history from ``start`` to ``end``: merged, in ISO."""
    merged: list[list[datetime]] = []
    for one in sorted(excluded, key=lambda exclusion: exclusion.start):
        first, last = max(one.start, start), min(one.end, end)
        if first >= last:
            continue
        if merged and first <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], last)
        else:
            merged.append([first, last])
    return [[first.isoformat(), last.isoformat()] for first, last in merged]


def read_code(file: Path) -> str | None:
    """Return the identity of the code that computed a file of rows; None when it does not say."""
    with readable(file):
        said = (pq.read_metadata(file).metadata or {}).get(_CODE)
    return None if said is None else said.decode()


def _read(file: Path, key: str, until: datetime, known: dict[tuple[str | bytes, ...], Inputs]) -> Inputs | None:
    """Return a file's inputs, the same object for files that say the same: the views of a partition do."""
    with readable(file):
        metadata = pq.read_metadata(file).metadata or {}
    if not {_INPUTS, _EXCLUDED, _CODE} <= metadata.keys():
        return None
    said = key, metadata[_INPUTS], metadata[_EXCLUDED], metadata[_CODE]
    if said not in known:
        excluded = json.loads(metadata[_EXCLUDED])
        since = datetime.fromisoformat(excluded["since"])
        since = since if since.tzinfo else since.replace(tzinfo=UTC)
        known[said] = Inputs(since, until, json.loads(metadata[_INPUTS]), excluded["windows"], metadata[_CODE].decode())
    return known[said]


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
