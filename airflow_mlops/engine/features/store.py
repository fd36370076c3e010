"""The Feast repository of a project: open it, apply it once per change, and say what it defines.

``feature_store.yaml`` and the definitions beside it may use ``${MLOPS_HOME}``, the home folder, and any other
environment variable.
"""

from __future__ import annotations

import importlib.metadata
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

from airflow_mlops.contracts import Record, content_hash
from airflow_mlops.engine.data.files import sha256
from airflow_mlops.engine.features.definitions import definition_files, load_definitions
from airflow_mlops.engine.imports import import_uninstrumented
from airflow_mlops.engine.locks import locked
from airflow_mlops.exceptions import ConfigError, DataError, TransientError, did_you_mean

if TYPE_CHECKING:
    from feast import FeatureStore, RepoConfig

    from airflow_mlops.engine.ledger import Ledger

SETTINGS = "feature_store.yaml"


class ViewSchema(Record):
    """The columns of a feature view, as name → Arrow type, and how long its values may be used.

    The tag ``columns`` says what it is computed from: ``departures.dep_delay departures.cancelled``.
    """

    keys: dict[str, str]
    features: dict[str, str]
    ttl_seconds: float | None
    tags: dict[str, str] = {}


class ServiceSchema(Record):
    """The feature views that a feature service reads, and its features in order: name → Arrow type."""

    views: tuple[str, ...]
    features: dict[str, str]


class FeatureRepo(Record):
    """What an applied Feast repository defines; ``hash`` identifies the files that it was applied from."""

    project: str
    hash: str
    views: dict[str, ViewSchema]
    services: dict[str, ServiceSchema]

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
        """Return the identity of what a feature service means: its features, their views, keys and times to live."""
        schema = self.service(service)
        views = {name: self.views[name].model_dump(exclude={"tags"}) for name in schema.views}
        return content_hash({"features": list(schema.features.items()), "views": views})


def feature_file(home: Path, view: str, key: str) -> Path:
    """Return where the rows of a feature view for one day lie."""
    return home / "features" / view / f"{key}.parquet"


def project_lock(home: Path, project: str) -> Path:
    """Return the file whose lock the one writer of a project's registry and online store holds."""
    return home / "feast" / f"{project}.lock"


def open_store(repo_path: Path, home: Path) -> FeatureStore:
    """Open the feature store that a repository configures.

    :param repo_path: Folder with ``feature_store.yaml``.
    :param home: The home folder, which ``${MLOPS_HOME}`` stands for.
    :raises ConfigError: when there is no such repository, or its settings are not valid.
    :raises TransientError: when the registry does not answer.
    """
    settings = _settings(repo_path, home)
    _import_feast()
    from feast import FeatureStore

    config = _config(settings, repo_path)
    (home / "feast").mkdir(parents=True, exist_ok=True)
    with feast_errors():
        store = FeatureStore(config=config)
        store.registry.refresh(config.project)  # connects, and reads what was applied since
    return store


def apply_repo(repo_path: Path, home: Path, ledger: Ledger) -> FeatureRepo:
    """Register the repository's definitions, as ``feast apply`` does, and return them.

    One writer at a time. The ledger's pointer ``feature_repo:<project>`` says what was applied last.

    :raises ConfigError: when the definitions cannot be loaded, or Feast refuses them.
    :raises TransientError: when the registry does not answer, or somebody else applied at the same moment.
    """
    store = open_store(repo_path, home)
    with locked(project_lock(home, store.project)):
        name = _pointer_name(store.project)
        before = ledger.pointer(name)
        repo = _apply(store, repo_path, home)
        if not ledger.swap(name, repo.model_dump(), expected=before):
            raise TransientError(
                "Somebody else applied the feature repository at the same moment.",
                detail=f"Feast project {repo.project!r}, from {repo_path}",
                hint="Try again; if it goes on, two installations apply different definitions of one project.",
            )
    ledger.record("feature_repo", repo.project, {"hash": repo.hash, "services": sorted(repo.services)})
    return repo


def ensure_applied(repo_path: Path, home: Path, ledger: Ledger) -> FeatureRepo:
    """Return the repository's definitions, applied; costs one read of the ledger when no file changed.

    :raises ConfigError: as :func:`apply_repo`.
    :raises TransientError: as :func:`apply_repo`.
    """
    applied = last_applied(repo_path, home, ledger)
    if applied is not None and applied.hash == _files_hash(repo_path, home):
        return applied
    return apply_repo(repo_path, home, ledger)


def last_applied(repo_path: Path, home: Path, ledger: Ledger) -> FeatureRepo | None:
    """Return what was applied last, from the ledger alone and without Feast; None when nothing was."""
    pointer = ledger.pointer(_pointer_name(_settings(repo_path, home)["project"]))
    return None if pointer is None else FeatureRepo.model_validate(pointer.value)


def describe(store: FeatureStore, digest: str = "") -> FeatureRepo:
    """Return what a feature store's registry holds.

    :param digest: Identity of the files that it was applied from, when known.
    """
    from feast.types import from_feast_to_pyarrow_type

    def types(fields: Any) -> dict[str, str]:
        return {field.name: str(from_feast_to_pyarrow_type(field.dtype)) for field in fields}

    views = {
        view.name: ViewSchema(
            keys=types(view.entity_columns),
            features=types(view.features),
            ttl_seconds=view.ttl.total_seconds() if view.ttl else None,
            tags=dict(view.tags),
        )
        for view in store.list_feature_views()
    }
    services = {
        service.name: ServiceSchema(
            views=tuple(p.name for p in service.feature_view_projections if p.name in views),
            features={k: v for p in service.feature_view_projections for k, v in types(p.features).items()},
        )
        for service in store.list_feature_services()
    }
    return FeatureRepo(project=store.project, hash=digest, views=views, services=services)


@contextmanager
def feast_errors() -> Iterator[None]:
    """Turn what Feast and its databases raise into errors in words."""
    import sqlite3

    import duckdb
    from feast.errors import FeastError
    from sqlalchemy.exc import DBAPIError

    try:
        yield
    except (DBAPIError, sqlite3.OperationalError) as error:
        raise TransientError(
            "Feast's registry or online store does not answer.",
            detail=str(getattr(error, "orig", error)).strip().splitlines()[0],
            hint=f"Check `registry` and `online_store` in {SETTINGS}, and that their databases are up.",
        ) from error
    except duckdb.Error as error:
        raise DataError(
            "The rows of a feature view cannot be read.",
            detail=f"{type(error).__name__}: {str(error).strip().splitlines()[0]}",
            hint="Compute the missing or changed days again with the features DAG.",
        ) from error
    except FeastError as error:
        raise ConfigError(
            "Feast refused.",
            detail=f"{type(error).__name__}: {error}",
            hint="See the definitions in the feature repository, and whether they were applied.",
        ) from error


@contextmanager
def quietly() -> Iterator[None]:
    """Keep Feast's progress bars and coloured prints out of the task log, where they read as errors."""
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        yield


def _pointer_name(project: str) -> str:
    return f"feature_repo:{project}"


def _import_feast() -> None:
    try:
        import_uninstrumented("feast")
    except ImportError as error:
        if error.name != "feast":
            raise
        raise ConfigError(
            "Feast is not installed.", hint="Install the extra: pip install 'airflow-mlops[feast]'."
        ) from None


def _settings(repo_path: Path, home: Path) -> dict[str, Any]:
    try:
        text = (repo_path / SETTINGS).read_text()
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigError(
            "There is no Feast repository at the configured path.",
            detail=str(repo_path / SETTINGS),
            hint="Point the connection of type feast at the folder that holds it, as the workers see it.",
        ) from None
    import yaml

    try:
        settings = yaml.safe_load(Template(text).safe_substitute({**os.environ, "MLOPS_HOME": str(home)}))
    except yaml.YAMLError as error:
        raise ConfigError(
            f"{SETTINGS} is not valid YAML.", detail=f"{repo_path / SETTINGS}: {error}", hint="Mend it."
        ) from None
    if not isinstance(settings, dict) or not settings.get("project"):
        raise ConfigError(f"{SETTINGS} names no project.", detail=str(repo_path / SETTINGS), hint="Add `project:`.")
    return settings


def _config(settings: dict[str, Any], repo_path: Path) -> RepoConfig:
    from feast import RepoConfig
    from feast.errors import FeastError
    from pydantic import ValidationError

    try:
        config = RepoConfig(**settings)
    except (ValidationError, FeastError) as error:
        raise ConfigError(
            f"Feast does not accept {SETTINGS}.",
            detail=f"{repo_path / SETTINGS}: {error}",
            hint="See the reference of feature_store.yaml in Feast's documentation.",
        ) from None
    config.repo_path = repo_path.resolve()
    return config


def _files_hash(repo_path: Path, home: Path) -> str:
    """Identity of what would be applied; the home counts because the registry holds absolute paths."""
    files = [Path(SETTINGS), *definition_files(repo_path)]
    return content_hash(
        {
            "files": {str(file): sha256(repo_path / file) for file in files},
            "home": str(home),
            "feast": importlib.metadata.version("feast"),
        }
    )


def _apply(store: FeatureStore, repo_path: Path, home: Path) -> FeatureRepo:
    from feast import repo_operations

    contents = load_definitions(repo_path, home, store.project)
    with quietly(), feast_errors():
        repo_operations.apply_total_with_repo_instance(
            store, store.project, store.registry, contents, skip_source_validation=True
        )
        store.registry.refresh(store.project)
    return describe(store, _files_hash(repo_path, home))
