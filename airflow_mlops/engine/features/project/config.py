"""Settings as Feast's own configuration: checked, in words, and with what keeps a dead store from hanging a task."""

from __future__ import annotations

import copy
import inspect
import logging
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from airflow_mlops.engine.features.project.location import Location
from airflow_mlops.engine.features.project.secrets import masked
from airflow_mlops.engine.features.project.settings import SETTINGS
from airflow_mlops.exceptions import ConfigError, did_you_mean

if TYPE_CHECKING:
    from feast import RepoConfig
    from pydantic import BaseModel, ValidationError

OFFLINE_STORE = "airflow_mlops.engine.features.offline.asof.AsofOfflineStore"
DYNAMODB_STORE = "airflow_mlops.engine.features.project.dynamodb.DynamoDBOnlineStore"
FILE_REGISTRY = "airflow_mlops.engine.features.project.file_registry.AtomicFileRegistryStore"
_KINDS = (
    "Correct the type, or install what it needs: pip install 'airflow-mlops[redis]', [dynamodb] or [postgres]; other "
    "stores have extras of Feast's own."
)
_SECONDS_TO_CONNECT = 5
_SECONDS_TO_ANSWER = 5
_SECONDS_LOCKED = 30
_log = logging.getLogger(__name__)
_HOST_AND_PORT = re.compile(r"[^\s:/@]+:\d{1,5}")
# By driver, what SQLAlchemy hands it when the registry's settings say nothing: seconds, but milliseconds for TCP.
_POSTGRES = {"connect_timeout": _SECONDS_TO_CONNECT, "tcp_user_timeout": _SECONDS_LOCKED * 1000}
_CONNECT_ARGS: dict[str, dict[str, int]] = {
    "sqlite": {"timeout": _SECONDS_LOCKED},
    "postgresql": _POSTGRES,
    "postgresql+psycopg": _POSTGRES,
    "postgresql+psycopg2": _POSTGRES,
    "mysql+pymysql": {
        "connect_timeout": _SECONDS_TO_CONNECT,
        "read_timeout": _SECONDS_LOCKED,
        "write_timeout": _SECONDS_LOCKED,
    },
}


def feast_config(settings: Mapping[str, Any], location: Location) -> RepoConfig:
    """Return Feast's own configuration.

    Where the settings are silent, the offline store is ours, and calls to stores and registry are bounded in time.

    :raises ConfigError: when a key is unknown, or a value does not fit.
    """
    from feast import RepoConfig
    from feast.errors import FeastError
    from feast.repo_config import (
        get_offline_config_from_type,
        get_online_config_from_type,
        get_registry_config_from_type,
    )
    from pydantic import ValidationError

    where = str(location.repo / SETTINGS) if location.repo else "the settings of the connection"
    completed = _completed(settings, where)
    _refuse_unknown(completed, RepoConfig, f"{where}")
    _check(completed.get("registry"), "registry_type", get_registry_config_from_type, f"{where}, registry")
    _check_url(completed.get("registry"), f"{where}, registry")
    _check(completed["offline_store"], "type", get_offline_config_from_type, f"{where}, offline_store")
    _check(completed.get("online_store"), "type", get_online_config_from_type, f"{where}, online_store")
    if "registry" in completed:
        completed["registry"] = _atomic(_located(completed["registry"], location))
    try:
        config = RepoConfig(**completed)
    except ValidationError as error:
        raise _refused(where, _problems(error)) from None
    except (FeastError, ValueError, AssertionError) as error:
        raise _refused(where, str(error)) from None
    config.repo_path = location.repo.resolve() if location.repo else None
    return config


def _completed(settings: Mapping[str, Any], where: str) -> dict[str, Any]:
    completed = copy.deepcopy(dict(settings))
    completed["offline_store"] = _offline_store(completed.get("offline_store"))
    offline = completed["offline_store"]
    if (offline.get("type") if isinstance(offline, dict) else offline) == OFFLINE_STORE:
        completed.setdefault("coerce_tz_aware", False)  # or times without a zone are UTC before the store sees them
    online = completed.get("online_store")
    online = {"type": online} if isinstance(online, str) else online
    if isinstance(online, dict):
        online.setdefault("type", "sqlite")
        _bound_online(online, where)
        completed["online_store"] = online
    registry = completed.get("registry")
    if isinstance(registry, dict) and registry.get("registry_type") == "sql":
        _bound_registry(registry)
    return completed


def _offline_store(given: object) -> object:
    """Return the offline store: ours in place of Feast's on dask, which leaves out rows without a live feature.

    It reads the same files. Of 327,346 flights that one left out 45,043, and took more than 11 GB for a feature view.
    """
    if given is None:
        return {"type": OFFLINE_STORE}
    kind = given.get("type", "dask") if isinstance(given, dict) else given
    if kind in ("dask", "file"):
        _log.info("Files are read by %s in place of Feast's store %r, which leaves out rows.", OFFLINE_STORE, kind)
        return {"type": OFFLINE_STORE}
    return {"type": given} if isinstance(given, str) else given


def _bound_online(online: dict[str, Any], where: str) -> None:
    if online.get("type") == "redis":
        text = online.get("connection_string", "localhost:6379")
        if isinstance(text, str):
            bounds = {"socket_connect_timeout": _SECONDS_TO_CONNECT, "socket_timeout": _SECONDS_TO_ANSWER}
            parts = [part.lstrip() for part in text.split(",") if part.strip()]
            _check_redis(parts, str(online.get("redis_type", "redis")), f"{where}, online_store.connection_string")
            given = {part.partition("=")[0] for part in parts}
            missing = [f"{name}={seconds}" for name, seconds in bounds.items() if name not in given]
            online["connection_string"] = ",".join([*parts, *missing])
    elif online.get("type") == "dynamodb":
        online["type"] = DYNAMODB_STORE  # Feast's own, with its timeouts kept and with credentials of its own


def _check_redis(parts: list[str], redis_type: str, where: str) -> None:
    """Refuse a connection string that Feast cannot take apart, without showing it: any part may be of a password."""
    hosts = [part for part in parts if "=" not in part]
    names = [part.partition("=")[0] for part in parts if "=" in part]
    known = _redis_parameters(redis_type)
    unknown = next((name for name in names if known and name not in known), "")
    guess = did_you_mean(unknown, known) if unknown.isidentifier() else ""
    if not hosts or not all(_HOST_AND_PORT.fullmatch(host.rstrip()) for host in hosts):
        problem = "a part of it is neither host:port nor name=value" if hosts else "it does not start with host:port"
    elif guess or (unknown.isidentifier() and "password" not in names[: names.index(unknown)]):
        problem = f"redis knows no parameter {unknown!r}.{guess}"
    elif unknown:
        problem = "it has a parameter that redis does not know; a comma in a password reads as the start of one"
    else:
        return
    raise ConfigError(
        "The connection string of Redis cannot be used.",
        detail=f"{where}: {problem}",
        hint="Write it as host:port,password=${VARIABLE},ssl=True.",
    )


def _redis_parameters(redis_type: str) -> set[str]:
    """Return what a connection string may set, or nothing when that cannot be known."""
    try:
        from redis import Redis, RedisCluster
        from redis.sentinel import Sentinel
    except ImportError:
        return set()  # of which Feast tells
    more: dict[str, list[Callable[..., Any]]] = {"redis_cluster": [RedisCluster], "redis_sentinel": [Sentinel]}
    known = {name for one in (Redis, *more.get(redis_type, [])) for name in inspect.signature(one).parameters}
    if redis_type == "redis_cluster":
        known.add("skip_full_coverage_check")  # of which Feast's documentation tells, and which is ignored
    return known - {"self", "kwargs", "connection_kwargs", "startup_nodes", "sentinels"}


def _bound_registry(registry: dict[str, Any]) -> None:
    options = registry.setdefault("sqlalchemy_config_kwargs", {})
    driver = str(registry.get("path", "")).partition("://")[0]
    if isinstance(options, dict):
        options.setdefault("pool_pre_ping", True)
        if driver in _CONNECT_ARGS:
            options["connect_args"] = {**_CONNECT_ARGS[driver], **options.get("connect_args", {})}


def _located(registry: object, location: Location) -> object:
    """Return the settings of a registry with its file where `feast apply` has it: relative to the repository.

    Feast looks for it in the working folder, which is any one.
    """
    values = {"path": registry} if isinstance(registry, str) else registry
    if location.repo is None or not isinstance(values, dict):
        return registry
    path = str(values.get("path") or "")
    scheme, _, file = path.partition("///") if path.startswith("sqlite") else ("", "", path)
    if not file or "://" in file or file.startswith("/") or file == ":memory:":
        return registry
    return {**values, "path": f"{scheme}{'///' if scheme else ''}{location.repo / file}"}


def _atomic(registry: object) -> object:
    """Return the settings of a registry; one in a local file gets our store, which no reader sees half written."""
    values = {"path": registry} if isinstance(registry, str) else registry
    if (
        not isinstance(values, dict)
        or values.get("registry_type", "file") != "file"
        or "://" in str(values.get("path"))
    ):
        return registry
    return {"registry_store_type": FILE_REGISTRY, **values}


def _check(values: object, kind_key: str, find: Callable[[str], type[BaseModel]], where: str) -> None:
    """Check one section by itself: Feast's own message for the whole does not say which key is meant."""
    from feast.errors import FeastError
    from pydantic import ValidationError

    if not isinstance(values, dict):
        return
    kind = str(values.get(kind_key, "file"))
    try:
        model = find(kind)
    except (FeastError, ImportError, ValueError) as error:
        cause = f" ({error.__cause__})" if error.__cause__ else ""  # that a package is missing, above all
        raise _refused(where, f"{kind_key} {kind!r}: {error}{cause}", _KINDS) from None
    if "registry_store_type" not in values:  # whose settings are its own
        _refuse_unknown(values, model, where)
    try:
        model(**values)
    except ValidationError as error:
        raise _refused(where, _problems(error)) from None


def _check_url(registry: object, where: str) -> None:
    """Refuse a URL that SQLAlchemy cannot read, without showing it: it is not known where in it a password is."""
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    if not isinstance(registry, dict) or registry.get("registry_type") != "sql":
        return
    for key in ("path", "read_path"):
        try:
            make_url(registry.get(key) or ("sqlite://" if key == "read_path" else ""))
        except (ArgumentError, ValueError):
            raise ConfigError(
                "The URL of Feast's registry cannot be used.",
                detail=f"{where}, {key}: it is no URL of a database",
                hint="Write one as SQLAlchemy wants it, such as postgresql+psycopg://feast@postgres/feast.",
            ) from None


def _refuse_unknown(values: Mapping[str, Any], model: type[BaseModel], where: str) -> None:
    fields = model.model_fields
    known = sorted({*fields, *(field.alias for field in fields.values() if field.alias)} - {"repo_path"})
    for key in values:
        if key not in known:
            raise ConfigError(
                f"Feast knows no setting {key!r}.{did_you_mean(str(key), known)}",
                detail=f"{where}; it knows: {', '.join(known)}",
                hint="Correct or remove it: Feast would ignore it, and use its default.",
            )


def _problems(error: ValidationError) -> str:
    """Return what is wrong, without the values: they may be secrets."""
    found = error.errors(include_input=False, include_url=False, include_context=False)
    return "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in found)


def _refused(where: str, problem: str, hint: str = "") -> ConfigError:
    return ConfigError(
        f"Feast does not accept {SETTINGS}." if SETTINGS in where else "Feast does not accept the connection.",
        detail=f"{where}: {masked(problem)}",
        hint=hint or "See the reference of feature_store.yaml in Feast's documentation.",
    )
