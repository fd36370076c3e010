"""Rules across columns, and across two sources, evaluated by DuckDB over Parquet files."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

import duckdb
import pyarrow as pa

from airflow_mlops.contracts import ExpectationOutcome
from airflow_mlops.engine.data.robust import outcome, rounded, unknown
from airflow_mlops.exceptions import ConfigError, DataError, did_you_mean

Source: TypeAlias = "pa.Table | Sequence[Path]"
"""A table, or Parquet files."""

_FLOATING = {"FLOAT", "DOUBLE"}


def check_invariants(batch: Source, invariants: Mapping[str, str]) -> list[ExpectationOutcome]:
    """Count the rows in which each expression is false; where it is null the row says nothing and passes.

    NaN is read as null, as by the suites: for DuckDB it is larger than every number.
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
        kinds = [row[1] for row in connection.execute(f"DESCRIBE SELECT (\n{expression}\n) FROM batch").fetchall()]
        if len(kinds) != 1:
            return unknown(expectation, f"the expression is {len(kinds)} columns, not one that is true or false")
        if kinds != ["BOOLEAN"]:
            return unknown(expectation, f"the expression is {kinds[0]}, not true or false")
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


def count_rejected(batch: Source, reasons: Mapping[str, str]) -> dict[str, int] | ExpectationOutcome:
    """Count the rows of which an expression is true, each for the first one that is.

    :param reasons: Reason → boolean SQL expression over the columns.
    :returns: Reason → rows; an outcome that says what is wrong where an expression cannot be evaluated.
    """
    with _database({"batch": batch}) as connection:
        columns = [row[0] for row in connection.execute("DESCRIBE batch").fetchall()]
        counts: dict[str, int] = {}
        before = "false"
        for reason, expression in reasons.items():
            try:
                _check_expression(connection, expression)
                query = f"SELECT count(*) FILTER (WHERE (\n{expression}\n) AND NOT ({before})) FROM batch"
                counts[reason] = connection.execute(query).fetchall()[0][0]
            except duckdb.Error as error:
                return unknown(f"rejected:{reason}", _in_words(error, columns))
            before = f"{before} OR coalesce((\n{expression}\n), false)"
        return counts


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
        Null and NaN are missing: left out of the sums, and a side that has nothing else blocks.
    :param by: Column of ``left`` in whose every value those sums must agree; default is over all rows.
    :raises ConfigError: when a share is not between 0 and 1, or a tolerance is negative or not finite.
    """
    _check_bounds(min_match, max_unmatched_right, compare or {})
    with _database({"l": left, "r": right}) as connection:
        columns = [row[0] for row in connection.execute("DESCRIBE l").fetchall()]
        try:
            outcomes = [_matched(connection, "left", on, min_match)]
            if max_unmatched_right is not None:
                outcomes.append(_matched(connection, "right", on, 1 - max_unmatched_right))
            outcomes += _repeated_keys(connection, on)
            for column, tolerance in (compare or {}).items():
                outcomes += _sums(connection, on, column, tolerance, by)
            return outcomes
        except duckdb.Error as error:
            return [unknown("sources_agree", _in_words(error, columns), column=", ".join(on))]


def _check_bounds(min_match: float, max_unmatched_right: float | None, compare: Mapping[str, float]) -> None:
    shares = [min_match, *([] if max_unmatched_right is None else [max_unmatched_right])]
    if all(0 <= share <= 1 for share in shares) and all(0 <= bound < math.inf for bound in compare.values()):
        return  # NaN is not in any range
    raise ConfigError(
        "Sources cannot be reconciled with these bounds.",
        detail=f"min_match={min_match}, max_unmatched_right={max_unmatched_right}, compare={dict(compare)}",
        hint="Shares lie between 0 and 1; the tolerances of compare are finite and not negative.",
    )


def _repeated_keys(connection: duckdb.DuckDBPyConnection, on: Sequence[str]) -> Iterator[ExpectationOutcome]:
    """Warn of each source in which a key is there more than once: one of many is fine, doubled rows are not."""
    keys = _quoted(*on)
    for side, table in (("left", "l"), ("right", "r")):
        query = f"SELECT count(*) - (SELECT count(*) FROM (SELECT DISTINCT {keys} FROM {table})) FROM {table}"
        repeated = connection.execute(query).fetchall()[0][0]
        if repeated:
            yield outcome(
                "keys_not_repeated",
                column=", ".join(on),
                level="warn",
                observed={"side": side, "repeated": repeated},
                bound={"max": 0},
                count=repeated,
                note=f"{repeated} rows of the {side} source repeat a key of it",
            )


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
        WITH r AS (SELECT {keys}, sum({value}) AS "__other_sum__" FROM r GROUP BY ALL),
             l AS (SELECT {keys}, {group} AS "__slice__", sum({value}) AS "__own_sum__" FROM l GROUP BY ALL)
        SELECT "__slice__", sum("__own_sum__"), sum("__other_sum__")
        FROM l JOIN r USING ({keys}) GROUP BY ALL ORDER BY ALL
    """
    sums = connection.execute(query).fetchall()
    differing = [row for row in sums if not _agree(row[1], row[2], tolerance)]
    for name, own, other in differing:
        missing = " and ".join(side for side, total in (("left", own), ("right", other)) if total is None)
        said = f"nothing but missing values on the {missing}" if missing else "sums differ"
        yield outcome(
            "sources_agree",
            column=column,
            level="block",
            observed={side: None if x is None else rounded(float(x)) for side, x in (("left", own), ("right", other))},
            bound={"tolerance": tolerance},
            note=f"slice {str(name)!r} of {by!r}: {said}" if by else said,
        )
    if not differing:
        yield outcome("sources_agree", column=column, observed={"sums": len(sums)}, bound={"tolerance": tolerance})


def _agree(own: float | None, other: float | None, tolerance: float) -> bool:
    """Say whether two sums are near each other; a sum of nothing (None) or of infinities is near no sum."""
    if own is None or other is None:
        return False
    return abs(float(own) - float(other)) <= tolerance * abs(float(own)) + 1e-9


def _without_nan(column: str, kind: str) -> str:
    quoted = _quoted(column)
    return f"CASE WHEN isnan({quoted}) THEN NULL ELSE {quoted} END AS {quoted}" if kind in _FLOATING else quoted


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
                    connection.register(f"raw {name}", source)
                else:
                    connection.read_parquet([str(file) for file in source]).create_view(f"raw {name}")
                described = connection.execute(f"DESCRIBE {_quoted(f'raw {name}')}").fetchall()
                columns = ", ".join(_without_nan(column, kind) for column, kind, *_ in described)
                connection.execute(f"CREATE VIEW {name} AS SELECT {columns} FROM {_quoted(f'raw {name}')}")
        except duckdb.Error as error:
            raise DataError(
                "The files cannot be read for a check.",
                detail=f"{', '.join(files)}: {str(error).splitlines()[0]}",
                hint="See whether they are Parquet files with the same columns.",
            ) from None
        yield connection
