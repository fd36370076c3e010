"""What an applied Feast repository defines, as plain records: read by everything that must not import Feast."""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_mlops.contracts import Record, content_hash
from airflow_mlops.exceptions import ConfigError, did_you_mean

if TYPE_CHECKING:
    from feast import FeatureService, FeatureStore, OnDemandFeatureView


class ViewSchema(Record):
    """The columns of a feature view that is stored, as name → Arrow type, and how long its values may be used.

    The tag ``columns`` says what it is computed from: ``departures.dep_delay departures.cancelled``.
    ``feature_tags`` is feature → its own tags, for those that have some.
    """

    keys: dict[str, str]
    features: dict[str, str]
    ttl_seconds: float | None
    tags: dict[str, str] = {}
    feature_tags: dict[str, dict[str, str]] = {}


class OnDemandSchema(Record):
    """Features computed when they are asked for, from what the caller sends and from stored feature views.

    ``request`` is what the caller must send, as name → Arrow type; ``views`` the stored views that are read;
    ``code`` identifies the function.
    """

    request: dict[str, str]
    views: tuple[str, ...]
    features: dict[str, str]
    code: str
    tags: dict[str, str] = {}
    feature_tags: dict[str, dict[str, str]] = {}


class ServiceSchema(Record):
    """What a feature service reads, and its features in order: name → Arrow type.

    ``views`` are the stored feature views, those behind its on-demand views too; ``on_demand`` the views that are
    computed when asked for; ``request`` what the caller must send for these: name → Arrow type.
    """

    views: tuple[str, ...]
    features: dict[str, str]
    on_demand: tuple[str, ...] = ()
    request: dict[str, str] = {}
    tags: dict[str, str] = {}


class FeatureRepo(Record):
    """What an applied Feast repository defines; ``hash`` identifies the files that it was applied from."""

    project: str
    hash: str
    views: dict[str, ViewSchema]
    services: dict[str, ServiceSchema]
    on_demand: dict[str, OnDemandSchema] = {}

    def service(self, name: str) -> ServiceSchema:
        """Return a feature service.

        :raises ConfigError: when there is none of that name.
        """
        if name not in self.services:
            raise ConfigError(
                f"There is no feature service {name!r}.{did_you_mean(name, self.services)}",
                detail=f"Feast project {self.project!r} has: {', '.join(sorted(self.services)) or 'none'}",
                hint="Define it in the feature repository; FeastApplyOperator or `feast apply` registers it.",
            )
        return self.services[name]

    def definition_hash(self, service: str) -> str:
        """Return the identity of what a feature service means: its features, their views, keys, times to live, and
        the code of those computed on demand.
        """
        schema, unmeant = self.service(service), {"tags", "feature_tags"}
        views = {name: self.views[name].model_dump(exclude=unmeant) for name in schema.views}
        on_demand = {name: self.on_demand[name].model_dump(exclude=unmeant) for name in schema.on_demand}
        return content_hash({"features": list(schema.features.items()), "views": views, "on_demand": on_demand})


def feature_file(home: Path, view: str, key: str) -> Path:
    """Return where the rows of a feature view for one day lie."""
    return home / "features" / view / f"{key}.parquet"


def describe(store: FeatureStore, digest: str = "") -> FeatureRepo:
    """Return what a feature store's registry holds.

    :param digest: Identity of the files that it was applied from, when known.
    """
    from feast.types import from_feast_to_pyarrow_type

    def types(fields: Any) -> dict[str, str]:
        return {field.name: str(from_feast_to_pyarrow_type(field.dtype)) for field in fields}

    def tags(fields: Any) -> dict[str, dict[str, str]]:
        return {field.name: dict(field.tags) for field in fields if field.tags}

    views = {
        view.name: ViewSchema(
            keys=types(view.entity_columns),
            features=types(view.features),
            ttl_seconds=view.ttl.total_seconds() if view.ttl else None,
            tags=dict(view.tags),
            feature_tags=tags(view.features),
        )
        for view in store.list_feature_views()
    }
    on_demand = {
        view.name: OnDemandSchema(
            request={k: v for source in view.source_request_sources.values() for k, v in types(source.schema).items()},
            views=tuple(projection.name for projection in view.source_feature_view_projections.values()),
            features=types(view.features),
            code=_code(view),
            tags=dict(view.tags),
            feature_tags=tags(view.features),
        )
        for view in store.list_on_demand_feature_views()
    }
    services = {service.name: _service(service, views, on_demand, types) for service in store.list_feature_services()}
    return FeatureRepo(project=store.project, hash=digest, views=views, services=services, on_demand=on_demand)


def _service(
    service: FeatureService,
    views: Mapping[str, ViewSchema],
    on_demand: Mapping[str, OnDemandSchema],
    types: Callable[[Any], dict[str, str]],
) -> ServiceSchema:
    names = [projection.name for projection in service.feature_view_projections]
    computed = [name for name in names if name in on_demand]
    stored = [name for name in names if name in views] + [view for name in computed for view in on_demand[name].views]
    return ServiceSchema(
        views=tuple(dict.fromkeys(stored)),
        features={k: v for p in service.feature_view_projections for k, v in types(p.features).items()},
        on_demand=tuple(computed),
        request={k: v for name in computed for k, v in on_demand[name].request.items()},
        tags=dict(service.tags),
    )


def _code(view: OnDemandFeatureView) -> str:
    """Identify an on-demand view's function by its syntax, so that comments and layout do not count."""
    source = textwrap.dedent(view.feature_transformation.udf_string)
    try:
        return content_hash(ast.dump(ast.parse(source)))
    except SyntaxError:
        return content_hash(source)
