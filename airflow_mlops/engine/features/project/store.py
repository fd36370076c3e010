"""A project's Feast feature store, opened; and what it raises, in words."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_mlops.engine.features.project.config import feast_config
from airflow_mlops.engine.features.project.errors import TableMissingError, feast_errors
from airflow_mlops.engine.features.project.location import Location
from airflow_mlops.engine.features.project.settings import read_settings
from airflow_mlops.engine.imports import import_uninstrumented
from airflow_mlops.exceptions import ConfigError

if TYPE_CHECKING:
    from feast import FeatureStore, FeatureView

__all__ = ["feast_errors", "open_store", "ping_online", "project_lock", "quietly", "restore_online"]


def project_lock(home: Path, project: str) -> Path:
    """Return the file whose lock the one writer of a project's registry and online store holds."""
    return home / "feast" / f"{project}.lock"


def open_store(location: Location) -> FeatureStore:
    """Open the feature store that a repository configures.

    :raises ConfigError: when there is no such repository, or its settings are not valid.
    :raises DataError: when the registry is damaged.
    :raises TransientError: when the registry does not answer.
    """
    settings = read_settings(location)
    import_feast()
    from feast import FeatureStore

    config = feast_config(settings, location)
    (location.home / "feast").mkdir(parents=True, exist_ok=True)
    with feast_errors():
        store = FeatureStore(config=config)
        store.registry.refresh(config.project)  # connects, and reads what was applied since
    return store


def ping_online(store: FeatureStore) -> str:
    """Ask the online store for a value, as a reader would; return what that showed, in words.

    :raises DataError: when it lacks what was applied.
    :raises MlopsError: when it does not answer, or refuses.
    """
    for view in store.list_feature_views():
        if view.online:
            _ask(store, view)
            return "the online store answers"
    return "nothing is applied yet, so the online store was not asked"


def restore_online(store: FeatureStore) -> list[str]:
    """Make the tables that were lost online since they were applied: of a file that was deleted, say.

    Feast goes by its registry, and takes them to be there.

    :return: The feature views that have to be materialised anew.
    :raises MlopsError: when the online store does not answer, or is damaged.
    """
    views = [view for view in store.list_feature_views() if view.online]
    lost = [view for view in views if _is_lost(store, view)]
    if lost:
        with feast_errors():
            store._get_provider().update_infra(store.project, [], lost, [], [], partial=True)
    return [view.name for view in lost]


def _is_lost(store: FeatureStore, view: FeatureView) -> bool:
    try:
        _ask(store, view)
    except TableMissingError:
        return True
    return False


def _ask(store: FeatureStore, view: FeatureView) -> None:
    """Ask for a value that is not there."""
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value

    keys = [column.name for column in view.entity_columns]
    key = EntityKey(join_keys=keys, entity_values=[Value(string_val="nobody") for _ in keys])
    with feast_errors():
        store._get_provider().online_read(store.config, view, [key], [view.features[0].name])


@contextmanager
def quietly() -> Iterator[None]:
    """Keep Feast's progress bars and coloured prints out of the task log, where they read as errors."""
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        yield


def import_feast() -> None:
    """Import Feast, without what makes that slow.

    :raises ConfigError: when it is not installed.
    """
    try:
        import_uninstrumented("feast")
    except ImportError as error:
        if error.name != "feast":
            raise
        raise ConfigError(
            "Feast is not installed.", hint="Install the extra: pip install 'airflow-mlops[feast]'."
        ) from None
