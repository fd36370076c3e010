"""``feature_store.yaml``, with the overrides of a location, as Feast's own configuration.

The file may use ``${MLOPS_HOME}``, the home folder, and any other environment variable.
"""

from __future__ import annotations

import os
from string import Template
from typing import TYPE_CHECKING, Any

from airflow_mlops.engine.features.location import Location
from airflow_mlops.exceptions import ConfigError

if TYPE_CHECKING:
    from feast import RepoConfig

SETTINGS = "feature_store.yaml"


def read_settings(location: Location) -> dict[str, Any]:
    """Return the settings of a location.

    :raises ConfigError: when there is no such repository, or its file is not valid.
    """
    if location.repo is None:
        return dict(location.overrides)
    file = location.repo / SETTINGS
    try:
        text = file.read_text()
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigError(
            "There is no Feast repository at the configured path.",
            detail=str(file),
            hint="Point the connection of type feast at the folder that holds it, as the workers see it.",
        ) from None
    import yaml

    try:
        settings = yaml.safe_load(Template(text).safe_substitute({**os.environ, "MLOPS_HOME": str(location.home)}))
    except yaml.YAMLError as error:
        raise ConfigError(f"{SETTINGS} is not valid YAML.", detail=f"{file}: {error}", hint="Mend it.") from None
    if not isinstance(settings, dict) or not settings.get("project"):
        raise ConfigError(f"{SETTINGS} names no project.", detail=str(file), hint="Add `project:`.")
    return settings


def feast_config(settings: dict[str, Any], location: Location) -> RepoConfig:
    """Return Feast's own configuration.

    :raises ConfigError: when Feast does not accept it.
    """
    from feast import RepoConfig
    from feast.errors import FeastError
    from pydantic import ValidationError

    try:
        config = RepoConfig(**settings)
    except (ValidationError, FeastError) as error:
        raise ConfigError(
            f"Feast does not accept {SETTINGS}.",
            detail=f"{location.repo / SETTINGS}: {error}",
            hint="See the reference of feature_store.yaml in Feast's documentation.",
        ) from None
    config.repo_path = location.repo.resolve()
    return config
