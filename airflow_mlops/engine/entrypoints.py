"""User code named in the configuration as ``module:function``."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from typing import Any

from airflow_mlops.exceptions import ConfigError, did_you_mean


def load_object(entrypoint: str, *code_paths: str | None) -> Any:
    """Import what ``entrypoint`` names.

    :param entrypoint: ``package.module:name``.
    :param code_paths: Folders put first on ``sys.path``, in this order, usually that of the DAG file. None is none.
    :raises ConfigError: when the module or the name does not exist, or the module is in several of the folders.
        Errors inside the module pass through.
    """
    module_name, _, name = entrypoint.partition(":")
    folders = [path for path in code_paths if path is not None]
    find_in(module_name.partition(".")[0], folders)
    sys.path[:] = [*folders, *(path for path in sys.path if path not in folders)]
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise ConfigError(
            f"Cannot find the module of {entrypoint!r}.",
            detail=f"no module {error.name!r} on the path (code path: {', '.join(folders) or None})",
            hint="The module must lie beside the DAG file, or for features in the Feast repository, or be installed.",
        ) from None
    if not hasattr(module, name):
        raise ConfigError(
            f"Module {module_name!r} has no {name!r}.{did_you_mean(name, dir(module))}",
            detail=f"entrypoint {entrypoint!r}",
            hint="Name a function, or a variable, that the module defines.",
        )
    return getattr(module, name)


def find_in(name: str, folders: Sequence[str]) -> ModuleSpec | None:
    """Return the top-level module or package of that name in some folders, without importing it.

    :raises ConfigError: when several of them have one: which one counts must not depend on an order.
    """
    found = [spec for folder in folders if (spec := PathFinder.find_spec(name, [folder])) is not None]
    places = dict.fromkeys(spec.origin or str(list(spec.submodule_search_locations or ())) for spec in found)
    if len(places) > 1:
        raise ConfigError(
            f"There are {len(places)} modules {name!r}.",
            detail=" and ".join(places),
            hint="Rename one of them: which one is meant would depend on who looks first.",
        )
    return found[0] if found else None
