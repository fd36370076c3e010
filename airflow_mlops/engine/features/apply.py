"""Register what a Feast repository defines, once a change, one writer at a time."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_mlops.contracts import content_hash
from airflow_mlops.engine.data.files import sha256
from airflow_mlops.engine.features.definitions import definition_files, load_definitions
from airflow_mlops.engine.features.location import Location
from airflow_mlops.engine.features.schema import FeatureRepo, describe
from airflow_mlops.engine.features.settings import SETTINGS, read_settings
from airflow_mlops.engine.features.store import feast_errors, open_store, project_lock, quietly
from airflow_mlops.engine.locks import locked
from airflow_mlops.exceptions import TransientError

if TYPE_CHECKING:
    from feast import FeatureStore

    from airflow_mlops.engine.ledger import Ledger


def apply_repo(location: Location, ledger: Ledger) -> FeatureRepo:
    """Register the repository's definitions, as ``feast apply`` does, and return them.

    One writer at a time. The ledger's pointer ``feature_repo:<project>`` says what was applied last.

    :raises ConfigError: when the definitions cannot be loaded, or Feast refuses them.
    :raises TransientError: when the registry does not answer, or somebody else applied at the same moment.
    """
    store = open_store(location)
    with locked(project_lock(location.home, store.project)):
        name = _pointer_name(store.project)
        before = ledger.pointer(name)
        repo = _apply(store, location)
        if not ledger.swap(name, repo.model_dump(), expected=before):
            raise TransientError(
                "Somebody else applied the feature repository at the same moment.",
                detail=f"Feast project {repo.project!r}, from {location.repo}",
                hint="Try again; if it goes on, two installations apply different definitions of one project.",
            )
    ledger.record("feature_repo", repo.project, {"hash": repo.hash, "services": sorted(repo.services)})
    return repo


def ensure_applied(location: Location, ledger: Ledger) -> FeatureRepo:
    """Return the repository's definitions, applied; costs one read of the ledger when no file changed.

    :raises ConfigError: as :func:`apply_repo`.
    :raises TransientError: as :func:`apply_repo`.
    """
    applied = last_applied(location, ledger)
    if applied is not None and applied.hash == _files_hash(location):
        return applied
    return apply_repo(location, ledger)


def last_applied(location: Location, ledger: Ledger) -> FeatureRepo | None:
    """Return what was applied last, from the ledger alone and without Feast; None when nothing was."""
    pointer = ledger.pointer(_pointer_name(read_settings(location)["project"]))
    return None if pointer is None else FeatureRepo.model_validate(pointer.value)


def _pointer_name(project: str) -> str:
    return f"feature_repo:{project}"


def _files_hash(location: Location) -> str:
    """Identity of what would be applied; the home counts because the registry holds absolute paths."""
    files = [Path(SETTINGS), *definition_files(location.repo)]
    return content_hash(
        {
            "files": {str(file): sha256(location.repo / file) for file in files},
            "home": str(location.home),
            "feast": importlib.metadata.version("feast"),
        }
    )


def _apply(store: FeatureStore, location: Location) -> FeatureRepo:
    from feast import repo_operations

    contents = load_definitions(location, store.project)
    with quietly(), feast_errors():
        repo_operations.apply_total_with_repo_instance(
            store, store.project, store.registry, contents, skip_source_validation=True
        )
        store.registry.refresh(store.project)
    return describe(store, _files_hash(location))
