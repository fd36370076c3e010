"""How two revisions of one partition differ: in files, columns and rows; counts only, no values."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from airflow_mlops.contracts import Partition, Record
from airflow_mlops.exceptions import ConfigError, did_you_mean


class PartitionDiff(Record):
    """What changed from revision ``old`` to ``new``. Row counts by key are None when no key was given."""

    dataset: str
    key: str
    old: str
    new: str
    files_added: tuple[str, ...]
    files_removed: tuple[str, ...]
    rows_before: int
    rows_after: int
    columns_added: tuple[str, ...]
    columns_removed: tuple[str, ...]
    columns_retyped: dict[str, tuple[str, str]]
    rows_added: int | None = None
    rows_removed: int | None = None
    rows_changed: int | None = None


def compare(old: Partition, new: Partition) -> PartitionDiff:
    """Compare two manifests. A file is the same one when its name and its hash are."""
    before = {(file.name, file.sha256) for file in old.files}
    after = {(file.name, file.sha256) for file in new.files}
    retyped = {
        name: (kind, new.columns[name])
        for name, kind in old.columns.items()
        if name in new.columns and new.columns[name] != kind
    }
    return PartitionDiff(
        dataset=new.dataset,
        key=new.key,
        old=old.revision,
        new=new.revision,
        files_added=tuple(sorted(name for name, _ in after - before)),
        files_removed=tuple(sorted(name for name, _ in before - after)),
        rows_before=old.rows,
        rows_after=new.rows,
        columns_added=tuple(name for name in new.columns if name not in old.columns),
        columns_removed=tuple(name for name in old.columns if name not in new.columns),
        columns_retyped=retyped,
    )


def comparable_columns(old: Partition, new: Partition, unique: Sequence[str]) -> list[str]:
    """Return the columns that both revisions have with one type.

    :raises ConfigError: when a column of the key is not one of them.
    """
    shared = [name for name, kind in old.columns.items() if new.columns.get(name) == kind]
    for name in unique:
        if name not in shared:
            raise ConfigError(
                f"Rows cannot be matched by {name!r}.{did_you_mean(name, shared)}",
                detail=f"{old.key} of {old.dataset!r}: not in both {old.revision} and {new.revision} with one type",
                hint="Give columns in unique= that identify a row in both revisions.",
            )
    return shared


def count_rows(before: pa.Table, after: pa.Table, unique: Sequence[str]) -> dict[str, int]:
    """Count the rows that were added, removed, or changed in any of the tables' (same) columns.

    A row of ``after`` is changed when its key was there ``before``, but not the whole row; nulls and NaN equal
    themselves.

    :param unique: Columns that identify a row.
    """
    import duckdb

    key, row = ([_same(name) for name in names] for names in (unique, before.column_names))
    with duckdb.connect() as connection:
        connection.register("before", before)
        connection.register("after", after)

        def count(query: str) -> int:
            found = connection.execute(f"select count(*) from {query}").fetchone()
            assert found is not None
            return int(found[0])

        return {
            "rows_added": count(f"after a anti join before b on {' and '.join(key)}"),
            "rows_removed": count(f"before b anti join after a on {' and '.join(key)}"),
            "rows_changed": count(
                f"(select * from after a semi join before b on {' and '.join(key)}) a "
                f"anti join before b on {' and '.join(row)}"
            ),
        }


def _same(column: str) -> str:
    name = '"' + column.replace('"', '""') + '"'
    return f"a.{name} is not distinct from b.{name}"
