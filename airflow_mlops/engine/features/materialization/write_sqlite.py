"""Feast's SQLite online store, written in bulk: one statement a key, one transaction a batch, readers never refused."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from itertools import repeat
from typing import TYPE_CHECKING, Any

import numpy as np
from feast.infra.online_stores.sqlite import SqliteOnlineStore, _quote_id, _table_id, adapt_datetime_epoch

from airflow_mlops.engine.features.materialization.write import UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Callable

    from feast import FeatureStore, FeatureView, RepoConfig

    from airflow_mlops.engine.features.materialization.write import EncodedRows

_SECONDS_LOCKED = 60
_CACHE_KIB = 64 * 1024
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def knows(store: FeatureStore) -> SqliteOnlineStore | None:
    """Return the online store if it is Feast's for SQLite, with the columns that every one of them has."""
    online, settings = getattr(store._get_provider(), "online_store", None), store.config.online_store
    own = isinstance(online, SqliteOnlineStore) and (
        type(online).online_write_batch is SqliteOnlineStore.online_write_batch
    )
    extra = getattr(settings, "vector_enabled", False) or getattr(settings, "enable_openai_compatible_store", False)
    return online if own and not extra else None


def writer(online: SqliteOnlineStore, config: RepoConfig, view: FeatureView) -> Callable[[EncodedRows], None]:
    """Return what writes rows: a row whose event is older than the one that is there changes nothing.

    Feast keeps times in whole seconds here, so of two events within one second the one written last counts.
    """
    table = _table_id(config.project, view, config.registry.enable_online_feature_view_versioning)
    path = online._get_db_path(config)
    with _connected(path) as connection:
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (table,)).fetchone():
            online.update(config, [], [view], [], [], partial=True)  # somebody removed the file
    statement = _statement(table, sorted(field.name for field in view.features))

    def write(rows: EncodedRows) -> None:
        with _connected(path) as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(statement, _parameters(rows))
            connection.execute("COMMIT")

    return write


def _statement(table: str, features: list[str]) -> str:
    """Parameters: key, event, created, then value and text of each feature."""
    names = [name.replace("'", "''") for name in features]
    rows = [f"(?1, '{name}', ?{4 + 2 * n}, ?{5 + 2 * n}, ?2, ?3)" for n, name in enumerate(names)]
    changed = ", ".join(f"{name} = excluded.{name}" for name in ("value", "value_text", "event_ts", "created_ts"))
    return (
        f"INSERT INTO {_quote_id(table)} (entity_key, feature_name, value, value_text, event_ts, created_ts) "
        f"VALUES {', '.join(rows)} ON CONFLICT(entity_key, feature_name) DO UPDATE SET {changed} "
        "WHERE excluded.event_ts >= event_ts"
    )


def _parameters(rows: EncodedRows) -> Iterator[tuple[Any, ...]]:
    columns: list[Any] = [rows.keys, _seconds(rows.events)]
    columns.append(repeat(None) if rows.created is None else _seconds(rows.created))
    for _, column in sorted(rows.features.items()):
        columns += [column.by_row(), column.texts_by_row()]
    return zip(*columns, strict=False)


def _seconds(microseconds: np.ndarray[Any, Any]) -> list[int | None]:
    """Return times as Feast's own adapter stores them; none as null."""
    distinct, codes = np.unique(microseconds, return_inverse=True)
    seconds = [None if value == UNKNOWN else _second(value) for value in distinct.tolist()]
    return np.array(seconds, object)[codes].tolist()


def _second(microseconds: int) -> int:
    return adapt_datetime_epoch((_EPOCH + timedelta(microseconds=microseconds)).replace(tzinfo=None))


@contextmanager
def _connected(path: str) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path, timeout=_SECONDS_LOCKED, isolation_level=None)) as connection:
        with suppress(sqlite3.OperationalError):  # a reader holds it just now: the next batch asks again
            # Readers go on while a transaction is written; without it they are refused after five seconds.
            connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        yield connection
