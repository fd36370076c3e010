"""Which code a training runs: edit the model function, and it is another training."""

from __future__ import annotations

import sys
from importlib.machinery import PathFinder
from pathlib import Path

from airflow_mlops.contracts import content_hash
from airflow_mlops.engine.data.files import sha256


def script_hash(script: str, code_path: str | None) -> str | None:
    """Return the hash of a script and of the Python files beside it and below; None when it is not there."""
    file = Path(code_path or ".") / script
    if not file.is_file():
        return None
    beside = {str(path.relative_to(file.parent)): sha256(path) for path in file.parent.rglob("*.py")}
    return content_hash([file.name, sha256(file), beside])


def source_hash(entrypoint: str, code_path: str | None) -> str | None:
    """Return the hash of all Python files of the entrypoint's top-level package, without importing it.

    :param entrypoint: ``package.module:function``.
    :param code_path: Folder searched first.
    :returns: None when the package has no source to read; loading it will say why.
    """
    package = entrypoint.partition(":")[0].partition(".")[0]
    search = [code_path, *sys.path] if code_path else sys.path
    found = PathFinder.find_spec(package, search)
    if found is None:
        return None
    if found.submodule_search_locations is None:
        return sha256(Path(found.origin)) if found.origin else None
    files: dict[str, str] = {}
    for folder in map(Path, found.submodule_search_locations):
        files |= {str(path.relative_to(folder)): sha256(path) for path in folder.rglob("*.py")}
    return content_hash(files)
