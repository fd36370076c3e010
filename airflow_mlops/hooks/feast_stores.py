"""Airflow connections of databases as sections of Feast's settings: the one place where Feast gets its secrets from."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from airflow_mlops.exceptions import ConfigError, TransientError
from airflow_mlops.hooks.base import expand

if TYPE_CHECKING:
    from airflow.sdk import Connection

# What libpq takes of a PostgreSQL connection's extra fields; Airflow's own, such as `cursor`, are not for it.
_LIBPQ = ("sslmode", "sslcert", "sslkey", "sslrootcert", "application_name", "options", "target_session_attrs")
_REDIS_TLS = ("ssl_cert_reqs", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_check_hostname")

Section = dict[str, Any]


def registry_section(connection: Connection) -> Section:
    """Return the section ``registry``: Feast's SQL registry in a connection's database.

    :raises ConfigError: when the connection is of a type that Feast keeps no registry in.
    """
    return _section(connection, "registry", {"postgres": _sql_postgres, "mysql": _sql_mysql, "sqlite": _sql_sqlite})


def online_section(connection: Connection) -> Section:
    """Return the section ``online_store``: Redis or Valkey, DynamoDB, or PostgreSQL.

    The amazon provider makes the credentials, so a role to assume or a profile holds; a role's own expire after the
    time that AWS gives them, an hour unless the connection says otherwise.

    :raises ConfigError: when the connection is of another type, or lacks something.
    """
    return _section(connection, "online store", {"redis": _redis, "aws": _dynamodb, "postgres": _feast_postgres})


def offline_section(connection: Connection) -> Section:
    """Return the section ``offline_store``: PostgreSQL.

    Feast's Redshift and Athena stores take the credentials of the machine and no others, so there is no honest way
    from a connection to them.

    :raises ConfigError: when the connection is of another type, or lacks something.
    """
    return _section(connection, "offline store", {"postgres": _feast_postgres})


def _section(connection: Connection, what: str, makers: Mapping[str, Callable[[Connection], Section]]) -> Section:
    maker = makers.get(str(connection.conn_type))
    if maker is None:
        raise ConfigError(
            f"No {what} can be made of connection {connection.conn_id!r}.",
            detail=f"its type is {connection.conn_type!r}; of these it can: {', '.join(sorted(makers))}",
            hint="Name a connection of such a type; other stores are configured in feature_store.yaml, where "
            "${VARIABLE} stands for an environment variable.",
        )
    return maker(connection)


def _sql_postgres(connection: Connection) -> Section:
    query = {name: str(value) for name, value in _libpq(connection).items()}
    return _sql(connection, "postgresql+psycopg", query, database=connection.schema or None)


def _sql_mysql(connection: Connection) -> Section:
    extra = connection.extra_dejson
    charset = str(extra.get("charset") or "utf8mb4")
    section = _sql(connection, "mysql+pymysql", {"charset": charset}, database=connection.schema or None)
    tls = json.loads(extra["ssl"]) if isinstance(extra.get("ssl"), str) else extra.get("ssl")
    return {**section, "sqlalchemy_config_kwargs": {"connect_args": {"ssl": tls}}} if tls else section


def _sql(connection: Connection, driver: str, query: dict[str, str], *, database: str | None) -> Section:
    from airflow.sdk.log import mask_secret
    from sqlalchemy import URL

    host: str | None = connection.host or None
    if host is not None and host.startswith("/"):  # the folder of a socket has no place before the path of a URL
        query, host = {"host": host, **query}, None
    url = URL.create(
        driver,
        username=connection.login or None,
        password=connection.password or None,
        host=host,
        port=connection.port,
        database=database,
        query=query,
    )
    if connection.password:
        # Airflow masks the password itself in the log; inside a URL it reads otherwise.
        mask_secret(url.render_as_string(hide_password=False).partition("://")[2].partition("@")[0].partition(":")[2])
    return {"registry_type": "sql", "path": url.render_as_string(hide_password=False)}


def _sql_sqlite(connection: Connection) -> Section:
    file = expand(_needed(connection, connection.host or connection.schema, "host", "the path of the database file"))
    return {"registry_type": "sql", "path": f"sqlite:///{file}"}


def _redis(connection: Connection) -> Section:
    extra = connection.extra_dejson
    host = _needed(connection, connection.host, "host", "the server's name")
    parameters = {
        "db": extra.get("db"),
        "username": connection.login,
        "password": connection.password,
        "ssl": True if str(extra.get("ssl", "")).lower() == "true" else None,
        **{name: extra.get(name) for name in _REDIS_TLS},
    }
    # Feast splits the string at commas and reads each value as JSON: so any password comes through whole.
    parts = [f"{name}={_json(value)}" for name, value in parameters.items() if value not in (None, "")]
    return {"type": "redis", "connection_string": ",".join([f"{host}:{connection.port or 6379}", *parts])}


def _json(value: object) -> str:
    return json.dumps(value).replace(",", "\\u002c")


def _dynamodb(connection: Connection) -> Section:
    try:
        from airflow.providers.amazon.aws.hooks.base_aws import AwsBaseHook
        from airflow.providers.amazon.aws.utils.connection_wrapper import AwsConnectionWrapper
    except ImportError:
        raise ConfigError(
            "The amazon provider is not installed.",
            detail=f"connection {connection.conn_id!r} is of type 'aws'",
            hint="Install the extra: pip install 'airflow-mlops[dynamodb]'.",
        ) from None
    from airflow.sdk.log import mask_secret
    from botocore.exceptions import BotoCoreError, ClientError

    from airflow_mlops.engine.features.project.errors import in_words

    hook: Any = AwsBaseHook(aws_conn_id=connection.conn_id, client_type="dynamodb")
    hook.conn_config = AwsConnectionWrapper(conn=connection)  # found before, perhaps from an event loop
    try:
        session = hook.get_session()
        found = session.get_credentials()
        frozen = None if found is None else found.get_frozen_credentials()
    except (BotoCoreError, ClientError) as error:
        told = in_words(error)
        kind = TransientError if told is not None and told.retryable else ConfigError
        raise kind(
            f"Connection {connection.conn_id!r} gives no credentials of AWS.",
            detail=str(error),
            hint="Press Test on that connection: its keys, role or profile do not work.",
        ) from None
    region = _needed(connection, hook.region_name or session.region_name, "region_name", "such as eu-west-1")
    section = {
        "type": "dynamodb",
        "region": region,
        "endpoint_url": hook.conn_config.get_service_endpoint_url("dynamodb"),
        "verify": hook.verify,
    }
    if frozen is not None:
        mask_secret(frozen.secret_key)
        mask_secret(frozen.token)
        section["aws_access_key_id"] = frozen.access_key
        section["aws_secret_access_key"] = frozen.secret_key
        section["aws_session_token"] = frozen.token
    return {name: value for name, value in section.items() if value is not None}


def _feast_postgres(connection: Connection) -> Section:
    """Feast's PostgreSQL stores know a host, a login and TLS; the rest of libpq is not theirs."""
    options = _libpq(connection)
    return {
        "type": "postgres",
        "host": _needed(connection, connection.host, "host", "the server's name"),
        "port": connection.port or 5432,
        "database": _needed(connection, connection.schema, "schema", "the database"),
        "user": _needed(connection, connection.login, "login", "the user"),
        "password": connection.password or "",
        "sslmode": options.get("sslmode", "prefer"),
        **{f"{name}_path": str(options[name]) for name in ("sslcert", "sslkey", "sslrootcert") if name in options},
    }


def _libpq(connection: Connection) -> dict[str, Any]:
    extra = connection.extra_dejson
    if extra.get("iam"):
        raise ConfigError(
            f"Connection {connection.conn_id!r} logs in with short-lived tokens, which Feast cannot renew.",
            detail="its extra field `iam` is set",
            hint="Make a connection with a user and password for Feast.",
        )
    return {name: extra[name] for name in _LIBPQ if extra.get(name)}


def _needed(connection: Connection, value: str | None, field: str, meaning: str) -> str:
    if not value:
        raise ConfigError(
            f"Connection {connection.conn_id!r} has no {field}.",
            detail=f"it is of type {connection.conn_type!r}, and Feast needs its {field}: {meaning}",
            hint="Set it under Admin → Connections.",
        )
    return value
