"""Rules across columns, and across two sources, evaluated by DuckDB over Parquet files."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

import duckdb
import pyarrow as pa

from airflow_mlops.contracts import ExpectationOutcome
from airflow_mlops.engine.data.checks.robust import outcome, rounded, unknown
from airflow_mlops.exceptions import DataError, did_you_mean

Source: TypeAlias = "pa.Table | Sequence[Path]"
"""A table, or Parquet files."""


def check_invariants(batch: Source, invariants: Mapping[str, str]) -> list[ExpectationOutcome]:
    """Count the rows in which each expression is false; where it is null the row says nothing and passes.

    Expressions are read-only: one SELECT each, in a database without access to anything but the files.

    :param invariants: Name → boolean SQL expression over the columns.
    """
    with _database({"batch": batch}) as connection:
        columns = [row[0] for row in connection.execute("DESCRIBE batch").fetchall()]
        return [_invariant(connection, name, expression, columns) for name, expression in invariants.items()]


def _invariant(
    connection: duckdb.DuckDBPyConnection, name: str, expression: str, columns: Sequence[str]
) -> ExpectationOutcome:
    expectation = f"invariant:{name}"
    try:
        _check_expression(connection, expression)
        [(_, kind, *_)] = connection.execute(f"DESCRIBE SELECT (\n{expression}\n) FROM batch").fetchall()
        if kind != "BOOLEAN":
            return unknown(expectation, f"the expression is {kind}, not true or false")
        # The line break ends a comment that the expression may end with.
        query = f"SELECT count(*), count(*) FILTER (WHERE NOT (\n{expression}\n)) FROM batch"
        rows, failing = connection.execute(query).fetchall()[0]
    except duckdb.Error as error:
        return unknown(expectation, _in_words(error, columns))
    return outcome(
        expectation,
        level="block" if failing else None,
        observed={"failing_share": rounded(failing / rows)} if rows else None,
        bound={"holds": expression},
        count=failing,
    )


def _check_expression(connection: duckdb.DuckDBPyConnection, expression: str) -> None:
    """Refuse what is not one expression: a parenthesis or a semicolon must not end the query that it is put into."""
    statements = connection.extract_statements(f"SELECT (\n{expression}\n)")
    alone = connection.extract_statements(f"SELECT {expression}\n")
    if len(statements) != 1 or len(alone) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        raise duckdb.ParserException("an invariant is one expression, not several statements")


def _in_words(error: duckdb.Error, columns: Sequence[str]) -> str:
    """Return what is wrong with an expression, without the values that it met."""
    missing = re.search(r'Referenced column "([^"]+)"', str(error))
    if missing:
        return f"there is no column {missing[1]!r}.{did_you_mean(missing[1], columns)}"
    kind = type(error).__name__
    if isinstance(error, duckdb.ConversionException | duckdb.InvalidInputException | duckdb.OutOfRangeException):
        return f"{kind} while it was computed"
    return f"{kind}: {str(error).strip().splitlines()[0]}"


def reconcile_sources(
    left: Source,
    right: Source,
    on: Sequence[str],
    *,
    min_match: float = 0.95,
    max_unmatched_right: float | None = None,
    compare: Mapping[str, float] | None = None,
    by: str | None = None,
) -> list[ExpectationOutcome]:
    """Hold two sources of the same facts against each other, joined by ``on``.

    :param min_match: Smallest share of the rows of ``left`` that have a partner in ``right``.
    :param max_unmatched_right: Largest share of the rows of ``right`` without a partner in ``left``.
    :param compare: Column of both → largest difference of its sums over matched keys, as a share of ``left``'s.
    :param by: Column of ``left`` in whose every value those sums must agree; default is over all rows.
    """
    with _database({"l": left, "r": right}) as connection:
        columns = [row[0] for row in connection.execute("DESCRIBE l").fetchall()]
        try:
            outcomes = [_matched(connection, "left", on, min_match)]
            if max_unmatched_right is not None:
                outcomes.append(_matched(connection, "right", on, 1 - max_unmatched_right))
            for column, tolerance in (compare or {}).items():
                outcomes += _sums(connection, on, column, tolerance, by)
            return outcomes
        except duckdb.Error as error:
            return [unknown("sources_agree", _in_words(error, columns), column=", ".join(on))]


def _matched(
    connection: duckdb.DuckDBPyConnection, side: str, on: Sequence[str], min_match: float
) -> ExpectationOutcome:
    this, other = ("l", "r") if side == "left" else ("r", "l")
    keys = _quoted(*on)
    rows = connection.execute(f"SELECT count(*) FROM {this}").fetchall()[0][0]
    query = f"SELECT count(*) FROM {this} SEMI JOIN (SELECT DISTINCT {keys} FROM {other}) USING ({keys})"
    merged = connection.execute(query).fetchall()[0][0]
    share = merged / rows if rows else 0.0
    note = f"{merged} of {rows} rows of the {side} source have a partner"
    if merged == 0:
        note = f"merged = 0: no row of the {side} source has a partner; was the join key renumbered upstream?"
    return outcome(
        "sources_match",
        column=", ".join(on),
        level="block" if merged == 0 or share < min_match else None,
        observed={"merged": merged, "share": rounded(share)},
        bound={"min_share": min_match},
        count=rows - merged,
        note=note,
    )


def _sums(
    connection: duckdb.DuckDBPyConnection, on: Sequence[str], column: str, tolerance: float, by: str | None
) -> Iterator[ExpectationOutcome]:
    keys = _quoted(*on)
    group = _quoted(by) if by else "'all rows'"
    value = _quoted(column)
    query = f"""
        WITH r AS (SELECT {keys}, sum({value}) AS "other sum" FROM r GROUP BY ALL),
             l AS (SELECT {keys}, {group} AS "slice", sum({value}) AS "own sum" FROM l GROUP BY ALL)
        SELECT "slice", sum("own sum"), sum("other sum") FROM l JOIN r USING ({keys}) GROUP BY ALL ORDER BY ALL
    """
    sums = [
        (str(name), float(own or 0), float(other or 0)) for name, own, other in connection.execute(query).fetchall()
    ]
    differing = [row for row in sums if abs(row[1] - row[2]) > tolerance * abs(row[1]) + 1e-9]
    for name, own, other in differing:
        yield outcome(
            "sources_agree",
            column=column,
            level="block",
            observed={"left": rounded(own), "right": rounded(other)},
            bound={"tolerance": tolerance},
            note=f"slice {name!r} of {by!r}: sums differ" if by else "sums differ",
        )
    if not differing:
        yield outcome("sources_agree", column=column, observed={"sums": len(sums)}, bound={"tolerance": tolerance})


def _quoted(*names: str) -> str:
    return ", ".join('"' + name.replace('"', '""') + '"' for name in names)


@contextmanager
def _database(sources: Mapping[str, Source]) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a database in memory that sees these sources as views, and nothing else of this machine."""
    with duckdb.connect() as connection:
        files = [str(file) for source in sources.values() if not isinstance(source, pa.Table) for file in source]
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute("SET allowed_paths = $files", {"files": files})
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
        try:
            for name, source in sources.items():
                if isinstance(source, pa.Table):
                    connection.register(name, source)
                else:
                    connection.read_parquet([str(file) for file in source]).create_view(name)
        except duckdb.Error as error:
            raise DataError(
                "The files cannot be read for a check.",
                detail=f"{', '.join(files)}: {str(error).splitlines()[0]}",
                hint="See whether they are Parquet files with the same columns.",
            ) from None
        yield connection
