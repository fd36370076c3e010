"""PostgreSQL: its types are known before a row is read, and ``COPY`` sends rows as fast as the server has them.

A statement sees one snapshot of the table, whatever is written meanwhile.
"""

from __future__ import annotations

import contextlib
import io
import os
import queue
import re
import socket
import threading
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import pyarrow as pa
from pyarrow import csv

from airflow_mlops.engine.data.fitting import TIME
from airflow_mlops.engine.data.parquet import listing
from airflow_mlops.engine.data.tables.query import Bound
from airflow_mlops.exceptions import ConfigError, DataError

_TYPES: Mapping[int, pa.DataType] = {
    16: pa.bool_(),
    17: pa.binary(),
    **dict.fromkeys((18, 19, 25, 114, 142, 650, 774, 829, 869, 1042, 1043, 2950, 3802), pa.string()),
    20: pa.int64(),
    21: pa.int16(),
    23: pa.int32(),
    26: pa.int64(),
    700: pa.float32(),
    701: pa.float64(),
    1082: pa.date32(),
    1083: pa.time64("us"),
    1114: pa.timestamp("us"),
    1184: TIME,
}
"""OID → Arrow type. Text are also names, JSON, XML, network addresses and UUIDs."""

_BYTES, NUMERIC = 17, 1700
_DIGITS = 38
_COPY_SINCE = 90_000
"""The server version that Redshift says is 80002: it speaks the protocol, and has no COPY to a client."""

_BLOCK = 8 << 20
_AHEAD = 2
_PATIENCE = 5
_SESSION = (
    "SET TRANSACTION READ ONLY; SET LOCAL timezone = 'UTC'; SET LOCAL datestyle = 'ISO, YMD'; "
    "SET LOCAL extra_float_digits = 3; SET LOCAL bytea_output = 'hex'; "
    # So that the same rows come in the same order.
    "SET LOCAL synchronize_seqscans = off; SET LOCAL max_parallel_workers_per_gather = 0"
)


class Described(NamedTuple):
    """A column of a statement: its name, Arrow type (None: no match), its OID, and whether it is a numeric."""

    name: str
    type: pa.DataType | None
    oid: int


def copies(connection: Any) -> bool:
    """Return whether rows can be had by ``COPY``: of PostgreSQL itself, by psycopg 3."""
    return _is_psycopg3(connection) and connection.info.server_version >= _COPY_SINCE


def cursor_of(connection: Any, **how: Any) -> Any:
    """Return a cursor whose rows are tuples, whatever the connection was told."""
    if _is_psycopg3(connection):
        from psycopg.rows import tuple_row

        return connection.cursor(row_factory=tuple_row, **how)
    from psycopg2.extensions import cursor

    return connection.cursor(cursor_factory=cursor, **how)


def _is_psycopg3(connection: Any) -> bool:
    return type(connection).__module__.partition(".")[0] == "psycopg"


def begin(connection: Any) -> None:
    """Begin a transaction that only reads, and in which types are written in one way."""
    connection.execute(_SESSION)


def described(connection: Any, bound: Bound) -> list[Described]:
    """Return the columns of a statement, without a row of it."""
    with cursor_of(connection) as cursor:
        cursor.execute(bound.text, bound.parameters)
        columns = list(cursor.description)
        found = [_described(column) for column in columns]
        strange = [one.oid for one in found if one.type is None and one.oid != NUMERIC]
        if strange and connection.info.server_version >= _COPY_SINCE:
            cursor.execute("SELECT oid, typtype = 'e' OR typcategory = 'S' FROM pg_type WHERE oid = ANY(%s)", [strange])
            texts = {int(oid) for oid, is_text in cursor.fetchall() if is_text}
            found = [one._replace(type=pa.string()) if one.oid in texts else one for one in found]
        return found


def schema_of(
    connection: Any, columns: list[Described], declared: Mapping[str, pa.DataType], where: str
) -> tuple[pa.Schema, list[str]]:
    """Return what the columns become in Arrow, and which of them come as bytes in hex.

    :param declared: Columns of the contract. It decides what a numeric of any number of digits becomes, and may take
        for text what Arrow has no match for.
    :raises ConfigError: when there is no match for a column.
    """
    fields, wrong = [], []
    for name, known, oid in columns:
        wish, kind = declared.get(name), known
        number = wish is not None and (pa.types.is_decimal(wish) or pa.types.is_floating(wish))
        if kind is None and wish is not None and (pa.types.is_string(wish) or (oid == NUMERIC and number)):
            kind = wish
        if kind is None:
            wrong.append((name, oid))
        fields.append(pa.field(name, kind or pa.null()))
    if wrong:
        names = ", ".join(f"{name!r} ({_type_name(connection, oid)})" for name, oid in wrong)
        raise ConfigError(
            f"Arrow has no match for the type of {listing([repr(name) for name, _ in wrong])}.",
            detail=f"{where}: {names}",
            hint="Leave it out with columns=[...]; or cast it in a query: amount::numeric(12, 2), tags::text; or "
            "declare it in the contract: a numeric as decimal128(12, 2) or double, anything else as string.",
        )
    return pa.schema(fields), [one.name for one in columns if one.oid == _BYTES]


def copied(connection: Any, bound: Bound, schema: pa.Schema, in_hex: list[str], where: str) -> Iterator[pa.Table]:
    """Yield the rows of a statement, read by a thread of their own while these are worked on.

    :raises DataError: when Arrow cannot hold a value.
    """
    from psycopg import ClientCursor

    merged = ClientCursor(connection).mogrify(bound.text, bound.parameters)  # COPY takes no parameters of the server's
    rows = _Copy(connection, f"COPY ({merged}) TO STDOUT (FORMAT csv, HEADER, ENCODING 'UTF8')")
    batches: queue.Queue[Any] = queue.Queue(_AHEAD)
    reading = threading.Thread(target=_read, args=(rows, schema, in_hex, batches), daemon=True)
    reading.start()
    try:
        while (batch := batches.get()) is not None:  # a wait that a signal ends: the task may be killed
            if isinstance(batch, pa.ArrowInvalid):
                raise _unfit(batch, schema, where)
            if isinstance(batch, Exception):
                raise batch
            yield pa.Table.from_batches([_decoded(batch, schema, in_hex)])
    finally:
        rows.stop()
        while reading.is_alive():
            with contextlib.suppress(queue.Empty):
                batches.get(timeout=0.05)


class _Copy:
    """What ``COPY`` sends, as a file to read. A row at a time comes; none is kept as a Python object."""

    closed = False

    def __init__(self, connection: Any, statement: str) -> None:
        self._connection, self._pgconn = connection, connection.pgconn
        self._statement: str | None = statement
        self._left, self._done, self._stopped = b"", False, False
        self._reading = threading.Lock()

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        pass

    def read(self, size: int) -> bytes:
        """Return so many bytes, fewer at the end only."""
        buffer = io.BytesIO()
        count = buffer.write(self._left)
        get, write = self._pgconn.get_copy_data, buffer.write
        with self._reading:
            self._begin()
            while count < size and not self._done and not self._stopped:
                sent, row = get(0)
                if sent > 0:
                    count += write(row)
                else:
                    self._done = True
                    self._finish()
        data = buffer.getvalue()
        self._left = data[size:]
        return data[:size]

    def stop(self) -> None:
        """Read no further: have the server stop, and wait until nobody reads."""
        self._stopped = True
        if not self._done:
            with contextlib.suppress(Exception):
                self._connection.cancel_safe(timeout=_PATIENCE)
        if not self._reading.acquire(timeout=_PATIENCE):
            # Nobody answers: only the end of the connection ends the wait for it.
            with socket.socket(fileno=os.dup(self._pgconn.socket)) as line, contextlib.suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)
            self._reading.acquire()
        self._reading.release()

    def _begin(self) -> None:
        """Send the statement, the first time; the server answers with its first rows."""
        from psycopg import pq

        if self._statement is None or self._stopped:
            return
        result, self._statement = self._pgconn.exec_(self._statement.encode()), None
        if result.status != pq.ExecStatus.COPY_OUT:
            self._done = True
            raise _error(self._connection, result)

    def _finish(self) -> None:
        """See that all has come: without this, a connection that was cut would look like the end of the rows."""
        from psycopg import pq

        while (result := self._pgconn.get_result()) is not None:
            if result.status != pq.ExecStatus.COMMAND_OK:
                raise _error(self._connection, result)


def _error(connection: Any, result: Any) -> Exception:
    from psycopg import errors

    error: Exception = errors.error_from_result(result, encoding=connection.info.encoding)
    return error


def _read(rows: _Copy, schema: pa.Schema, in_hex: list[str], batches: queue.Queue[Any]) -> None:
    """Parse what comes; an error is handed over as the last of the batches."""
    types = {field.name: pa.string() if field.name in in_hex else field.type for field in schema}
    try:
        reader = csv.open_csv(
            pa.PythonFile(rows, mode="r"),
            read_options=csv.ReadOptions(block_size=_BLOCK),
            parse_options=csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False),
            convert_options=csv.ConvertOptions(
                column_types=types,
                null_values=[""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
                true_values=["t"],
                false_values=["f"],
            ),
        )
        for batch in reader:
            batches.put(batch)
        batches.put(None)
    except Exception as error:
        batches.put(error)


def _decoded(batch: pa.RecordBatch, schema: pa.Schema, in_hex: list[str]) -> pa.RecordBatch:
    for name in in_hex:
        values = [None if one is None else bytes.fromhex(one[2:]) for one in batch[name].to_pylist()]
        batch = batch.set_column(schema.get_field_index(name), name, pa.array(values, pa.binary()))
    return batch


def _described(column: Any) -> Described:
    oid, precision, scale = column.type_code, column.precision, column.scale
    if oid == NUMERIC and precision is not None and scale is not None and 0 <= scale <= precision <= _DIGITS:
        return Described(column.name, pa.decimal128(precision, scale), oid)
    return Described(column.name, _TYPES.get(oid), oid)


def _type_name(connection: Any, oid: int) -> str:
    with cursor_of(connection) as cursor:
        cursor.execute("SELECT format_type(%s, NULL)", [oid])
        return str(cursor.fetchone()[0])


def _unfit(error: pa.ArrowInvalid, schema: pa.Schema, where: str) -> DataError:
    said = str(error).splitlines()[0]
    if "straddling" in said:
        return DataError(
            f"A row has more than {_BLOCK >> 20} MiB.",
            detail=where,
            hint="Leave its largest column out with SQLSource(columns=[...]).",
        )
    found = re.search(r"column #(\d+)", said)
    field = schema.field(int(found[1])) if found else None
    return DataError(
        f"A value of column {field.name!r} does not fit into {field.type}." if field else "A value does not fit.",
        detail=where if found else f"{where}: {said.partition(':')[0]}",
        hint="Arrow has no infinite times, and no decimal that is no number: correct them in the table, or leave such "
        "rows out in a query.",
    )
