"""Python files that came with a model, loaded beside whatever else has their names.

Each set of files is a package of a name of its own. An ``import`` in one of them, also one that runs later inside a
function, finds the other files first, and then what is installed. Nothing is written beside the files.
"""

from __future__ import annotations

import builtins
import importlib.util
import sys
import threading
from collections.abc import Mapping, Sequence
from importlib.abc import InspectLoader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from airflow_mlops.exceptions import DataError

_PREFIX = "_shipped_"
_NEVER = {"tensorflow", "keras"}
"""What is not to be loaded where a model is asked."""
_lock = threading.Lock()


def load_shipped(name: str, files: Mapping[str, bytes], module: str) -> ModuleType:
    """Import a module of some files. The same name again is the same module, whoever asks.

    :param name: Tells these files from all others, such as their hash.
    :param files: Path, relative to the folder that would be on ``sys.path`` → content.
    :param module: Such as ``code`` or ``package.module``.
    :raises ImportError: when it is not among them. What its code raises passes through.
    """
    package = f"{_PREFIX}{name}"
    with _lock:
        if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
            sys.meta_path.insert(0, _Finder())
        if package not in _FILES:
            _FILES[package] = dict(files)
    return importlib.import_module(f"{package}.{module}")


def shipped_file(filename: str) -> str:
    """Return which of the files a frame of a traceback is in; nothing when it is in none."""
    package, _, file = filename.partition(">/")
    return file if package.startswith(f"<{_PREFIX}") else ""


_FILES: dict[str, dict[str, bytes]] = {}


class _Finder(MetaPathFinder):
    """Finds the modules of all sets of files."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, rest = fullname.partition(".")
        files = _FILES.get(package)
        if files is None:
            return None
        base = rest.replace(".", "/")
        if not rest:
            return ModuleSpec(fullname, None, is_package=True)
        for file in (f"{base}/__init__.py", f"{base}.py"):
            if file in files:
                is_package = file.endswith("/__init__.py")
                return ModuleSpec(fullname, _Loader(package, file), origin=file, is_package=is_package)
        if any(file.startswith(f"{base}/") for file in files):
            return ModuleSpec(fullname, None, is_package=True)
        return None


class _Loader(InspectLoader):
    def __init__(self, package: str, file: str) -> None:
        self._package, self._file = package, file

    def get_source(self, fullname: str) -> str:
        return importlib.util.decode_source(_FILES[self._package][self._file])

    def is_package(self, fullname: str) -> bool:
        return self._file.endswith("/__init__.py")

    def exec_module(self, module: ModuleType) -> None:
        code = self.source_to_code(_FILES[self._package][self._file], f"<{self._package}>/{self._file}")
        # What an import statement calls: it is looked up here by every function that the module defines.
        module.__dict__["__builtins__"] = {**vars(builtins), "__import__": _importer(self._package)}
        exec(code, module.__dict__)


def _importer(package: str) -> Any:
    own = {file.partition("/")[0].removesuffix(".py") for file in _FILES[package]}

    def import_(
        name: str,
        globals: Mapping[str, Any] | None = None,
        locals: Mapping[str, Any] | None = None,
        fromlist: Sequence[str] = (),
        level: int = 0,
    ) -> ModuleType:
        top = name.partition(".")[0]
        if not level and top in _NEVER and top not in own:
            raise DataError(
                f"Code that is shipped with a model cannot import {top}.",
                detail=f"module {str((globals or {}).get('__name__', '')).removeprefix(f'{package}.')!r}",
                hint="It runs in Airflow's tasks, in which TensorFlow may hang, and in callers. Keep it in a module of "
                "its own, or import TensorFlow and Keras inside the function that builds the model.",
            )
        if level or top not in own:
            return builtins.__import__(name, globals, locals, fromlist, level)
        if fromlist:
            return builtins.__import__(f"{package}.{name}", globals, locals, fromlist, 0)
        importlib.import_module(f"{package}.{name}")
        return sys.modules[f"{package}.{top}"]

    return import_
