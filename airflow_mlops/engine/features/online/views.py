"""What reading a feature service online takes, looked up once: views, projections, join keys, types, functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow_mlops.engine.features.online.values import Column, column, computed, decoder
from airflow_mlops.engine.features.project.schema import describe
from airflow_mlops.exceptions import ConfigError, DataError

if TYPE_CHECKING:
    from feast import FeatureStore, FeatureView, Field, OnDemandFeatureView
    from feast.feature_view_projection import FeatureViewProjection
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.types import FeastType

Stored = tuple[datetime | None, Mapping[str, Any] | None]
"""What an online store answers for one entity: event time and feature → protobuf value; None when it has none."""


@dataclass(frozen=True)
class StoredView:
    """A feature view in the online store, as a service projects it.

    ``keys`` are its join keys with the column of the caller that each is read from.
    """

    name: str
    table: FeatureView
    keys: tuple[tuple[str, Column], ...]
    decoders: Mapping[str, Callable[[Any], Any]]
    ttl: timedelta | None

    def entity_key(self, values: Sequence[Any]) -> EntityKey:
        """Return Feast's key of an entity; ``values`` in the order of ``keys``."""
        from feast.protos.feast.types.EntityKey_pb2 import EntityKey
        from feast.protos.feast.types.Value_pb2 import Value

        protos = [Value() for _ in values]
        for (_, of), value, proto in zip(self.keys, values, protos, strict=True):
            setattr(proto, of.field, int(value.timestamp()) if isinstance(value, datetime) else value)
        return EntityKey(join_keys=[key for key, _ in self.keys], entity_values=protos)

    def decode(self, row: Stored, as_of: datetime | None) -> list[Any]:
        """Return the values in the order of ``decoders``, None for what is missing.

        :param as_of: Values newer than that, or past their time to live then, count as missing, as in training.
        """
        stamp, values = row
        if not values or (as_of is not None and not self._visible(stamp, as_of)):
            return [None] * len(self.decoders)
        return [decode(values[name]) if name in values else None for name, decode in self.decoders.items()]

    def _visible(self, stamp: datetime | None, as_of: datetime) -> bool:
        if stamp is None or stamp > as_of:
            return False
        return self.ttl is None or stamp >= as_of - self.ttl


@dataclass(frozen=True)
class OnDemandView:
    """An on-demand view: its function, the stored features that it may see, and its outputs with their types."""

    name: str
    view: OnDemandFeatureView
    inputs: tuple[tuple[str, str], ...]
    outputs: Mapping[str, FeastType]

    def run(self, columns: Mapping[str, list[Any]], rows: int) -> dict[str, list[Any]]:
        """Compute the outputs, as their declared types.

        :param columns: Join keys, request columns and the features of ``inputs``, by name.
        :raises DataError: when the function fails, or does not answer with a value an entity.
        """
        try:
            answer = self._answer(columns, rows)
            found = {name: computed(answer[name], dtype) for name, dtype in self.outputs.items()}
        except Exception as error:
            missing = isinstance(error, KeyError) and error.args and error.args[0] in self.outputs
            raise DataError(
                f"On-demand view {self.name!r} failed.",
                detail=f"it does not answer {error}" if missing else f"{type(error).__name__}: {error}",
                hint="Call its function with these columns: " + ", ".join(sorted(columns)),
            ) from error
        wrong = {name: len(values) for name, values in found.items() if len(values) != rows}
        if wrong:
            raise DataError(
                f"On-demand view {self.name!r} does not answer one value an entity.",
                detail=f"{rows} entities; values: {wrong}",
                hint="Its function gets a list a column, and returns lists of the same length.",
            )
        return found

    def _answer(self, columns: Mapping[str, list[Any]], rows: int) -> Mapping[str, list[Any]]:
        if self.view.mode != "python":
            import pyarrow as pa

            table = self.view.transform_arrow(pa.table(dict(columns)), full_feature_names=False)
            return {name: table[name].to_pylist() for name in table.column_names}
        if not self.view.singleton:
            answer: dict[str, list[Any]] = self.view.transform_dict(dict(columns))
            return answer
        each = [
            self.view.transform_dict({name: [values[row]] for name, values in columns.items()}) for row in range(rows)
        ]
        return {name: [one[name] for one in each] for name in self.outputs}


@dataclass(frozen=True)
class ServicePlan:
    """A feature service, resolved.

    ``columns`` are all that the caller sends; ``outputs`` is feature → the stored view that it comes from, None for
    an on-demand one, in the service's order.
    """

    name: str
    stored: tuple[StoredView, ...]
    on_demand: tuple[OnDemandView, ...]
    keys: Mapping[str, Column]
    request: Mapping[str, Column]
    outputs: Mapping[str, str | None]

    @property
    def columns(self) -> dict[str, Column]:
        """All that the caller sends: join keys and request columns."""
        return {**self.keys, **self.request}


def resolve(store: FeatureStore, service: str) -> ServicePlan:
    """Look up everything that reading a service takes.

    :raises ConfigError: when the service is unknown, or cannot be read online.
    """
    describe(store).service(service)  # in words when there is none
    stored: dict[str, StoredView] = {}
    on_demand: list[OnDemandView] = []
    outputs: dict[str, str | None] = {}
    for projection in store.get_feature_service(service).feature_view_projections:
        view = store.registry.get_any_feature_view(projection.name, store.project, allow_cache=True)
        _check_served(view, service)
        features = [field.name for field in projection.features]
        _check_names(outputs, features, service)
        if hasattr(view, "feature_transformation") and hasattr(view, "source_request_sources"):
            on_demand.append(_on_demand(store, view, projection, stored))
            outputs |= dict.fromkeys(features)
        else:
            found = _add(stored, view, projection)
            outputs |= dict.fromkeys(features, found.name)
    keys = {one.name: one for view in stored.values() for _, one in view.keys}
    keys.pop(_dummy(), None)
    sources = [source for one in on_demand for source in one.view.source_request_sources.values()]
    request = {field.name: column(field.name, field.dtype) for source in sources for field in source.schema}
    return ServicePlan(service, tuple(stored.values()), tuple(on_demand), keys, request, outputs)


def _on_demand(
    store: FeatureStore, view: OnDemandFeatureView, projection: FeatureViewProjection, stored: dict[str, StoredView]
) -> OnDemandView:
    if view.write_to_online_store or view.aggregations:
        raise ConfigError(
            f"On-demand view {view.name!r} is not computed when it is asked for.",
            detail="it is written to the online store" if view.write_to_online_store else "it aggregates",
            hint="Make it a feature view of its own, computed with the others.",
        )
    inputs: list[tuple[str, str]] = []
    for source in view.source_feature_view_projections.values():
        table = store.registry.get_any_feature_view(source.name, store.project, allow_cache=True)
        _check_served(table, view.name)
        found = _add(stored, table, source)
        inputs += [(found.name, field.name) for field in source.features]
    return OnDemandView(view.name, view, tuple(inputs), {field.name: field.dtype for field in projection.features})


def _add(stored: dict[str, StoredView], view: FeatureView, projection: FeatureViewProjection) -> StoredView:
    """Return the projection of a stored view, together with what was projected of it under this name before."""
    name = projection.name_to_use()
    fields: dict[str, Field] = {field.name: field for field in projection.features}
    decoders = {**(stored[name].decoders if name in stored else {}), **{k: decoder(f) for k, f in fields.items()}}
    keys = tuple((one.name, _key(one, projection)) for one in view.entity_columns)
    stored[name] = StoredView(name, view.with_projection(copy(projection)), keys, decoders, view.ttl or None)
    return stored[name]


def _key(one: Field, projection: FeatureViewProjection) -> Column:
    found = column(projection.join_key_map.get(one.name, one.name), one.dtype)
    if not found.field:
        raise ConfigError(
            f"Join key {one.name!r} of feature view {projection.name!r} has a type that Feast cannot look up.",
            detail=found.type,
            hint="Make it text, a whole number or a timestamp.",
        )
    return found


def _check_served(view: Any, service: str) -> None:
    off = not getattr(view, "enabled", True) or not getattr(view, "online", True)
    if off:
        raise ConfigError(
            f"Feature view {view.name!r} of {service!r} is not served online.",
            detail="it is disabled" if getattr(view, "online", True) else "it has online=False",
            hint="Enable it in the feature repository, or take it out of the service.",
        )


def _check_names(outputs: Mapping[str, str | None], features: Sequence[str], service: str) -> None:
    twice = sorted(set(outputs) & set(features))
    if twice:
        raise ConfigError(
            f"Feature service {service!r} has two features of one name.",
            detail=", ".join(twice),
            hint="Give one of them another name in its feature view: a model has one input a name.",
        )


def _dummy() -> str:
    from feast.feature_view import DUMMY_ENTITY_ID

    return str(DUMMY_ENTITY_ID)
