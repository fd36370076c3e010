"""What applying a feature repository would change, before it does, and whom it would hit.

Additive: nothing that was there is touched. Breaking: whoever reads it would read something else, or nothing.
Cosmetic: tags only. A breaking change of what a served model version reads is refused: it is made as a new version,
``view_v2`` and ``service_v2``, beside the old one, which the old models keep.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal

from airflow_mlops.contracts import Record
from airflow_mlops.engine.features.governance.consumers import Consumer, ModelFeatures, applied, model_versions
from airflow_mlops.engine.features.governance.lint import Finding, lint
from airflow_mlops.engine.features.project.definitions import describe_definitions, files_hash, load_definitions
from airflow_mlops.engine.features.project.location import Location
from airflow_mlops.engine.features.project.schema import (
    EntitySchema,
    FeatureRepo,
    OnDemandSchema,
    ServiceSchema,
    ViewSchema,
)
from airflow_mlops.engine.features.project.settings import read_settings
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.exceptions import ConfigError

Action = Literal["add", "remove", "change"]
Effect = Literal["additive", "breaking", "cosmetic"]
_SIGNS: dict[Action, str] = {"add": "+", "remove": "-", "change": "~"}


class Change(Record):
    """One difference between what was applied last and the definitions.

    ``services`` are those, as applied last, that read it; ``models`` the model versions trained on these.
    """

    action: Action
    kind: str
    name: str
    what: str = ""
    effect: Effect
    services: tuple[str, ...] = ()
    models: tuple[Consumer, ...] = ()

    def __str__(self) -> str:
        hit = [f"services: {', '.join(self.services)}"] if self.services and self.effect == "breaking" else []
        hit += [f"models: {', '.join(map(str, self.models))}"] if self.models and self.effect == "breaking" else []
        what = f": {self.what}" if self.what else ""
        return f"{_SIGNS[self.action]} {self.kind} {self.name}{what} [{'; '.join([self.effect, *hit])}]"


class Plan(Record):
    """What applying ``definitions`` would change. ``refused`` are the served versions that read what would break;
    ``incomplete`` the stored views whose online values would be gone, or lack a feature or some of their time to live.
    """

    project: str
    before: str | None
    definitions: FeatureRepo
    changes: tuple[Change, ...]
    findings: tuple[Finding, ...]
    refused: tuple[Consumer, ...]
    incomplete: tuple[str, ...]

    @property
    def counts(self) -> dict[str, int]:
        """Effect → how many changes have it."""
        effects = [change.effect for change in self.changes]
        return {effect: effects.count(effect) for effect in dict.fromkeys(sorted(effects))}

    def lines(self) -> list[str]:
        """Return the plan in words, a line each."""
        since = "nothing was applied before" if self.before is None else f"since {self.before[:12]}"
        counts = ", ".join(f"{count} {effect}" for effect, count in self.counts.items()) or "no changes"
        return [
            f"Feast project {self.project!r}, {since}: {counts}",
            *(f"  {change}" for change in self.changes),
            *(f"  {finding.severity}: {finding}" for finding in self.findings),
            *(f"  refused: it would break {consumer}" for consumer in self.refused),
        ]


def plan(location: Location, ledger: Ledger) -> Plan:
    """Return what applying a repository would change; nothing is registered, and no registry is read.

    :raises ConfigError: when the definitions cannot be loaded, or Feast refuses them.
    """
    project = read_settings(location)["project"]
    definitions = load_definitions(location, project)
    after = describe_definitions(location, definitions, files_hash(location))
    return compare(applied(ledger, project), after, ledger)


def compare(before: FeatureRepo | None, after: FeatureRepo, ledger: Ledger) -> Plan:
    """Return the plan from what was applied last to what would be."""
    old = before or FeatureRepo(project=after.project, hash="", views={}, services={})
    found = tuple(_changes(old, after))
    # Not read where nothing changed, as in nearly every run: they are all versions there ever were of all models.
    versions = model_versions(ledger, after.project) if found else []
    changes = tuple(_with_hits(change, old, versions) for change in found)
    return Plan(
        project=after.project,
        before=before.hash if before else None,
        definitions=after,
        changes=changes,
        findings=tuple(lint(after)),
        refused=tuple(consumer for read, consumer in versions if consumer.serving and _breaks(read, changes, after)),
        incomplete=tuple(name for name, view in old.views.items() if _incomplete(view, after.views.get(name))),
    )


def check_served(plan: Plan) -> None:
    """Refuse a plan that breaks what serves.

    :raises ConfigError: naming the changes and the model versions.
    """
    if not plan.refused:
        return
    services = {consumer.service for consumer in plan.refused}
    breaking = [c for c in plan.changes if c.effect == "breaking" and services & set(c.services)]
    raise ConfigError(
        f"{len(plan.refused)} served model versions read what these definitions would break; nothing was applied.",
        detail="\n    ".join(
            [
                f"Feast project {plan.project!r}",
                *map(str, breaking),
                *(f"{consumer.service} is read by {consumer}" for consumer in plan.refused),
            ]
        ),
        hint="Leave these definitions as they were, and make the change in new ones beside them, such as "
        f"{min(services).partition('_v')[0]}_v2 and views with _v2. Remove the old ones once no loaded version reads "
        "them. Where a feature was added to a view that the old service lists whole, let it name those it had: "
        'some_view[["a", "b"]].',
    )


def _breaks(read: ModelFeatures, changes: Iterable[Change], after: FeatureRepo) -> bool:
    """True when a change hits the service that a version reads, and does not bring back what it was trained on."""
    if not any(change.effect == "breaking" and read.service in change.services for change in changes):
        return False
    return read.service not in after.services or after.definition_hash(read.service) != read.definition


def _incomplete(old: ViewSchema, new: ViewSchema | None) -> bool:
    """True when what is online of a view is not all that should be of its new definition. Feast drops what is online
    of a removed one.
    """
    if new is None or new.keys != old.keys or not new.features.items() <= old.features.items():
        return True
    longer = new.ttl_seconds is None or (old.ttl_seconds is not None and new.ttl_seconds > old.ttl_seconds)
    return longer and old.ttl_seconds is not None


def _with_hits(change: Change, before: FeatureRepo, versions: Iterable[tuple[ModelFeatures, Consumer]]) -> Change:
    services = tuple(sorted(name for name in before.services if _reads(before, name, change)))
    models = tuple(consumer for read, consumer in versions if read.service in services)
    return change.model_copy(update={"services": services, "models": models})


def _reads(repo: FeatureRepo, service: str, change: Change) -> bool:
    """True when a service reads what a change is about."""
    if change.kind == "feature service":
        return service == change.name
    reads = repo.reads(service)
    if change.kind == "entity":
        key = repo.entities[change.name].join_key if change.name in repo.entities else None
        return any(key in repo.views[view].keys for view in repo.services[service].views)
    view, _, feature = change.name.partition(":")
    return view in reads and (not feature or feature in reads[view])


# --- the differences ----------------------------------------------------------------------------------------


def _changes(before: FeatureRepo, after: FeatureRepo) -> Iterator[Change]:
    yield from _each("entity", before.entities, after.entities, _entity)
    yield from _each("feature view", before.views, after.views, _view)
    yield from _each("on-demand view", before.on_demand, after.on_demand, _on_demand)
    yield from _each("feature service", before.services, after.services, _service)


def _each(
    kind: str, old: Mapping[str, Any], new: Mapping[str, Any], differences: Callable[[str, Any, Any], Iterator[Change]]
) -> Iterator[Change]:
    for name in sorted({*old, *new}):
        if name not in old:
            yield Change(action="add", kind=kind, name=name, what=_features_of(new[name]), effect="additive")
        elif name not in new:
            yield Change(action="remove", kind=kind, name=name, effect="breaking")
        else:
            yield from differences(name, old[name], new[name])


def _entity(name: str, old: EntitySchema, new: EntitySchema) -> Iterator[Change]:
    yield from _changed("entity", name, "join key", old.join_key, new.join_key)
    yield from _changed("entity", name, "type", old.type, new.type)
    yield from _tags("entity", name, old.tags, new.tags)


def _view(name: str, old: ViewSchema, new: ViewSchema) -> Iterator[Change]:
    yield from _changed("feature view", name, "keys", _types(old.keys), _types(new.keys))
    yield from _changed("feature view", name, "ttl", _ttl(old.ttl_seconds), _ttl(new.ttl_seconds))
    yield from _features(name, old, new)
    yield from _tags("feature view", name, old.tags, new.tags)


def _on_demand(name: str, old: OnDemandSchema, new: OnDemandSchema) -> Iterator[Change]:
    kind = "on-demand view"
    yield from _changed(kind, name, "request", _types(old.request), _types(new.request))
    yield from _changed(kind, name, "computed from", _reads_of(old), _reads_of(new))
    yield from _changed(kind, name, "code", old.code[:12], new.code[:12])
    yield from _features(name, old, new)
    yield from _tags(kind, name, old.tags, new.tags)


def _service(name: str, old: ServiceSchema, new: ServiceSchema) -> Iterator[Change]:
    kind = "feature service"
    if list(old.features.items()) != list(new.features.items()):
        gone = [f"-{one}" for one in old.features if one not in new.features]
        more = [f"+{one}" for one in new.features if one not in old.features]
        what = " ".join([*gone, *more]) or "their types or order"
        yield Change(action="change", kind=kind, name=name, what=f"features {what}", effect="breaking")
    yield from _changed(kind, name, "views", ", ".join(old.views), ", ".join(new.views))
    yield from _changed(kind, name, "join keys", str(old.join_keys), str(new.join_keys))
    yield from _tags(kind, name, old.tags, new.tags)


def _features(view: str, old: ViewSchema | OnDemandSchema, new: ViewSchema | OnDemandSchema) -> Iterator[Change]:
    for name in dict.fromkeys([*old.features, *new.features]):
        full = f"{view}:{name}"
        if name not in old.features:
            yield Change(action="add", kind="feature", name=full, what=new.features[name], effect="additive")
        elif name not in new.features:
            yield Change(action="remove", kind="feature", name=full, effect="breaking")
        else:
            yield from _changed("feature", full, "type", old.features[name], new.features[name])
            yield from _tags("feature", full, old.feature_tags.get(name, {}), new.feature_tags.get(name, {}))


def _changed(kind: str, name: str, what: str, old: str, new: str) -> Iterator[Change]:
    if old != new:
        yield Change(action="change", kind=kind, name=name, what=f"{what} {old} → {new}", effect="breaking")


def _tags(kind: str, name: str, old: Mapping[str, str], new: Mapping[str, str]) -> Iterator[Change]:
    for tag in sorted({*old, *new}):
        if old.get(tag) != new.get(tag):
            what = f"tag {tag} {old.get(tag, '∅')} → {new.get(tag, '∅')}"
            yield Change(action="change", kind=kind, name=name, what=what, effect="cosmetic")


def _features_of(schema: Any) -> str:
    return _count(schema.features) if hasattr(schema, "features") else ""


def _types(columns: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {kind}" for name, kind in sorted(columns.items())) or "none"


def _reads_of(view: OnDemandSchema) -> str:
    return ", ".join(f"{name}[{' '.join(view.reads.get(name, ()))}]" for name in view.views) or "the request alone"


def _ttl(seconds: float | None) -> str:
    return "none" if seconds is None else f"{seconds:g} s"


def _count(features: Mapping[str, str]) -> str:
    return f"{len(features)} feature{'' if len(features) == 1 else 's'}"
