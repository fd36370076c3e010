"""Rows of files in the formats that people land: Parquet, CSV, JSON lines and ORC, a batch at a time."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from airflow_mlops.engine.data.csv_faults import fault
from airflow_mlops.engine.data.parquet import readable
from airflow_mlops.exceptions import ConfigError, DataError
from airflow_mlops.formats import format_of

_BATCH_ROWS = 262_144
# What the folders say is not in the file: the layout knows what becomes a column.
_CSV: dict[str, Any] = {
    "hive_partitioning": False,
    "header": True,
    "skip": 0,
    "quote": '"',
    "escape": '"',
    "strict_mode": True,
    "sample_size": -1,
    # Not times: which of 01/02 is the month would be guessed file by file.
    "auto_type_candidates": ["BOOLEAN", "BIGINT", "DOUBLE", "VARCHAR"],
}
_JSON: dict[str, Any] = {"hive_partitioning": False, "format": "newline_delimited", "sample_size": -1}
_NUMBERS = frozenset({"BIGINT", "DOUBLE", "HUGEINT"})
_FAULTS = {
    "Malformed JSON": "a line is no JSON, or cut off",
    "uplicate": "a name is there twice",
    "onver": "a value is of another type than its column",
    "transform": "a value is of another type than its column",
}
"""What DuckDB's words have, and what is told in their place."""
_ZONE = r"(Z|[+-]\d{2}(:?\d{2})?)"
_ISO = rf"^\d{{4}}-\d{{2}}-\d{{2}}([ T]\d{{2}}:\d{{2}}(:\d{{2}}([.]\d+)?)?{_ZONE}?)?$"
_DAY = 10
"""Characters of a day in ISO 8601."""
_DIGITS = 15
"""That a float surely keeps."""


class Reader:
    """Reads files of one feed. Use it in a ``with`` block: files of text are read by one DuckDB, and looked at once.

    :param options: For CSV and JSON: as DuckDB's ``read_csv`` and ``read_json`` take them.
    :param types: Column → DuckDB type that is known, for CSV.
    :param zone: Of times without one.
    """

    def __init__(
        self, options: Mapping[str, Any] | None = None, types: Mapping[str, str] | None = None, zone: str = "UTC"
    ) -> None:
        self._options, self._types, self._zone = options or {}, types or {}, zone
        self._seen: dict[Path, dict[str, str]] = {}
        self._connection: duckdb.DuckDBPyConnection | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def schema(self, file: Path) -> pa.Schema:
        """Return the columns of a file with their Arrow types; of CSV and JSON as all of their rows suggest.

        :raises DataError: when it cannot be read.
        """
        kind = format_of(file.name)
        with readable(file):
            if kind == "parquet":
                return pq.read_schema(file).remove_metadata()
            if kind == "orc":
                from pyarrow import orc

                return orc.ORCFile(file).schema.remove_metadata()
        with self._text(file) as reader:
            return reader.schema

    def batches(self, file: Path) -> Iterator[pa.Table]:
        """Yield the rows of a file.

        :raises DataError: when it cannot be read.
        """
        kind = format_of(file.name)
        if kind == "parquet":
            with readable(file), pq.ParquetFile(file, page_checksum_verification=True, pre_buffer=False) as parquet:
                for batch in parquet.iter_batches(_BATCH_ROWS):
                    yield pa.Table.from_batches([batch])
        elif kind == "orc":
            from pyarrow import orc

            with readable(file):
                stripes = orc.ORCFile(file)
                for n in range(stripes.nstripes):
                    yield pa.Table.from_batches([stripes.read_stripe(n)])
        else:
            with self._text(file) as reader:
                for batch in reader:
                    yield pa.Table.from_batches([batch])

    @contextmanager
    def _text(self, file: Path) -> Iterator[pa.RecordBatchReader]:
        """Open a file of text as a stream of Arrow batches."""
        if not file.stat().st_size:
            raise DataError(
                "A file is empty.",
                detail=f"{file} has no byte",
                hint="See why the upstream landed nothing: even no rows have a header.",
            )
        if self._connection is None:
            self._connection = duckdb.connect()
            self._connection.execute("SET TimeZone = ?", [self._zone])
        with _said(file, self._options):
            text = _Text(file, self._options, self._types, self._connection)
            rows = text.as_seen(self._seen[file]) if file in self._seen else text.rows()
            self._seen[file] = {name: str(kind) for name, kind in zip(rows.columns, rows.types, strict=True)}
            with rows.to_arrow_reader(_BATCH_ROWS) as reader:
                yield reader


class _Text:
    """A file of text, as DuckDB reads it."""

    def __init__(
        self, file: Path, options: Mapping[str, Any], types: Mapping[str, str], connection: duckdb.DuckDBPyConnection
    ) -> None:
        self.file, self.options, self.types, self.connection = file, options, types, connection

    @property
    def _csv(self) -> dict[str, Any]:
        return {**_CSV, "delim": "\t" if ".tsv" in self.file.suffixes else ","}

    def as_seen(self, kinds: Mapping[str, str]) -> duckdb.DuckDBPyRelation:
        """Return the rows of a file whose columns were looked at before."""
        if format_of(self.file.name) == "json":
            return self._call("read_json", {**_JSON, "columns": kinds})
        return self.connection.sql(
            f"SELECT * FROM read_csv({self._arguments({**self._csv, **self.options, 'types': kinds})})"
        )

    def rows(self) -> duckdb.DuckDBPyRelation:
        """Return the rows, with the types that all of them suggest."""
        if format_of(self.file.name) == "json":
            rows = self._call("read_json", _JSON)
            found = {name: str(kind) for name, kind in zip(rows.columns, rows.types, strict=True)}
            # Objects in some rows, texts in others: as a text, a text stays what it was.
            kinds = {name: "VARCHAR" if kind == "JSON" else kind for name, kind in found.items()}
            tests = {name: _if_times(_quoted(name)) for name, kind in found.items() if kind == "VARCHAR"}
            kinds |= self._types_by(tests, rows)  # what DuckDB takes for times is not all that ISO 8601 has
            return rows if kinds == found else self.as_seen(kinds)
        csv = self._csv
        rows = self._call("read_csv", csv)
        self._refuse_repeated(csv, rows.columns)
        if padded := self._meant(csv, rows):
            self.types = {**self.types, **padded}
            rows = self._call("read_csv", csv)
        if rows.types and all(str(kind) == "VARCHAR" for kind in rows.types):
            names = " AND ".join(f"{_quoted(name)} = {_literal(name)}" for name in rows.columns)
            again = rows.filter(names).aggregate("count(*)").fetchall()[0][0]
            if again:
                raise DataError(
                    "The header is there again among the rows.",
                    detail=f"{self.file}: {again} times",
                    hint="Files were put together with their headers: let the upstream land them one by one.",
                )
        return rows

    def _refuse_repeated(self, csv: Mapping[str, Any], columns: Sequence[str]) -> None:
        """Refuse a header that has a name twice: DuckDB would number them."""
        # To DuckDB, Price and price are one name.
        plain = {name: re.sub(r"_\d+$", "", name) for name in columns}
        names = {name.casefold() for name in columns}
        numbered = {name for name, base in plain.items() if base != name and base.casefold() in names}
        if not numbered or not {"names", "columns", "header"}.isdisjoint(self.options):
            return
        header = self._call("read_csv", {**csv, "header": False, "all_varchar": True}).limit(1).fetchall()[0]
        if made := numbered - {*header}:
            twice = sorted({plain[name] for name in made})
            raise DataError(
                f"A column is there twice: {', '.join(twice)}.",
                detail=f"{self.file}: its header, in which upper and lower case count as the same",
                hint="Let the upstream name its columns apart.",
            )

    def _meant(self, csv: Mapping[str, Any], rows: duckdb.DuckDBPyRelation) -> dict[str, str]:
        """Return the types of columns that are not what their values look like at first.

        A number such as 007, or with more digits than a float keeps, is a text. A text is a time if all of its values
        are, as ISO 8601 writes it.
        """
        given = {*self.types, *self.options.get("types", ()), *self.options.get("columns", ())}
        kinds = {name: str(kind) for name, kind in zip(rows.columns, rows.types, strict=True) if name not in given}
        tests = {name: _if_no_number(_quoted(name)) for name, kind in kinds.items() if kind in _NUMBERS}
        tests |= {name: _if_times(_quoted(name)) for name, kind in kinds.items() if kind == "VARCHAR"}
        return self._types_by(tests, self._call("read_csv", {**csv, "all_varchar": True}))

    @staticmethod
    def _types_by(tests: Mapping[str, str], texts: duckdb.DuckDBPyRelation) -> dict[str, str]:
        """Return the types of columns of which a test says one.

        :param tests: Column → SQL.
        """
        if not tests:
            return {}
        answers = zip(tests, texts.aggregate(", ".join(tests.values())).fetchall()[0], strict=True)
        return {name: answer for name, answer in answers if answer is not None}

    def _call(self, function: str, defaults: Mapping[str, Any]) -> duckdb.DuckDBPyRelation:
        given = {**defaults, **self.options}
        if function == "read_csv" and self.types:
            sniffed = self.connection.sql(f"SELECT * FROM {function}({self._arguments(given)}) LIMIT 0").columns
            known = {name: kind for name, kind in self.types.items() if name in sniffed}
            asked = self.options.get("types", {})
            given |= {"types": {**known, **asked}} if known and isinstance(asked, Mapping) else {}
        return self.connection.sql(f"SELECT * FROM {function}({self._arguments(given)})")

    def _arguments(self, given: Mapping[str, Any]) -> str:
        return ", ".join([_literal(str(self.file)), *(f"{name} = {_literal(value)}" for name, value in given.items())])


def _if_no_number(column: str) -> str:
    """Return the SQL for the type of a column of digits that is not one of numbers; null where it is."""
    digits = f"length(ltrim(regexp_replace({column}, '[^0-9]', '', 'g'), '0'))"
    whole = rf"regexp_matches({column}, '^-?\d{{1,18}}$')"
    padded = rf"regexp_matches({column}, '^-?0\d')"
    return f"CASE WHEN bool_or({padded} OR ({digits} > {_DIGITS} AND NOT {whole})) THEN 'VARCHAR' END"


def _if_times(column: str) -> str:
    """Return the SQL for the type of a column of texts that all are times; null where they are not."""
    return (
        f"CASE WHEN count({column}) = 0 OR bool_or(NOT regexp_matches({column}, '{_ISO}')) THEN NULL "
        f"WHEN bool_or(length({column}) > {_DAY} AND regexp_matches({column}, '{_ZONE}$')) THEN 'TIMESTAMPTZ' "
        f"WHEN bool_or(length({column}) > {_DAY}) THEN 'TIMESTAMP' ELSE 'DATE' END"
    )


@contextmanager
def _said(file: Path, options: Mapping[str, Any]) -> Iterator[None]:
    """Say in words what DuckDB has against a file."""
    try:
        yield
    except (duckdb.BinderException, duckdb.CatalogException) as error:
        raise ConfigError(
            "A file cannot be read with these options.",
            detail=f"{file}: {str(error).splitlines()[0]}",
            hint="Partitions(reader=...) takes the options of DuckDB's read_csv or read_json.",
        ) from None
    except (duckdb.Error, pa.ArrowInvalid, OSError) as error:
        what, hint = fault(file, str(error), options) if format_of(file.name) == "csv" else ("", "")
        raise DataError(
            "A file cannot be read.",
            detail=f"{file}: {what or _without_values(str(error))}",
            hint=hint or "It is cut off or damaged, or written otherwise: see Partitions(reader=...).",
        ) from None


def _without_values(said: str) -> str:
    """Return what DuckDB has against a file without its words, which quote the rows."""
    what = next((words for mark, words in _FAULTS.items() if mark in said), "it is not what its name says")
    line = re.search(r"[Ll]ine:? (\d+)", said)
    return what + (f", in line {line[1]}" if line else "")


def _literal(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_literal(str(name))}: {_literal(one)}" for name, one in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_literal, value)) + "]"
    return str(value).lower() if isinstance(value, bool | int | float) else "'" + str(value).replace("'", "''") + "'"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
