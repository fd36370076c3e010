"""Hook over a TensorFlow Serving model server, or one that speaks its API."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from airflow_mlops.exceptions import ConfigError
from airflow_mlops.hooks.base import MlopsHook, expand

if TYPE_CHECKING:
    from airflow_mlops.engine.ledger import Ledger
    from airflow_mlops.engine.serving.client import ServingClient
    from airflow_mlops.engine.serving.rollout import Rollout


class TFServingHook(MlopsHook):
    """The model server behind an Airflow connection of type ``tf_serving``.

    The connection has the host, the REST port as its port, and the extra fields ``grpc_port``, ``model_base_path`` (the
    model store), ``model_config_file``, ``timeout``, and ``tensorflow_version`` for a server that does not say its own.
    Workers see the store and the config file under the same paths as the server.

    :param tf_serving_conn_id: Airflow connection id.
    """

    conn_type = "tf_serving"
    conn_name_attr = "tf_serving_conn_id"
    default_conn_name = "tf_serving_default"
    hook_name = "TensorFlow Serving"

    def __init__(self, tf_serving_conn_id: str = default_conn_name) -> None:
        super().__init__(tf_serving_conn_id)

    def get_conn(self) -> ServingClient:
        """Return a client, to be closed or used in a ``with`` statement."""
        from airflow_mlops.engine.serving.client import ServingClient

        return ServingClient(
            self._host,
            int(self._number("grpc_port", 8500)),
            rest_port=self._rest_port,
            timeout=self._number("timeout", 10),
        )

    @contextmanager
    def rollout(self, model: str, ledger: Ledger) -> Iterator[Rollout]:
        """Yield what deploys and rolls back one model on this server.

        :raises ConfigError: when the connection does not say where the store and the config file are.
        """
        from airflow_mlops.engine.serving.rollout import Rollout

        if not re.fullmatch(r"\w[\w.-]*", model):
            raise ConfigError(
                f"{model!r} cannot be the name of a model.",
                detail="it becomes a folder of the model store",
                hint="Use letters, digits and '_' only.",
            )
        base, config_file = self.model_store / model, self._path("model_config_file")
        with self.get_conn() as client:
            yield Rollout(self.conn_id, model, base, config_file, client, ledger)

    @property
    def model_store(self) -> Path:
        """The folder of its models.

        :raises ConfigError: when the connection does not say where it is.
        """
        return self._path("model_base_path")

    def versions_folder(self, model: str) -> Path | None:
        """Return the folder of a model's versions; None when the connection does not say where its models are."""
        return self.model_store / model if self.extra.get("model_base_path") else None

    def settled_state(self, model: str, version: int) -> dict[str, str] | None:
        """Return ``{"state", "error"}`` once the server has loaded a version or given it up, else None."""
        from airflow_mlops.engine.serving.rollout import version_state

        with self.get_conn() as client:
            state = version_state(client, model, version)
        return state._asdict() if state is not None and state.state in ("AVAILABLE", "END") else None

    def tensorflow_version(self) -> str | None:
        """Return the server's version of TensorFlow: the extra field of that name, else as the server says; or None."""
        said = self.extra.get("tensorflow_version")
        if said:
            if not re.fullmatch(r"\d+\.\d+(\..*)?", str(said)):
                raise ConfigError(
                    f"tensorflow_version={said!r} of connection {self.conn_id!r} is no version.",
                    hint="Write it as 2.21.0 in the connection's extra; or leave it out, if the server says its own.",
                )
            return str(said)
        with self.get_conn() as client:
            return client.tensorflow_version()

    def model_url(self, model: str) -> str:
        """Return the REST address of a model's status."""
        return f"http://{self._host}:{self._rest_port}/v1/models/{quote(model, safe='')}"

    def check(self) -> str:
        """Ask for the status of a model that no server has: to be told so is the proof that it answers."""
        from airflow_mlops.engine.serving.rollout import version_state

        with self.get_conn() as client:
            version_state(client, "connection-test", 1)
            return f"The model server at {client.address} answers."

    @property
    def _host(self) -> str:
        return self.connection.host or "localhost"

    @property
    def _rest_port(self) -> int:
        return self.connection.port or 8501

    def _path(self, field: str) -> Path:
        value = self.extra.get(field)
        if not value:
            raise ConfigError(
                f"Connection {self.conn_id!r} does not say its {field}.",
                detail=f"extra field {field} is empty",
                hint="Set it to the path that the model server was started with; workers must see it too.",
            )
        return Path(expand(value))

    def _number(self, field: str, default: float) -> float:
        value = self.extra.get(field) or default
        try:
            return float(value)
        except (TypeError, ValueError):
            raise ConfigError(
                f"Connection {self.conn_id!r} has a {field} that is no number.",
                detail=f"extra field {field}={value!r}",
                hint="Correct it under Admin → Connections.",
            ) from None
