"""How old the features are that a model would be served right now."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from airflow_mlops.engine.features.compute import EVENT
from airflow_mlops.engine.features.location import Location
from airflow_mlops.engine.features.schema import ViewSchema, describe, feature_file
from airflow_mlops.engine.features.store import feast_errors, open_store

if TYPE_CHECKING:
    from feast import FeatureStore

_SAMPLE = 20


def freshness(location: Location, service: str, *, as_of: datetime) -> dict[str, float | None]:
    """Return, for each feature view of a service, the age in seconds of its newest value that can be read online.

    Values are really read from the online store, for some of the entities with the newest rows offline: those
    of the last day before ``as_of`` and those of the last day there is. None when there is no value to read.

    :param as_of: The moment that ages are counted from; values newer than it have age 0.
    :raises ConfigError: when the service is unknown.
    :raises TransientError: when the registry or the online store does not answer.
    """
    store = open_store(location)
    repo = describe(store)
    ages: dict[str, float | None] = {}
    for view in repo.service(service).views:
        newest = _newest_online(store, view, repo.views[view], _sample(location.home, view, repo.views[view], as_of))
        ages[view] = None if newest is None else max(0.0, (as_of - newest).total_seconds())
    return ages


def _sample(home: Path, view: str, schema: ViewSchema, as_of: datetime) -> list[dict[str, Any]]:
    """Return the keys of entities that ought to be online: those stamped last in the files that matter."""
    files = sorted(feature_file(home, view, "*").parent.glob("[!.]*.parquet"))
    before = [file for file in files if datetime.fromisoformat(file.stem).replace(tzinfo=UTC) < as_of]
    rows: list[dict[str, Any]] = []
    for file in {*before[-1:], *files[-1:]}:
        table = pq.read_table(file, columns=[*schema.keys, EVENT])
        latest = table.filter(pc.equal(table[EVENT], pc.max(table[EVENT])))
        rows += latest.select(list(schema.keys)).slice(0, _SAMPLE).to_pylist()
    return rows


def _newest_online(
    store: FeatureStore, view: str, schema: ViewSchema, entities: list[dict[str, Any]]
) -> datetime | None:
    if not entities:
        return None
    with feast_errors():
        answer = store.get_online_features([f"{view}:{name}" for name in schema.features], entities).to_dict(
            include_event_timestamps=True
        )
    stamps = [
        stamp
        for name in schema.features
        for value, stamp in zip(answer[name], answer[f"{name}__ts"], strict=True)
        if value is not None
    ]
    return datetime.fromtimestamp(max(stamps), UTC) if stamps else None
