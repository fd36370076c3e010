"""The rows that features are asked for: what they must be, refused in words where they are not."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import NamedTuple

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from feast.infra.offline_stores.offline_utils import DEFAULT_ENTITY_DF_EVENT_TIMESTAMP_COL as EVENT

from airflow_mlops.exceptions import ConfigError, DataError, did_you_mean

_MOMENT = pa.timestamp("us", "UTC")


class Entities(NamedTuple):
    """Rows that features are asked for, and the column with the time as of which: a timestamp with a zone."""

    rows: pa.Table
    moment: str

    @property
    def times(self) -> pa.ChunkedArray:
        """The times that are asked for, in UTC."""
        times = self.rows[self.moment]
        return times.cast(pa.timestamp(times.type.unit, "UTC"))

    @property
    def bounds(self) -> tuple[datetime, datetime]:
        """The first and the last time, without their nanoseconds. There must be a row."""
        bounds = pc.min_max(self.times).cast(pa.struct([(name, _MOMENT) for name in ("min", "max")]), safe=False)
        return bounds["min"].as_py(), bounds["max"].as_py()


def read_entities(asked: pd.DataFrame | pa.Table | str) -> Entities:
    """Return the rows that features are asked for.

    :param asked: The rows, as pandas or Arrow; or a query that DuckDB answers with them.
    :raises ConfigError: when they have no times, or times without a zone, or in the future.
    :raises DataError: when a time is missing.
    """
    rows = _table(asked)
    moment = _moment(rows)
    kind = rows.schema.field(moment).type
    if not pa.types.is_timestamp(kind) or kind.tz is None:
        what = "no time zone" if pa.types.is_timestamp(kind) else f"type {kind}"
        raise ConfigError(
            f"The entity rows' {moment!r} has {what}: it is not a moment.",
            detail="needed: timestamps with a zone",
            hint=f"Say which zone is meant, such as frame[{moment!r}].dt.tz_localize('UTC').",
        )
    if nulls := rows[moment].null_count:
        raise DataError(
            f"{moment!r} is null in {nulls} of {rows.num_rows} entity rows.",
            hint="Leave rows without a time out: nothing is known about them.",
        )
    now = pa.scalar(datetime.now(UTC), _MOMENT)
    times = Entities(rows, moment).times
    if ahead := pc.sum(pc.greater(times, now)).as_py():
        raise ConfigError(
            f"{ahead} of {rows.num_rows} entity rows lie in the future.",
            detail=f"the last: {Entities(rows, moment).bounds[1].isoformat()}",
            hint="What will be known then is not known yet. Ask for now, or for the time of the prediction.",
        )
    return Entities(rows, moment)


def check_columns(entities: Entities, needed: Iterable[tuple[str, str]]) -> None:
    """Check that columns are there.

    :param needed: Column, and what needs it.
    :raises ConfigError: when one is missing.
    """
    known = entities.rows.column_names
    for column, why in needed:
        if column not in known:
            raise ConfigError(
                f"The entity rows have no column {column!r}.{did_you_mean(column, known)}",
                detail=f"{why} needs it; there are: {', '.join(known)}",
                hint="Add it, or correct its name.",
            )


def check_names(entities: Entities, features: Iterable[str]) -> None:
    """Check that no two columns of the answer have one name.

    :raises ConfigError: when they have.
    """
    taken = set(entities.rows.column_names)
    for name in features:
        if name in taken:
            raise ConfigError(
                f"Two columns of the answer would be called {name!r}.",
                detail="a feature, and another feature or a column of the entity rows",
                hint="Ask with full_feature_names=True, or rename the column of the entity rows.",
            )
        taken.add(name)


def _table(asked: pd.DataFrame | pa.Table | str) -> pa.Table:
    if isinstance(asked, pa.Table):
        return asked
    if isinstance(asked, str):
        with duckdb.connect() as connection:
            try:
                return connection.sql(asked).to_arrow_table()
            except duckdb.Error as error:
                raise ConfigError(
                    "The query for the entity rows fails.",
                    detail=f"{type(error).__name__}: {str(error).strip().splitlines()[0]}",
                    hint="DuckDB runs it, in memory: it may read files, such as FROM read_parquet('…').",
                ) from error
    if not isinstance(asked, pd.DataFrame):
        raise ConfigError(
            f"Features are asked for with {'no entity rows' if asked is None else type(asked).__name__}.",
            detail="needed: a pandas.DataFrame, a pyarrow.Table, or a query for DuckDB",
            hint="This offline store does not retrieve by start_date and end_date: give the rows.",
        )
    if EVENT in asked.columns and asked[EVENT].dtype.kind == "O":
        zones = {getattr(value, "tzinfo", None) is None for value in asked[EVENT].dropna()}
        if len(zones) > 1:
            raise ConfigError(
                f"Some of the entity rows' {EVENT!r} have no time zone, and some have one.",
                hint="Give all of them a zone.",
            )
    try:
        return pa.Table.from_pandas(asked, preserve_index=False).replace_schema_metadata()
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise ConfigError(
            "A column of the entity rows holds values of several types.",
            detail=str(error),
            hint="Give each column one type.",
        ) from None


def _moment(rows: pa.Table) -> str:
    """Return the column with the times, as Feast finds it."""
    if EVENT in rows.column_names:
        return EVENT
    found = [field.name for field in rows.schema if pa.types.is_timestamp(field.type)]
    if len(found) == 1:
        return found[0]
    raise ConfigError(
        f"The entity rows have no column {EVENT!r}.",
        detail=f"columns with timestamps: {', '.join(found) or 'none'}",
        hint="Name the column with the time as of which features are wanted so.",
    )
