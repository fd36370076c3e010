"""User code named in the configuration as ``module:function``."""

from __future__ import annotations

import ast
import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
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
    try:
        module = load_module(module_name, *folders)
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


def load_module(name: str, *folders: str) -> ModuleType:
    """Import a module.

    :param folders: Put first on ``sys.path``, in this order.
    :raises ConfigError: when it is in several of the folders. All that goes wrong in it passes through.
    """
    _forget_namesake(find_in(name.partition(".")[0], folders))
    sys.path[:] = [*folders, *(path for path in sys.path if path not in folders)]
    return importlib.import_module(name)


def _forget_namesake(found: ModuleSpec | None) -> None:
    """Let a module be imported although another of its name was: Python itself has a ``code``, which debuggers import.

    Whoever imported the other one keeps it.
    """
    loaded = sys.modules.get(found.name) if found is not None else None
    if found is None or found.origin is None or loaded is None:
        return
    if getattr(loaded, "__file__", None) != found.origin:
        for name in [name for name in sys.modules if f"{name}.".startswith(f"{found.name}.")]:
            del sys.modules[name]


def check_named(entrypoint: str, what: str, code_path: str | None) -> None:
    """Refuse code of the user that is not there, as far as that shows without importing it.

    :param entrypoint: ``package.module:name``.
    :param what: What it is to whoever named it, such as ``fit function``.
    :param code_path: Folder searched first.
    :raises ConfigError: when the module or the name does not exist.
    """
    module, _, name = entrypoint.partition(":")
    if not name:
        raise ConfigError(
            f"The {what} {entrypoint!r} names no function.",
            hint=f"Write it as 'module:function', such as {':'.join(entrypoint.rpartition('.')[::2])!r}.",
        )
    where: Sequence[str] = [code_path, *sys.path] if code_path else sys.path
    found: ModuleSpec | None = None
    parts = module.split(".")
    for depth in range(1, len(parts) + 1):
        found = PathFinder.find_spec(".".join(parts[:depth]), where)
        if found is None:
            if depth == 1 and importlib.util.find_spec(parts[0]) is not None:
                return  # installed in a way of its own
            beside = [path.stem for folder in where[:1] for path in Path(folder).glob("*") if path.stem.isidentifier()]
            raise ConfigError(
                f"The {what} {entrypoint!r} is not there: there is no module {'.'.join(parts[:depth])!r}."
                f"{did_you_mean(parts[depth - 1], beside)}",
                detail=f"looked for in {where[0] if where else 'no folder'}, and in what is installed",
                hint="The module must lie beside the DAG file, or be installed.",
            )
        where = list(found.submodule_search_locations or ())
    names = _names_of(found)
    if names is not None and name not in names:
        raise ConfigError(
            f"The {what} {entrypoint!r} is not there: module {module!r} has no {name!r}.{did_you_mean(name, names)}",
            detail=f"{found.origin if found else module}",
            hint="Name a function that the module defines.",
        )


def check_script(script: str, code_path: str | None) -> None:
    """Refuse a script that is not there.

    :raises ConfigError: with the nearest name of those beside it.
    """
    path = Path(code_path or ".") / script
    if not path.is_file():
        beside = [one.name for one in path.parent.glob("*") if one.is_file()]
        raise ConfigError(
            f"There is no script {script!r}.{did_you_mean(path.name, beside)}",
            detail=f"looked for {path}",
            hint="Name a file by its path from the folder of the DAG file.",
        )


def _names_of(found: ModuleSpec | None) -> set[str] | None:
    """Return the names that a module's file defines; None when that does not show without running it."""
    if found is None or not (found.origin or "").endswith(".py"):
        return None
    try:
        tree = ast.parse(Path(str(found.origin)).read_bytes())
    except (OSError, SyntaxError, ValueError):
        return None  # importing it says more
    names = {"__name__"}
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                names.add(node.name)
            case ast.Name(ctx=ast.Store()):
                names.add(node.id)
            case ast.Import() | ast.ImportFrom():
                names |= {alias.asname or alias.name.partition(".")[0] for alias in node.names}
    dynamic = {"*", "__getattr__"} & names or any(
        isinstance(node, ast.Name) and node.id in {"globals", "setattr", "exec"} for node in ast.walk(tree)
    )
    return None if dynamic else names


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
