"""The embedded model server as a real child process, and ways to break a model."""

from __future__ import annotations

import http.client
import json
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Self

from airflow_mlops.engine.serving.client import ServingClient
from airflow_mlops.exceptions import MlopsError

#: What a deployment sets, with retries that a test can wait for.
FLAGS = (
    "--allow_version_labels_for_unavailable_models=true",
    "--num_load_threads=2",
    "--num_unload_threads=2",
    "--max_num_load_retries=0",
    "--file_system_poll_wait_seconds=0.1",
)


class ModelServer:
    """One server process on free ports; ends with the block.

    :param flags: Flags beside the ports.
    """

    def __init__(self, *flags: str) -> None:
        self.port, self.rest_port = free_ports(2)
        self._command = [
            sys.executable, "-c",
            "import sys; from airflow_mlops.engine.serving.server.main import main; sys.exit(main())",
            f"--port={self.port}", f"--rest_api_port={self.rest_port}", *flags,
        ]  # fmt: skip
        self.log = ""

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(self._command, stderr=subprocess.PIPE, text=True)
        self.client = ServingClient("127.0.0.1", self.port, self.rest_port, timeout=20)
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()

    def wait_until_open(self) -> Self:
        """Wait until both ports answer."""
        wait_for(lambda: self.is_open() or self.process.poll() is not None, 30)
        assert self.process.poll() is None, self.process.communicate()[1]
        return self

    def is_open(self) -> bool:
        for port in (self.port, self.rest_port):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)):
                    return False
        return True

    def stop(self) -> int:
        """End it as an orchestrator does, and return its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.wait()

    def wait(self) -> int:
        """Wait for its end; ``log`` holds what it wrote."""
        self.log = self.process.communicate(timeout=30)[1]
        return self.process.returncode

    def rest(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> tuple[int, Any]:
        """Return status and decoded JSON (or bytes, where it is none). ``body`` is JSON unless it is bytes."""
        if not isinstance(body, bytes | None):
            body = json.dumps(body).encode()
        connection = http.client.HTTPConnection("127.0.0.1", self.rest_port, timeout=20)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            content = response.read()
            is_json = response.getheader("content-type") == "application/json"
            return response.status, json.loads(content) if is_json and content else content
        finally:
            connection.close()

    def predict(self, path: str, body: Any) -> tuple[int, Any]:
        return self.rest("POST", f"/v1/models/{path}:predict", body)

    def states(self, model: str) -> dict[int, str]:
        """Return version → state, and nothing for an unknown model."""
        try:
            return {number: version.state for number, version in self.client.status(model).items()}
        except MlopsError:
            return {}

    def wait_for_states(self, model: str, expected: dict[int, str], seconds: float = 20) -> None:
        """Wait until the versions named are in their states; others do not matter."""
        wait_for(lambda: expected.items() <= self.states(model).items(), seconds, lambda: self.states(model))


def wait_for(condition: Callable[[], object], seconds: float, shown: Callable[[], object] = lambda: "") -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {shown()}"
        time.sleep(0.01)


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def config_text(*models: str) -> str:
    return f"model_config_list {{ {' '.join(models)} }}"


def model_text(name: str, base: Path, versions: Iterable[int] = (), **labels: int) -> str:
    """Return one model's part of a config file: these versions, or the latest one."""
    listed = " ".join(f"versions: {number}" for number in versions)
    policy = f"model_version_policy {{ specific {{ {listed} }} }}" if listed else ""
    pairs = " ".join(f'version_labels {{ key: "{label}" value: {number} }}' for label, number in labels.items())
    return f'config {{ name: "{name}" base_path: "{base}" model_platform: "tensorflow" {policy} {pairs} }}'


def publish(source: Path, target: Path) -> None:
    """Copy a model beside its place and rename it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    staged = target.parent / f".tmp-{target.name}"
    shutil.copytree(source, staged)
    staged.rename(target)


def damaged(source: Path, target: Path, damage: str) -> Path:
    """Copy a model, and break the copy."""
    if damage == "empty":
        target.mkdir()
        return target
    shutil.copytree(source, target)
    data = target / "variables" / "variables.data-00000-of-00001"
    match damage:
        case "truncated graph":
            graph = target / "saved_model.pb"
            graph.write_bytes(graph.read_bytes()[: graph.stat().st_size // 2])
            (target / "fingerprint.pb").unlink()
        case "no data file":
            data.unlink()
        case "truncated data":
            data.write_bytes(data.read_bytes()[:1])
        case "flipped bytes":
            content = bytearray(data.read_bytes())
            for index in random.Random(1).sample(range(4), 4):
                content[index] ^= 0xFF
            data.write_bytes(bytes(content))
        case "graph only":
            shutil.rmtree(target / "variables")
    return target
