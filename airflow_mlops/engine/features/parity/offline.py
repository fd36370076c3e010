"""What training would read of some entities, at the moment at which the online store stands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from airflow_mlops.engine.data.arrow import arrow_type
from airflow_mlops.engine.features.computing.compute import EVENT
from airflow_mlops.engine.features.project.store import feast_errors
from airflow_mlops.exceptions import DataError

if TYPE_CHECKING:
    from feast import FeatureStore

    from airflow_mlops.engine.features.online.reader import OnlineReader
    from airflow_mlops.engine.features.online.views import OnDemandView, StoredView
    from airflow_mlops.engine.features.project.schema import FeatureRepo

_ROW = "parity_row"


def offline_values(
    reader: OnlineReader,
    repo: FeatureRepo,
    rows: Sequence[Mapping[str, Any]],
    moments: Mapping[str, datetime | Sequence[datetime]],
    *,
    as_known: bool,
) -> dict[str, list[Any]]:
    """Return feature → values by way of the offline store's point-in-time join, in the order of the rows.

    On-demand features are computed as Feast computes them for training: over a table, not entity by entity.

    :param moments: Stored view → the moment for all rows, or one for each.
    :param as_known: Whether a value counts only from when it was known; else from its event on, as the online store
        takes it once it is materialised.
    :raises DataError: when the offline store loses or doubles rows, or an on-demand view fails.
    """
    sent = {name: column.read([row[name] for row in rows]) for name, column in reader.plan.columns.items()}
    stored: dict[tuple[str, str], list[Any]] = {}
    with _knowledge_time(reader.store, on=as_known):
        for view in reader.plan.stored:
            at = moments[view.name]
            each = [at] * len(rows) if isinstance(at, datetime) else list(at)
            types = repo.views[view.table.name].features
            stored |= _joined(reader.store, view, types, sent, each, as_known=as_known)
    found = {name: stored[view, name] for name, view in reader.plan.outputs.items() if view is not None}
    for on_demand in reader.plan.on_demand:
        found |= _transformed(on_demand, repo, reader, sent, stored)
    return found


def _joined(
    store: FeatureStore,
    view: StoredView,
    types: Mapping[str, str],
    sent: Mapping[str, list[Any]],
    moments: Sequence[datetime],
    *,
    as_known: bool,
) -> dict[tuple[str, str], list[Any]]:
    names = list(view.decoders)
    values: dict[str, list[Any]] = {name: [None] * len(moments) for name in names}
    keys = {key: column for key, column in view.keys if column.name in sent}  # a view without entities has none
    asked = [row for row in range(len(moments)) if all(sent[key.name][row] is not None for key in keys.values())]
    if asked:
        columns = {
            name: pa.array([sent[key.name][row] for row in asked], arrow_type(key.type)) for name, key in keys.items()
        }
        times = pa.array([moments[row] for row in asked], pa.timestamp("us", tz="UTC"))
        entities = pa.table({**columns, EVENT: times, _ROW: pa.array(asked, pa.int64())})
        with feast_errors():
            answer = store.get_historical_features(
                entity_df=entities.to_pandas(),
                features=[f"{view.table.name}:{name}" for name in names],
                filter_by_created_timestamp=as_known,
            ).to_arrow()
        if sorted(answer[_ROW].to_pylist()) != asked:
            raise DataError(
                "The feature store did not return the rows that it was asked for.",
                detail=f"feature view {view.table.name!r}: asked for {len(asked)}, got {answer.num_rows}",
                hint="Use an offline store that keeps entities without features, such as `type: duckdb`.",
            )
        place = answer[_ROW].to_pylist()
        for name in names:
            for row, value in zip(place, _typed(answer[name], types[name]), strict=True):
                values[name][row] = value
    return {(view.name, name): of for name, of in values.items()}


def _typed(column: pa.ChunkedArray, kind: str) -> list[Any]:
    """Return the values as the feature's type, as training casts them; as they are when they do not fit it."""
    if pa.types.is_floating(column.type) and kind.startswith(("int", "uint")):
        column = pa.chunked_array([pa.array(column.to_pylist(), column.type, from_pandas=True)])  # NaN is missing
    try:
        return list(column.cast(arrow_type(kind)).to_pylist())
    except ValueError:  # of Arrow too; and a map is no type that has a name
        return list(column.to_pylist())


def _transformed(
    one: OnDemandView,
    repo: FeatureRepo,
    reader: OnlineReader,
    sent: Mapping[str, list[Any]],
    stored: Mapping[tuple[str, str], list[Any]],
) -> dict[str, list[Any]]:
    tables = {view.name: view.table.name for view in reader.plan.stored}
    columns = {name: pa.array(values, arrow_type(reader.plan.columns[name].type)) for name, values in sent.items()}
    for view, name in one.inputs:
        columns[name] = pa.array(stored[view, name], arrow_type(repo.views[tables[view]].features[name]))
    types = repo.on_demand[one.name].features
    try:
        with feast_errors():
            answer = one.view.transform_arrow(pa.table(columns), full_feature_names=False)
        return {name: _typed(answer[name], types[name]) for name in one.outputs}
    except Exception as error:
        raise DataError(
            f"On-demand view {one.name!r} failed as training computes it.",
            detail=f"{type(error).__name__}: {error}",
            hint="Call its function with these columns: " + ", ".join(sorted(columns)),
        ) from error


@contextmanager
def _knowledge_time(store: FeatureStore, *, on: bool) -> Iterator[None]:
    """Switch our own offline store's knowledge time; others have it only when they are asked for it."""
    settings = store.config.offline_store
    before = getattr(settings, "knowledge_time", None)
    if before is None:
        yield
        return
    settings.knowledge_time = on
    try:
        yield
    finally:
        settings.knowledge_time = before
