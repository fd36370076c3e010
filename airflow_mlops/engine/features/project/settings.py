"""``feature_store.yaml``, with the overrides of a location over it.

Both may use ``${MLOPS_HOME}``, the home folder, and any other environment variable that is set.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from string import Template
from typing import Any

from airflow_mlops.engine.features.project.location import Location
from airflow_mlops.engine.features.project.secrets import masked
from airflow_mlops.exceptions import ConfigError

SETTINGS = "feature_store.yaml"
_VARIABLE = re.compile(r"\$\{([A-Za-z_]\w*)\}")
# Around the name of a variable that is not set, until it is known whether it is in a value that counts.
_UNSET = re.compile("\ue000(.+?)\ue001")


def read_settings(location: Location) -> dict[str, Any]:
    """Return the settings of a location: those of its repository, if it has one, and its overrides over them.

    :raises ConfigError: when there is no such repository, its file is not valid, nothing names the project, or a
        variable is not set.
    """
    variables = {**os.environ, "MLOPS_HOME": str(location.home)}
    overrides = _each_text(location.overrides, lambda text: _VARIABLE.sub(lambda m: _value(m[1], variables), text))
    settings: dict[str, Any] = merged(_read_file(location, variables), overrides)
    _each_text(settings, lambda text: _refuse_unset(text, location))
    if not settings.get("project") or not isinstance(settings["project"], str):
        raise ConfigError(
            "The Feast project has no name." if location.repo is None else f"{SETTINGS} names no project.",
            detail=_where(location),
            hint="Say `project`, in the connection of type feast." if location.repo is None else "Add `project:`.",
        )
    return settings


def merged(settings: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with overrides over them, section by section.

    A section of another kind replaces the one below it whole: nothing of an SQLite file suits a Redis.

    >>> merged({"a": {"type": "x", "b": 1}}, {"a": {"c": 2}})
    {'a': {'type': 'x', 'b': 1, 'c': 2}}
    >>> merged({"a": {"type": "x", "b": 1}}, {"a": {"type": "y"}})
    {'a': {'type': 'y'}}
    """
    result = dict(settings)
    for key, value in overrides.items():
        below = result.get(key)
        if isinstance(value, Mapping) and isinstance(below, Mapping) and not _other_kind(below, value):
            result[key] = merged(below, value)
        else:
            result[key] = value
    return result


def _other_kind(below: Mapping[str, Any], above: Mapping[str, Any]) -> bool:
    return any(key in above and above[key] != below.get(key) for key in ("type", "registry_type")) or (
        "path" in above and _scheme(above["path"]) != _scheme(below.get("path"))
    )


def _scheme(path: object) -> str:
    """Return the kind of database that a path is on; a file has none."""
    return str(path).partition("://")[0] if "://" in str(path) else ""


def _each_text(value: Any, change: Callable[[str], str]) -> Any:
    """Return settings with each text in them changed."""
    if isinstance(value, Mapping):
        return {key: _each_text(one, change) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_each_text(one, change) for one in value]
    return change(value) if isinstance(value, str) else value


def _filled(text: str, variables: Mapping[str, str]) -> str:
    """Return the text of a file with its variables filled in; a ``$name`` that is not set may be meant as it is."""

    def fill(found: re.Match[str]) -> str:
        if found["braced"]:
            return _value(found["braced"], variables)
        return "$" if found["escaped"] else variables.get(found["named"] or "", found[0])

    return Template.pattern.sub(fill, text)


def _value(name: str, variables: Mapping[str, str]) -> str:
    return variables.get(name, f"\ue000{name}\ue001")


def _refuse_unset(text: str, location: Location) -> str:
    if unset := _UNSET.search(text):
        raise ConfigError(
            f"The settings of Feast need the environment variable {unset[1]}, which is not set.",
            detail=_where(location),
            hint=f"Set {unset[1]} where this runs: on the workers, and wherever else the features are read.",
        )
    return text


def _read_file(location: Location, variables: Mapping[str, str]) -> dict[str, Any]:
    if location.repo is None:
        return {}
    file = location.repo / SETTINGS
    try:
        text = file.read_text()
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigError(
            "There is no Feast repository at the configured path.",
            detail=str(file),
            hint="Point the connection of type feast at the folder that holds it, as the workers see it.",
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{SETTINGS} cannot be read.", detail=f"{file}: {error}", hint="Mend it, or its permissions."
        ) from None
    import yaml

    try:
        settings = yaml.safe_load(_filled(text, variables))
    except yaml.YAMLError as error:
        problem = _UNSET.sub(r"${\1}", str(error))
        detail = f"{file}: {masked(problem)}"
        raise ConfigError(f"{SETTINGS} is not valid YAML.", detail=detail, hint="Mend it.") from None
    if settings is None:
        return {}
    if not isinstance(settings, dict):
        raise ConfigError(
            f"{SETTINGS} is no mapping of settings.",
            detail=f"{file} holds a {type(settings).__name__}",
            hint="Its lines must read `project: …`, `registry: …`.",
        )
    return settings


def _where(location: Location) -> str:
    return str(location.repo / SETTINGS) if location.repo else "a location without a repository: its registry alone"
