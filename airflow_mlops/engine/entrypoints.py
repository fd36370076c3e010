"""User code named in the configuration as ``module:function``."""

from __future__ import annotations

import importlib
import sys
from typing import Any

from airflow_mlops.exceptions import ConfigError, did_you_mean


def load_object(entrypoint: str, code_path: str | None = None) -> Any:
    """Import what ``entrypoint`` names.

    :param entrypoint: ``package.module:name``.
    :param code_path: Folder put first on ``sys.path``, usually that of the DAG file.
    :raises ConfigError: when the module or the name does not exist. Errors inside the module pass through.
    """
    module_name, _, name = entrypoint.partition(":")
    if code_path is not None and code_path not in sys.path:
        sys.path.insert(0, code_path)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise ConfigError(
            f"Cannot find the module of {entrypoint!r}.",
            detail=f"no module {error.name!r} on the path (code path: {code_path})",
            hint="The module must lie beside the DAG file, or be installed.",
        ) from None
    if not hasattr(module, name):
        raise ConfigError(
            f"Module {module_name!r} has no {name!r}.{did_you_mean(name, dir(module))}",
            detail=f"entrypoint {entrypoint!r}",
            hint="Name a function that the module defines.",
        )
    return getattr(module, name)
