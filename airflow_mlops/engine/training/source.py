"""Which code a training runs: edit the model function, and it is another training."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

from airflow_mlops.contracts import TrainingSpec, content_hash
from airflow_mlops.engine.data.files import sha256


def code_hash(spec: TrainingSpec, code_path: str | None) -> str | None:
    """Return the hash of all code that a training runs, as it lies below a folder now."""
    return hash_of(spec.fit or spec.entrypoint, spec.script, [spec.golden, spec.transform], code_path)


def hash_of(named: str, script: str | None, beside: Iterable[str | None], code_path: str | None) -> str | None:
    """Return the hash of all code that a training runs, by the names that a pipeline has for it.

    :param named: Its fit function, or its entrypoint.
    :param script: Its script, instead.
    :param beside: Its functions for golden inputs and for transforming; some may be empty.
    """
    code = script_hash(script, code_path) if script else source_hash(named, code_path)
    more = [source_hash(name, code_path) for name in beside if name]
    return content_hash([code, *more]) if more else code


def script_hash(script: str, code_path: str | None) -> str | None:
    """Return the hash of a script and of the Python files beside it and below; None when it is not there."""
    file = Path(code_path or ".") / script
    if not file.is_file():
        return None
    beside = {str(path.relative_to(file.parent)): sha256(path) for path in file.parent.rglob("*.py")}
    return content_hash([file.name, sha256(file), beside])


def script_files(script: str, code_path: str | None) -> dict[str, Path]:
    """Return the files whose hash :func:`script_hash` is, by their paths below the folder of the DAG file."""
    folder = Path(code_path or ".")
    file = folder / script
    found = [file, *file.parent.rglob("*.py")] if file.is_file() else []
    return {path.relative_to(folder).as_posix(): path for path in found}


def source_hash(entrypoint: str, code_path: str | None) -> str | None:
    """Return the hash of the code that an entrypoint runs, without importing it.

    That is all Python files of its top-level package, or its one file, and of what they import from ``code_path``.

    :param entrypoint: ``package.module:function``.
    :param code_path: Folder searched first.
    :returns: None when the package has no source to read; loading it will say why.
    """
    package = entrypoint.partition(":")[0].partition(".")[0]
    search = [code_path, *sys.path] if code_path else sys.path
    found = PathFinder.find_spec(package, search)
    if found is None:
        return None
    files = _files(found)
    if not files:
        return None
    digests = {name: sha256(path) for name, path in files.items()}
    own = content_hash(digests) if found.submodule_search_locations else next(iter(digests.values()))
    found_beside = _beside(files.values(), code_path, seen={package}) if code_path else {}
    beside = {name: {place: sha256(path) for place, path in more.items()} for name, more in found_beside.items()}
    return content_hash([own, beside]) if beside else own


def source_files(entrypoint: str, code_path: str | None) -> dict[str, Path]:
    """Return the files whose hash :func:`source_hash` is, by their paths below the folder that is imported from.

    :returns: Nothing when the package has no source to read.
    """
    package = entrypoint.partition(":")[0].partition(".")[0]
    found = PathFinder.find_spec(package, [code_path, *sys.path] if code_path else sys.path)
    files = _files(found) if found is not None else {}
    modules = {package: files}
    if code_path:
        modules |= _beside(files.values(), code_path, seen={package})
    return {
        name if name == f"{module}.py" else f"{module}/{name}": path
        for module, some in modules.items()
        for name, path in some.items()
    }


def _files(found: ModuleSpec) -> dict[str, Path]:
    """Return the Python files of a module or a package, by their names in it."""
    if found.submodule_search_locations is None:
        return {Path(found.origin).name: Path(found.origin)} if found.origin and found.origin.endswith(".py") else {}
    folders = list(map(Path, found.submodule_search_locations))
    return {str(path.relative_to(folder)): path for folder in folders for path in folder.rglob("*.py")}


def _beside(files: Iterable[Path], code_path: str, seen: set[str]) -> dict[str, dict[str, Path]]:
    """Return module → the files of what some files import from a folder, directly or not, by their names in it."""
    imported: dict[str, dict[str, Path]] = {}
    waiting = list(files)
    while waiting:
        for name in sorted(_imports(waiting.pop()) - seen):
            seen.add(name)
            found = PathFinder.find_spec(name, [code_path])
            if found is not None and (more := _files(found)):
                imported[name] = more
                waiting += more.values()
    return imported


def _imports(file: Path) -> set[str]:
    """Return the top-level names of the modules that a file imports by name; none of one that is no Python."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):
        return set()
    nodes = list(ast.walk(tree))
    whole = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    parts = {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom) and not node.level}
    return {name.partition(".")[0] for name in whole | parts} - {""}
