"""A real model server in a process of its own, and what callers get from it."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.engine.serving.client import ServingClient, VersionState
from airflow_mlops.engine.serving.rollout import STABLE, Rollout, describe, version_state
from tests.saved_models import INPUTS, make_saved_model

__all__ = [
    "INPUTS",
    "RefusedError",
    "RunningServer",
    "free_port",
    "make_saved_model",
    "model_named_after",
    "put_into_service",
    "rollout_of",
    "running_server",
    "served",
    "settle",
]


@dataclass(frozen=True)
class RunningServer:
    """An embedded model server: where it listens, and the files it reads."""

    host: str
    grpc_port: int
    rest_port: int
    base: Path
    config_file: Path
    log: Path

    def connection(self) -> str:
        """Return the Airflow connection to it, as JSON."""
        extra = {
            "grpc_port": self.grpc_port,
            "model_base_path": str(self.base),
            "model_config_file": str(self.config_file),
        }
        return json.dumps(
            {"conn_type": "tf_serving", "host": self.host, "port": self.rest_port, "extra": json.dumps(extra)}
        )


def model_named_after(request: pytest.FixtureRequest) -> str:
    """Return a model name that no other test has. TensorFlow takes brackets in a path for a pattern."""
    return re.sub(r"\W+", "_", request.node.name)


@contextmanager
def rollout_of(server: RunningServer, model: str, ledger: Ledger) -> Iterator[Rollout]:
    """Yield the rollout of a model on a running server."""
    with ServingClient(server.host, server.grpc_port, server.rest_port) as client:
        yield Rollout("tf_serving_default", model, server.base / model, server.config_file, client, ledger)


def settle(rollout: Rollout, version: int, timeout: float = 30) -> VersionState:
    """Wait until the server has loaded a version or given it up."""
    deadline = time.monotonic() + timeout
    while True:
        state = version_state(rollout.client, rollout.model, version)
        if state is not None and state.state in ("AVAILABLE", "END"):
            return state
        assert time.monotonic() < deadline, f"version {version} is {describe(state)} after {timeout} s"
        time.sleep(0.02)


def put_into_service(rollout: Rollout, version: int) -> None:
    """Load, verify and promote a published version."""
    rollout.load(version)
    assert settle(rollout, version).state == "AVAILABLE"
    rollout.verify(version)
    rollout.promote(version)


class RefusedError(Exception):
    """The server answered a caller with an error."""


def served(rollout: Rollout, inputs: Mapping[str, list[Any]]) -> list[float]:
    """Return what callers get over REST, behind the label ``stable``.

    :raises RefusedError: with the server's words.
    """
    client = rollout.client
    url = f"http://{client.host}:{client.rest_port}/v1/models/{rollout.model}/labels/{STABLE}:predict"
    instances = [dict(zip(inputs, row, strict=True)) for row in zip(*inputs.values(), strict=True)]
    request = urllib.request.Request(url, json.dumps({"instances": instances}).encode())
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return json.load(response)["predictions"]
    except urllib.error.HTTPError as error:
        raise RefusedError(json.load(error)["error"]) from None


@contextmanager
def running_server(folder: Path) -> Iterator[RunningServer]:
    """Run a model server that knows no model yet, in a process of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    grpc_port, rest_port = free_port(), free_port()
    server = RunningServer(
        "127.0.0.1", grpc_port, rest_port, folder / "models", folder / "models.config", folder / "server.log"
    )
    server.base.mkdir(exist_ok=True)
    server.config_file.touch()
    with server.log.open("w") as log:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "airflow_mlops.cli",
                "serve",
                f"--port={grpc_port}",
                f"--rest_api_port={rest_port}",
                f"--model_config_file={server.config_file}",
                "--allow_version_labels_for_unavailable_models=true",
                "--num_load_threads=2",
                "--max_num_load_retries=0",
                "--file_system_poll_wait_seconds=0.2",
            ],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        _wait_for(server, process)
        yield server
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def free_port() -> int:
    """Return a port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait_for(server: RunningServer, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    for port in (server.grpc_port, server.rest_port):
        while True:
            try:
                socket.create_connection((server.host, port), timeout=1).close()
                break
            except OSError:
                alive = process.poll() is None and time.monotonic() < deadline
                assert alive, f"the model server did not start:\n{server.log.read_text()}"
                time.sleep(0.05)
