"""What an applied Feast repository defines, as plain records: read by everything that must not import Feast."""

from __future__ import annotations

import ast
import json
import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator
from pydantic import Field as RecordField

from airflow_mlops.contracts import Record, content_hash
from airflow_mlops.exceptions import ConfigError, did_you_mean
from airflow_mlops.feature_rules import FeatureRules
from airflow_mlops.partitioning import DAILY, Partitioning

if TYPE_CHECKING:
    from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, OnDemandFeatureView


PARTITIONING = "partitioning.json"


class EntitySchema(Record):
    """What rows of features are about: the column that identifies it, its type in Feast."""

    join_key: str
    type: str
    tags: dict[str, str] = {}


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

    ``request`` is what the caller must send, as name → Arrow type; ``views`` the stored views that are read, and
    ``reads`` which of their features; ``code`` identifies the function.
    """

    request: dict[str, str]
    views: tuple[str, ...]
    features: dict[str, str]
    code: str
    reads: dict[str, tuple[str, ...]] = {}
    tags: dict[str, str] = {}
    feature_tags: dict[str, dict[str, str]] = {}


class ServiceSchema(Record):
    """What a feature service reads, and its features in order: name → Arrow type.

    ``views`` are the stored feature views, those behind its on-demand views too; ``on_demand`` the views that are
    computed when asked for; ``request`` what the caller must send for these: name → Arrow type; ``join_keys`` is
    view → its join key → the column that stands for it, where the service says so. ``doubles`` is feature → the views
    that it comes from, where there are several: a mistake in the definitions, so it is not stored.
    """

    views: tuple[str, ...]
    features: dict[str, str]
    on_demand: tuple[str, ...] = ()
    request: dict[str, str] = {}
    join_keys: dict[str, dict[str, str]] = {}
    tags: dict[str, str] = {}
    doubles: dict[str, tuple[str, ...]] = RecordField(default={}, exclude=True)


def _as_rules(stored: Any) -> Any:
    return FeatureRules(**stored) if isinstance(stored, dict) else stored


class FeatureRepo(Record):
    """What an applied Feast repository defines; ``hash`` identifies the files that it was applied from, ``rules`` says
    how strictly they are looked at.
    """

    project: str
    hash: str
    views: dict[str, ViewSchema]
    services: dict[str, ServiceSchema]
    on_demand: dict[str, OnDemandSchema] = {}
    entities: dict[str, EntitySchema] = {}
    rules: Annotated[FeatureRules, BeforeValidator(_as_rules)] = FeatureRules()

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

    def reads(self, service: str) -> dict[str, tuple[str, ...]]:
        """Return which features of which views a feature service reads, stored and on demand; those that its
        on-demand views are computed from too.
        """
        schema = self.service(service)
        found: dict[str, dict[str, None]] = {}
        for name in (*schema.views, *schema.on_demand):
            view: ViewSchema | OnDemandSchema = self.on_demand[name] if name in self.on_demand else self.views[name]
            found[name] = {feature: None for feature in view.features if feature in schema.features}
        for name in schema.on_demand:
            view = self.on_demand[name]
            for behind in view.views:
                found[behind] |= dict.fromkeys(view.reads.get(behind, self.views[behind].features))
        return {name: tuple(features) for name, features in found.items()}

    def definition_hash(self, service: str) -> str:
        """Return the identity of what a feature service means: its features, the keys and times to live of their
        views, and the code of those computed on demand. A feature that it does not read does not count.
        """
        schema, reads, unmeant = self.service(service), self.reads(service), {"tags", "feature_tags", "features"}

        def meant(view: ViewSchema | OnDemandSchema, read: tuple[str, ...]) -> dict[str, Any]:
            types = {name: view.features[name] for name in sorted(read)}
            return {**view.model_dump(mode="json", exclude=unmeant), "features": types}

        return content_hash(
            {
                "features": list(schema.features.items()),
                "views": {name: meant(self.views[name], reads[name]) for name in schema.views},
                "on_demand": {name: meant(self.on_demand[name], reads[name]) for name in schema.on_demand},
                "join_keys": schema.join_keys,
            }
        )


def feature_file(home: Path, view: str, key: str) -> Path:
    """Return where the rows of a feature view for one partition lie."""
    return home / "features" / view / f"{key}.parquet"


def partitioning_of(home: Path, view: str) -> Partitioning:
    """Return how the rows of a feature view are cut into files: by the UTC day, unless they were written otherwise."""
    file = feature_file(home, view, "*").with_name(PARTITIONING)
    return Partitioning(**json.loads(file.read_text())) if file.exists() else DAILY


def describe(store: FeatureStore, digest: str = "") -> FeatureRepo:
    """Return what a feature store's registry holds.

    :param digest: Identity of the files that it was applied from, when known.
    """
    return describe_objects(
        store.project,
        digest,
        entities=store.list_entities(),
        views=store.list_feature_views(),
        on_demand=store.list_on_demand_feature_views(),
        services=store.list_feature_services(),
    )


def describe_objects(
    project: str,
    digest: str,
    *,
    entities: Iterable[Entity],
    views: Iterable[FeatureView],
    on_demand: Iterable[OnDemandFeatureView],
    services: Iterable[FeatureService],
    rules: FeatureRules = FeatureRules(),  # noqa: B008  frozen
) -> FeatureRepo:
    """Return what Feast's own objects say, as plain records; their types must have been inferred."""
    stored = {view.name: _view(view) for view in views}
    computed = {view.name: _on_demand(view) for view in on_demand}
    return FeatureRepo(
        project=project,
        hash=digest,
        views=stored,
        services={service.name: _service(service, stored, computed) for service in services},
        on_demand=computed,
        rules=rules,
        entities={
            entity.name: EntitySchema(
                join_key=entity.join_key, type=entity.value_type.name, tags=dict(entity.tags or {})
            )
            for entity in entities
            if not entity.name.startswith("__")  # Feast's stand-in for views without an entity
        },
    )


def _types(fields: Iterable[Field]) -> dict[str, str]:
    return {field.name: _arrow_type(field) for field in fields}


def _arrow_type(field: Field) -> str:
    from feast.types import Bytes, from_feast_to_pyarrow_type

    if field.dtype == Bytes:  # which Feast stores, and forgets here
        return "binary"
    try:
        return str(from_feast_to_pyarrow_type(field.dtype))
    except ValueError:
        raise ConfigError(
            f"Column {field.name!r} has a type that cannot be stored in files.",
            detail=f"Feast type {field.dtype}",
            hint="Give it another one, such as String or Float64.",
        ) from None


def key_fields(view: FeatureView) -> list[Field]:
    """Return the join keys of a view. One without entities has none: Feast's placeholder is no column of its rows."""
    from feast.feature_view import DUMMY_ENTITY_ID

    return [field for field in view.entity_columns if field.name != DUMMY_ENTITY_ID]


def _feature_tags(fields: Iterable[Field]) -> dict[str, dict[str, str]]:
    return {field.name: dict(field.tags) for field in fields if field.tags}


def _view(view: FeatureView) -> ViewSchema:
    return ViewSchema(
        keys=_types(key_fields(view)),
        features=_types(view.features),
        ttl_seconds=view.ttl.total_seconds() if view.ttl else None,
        tags=dict(view.tags),
        feature_tags=_feature_tags(view.features),
    )


def _on_demand(view: OnDemandFeatureView) -> OnDemandSchema:
    projections = view.source_feature_view_projections.values()
    sources = view.source_request_sources.values()
    return OnDemandSchema(
        request={name: kind for source in sources for name, kind in _types(source.schema).items()},
        views=tuple(projection.name for projection in projections),
        features=_types(view.features),
        code=_code(view),
        reads={one.name: tuple(feature.name for feature in one.features) for one in projections},
        tags=dict(view.tags),
        feature_tags=_feature_tags(view.features),
    )


def _service(
    service: FeatureService, views: Mapping[str, ViewSchema], on_demand: Mapping[str, OnDemandSchema]
) -> ServiceSchema:
    projections = service.feature_view_projections
    names = [projection.name for projection in projections]
    computed = [name for name in names if name in on_demand]
    stored = [name for name in names if name in views] + [view for name in computed for view in on_demand[name].views]
    origins: dict[str, list[str]] = {}
    for one in projections:
        for feature in one.features:
            origins.setdefault(feature.name, []).append(one.name)
    return ServiceSchema(
        views=tuple(dict.fromkeys(stored)),
        features={name: kind for one in projections for name, kind in _types(one.features).items()},
        on_demand=tuple(computed),
        request={name: kind for view in computed for name, kind in on_demand[view].request.items()},
        join_keys={one.name: dict(one.join_key_map) for one in projections if one.join_key_map},
        tags=dict(service.tags),
        doubles={name: tuple(found) for name, found in origins.items() if len(found) > 1},
    )


def _code(view: OnDemandFeatureView) -> str:
    """Identify an on-demand view's function by its syntax, so that comments and layout do not count.

    Nor does its decorator: what that says is held in the view, and compared there.
    """
    source = textwrap.dedent(view.feature_transformation.udf_string)
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return content_hash(source)
    for function in tree.body:
        if isinstance(function, ast.FunctionDef):
            function.decorator_list = []
    return content_hash(ast.dump(tree))
