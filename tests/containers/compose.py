"""The composed installation, driven from outside as a person would: compose, HTTP, `exec`, and `kill -9`."""

from __future__ import annotations

import functools
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from airflow_mlops.stack.console import Console

ROOT = Path(__file__).parent.parent.parent
COMPOSE = ROOT / "docker" / "compose.yaml"
WITHOUT_REGISTRY = "localhost/debian:bookworm-slim"
SLOWER = float(os.environ.get("SLOWER", "1"))
"""How many times longer things take here than on two idle cores: what may take so long is scaled by it."""


class Compose:
    """Docker or podman, whichever is there.

    :param env: Settings, in place of a ``docker/.env``.
    """

    def __init__(self, env: Mapping[str, str], project: str = "airflow-mlops-test") -> None:
        self.engine = engine()
        compose = ["docker", "compose"] if self.engine == "docker" else ["podman-compose"]
        self._compose = [*compose, "-p", project, "-f", str(COMPOSE)]
        self._env, self._project = {**os.environ, **env}, project
        self.services: dict[str, dict[str, Any]] = yaml.safe_load(COMPOSE.read_text())["services"]
        self.console, self.dags = Console(), ROOT / "dags"

    def up(self) -> None:
        """Start everything that does not run."""
        self._run([*self._compose, "up", "-d", *(["--no-build"] if self.engine == "podman" else [])])

    def down(self) -> None:
        """Stop everything, and remove what it wrote."""
        self._run([*self._compose, "down", "-v", "-t", "3"], check=False)

    def check(self) -> None:
        """What a followed stack is asked: containers come back by themselves, so nothing is wrong."""

    def containers(self) -> dict[str, str]:
        """Return container by service, of those that run."""
        shown = self._run([self.engine, "ps", "--format", "{{.Names}}"]).split()
        return {service: name for service in self.services for name in shown if self._is(name, service)}

    def exec(self, service: str, *command: str, check: bool = True, stdin: str = "") -> str:
        """Run a command in the container of a service, and return what it printed."""
        return self._run([self.engine, "exec", "-i", self.containers()[service], *command], check=check, stdin=stdin)

    def copy(self, service: str, there: str, here: Path) -> None:
        """Copy a file out of a container."""
        self._run([self.engine, "cp", f"{self.containers()[service]}:{there}", str(here)])

    def kill(self, service: str) -> None:
        """Kill a container's first process, and with it the container: ``kill -9``, as a crash does."""
        name = self.containers()[service]
        os.kill(int(self._run([self.engine, "inspect", "-f", "{{.State.Pid}}", name])), signal.SIGKILL)

    def healthy(self, service: str) -> bool:
        """Ask the health check of compose.yaml; not every engine does so by itself."""
        kind, *test = self.services[service]["healthcheck"]["test"]
        command = [word.replace("$$", "$") for word in (["sh", "-c", *test] if kind == "CMD-SHELL" else test)]
        name = self.containers().get(service)
        if name is None:
            return False
        asked = [self.engine, "exec", name, *command]
        return subprocess.run(asked, capture_output=True, timeout=60, check=False).returncode == 0

    def wait_until_healthy(self, services: Sequence[str]) -> float:
        """Wait, and return how long it took (seconds)."""
        timeout = 240 * SLOWER
        began, waiting = time.monotonic(), list(services)
        while waiting := [service for service in waiting if not self.healthy(service)]:
            self.console.step("waiting for", ", ".join(waiting))
            if time.monotonic() - began > timeout:
                logs = "\n".join(f"== {service}\n{self.log(service)}" for service in waiting)
                raise TimeoutError(f"not healthy in {timeout:.0f} s: {', '.join(waiting)}\n{logs}")
            time.sleep(1)
        return time.monotonic() - began

    def log(self, service: str) -> str:
        """Return how the log of a service ends."""
        name = self.containers().get(service) or f"{self._project}_{service}_1"
        done = subprocess.run([self.engine, "logs", "--tail", "30", name], capture_output=True, text=True, check=False)
        return f"{done.stdout}{done.stderr}"

    def memory(self) -> str:
        """Return what each container uses, as the engine says."""
        return self._run([self.engine, "stats", "--no-stream", "--format", "{{.Name}} {{.MemUsage}}"])

    def _is(self, container: str, service: str) -> bool:
        return container in {f"{self._project}{mark}{service}{mark}1" for mark in "-_"}

    def _run(self, command: Sequence[str], *, check: bool = True, stdin: str = "") -> str:
        done = subprocess.run(
            command, env=self._env, capture_output=True, text=True, input=stdin, timeout=600, check=False
        )
        if check and done.returncode != 0:
            raise RuntimeError(f"{shlex.join(command)} exited with {done.returncode}:\n{done.stdout}\n{done.stderr}")
        return done.stdout


@functools.cache
def engine() -> str:
    """Return what runs containers here: Docker if its service answers, else podman."""
    return "podman" if shutil.which("docker") is None or _fails(["docker", "info"]) else "docker"


def build(targets: Sequence[str], say: Any) -> None:
    """Build the images, on a base of this machine's own packages where no base is named.

    ``BASE`` names a base image. ``BUILD_OPTIONS`` go to the engine as they are: a proxy, certificates, an index.
    """
    builder = engine()
    base = os.environ.get("BASE") or (WITHOUT_REGISTRY if builder == "podman" else "")
    if base == WITHOUT_REGISTRY and _fails([builder, "image", "exists", base]):
        tar = ROOT / ".mlops" / "base.tar"
        tar.parent.mkdir(exist_ok=True)
        subprocess.run(["mmdebstrap", "--variant=minbase", "bookworm", str(tar)], check=True)
        subprocess.run([builder, "import", str(tar), base], check=True, capture_output=True)
        tar.unlink()
    for target in targets:
        began = time.monotonic()
        options = [*(["--isolation=chroot"] if builder == "podman" else []), *_build_options()]
        if base:
            options.append(f"--build-arg=BASE={base}")
        tag = f"localhost/airflow-mlops/{target}:{_version()}"
        file = ROOT / "docker" / "Dockerfile"
        subprocess.run(
            [builder, "build", *options, "-f", str(file), "--target", target, "-t", tag, str(ROOT)],
            check=True,
            stdout=sys.stderr,
        )
        say(f"image {target}: {time.monotonic() - began:.0f} s")


def _build_options() -> list[str]:
    """Return what builds need on this machine: its certificates, where a variable says that it has its own."""
    options = shlex.split(os.environ.get("BUILD_OPTIONS", ""))
    bundle = os.environ.get("SSL_CERT_FILE")
    if bundle and not options and engine() == "podman":
        options = ["-v", f"{Path(bundle).resolve()}:/run/certificates.crt:ro"]
        options.append("--build-arg=SSL_CERT_FILE=/run/certificates.crt")
    return options


def _version() -> str:
    import tomllib

    return str(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"])


def _fails(command: Sequence[str]) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode != 0
