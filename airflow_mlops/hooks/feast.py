"""Hook over a Feast repository, or over the registry of one."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowNotFoundException

from airflow_mlops.exceptions import ConfigError, did_you_mean
from airflow_mlops.hooks.base import MlopsHook, expand
from airflow_mlops.operators.base import open_home
from airflow_mlops.partitioning import Partitioning

if TYPE_CHECKING:
    from airflow.sdk import Connection
    from feast import FeatureStore

    from airflow_mlops.engine.features.online.freshness import Freshness
    from airflow_mlops.engine.features.project.location import Location

LINKS = ("registry_conn_id", "online_conn_id", "offline_conn_id")
FIELDS = ("project", "registry", "online_store", "offline_store", *LINKS)
_EXAMPLE = 'Write something like {"type": "sqlite"}.'
_SQL = re.compile(r"^(sqlite|postgres|postgresql|mysql)(\+\w+)?://")
_VARIABLE = re.compile(r"\$\{?\w+\}?")


class FeastHook(MlopsHook):
    """A Feast project behind an Airflow connection of type ``feast``.

    The connection's host is the folder with ``feature_store.yaml``, as the workers see it; ``${MLOPS_HOME}`` in that
    file stands for option ``[mlops] home``. Its extra fields replace or complete what the file says:

    - ``project`` and ``registry``, an SQLAlchemy URL, the path of a registry file, or JSON. With both, there need be
      no folder: definitions are then read from the registry, and only apply is refused.
    - ``online_store`` and ``offline_store``: JSON, as these sections of ``feature_store.yaml``.
    - ``registry_conn_id`` (connection of type postgres, mysql or sqlite), ``online_conn_id`` (redis, aws or postgres)
      and ``offline_conn_id`` (postgres): connections that hold address and secrets. In the fields above no secret is
      accepted, other than as ``${VARIABLE}`` of the workers' environment.

    :param feast_conn_id: Airflow connection id.
    """

    conn_type = "feast"
    conn_name_attr = "feast_conn_id"
    default_conn_name = "feast_default"
    hook_name = "Feast"

    def __init__(self, feast_conn_id: str = default_conn_name) -> None:
        super().__init__(feast_conn_id)
        self._linked: dict[str, Connection] = {}

    async def prefetch(self) -> None:
        """Look up the connection, and those that it links to, from a trigger's event loop."""
        await super().prefetch()
        for field in LINKS:
            conn_id = self._fields().get(field)
            if conn_id:
                try:
                    self._linked[conn_id] = await self.aget_connection(conn_id)
                except AirflowNotFoundException:
                    raise self._no_link(field, conn_id) from None

    @property
    def repo_path(self) -> Path | None:
        """The folder of the repository; None when the connection names only a registry.

        :raises ConfigError: when the connection names neither.
        """
        if self.connection.host:
            return Path(expand(self.connection.host)).absolute()
        fields = self._fields()
        if fields.get("registry") or fields.get("registry_conn_id"):
            return None
        raise ConfigError(
            f"Connection {self.conn_id!r} has no feature repository.",
            detail="its host is empty, and it names no registry",
            hint="Set its host to the folder with feature_store.yaml, such as /opt/airflow/feature_repo; "
            "or set project, and registry or registry_conn_id.",
        )

    def location(self, home: Path | None = None) -> Location:
        """Return where the project's features are defined and kept.

        :param home: Folder for partitions and features; default is option ``[mlops] home``.
        :raises ConfigError: when a field is unknown, is no JSON, holds a secret, or contradicts a linked connection.
        """
        from airflow_mlops.engine.features.project.location import Location

        home = home or open_home()
        return Location(self.repo_path, home, self._overrides(home))

    def get_conn(self, home: Path | None = None) -> FeatureStore:
        """Return the feature store.

        :param home: Folder for partitions and features; default is option ``[mlops] home``.
        """
        from airflow_mlops.engine.features.project.store import open_store

        return open_store(self.location(home))

    def check(self, home: Path | None = None) -> str:
        """Read the registry, count what it holds, and ask the online store for a value.

        :param home: Folder for partitions and features; default is option ``[mlops] home``.
        """
        from airflow_mlops.engine.features.project.store import ping_online

        store = self.get_conn(home)
        views, services = len(store.list_feature_views()), len(store.list_feature_services())
        found = f"Feast project {store.project!r}: {views} feature views, {services} feature services"
        return f"{found}; {ping_online(store)}"

    def freshness(self, home: Path, service: str, key: str, max_age: str, partitioning: str = "daily") -> Freshness:
        """Return how fresh the views of a service are online.

        :param key: Partition at whose end ages are counted.
        :param max_age: Greatest age allowed, such as ``26h``, of a view that does not say so in its tag ``max_age``.
        :param partitioning: Of which ``key`` is one.
        """
        from airflow_mlops.durations import parse_duration
        from airflow_mlops.engine.features.online.freshness import freshness

        as_of = Partitioning.parse(partitioning).interval(key)[1]
        return freshness(self.location(home), service, as_of=as_of, max_age=parse_duration(max_age))

    def _fields(self) -> dict[str, Any]:
        """Return the extra fields that are set.

        :raises ConfigError: when one is unknown: it may be a misspelt one, and would be ignored.
        """
        fields = {name: value for name, value in self.extra.items() if value not in (None, "", {})}
        for name in fields:
            if name not in FIELDS:
                raise ConfigError(
                    f"Connection {self.conn_id!r} has an unknown field {name!r}.{did_you_mean(name, FIELDS)}",
                    detail=f"a connection of type 'feast' has: {', '.join(FIELDS)}",
                    hint="Correct or remove it under Admin → Connections.",
                )
        return fields

    def _overrides(self, home: Path) -> dict[str, Any]:
        from airflow_mlops.engine.features.project.settings import merged
        from airflow_mlops.hooks.feast_stores import offline_section, online_section, registry_section

        fields = self._fields()
        overrides: dict[str, Any] = {}
        if "project" in fields:
            overrides["project"] = str(fields["project"])
        links = {
            "registry": ("registry_conn_id", registry_section),
            "online_store": ("online_conn_id", online_section),
            "offline_store": ("offline_conn_id", offline_section),
        }
        for section, (link, make) in links.items():
            written = self._written(section, home)
            linked = make(self._link(link, fields[link])) if link in fields else {}
            if "type" in written and "type" in linked:
                self._refuse_two_kinds(section, link, written["type"], linked["type"])
            both = merged({**linked, **({"type": written["type"]} if "type" in written else {})}, written)
            if both:
                overrides[section] = both
        return overrides

    def _written(self, section: str, home: Path) -> dict[str, Any]:
        """Return what the connection itself says of a section, its variables expanded."""
        from airflow_mlops.engine.features.project.secrets import without_secrets

        value = self._fields().get(section, {})
        if isinstance(value, str) and (section != "registry" or value.lstrip().startswith("{")):
            try:
                value = json.loads(value)
            except json.JSONDecodeError as error:
                raise self._wrong(section, f"it is no JSON: {error}", _EXAMPLE) from None
        if isinstance(value, str):
            value = _registry_at(value)
        if not isinstance(value, Mapping):
            raise self._wrong(section, "it is no JSON object", _EXAMPLE)
        bare = _each_text(value, lambda text: _VARIABLE.sub("", text))
        if without_secrets(bare) != bare:
            link = {"registry": LINKS[0], "online_store": LINKS[1], "offline_store": LINKS[2]}[section]
            raise self._wrong(
                section,
                "it holds a password, which everybody who sees the connection could read",
                f"Put it into a connection of its own and name that in {link}, or write ${{VARIABLE}} for it.",
            )
        return dict(_each_text(value, lambda text: expand(text.replace("${MLOPS_HOME}", str(home)))))

    def _refuse_two_kinds(self, section: str, link: str, written: str, linked: str) -> None:
        if written != linked and "." not in written:  # a class by its full name is another's store of that kind
            detail = f"{section} says {written!r}, {link} leads to {linked!r}"
            raise ConfigError(
                f"Connection {self.conn_id!r} names two kinds of {section}.", detail=detail, hint="Keep one of them."
            )

    def _link(self, field: str, conn_id: str) -> Connection:
        if conn_id not in self._linked:
            try:
                self._linked[conn_id] = self.get_connection(conn_id)
            except AirflowNotFoundException:
                raise self._no_link(field, conn_id) from None
        return self._linked[conn_id]

    def _no_link(self, field: str, conn_id: str) -> ConfigError:
        return ConfigError(
            f"There is no Airflow connection {conn_id!r}.",
            detail=f"connection {self.conn_id!r} names it as its {field}",
            hint=f"Add it under Admin → Connections, set AIRFLOW_CONN_{conn_id.upper()}, or clear {field}.",
        )

    def _wrong(self, field: str, problem: str, hint: str) -> ConfigError:
        return ConfigError(f"Connection {self.conn_id!r} has a wrong {field}.", detail=problem, hint=hint)


def _registry_at(address: str) -> dict[str, Any]:
    """Return the section ``registry`` for an SQLAlchemy URL, or for the path of a registry file."""
    address = address.strip()
    if _SQL.match(address):
        return {"registry_type": "sql", "path": re.sub(r"^postgres(ql)?://", "postgresql+psycopg://", address)}
    return {"registry_type": "file", "path": address}


def _each_text(value: Any, change: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _each_text(each, change) for key, each in value.items()}
    if isinstance(value, list):
        return [_each_text(each, change) for each in value]
    return change(value) if isinstance(value, str) else value
