"""The schema that rows are made to fit into: what the contract declares, else what holds all that came."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from airflow_mlops.engine.data.arrow import arrow_type
from airflow_mlops.engine.data.checks.contract import SchemaContract
from airflow_mlops.engine.data.fitting import TIME, common
from airflow_mlops.engine.data.parquet import listing
from airflow_mlops.exceptions import ConfigError, DataError


def wanted_schema(schemas: Mapping[str, pa.Schema], event_time: str, contract: SchemaContract | None) -> pa.Schema:
    """Return the schema that all rows of a partition are to have.

    :param schemas: Where rows come from → their columns there.
    :param event_time: Column that becomes a time in UTC.
    :raises DataError: when two of them do not agree, or a column is there that the contract refuses.
    :raises ConfigError: when the contract has a type that Arrow does not have.
    """
    declared = declared_types(contract)
    free = {
        file: pa.schema([field for field in schema if field.name not in declared]) for file, schema in schemas.items()
    }
    kinds = {field.name: field.type for field in common(free)}
    new = contract.new_columns if contract is not None else "keep"
    if new == "refuse" and kinds:
        raise DataError(
            f"{listing(map(repr, kinds))}: no such column is in the contract.",
            detail=f"{next(iter(schemas))}; contract {contract.version if contract else ''}",
            hint="Add it to the contract, or declare SchemaContract(new_columns='keep') or 'drop'.",
        )
    fields = []
    for name in dict.fromkeys(name for schema in schemas.values() for name in schema.names):
        kind = declared.get(name, kinds.get(name))
        if name == event_time and kind is not None and (pa.types.is_temporal(kind) or pa.types.is_string(kind)):
            kind = TIME
        if name in declared or new == "keep":
            fields.append((name, kind))
    there = {name for name, _ in fields}
    nullable = () if contract is None else (name for name, one in contract.columns.items() if one.nullable)
    fields += [(name, declared[name]) for name in nullable if name not in there]
    return pa.schema(fields)


def _declared_type(name: str, kind: str) -> pa.DataType:
    """Return the Arrow type that a contract gives a column.

    :raises ConfigError: when Arrow does not have it.
    """
    try:
        return arrow_type(kind)
    except ValueError:
        raise ConfigError(
            f"The contract gives column {name!r} a type {kind!r} that Arrow does not have.",
            hint="Write it as Arrow does: int64, double, string, bool, timestamp[us, tz=UTC].",
        ) from None


def declared_types(contract: SchemaContract | None) -> dict[str, pa.DataType]:
    """Return the columns of a contract with their Arrow types; none without one."""
    columns = {} if contract is None else contract.columns
    return {name: _declared_type(name, one.type) for name, one in columns.items()}
