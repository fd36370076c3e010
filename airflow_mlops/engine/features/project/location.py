"""Where a project's features are defined and kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from airflow_mlops.exceptions import ConfigError


@dataclass(frozen=True)
class Location:
    """Where a Feast project is, for everything that reads or writes its features.

    Folders are made absolute: what reads definitions works in the folder of the repository.

    :param repo: Folder with ``feature_store.yaml`` and the definitions; None when only the registry is known.
    :param home: The home folder, which ``${MLOPS_HOME}`` stands for.
    :param overrides: Settings of ``feature_store.yaml`` that replace or complete those in the file, such as
        ``{"online_store": {"type": "redis", "connection_string": "…"}}``. They may hold secrets.
    """

    repo: Path | None
    home: Path
    overrides: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if self.repo is not None:
            object.__setattr__(self, "repo", Path(self.repo).absolute())
        object.__setattr__(self, "home", Path(self.home).absolute())

    @property
    def repo_folder(self) -> Path:
        """The folder of the definitions.

        :raises ConfigError: when only the registry is known.
        """
        if self.repo is None:
            raise ConfigError(
                "There is no feature repository here, only its registry.",
                detail="definitions are read from a folder with feature_store.yaml",
                hint="Apply where the repository is; or set the folder as the host of the connection of type feast.",
            )
        return self.repo
