"""Hook over MLflow: the experiment store and the model registry."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

from airflow_mlops.exceptions import ConfigError
from airflow_mlops.hooks.base import MlopsHook, expand

if TYPE_CHECKING:
    from airflow_mlops.engine.registry.registry import Registry


class MLflowHook(MlopsHook):
    """MLflow behind an Airflow connection of type ``mlflow``.

    The connection's host is the tracking URI; login and password, or the extra field ``token``, are the
    credentials; the extra field ``registry_uri`` is for a model registry elsewhere.

    :param mlflow_conn_id: Airflow connection id.
    """

    conn_type = "mlflow"
    conn_name_attr = "mlflow_conn_id"
    default_conn_name = "mlflow_default"
    hook_name = "MLflow"

    def __init__(self, mlflow_conn_id: str = default_conn_name) -> None:
        super().__init__(mlflow_conn_id)

    @property
    def tracking_uri(self) -> str:
        """The tracking URI.

        :raises ConfigError: when the connection has none.
        """
        host = expand(self.connection.host or "")
        if "://" not in host:
            raise ConfigError(
                f"Connection {self.conn_id!r} has no tracking URI.",
                detail=f"host={self.connection.host!r}",
                hint="Set its host to something like http://mlflow.example.com:5000.",
            )
        port = self.connection.port
        return f"{host}:{port}" if port else host

    def get_conn(self, *, lookups_only: bool = False) -> Registry:
        """Return the registry.

        :param lookups_only: No file is up- or downloaded; the credentials stay out of the process's environment.
        """
        from airflow_mlops.engine.registry.registry import Registry

        return Registry(
            self.tracking_uri,
            self.extra.get("registry_uri") or None,
            username=self.connection.login,
            password=self.connection.password,
            token=self.extra.get("token"),
            lookups_only=lookups_only,
        )

    def check(self) -> str:
        """Ask MLflow for an experiment."""
        return self.get_conn().check()

    def run_url(self, experiment_id: str, run_id: str) -> str:
        """Return the page of a run; its experiment may be left empty."""
        return self._page(f"experiments/{experiment_id}/runs/{run_id}" if experiment_id else f"runs/{run_id}")

    def version_url(self, model: str, version: str) -> str:
        """Return the page of a registered version."""
        return self._page(f"models/{quote(model, safe='')}/versions/{version}")

    def model_url(self, model: str) -> str:
        """Return the page of a registered model."""
        return self._page(f"models/{quote(model, safe='')}")

    def _page(self, path: str) -> str:
        from airflow_mlops.engine.registry.connection import without_credentials

        return f"{without_credentials(self.tracking_uri).rstrip('/')}/#/{path}"
