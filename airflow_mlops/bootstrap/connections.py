"""Connections that the feeds of a pipeline are read by: they must be those of the stack, where its tasks run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from airflow_mlops.bootstrap.watch import Watcher
from airflow_mlops.exceptions import ConfigError
from airflow_mlops.feeds import Partitions, SQLSource

if TYPE_CHECKING:
    from airflow_mlops.pipeline import ModelPipeline


def bring_connections(watcher: Watcher, pipeline: ModelPipeline, shell: Mapping[str, str]) -> None:
    """Give the stack the connections that a pipeline's feeds name and its Airflow lacks, if the user's shell has them.

    :param shell: Environment of the user's shell, which the stack does not inherit.
    :raises ConfigError: when nobody has one.
    """
    for conn_id in dict.fromkeys(_named(pipeline)):
        if conn_id in watcher.airflow.connections():
            continue
        variable = f"AIRFLOW_CONN_{conn_id.upper()}"
        if variable not in shell:
            raise ConfigError(
                f"The stack has no connection {conn_id!r}.",
                detail=f"the data of {pipeline.model} is read by it",
                hint=f"Add it: airflow-mlops stack airflow connections add {conn_id} --conn-uri …; or export "
                f"{variable}. Then run the same command again.",
            )
        watcher.airflow.add_connection(conn_id, _fields(conn_id, shell[variable]))
        watcher.console.say(f"connection {conn_id}: taken from {variable} of this shell")


def _named(pipeline: ModelPipeline) -> Iterator[str]:
    for feed in pipeline.feeds:
        if isinstance(feed, SQLSource):
            yield feed.conn_id
        elif isinstance(feed, Partitions) and "://" in feed.uri and (name := urlsplit(feed.uri).username):
            yield name


def _fields(conn_id: str, value: str) -> dict[str, object]:
    from airflow.sdk import Connection

    read = Connection.from_json if value.lstrip().startswith("{") else Connection.from_uri
    made = read(value, conn_id=conn_id)
    fields = ("conn_type", "host", "login", "password", "schema", "port", "extra")
    return {name: getattr(made, name) for name in fields if getattr(made, name) not in (None, "")}
