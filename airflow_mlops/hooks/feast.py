"""Hook over a Feast repository."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from airflow_mlops.exceptions import ConfigError
from airflow_mlops.hooks.base import MlopsHook, expand
from airflow_mlops.operators.base import default_home

if TYPE_CHECKING:
    from feast import FeatureStore

    from airflow_mlops.engine.features.location import Location


class FeastHook(MlopsHook):
    """A Feast repository behind an Airflow connection of type ``feast``.

    The connection's host is the folder with ``feature_store.yaml``, as the workers see it. ``${MLOPS_HOME}`` in
    that file stands for option ``[mlops] home``.

    :param feast_conn_id: Airflow connection id.
    """

    conn_type = "feast"
    conn_name_attr = "feast_conn_id"
    default_conn_name = "feast_default"
    hook_name = "Feast"

    def __init__(self, feast_conn_id: str = default_conn_name) -> None:
        super().__init__(feast_conn_id)

    @property
    def repo_path(self) -> Path:
        """The folder of the repository.

        :raises ConfigError: when the connection names none.
        """
        if not self.connection.host:
            raise ConfigError(
                f"Connection {self.conn_id!r} has no feature repository.",
                detail="its host is empty",
                hint="Set its host to the folder with feature_store.yaml, such as /opt/airflow/feature_repo.",
            )
        return Path(expand(self.connection.host)).absolute()

    def location(self, home: Path | None = None) -> Location:
        """Return where the project's features are defined and kept.

        :param home: Folder for partitions and features; default is option ``[mlops] home``.
        """
        from airflow_mlops.engine.features.location import Location

        return Location(self.repo_path, home or Path(default_home()))

    def get_conn(self, home: Path | None = None) -> FeatureStore:
        """Return the feature store.

        :param home: Folder for partitions and features; default is option ``[mlops] home``.
        """
        from airflow_mlops.engine.features.store import open_store

        return open_store(self.location(home))

    def check(self) -> str:
        """Open the registry and count what it holds."""
        store = self.get_conn()
        views, services = len(store.list_feature_views()), len(store.list_feature_services())
        return f"Feast project {store.project!r}: {views} feature views, {services} feature services"

    def ages_if_fresh(self, home: Path, service: str, key: str, max_age: str) -> dict[str, float] | None:
        """Return feature view → age in seconds of the newest value online, or None when one is too old.

        :param key: Partition at whose end ages are counted.
        :param max_age: Greatest age allowed, such as ``26h``.
        """
        from airflow_mlops.durations import parse_duration
        from airflow_mlops.engine.data.partitions import day_bounds
        from airflow_mlops.engine.features.freshness import freshness

        limit = parse_duration(max_age).total_seconds()
        ages = freshness(self.location(home), service, as_of=day_bounds(key)[1])
        fresh = {view: age for view, age in ages.items() if age is not None and age <= limit}
        if len(fresh) < len(ages):
            stale = {view: age for view, age in ages.items() if view not in fresh}
            self.log.info("Older than %s, or not there (None): seconds by feature view %s", max_age, stale)
            return None
        return fresh
