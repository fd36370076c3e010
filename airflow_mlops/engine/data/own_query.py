"""A user's own query, answered by DuckDB a part at a time: rows that nothing of this package has seen before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa

from airflow_mlops.exceptions import DataError

_ROWS = 65_536


@contextmanager
def answer_of(query: str) -> Iterator[pa.RecordBatchReader]:
    """Yield what a query answers. It sees files, and no variable of this process.

    :raises DataError: when it fails, or gives no table. What DuckDB says of a value is left out: it holds the value.
    """
    import duckdb

    said = duckdb.ParserException | duckdb.BinderException | duckdb.CatalogException | duckdb.IOException
    try:
        with duckdb.connect(config={"python_enable_replacements": False}) as connection:
            answer = connection.sql(query)
            if answer is None:
                raise DataError(
                    "The query of the entities gives no table.",
                    detail=query[:200],
                    hint="Ask with SELECT … FROM 'folder/*.parquet'.",
                )
            yield answer.to_arrow_reader(_ROWS)
    except (duckdb.Error, pa.ArrowInvalid, OSError) as error:
        words = str(error).splitlines()[0] if isinstance(error, said) else type(error).__name__
        raise DataError(
            "The query of the entities failed.",
            detail=f"{query[:200]}: {words}",
            hint="Try it in DuckDB: SELECT … FROM 'folder/*.parquet'.",
        ) from None
