"""What would keep ``docker/compose.yaml`` from starting as it is meant, found in its folder before it is started."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_mlops.doctor import OK, WRONG, Finding
from airflow_mlops.exceptions import ConfigError, did_you_mean
from airflow_mlops.stack.ports import PUBLISHED, Ports, require_free

if TYPE_CHECKING:
    from typing import Any

FOLDERS = ("DAGS", "FEATURE_REPO", "PLUGINS")
NUMBERS = ("WORKER_CONCURRENCY", "PARALLELISM", "API_WORKERS")
_TRAINS = ("cpu", "nvidia")
"""Profiles with a worker that trains."""


def before_the_start(folder: Path) -> Iterator[tuple[str, Finding]]:
    """Yield what is found, with what it is about: settings, folders, ports."""
    env, compose = folder / ".env", folder / "compose.yaml"
    if not compose.is_file():
        yield "settings", Finding(WRONG, f"there is no {compose}", "Name the folder that has it: --compose docker")
        return
    settings: dict[str, str] = {}
    if not env.is_file():
        yield "settings", Finding(WRONG, f"there is no {env}", f"cp {folder / '.env.example'} {env}")
    else:
        settings = _settings(env.read_text())
        wrong = [*_names(settings, compose.read_text()), *_values(settings, folder)]
        yield from (("settings", one) for one in wrong)
        if not wrong:
            yield "settings", Finding(OK, f"{env} has {len(settings)} settings")
    yield "ports", _ports(settings, env)


def _settings(text: str) -> dict[str, str]:
    lines = [line.strip() for line in text.splitlines() if "=" in line and not line.lstrip().startswith("#")]
    return {name: value.strip("'\"") for name, value in (line.split("=", 1) for line in lines)}


def _names(settings: Mapping[str, str], compose: str) -> Iterator[Finding]:
    """Look for names and profiles that nothing reads, because they are mistyped."""
    import yaml

    read = set(re.findall(r"\$\{(\w+)", compose))
    for name in settings.keys() - read:
        if meant := did_you_mean(name, read - settings.keys()):  # others may be for an override file
            yield Finding(WRONG, f"compose.yaml reads no {name}.{meant}", "Correct its name.")
    services: Mapping[str, Mapping[str, Any]] = yaml.safe_load(compose)["services"]
    known = {profile for service in services.values() for profile in service.get("profiles", ())}
    asked = {one.strip() for one in settings.get("COMPOSE_PROFILES", "").split(",")} - {""}
    for profile in sorted(asked - known):
        hint = f"Profiles: {', '.join(sorted(known))}."
        yield Finding(WRONG, f"there is no profile {profile!r}.{did_you_mean(profile, known)}", hint)
    if not asked & set(_TRAINS):
        yield Finding(WRONG, "no worker trains", f"COMPOSE_PROFILES={_TRAINS[0]},storage; or {_TRAINS[1]} with a GPU")
    if "storage" not in asked and not settings.get("S3_ENDPOINT"):
        hint = "Add the profile storage, or name a store: S3_ENDPOINT, S3_BUCKET."
        yield Finding(WRONG, "MLflow has no store for artifacts", hint)


def _values(settings: Mapping[str, str], folder: Path) -> Iterator[Finding]:
    for name in FOLDERS:
        if name in settings and not (path := folder / settings[name]).is_dir():
            hint = f"Name a folder that is there; a relative one starts at {folder}."
            yield Finding(WRONG, f"{name}: there is no folder {path}", hint)
    for name in NUMBERS:
        if name in settings and not re.fullmatch(r"[1-9]\d*", settings[name]):
            yield Finding(WRONG, f"{name}={settings[name]} is no number of tasks or processes", "From 1 on.")
    try:
        ipaddress.ip_address(settings.get("BIND", "127.0.0.1").strip("[]"))
    except ValueError:
        hint = "127.0.0.1 is this machine only, 0.0.0.0 is all."
        yield Finding(WRONG, f"BIND={settings['BIND']} is no address", hint)


def _ports(settings: Mapping[str, str], env: Path) -> Finding:
    try:
        ports = Ports.from_environment(settings, default=Ports())
    except ConfigError as error:
        return Finding(WRONG, error.headline, f"{error.hint} In {env}.")
    try:
        require_free(ports, PUBLISHED)
    except ConfigError as error:
        return Finding(WRONG, error.detail, f"Stop what uses it, or change {env}: {error.hint.partition(': ')[2]}")
    return Finding(OK, "all that are published are free")
