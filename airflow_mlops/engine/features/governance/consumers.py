"""Who reads which feature, from the ledger alone: neither MLflow nor Feast's registry need answer.

A fact ``model_features`` is recorded when a model version is registered: the feature service it was trained on, what
that meant then, and which code had computed the values. So a version that is to serve again can be held against what
the features are now.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

from airflow_mlops.contracts import Record, Snapshot
from airflow_mlops.engine.features.computing.sameness import Pinned, equal_features
from airflow_mlops.engine.features.materialization.watermarks import Watermark, pointer_name
from airflow_mlops.engine.features.project.schema import FeatureRepo, OnDemandSchema, ViewSchema
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.engine.serving.deployments import deployments
from airflow_mlops.exceptions import ConfigError, GateError

KIND = "model_features"

_log = logging.getLogger(__name__)


class ModelFeatures(Record):
    """What a model version reads.

    ``definition`` and ``code`` are those of its snapshot; ``features`` are ``view:feature``, or, when the service
    was gone already at registration, the names of all inputs of the model. ``label_cut`` says how far its data goes,
    ``pinned`` which partitions of each stored view it was trained on, ``datasets`` whose partitions.
    """

    model: str
    version: int
    service: str
    project: str
    definition: str
    code: dict[str, str]
    features: tuple[str, ...]
    snapshot: str
    label_cut: datetime | None = None
    pinned: dict[str, Pinned] = {}
    datasets: tuple[str, ...] = ()


class Consumer(Record):
    """A model version that reads a feature, and where it is in service: ``server: stable``."""

    model: str
    version: int
    service: str
    serving: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.model} {self.version}" + (f" ({', '.join(self.serving)})" if self.serving else "")


class Unused(Record):
    """A feature, or a view with all its features, that nobody uses, and which uses it lacks."""

    name: str
    lacks: tuple[str, ...]


@dataclass(frozen=True)
class Override:
    """Somebody answers by name for using a version although its features have moved on."""

    who: str
    reason: str

    @classmethod
    def of(cls, who: str, reason: str) -> Override | None:
        """Return the override that two texts ask for; None when both are empty.

        :raises ConfigError: when one of them is.
        """
        who, reason = who.strip(), reason.strip()
        if bool(who) != bool(reason):
            raise ConfigError(
                "An override needs a name and a reason.",
                detail=f"by {who!r}, because {reason!r}",
                hint="Say who answers for it, and why; leave both empty for no override.",
            )
        return cls(who, reason) if who else None


def pointer_of(project: str) -> str:
    """Return the name of the ledger's pointer to what was applied last."""
    return f"feature_repo:{project}"


def applied(ledger: Ledger, project: str) -> FeatureRepo | None:
    """Return what was applied last of a project; None when nothing was with this ledger."""
    pointer = ledger.pointer(pointer_of(project))
    return None if pointer is None else FeatureRepo.model_validate(pointer.value)


def record_model(ledger: Ledger, model: str, version: int, snapshot: Snapshot) -> None:
    """Write down what a version reads, once."""
    repo = applied(ledger, snapshot.feature_project) if snapshot.feature_project else None
    if repo is not None and snapshot.feature_service in repo.services:
        reads = repo.reads(snapshot.feature_service)
        features = tuple(f"{view}:{name}" for view, names in reads.items() for name in names)
    else:
        features = tuple(snapshot.features)
    read = ModelFeatures(
        model=model,
        version=version,
        service=snapshot.feature_service,
        project=snapshot.feature_project,
        definition=snapshot.feature_definition,
        code=snapshot.feature_code,
        features=features,
        snapshot=snapshot.id,
        label_cut=snapshot.label_cut,
        pinned={view: (min(keys), max(keys), len(keys)) for view, keys in snapshot.feature_files.items() if keys},
        datasets=tuple(snapshot.partitions),
    )
    if read_by(ledger, model, version) is None:
        ledger.record(KIND, model, read.model_dump(mode="json"), key=str(version))


def read_by(ledger: Ledger, model: str, version: int) -> ModelFeatures | None:
    """Return what a version reads; None when it was registered before this was recorded."""
    found = ledger.facts(KIND, model, key=str(version), limit=1)
    return ModelFeatures.model_validate(found[0].payload) if found else None


def data_cut(ledger: Ledger, model: str, version: int) -> datetime | None:
    """Return up to when a version knows labels, the ``label_cut`` of its snapshot; None when that is not recorded."""
    read = read_by(ledger, model, version)
    return None if read is None else read.label_cut


def model_versions(ledger: Ledger, project: str) -> list[tuple[ModelFeatures, Consumer]]:
    """Return all recorded versions that read features of a project, by model and version, and where they serve."""
    serving = in_service(ledger)
    versions: dict[tuple[str, int], ModelFeatures] = {}
    for fact in ledger.facts(KIND, limit=None):
        read = ModelFeatures.model_validate(fact.payload)
        if read.project == project:
            versions.setdefault((read.model, read.version), read)
    return [
        (one, Consumer(model=key[0], version=key[1], service=one.service, serving=serving.get(key, ())))
        for key, one in sorted(versions.items())
    ]


def in_service(ledger: Ledger) -> dict[tuple[str, int], tuple[str, ...]]:
    """Return (model, version) → where it is loaded, and as what: ``tf_serving_default: stable``."""
    found: dict[tuple[str, int], list[str]] = {}
    for state in deployments(ledger):
        roles = dict.fromkeys(state.loaded, "loaded")
        roles |= {state.previous: "previous"} if state.previous is not None else {}
        roles |= {state.stable: "stable"} if state.stable is not None else {}
        for version, role in roles.items():
            found.setdefault((state.model, version), []).append(f"{state.server}: {role}")
    return {key: tuple(places) for key, places in found.items()}


def consumers(ledger: Ledger, repo: FeatureRepo) -> dict[str, list[Consumer]]:
    """Return feature (``view:feature``) → the model versions that read it, also those behind on-demand views."""
    found: dict[str, list[Consumer]] = {name: [] for name in _features(repo)}
    for read, consumer in model_versions(ledger, repo.project):
        for name in _named(read, repo):
            if name in found:
                found[name].append(consumer)
    return found


def unused(ledger: Ledger, repo: FeatureRepo) -> list[Unused]:
    """Return the features that no service reads, no served version reads, or no version was ever trained on.

    A view all of whose features lack the same is one entry, by its name.
    """
    in_services = {
        f"{view}:{name}" for service in repo.services for view, names in repo.reads(service).items() for name in names
    }
    found: dict[str, dict[str, tuple[str, ...]]] = {}
    for feature, readers in consumers(ledger, repo).items():
        lacks = {
            "no feature service reads it": feature not in in_services,
            "no model was trained on it": not readers,
            "no served model reads it": not any(reader.serving for reader in readers),
        }
        view, _, name = feature.partition(":")
        found.setdefault(view, {})[name] = tuple(text for text, true in lacks.items() if true)
    entries = []
    for view, features in found.items():
        [*kinds] = dict.fromkeys(features.values())
        if len(kinds) == 1:
            entries.append(Unused(name=view, lacks=kinds[0]))
        else:
            entries += [Unused(name=f"{view}:{name}", lacks=lacks) for name, lacks in features.items()]
    return [entry for entry in entries if entry.lacks]


def check_features(ledger: Ledger, model: str, version: int, override: Override | None = None) -> None:
    """Refuse to serve a version whose features are not what it was trained on any more.

    That is: its feature service is gone, blocked, or means something else, or its online values are computed by
    other code. A version of which nothing was recorded, or whose features others apply, is let through with a
    warning.

    :param override: Who answers for serving it all the same; it is recorded in the ledger.
    :raises GateError: saying what has changed.
    """
    read = read_by(ledger, model, version)
    if read is None or not read.definition:
        _log.warning(
            "Nothing was recorded of the features of version %s of %r, so it cannot be told whether they are "
            "still what it was trained on.",
            version,
            model,
        )
        return
    changed = _changes(ledger, read)
    if not changed:
        return
    refusal = GateError(
        f"The features of version {version} of {model!r} are not what it was trained on any more.",
        detail="\n    ".join([f"feature service {read.service!r} of Feast project {read.project!r}", *changed]),
        hint="Bring back the definitions and the code that it was trained with (snapshot "
        f"{read.snapshot}), under the same names, apply and materialise them; or use another version, or train one. "
        "Where other code computes the same values, prove it: airflow-mlops features compute. "
        "To serve it all the same, override by name with a reason.",
    )
    if override is None:
        raise refusal
    payload = {"who": override.who, "reason": override.reason, "changes": changed}
    ledger.record("feature_override", model, payload, key=str(version))
    _log.warning("%s overrides (%s): %s", override.who, override.reason, refusal)


def _changes(ledger: Ledger, read: ModelFeatures) -> list[str]:
    """Return what has changed since a version was trained, in words."""
    repo = applied(ledger, read.project)
    if repo is None:
        _log.warning(
            "Feast project %r was not applied with this ledger: whether it still is what version %s of %r was "
            "trained on cannot be told.",
            read.project,
            read.version,
            read.model,
        )
        return _code_changes(ledger, read, {name.partition(":")[0] for name in read.features if ":" in name})
    if read.service not in repo.services:
        return [f"the service is gone; there are: {', '.join(sorted(repo.services)) or 'none'}"]
    changed = []
    if repo.services[read.service].tags.get("status") == "blocked":
        changed.append("the service is blocked")
    if repo.definition_hash(read.service) != read.definition:
        reads = repo.reads(read.service)
        now, then = {f"{view}:{name}" for view, names in reads.items() for name in names}, set(_named(read, repo))
        gone, new = sorted(then - now), sorted(now - then)
        what = [f"without {', '.join(gone)}"] * bool(gone) + [f"with {', '.join(new)}"] * bool(new)
        changed.append(
            f"the service means something else now: {' and '.join(what) or 'types, order, keys, TTL or code'}"
            f" (definition {repo.definition_hash(read.service)[:12]}, trained on {read.definition[:12]})"
        )
    return changed + _code_changes(ledger, read, repo.services[read.service].views)


def _code_changes(ledger: Ledger, read: ModelFeatures, views: Iterable[str]) -> list[str]:
    found = []
    for view in sorted(read.code.keys() & set(views)):
        pointer = ledger.pointer(pointer_name(read.project, view))
        code, trained = Watermark.of(pointer.value).code if pointer is not None else None, read.code[view]
        if not code or code == trained:
            continue
        wanted = {name.partition(":")[2] for name in read.features if name.partition(":")[0] == view}
        if view in read.pinned and wanted:
            wanted -= equal_features(ledger, read.project, view, (trained, code), read.pinned[view])
            if not wanted:
                continue
        found.append(
            f"online values of {view!r} are computed by code {code[:12]}, trained on {trained[:12]}: "
            f"{', '.join(sorted(wanted)) or 'all of them'} differ, or were not compared"
        )
    return found


def _named(read: ModelFeatures, repo: FeatureRepo) -> Iterator[str]:
    """Yield the features that a version reads as ``view:feature``."""
    bare = set()
    for name in read.features:
        if ":" in name:
            yield name
        else:
            bare.add(name)
    yield from (name for name in _features(repo) if name.partition(":")[2] in bare)


def _features(repo: FeatureRepo) -> list[str]:
    views: dict[str, ViewSchema | OnDemandSchema] = {**repo.views, **repo.on_demand}
    return [f"{name}:{feature}" for name, view in sorted(views.items()) for feature in view.features]
