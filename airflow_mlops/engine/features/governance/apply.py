"""Register what a Feast repository defines: once a change, one writer at a time, nothing that breaks what serves."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from airflow_mlops.contracts import content_hash
from airflow_mlops.engine.features.governance.consumers import applied, pointer_of
from airflow_mlops.engine.features.governance.lint import check_lint
from airflow_mlops.engine.features.governance.plan import Plan, check_served, compare
from airflow_mlops.engine.features.materialization.watermarks import Watermark, pointer_name
from airflow_mlops.engine.features.project.definitions import (
    Definitions,
    describe_definitions,
    files_hash,
    load_definitions,
)
from airflow_mlops.engine.features.project.location import Location
from airflow_mlops.engine.features.project.schema import FeatureRepo, describe
from airflow_mlops.engine.features.project.settings import read_settings
from airflow_mlops.engine.features.project.store import feast_errors, open_store, project_lock, quietly, restore_online
from airflow_mlops.engine.locks import locked
from airflow_mlops.exceptions import TransientError

if TYPE_CHECKING:
    from feast import FeatureStore

    from airflow_mlops.engine.ledger import Ledger

_log = logging.getLogger(__name__)


def apply_repo(location: Location, ledger: Ledger) -> FeatureRepo:
    """Register the repository's definitions, as ``feast apply`` does, and return them; see :func:`apply_planned`."""
    return apply_planned(location, ledger)[0]


def apply_planned(location: Location, ledger: Ledger) -> tuple[FeatureRepo, Plan]:
    """Say what registering a repository's definitions changes, register them, and return both.

    One writer at a time. The ledger's pointer ``feature_repo:<project>`` says what was applied last. What was
    materialised stays as it is, but for the views whose online values Feast drops, or which have none yet of a new
    feature: these are materialised anew.

    :raises ConfigError: when the definitions cannot be loaded, break a rule, would break what a served model version
        reads, or Feast refuses them. Nothing was registered then.
    :raises TransientError: when the registry does not answer, or somebody else applied at the same moment.
    """
    _ = location.repo_folder  # refused here, before anything is opened
    project = read_settings(location)["project"]
    with locked(project_lock(location.home, project)):
        name = pointer_of(project)
        before = ledger.pointer(name)
        definitions = load_definitions(location, project)
        after = describe_definitions(location, definitions, files_hash(location))
        plan = compare(applied(ledger, project), after, ledger)
        for line in plan.lines():
            _log.info("%s", line)
        check_lint(after)
        check_served(plan)
        repo, lost = _apply(location, definitions, after.hash)
        for view in sorted({*plan.incomplete, *lost}):
            ledger.move(pointer_name(project, view), lambda value: None if value is None else Watermark().to_value())
        if not ledger.swap(name, repo.model_dump(), expected=before):
            raise TransientError(
                "Somebody else applied the feature repository at the same moment.",
                detail=f"Feast project {repo.project!r}, from {location.repo}",
                hint="Try again; if it goes on, two installations apply different definitions of one project.",
            )
    said = {"hash": repo.hash, "services": sorted(repo.services), "changes": [str(one) for one in plan.changes]}
    ledger.record("feature_repo", repo.project, said)
    return repo, plan


def ensure_applied(location: Location, ledger: Ledger) -> FeatureRepo:
    """Return the repository's definitions, applied; costs one read of the ledger when no file changed.

    With the registry alone, it is whoever has the repository that applies: what the registry holds is returned.

    :raises ConfigError: as :func:`apply_repo`.
    :raises TransientError: as :func:`apply_repo`.
    """
    if location.repo is None:
        return _registered(location)
    last = last_applied(location, ledger)
    if last is not None and last.hash == files_hash(location):
        return last
    return apply_repo(location, ledger)


def last_applied(location: Location, ledger: Ledger) -> FeatureRepo | None:
    """Return what was applied last, from the ledger alone and without Feast; None when nothing was.

    With the registry alone, what it holds is what was applied last.
    """
    if location.repo is None:
        return _registered(location)
    return applied(ledger, read_settings(location)["project"])


def _registered(location: Location) -> FeatureRepo:
    found = describe(open_store(location))
    return found.model_copy(update={"hash": content_hash(found.model_dump(exclude={"hash"}))})


def _apply(location: Location, definitions: Definitions, digest: str) -> tuple[FeatureRepo, list[str]]:
    """Register, and return what holds now, and the views whose online values had been lost."""
    from feast import repo_operations

    store = open_store(location)
    lost = restore_online(store)
    with quietly(), feast_errors():
        repo_operations.apply_total_with_repo_instance(
            store, store.project, store.registry, definitions.contents, skip_source_validation=True
        )
        _renew_tags(store, definitions)
        store.registry.refresh(store.project)
    return describe(store, digest).model_copy(update={"rules": definitions.rules}), lost


def _renew_tags(store: FeatureStore, definitions: Definitions) -> None:
    """Register the on-demand views anew whose tags changed: to Feast such a view is the one that it has."""
    for view in definitions.contents.on_demand_feature_views:
        if dict(store.registry.get_on_demand_feature_view(view.name, store.project).tags) != dict(view.tags):
            store.registry.delete_feature_view(view.name, store.project)
            store.registry.apply_feature_view(view, store.project)
