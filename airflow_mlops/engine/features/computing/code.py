"""Which code computes the stored features: change what it does, and the rows it computed before are another's."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from airflow_mlops.contracts import content_hash
from airflow_mlops.engine.entrypoints import find_in, load_object
from airflow_mlops.engine.features.computing.syntax import bare, parts_by_view
from airflow_mlops.engine.features.project.location import Location

_imported: dict[str, str] = {}
"""File → hash of the code that this process imported from it as part of a transform."""


class Code(NamedTuple):
    """Identity of the code of a transform, and of the part of it that makes each feature view, as far as known."""

    whole: str
    views: dict[str, str]

    def of(self, view: str) -> str:
        """Return the identity of the code that makes a view: of all of it when its part cannot be told."""
        return self.views.get(view, self.whole)


class Transform(NamedTuple):
    """A transform, imported, and the identity of the code that it is."""

    function: Callable[..., Any]
    code: Code


class _Source(NamedTuple):
    """A local module: its file, the hash of its code, its syntax, what relative imports start from, and the names
    that may be modules it imports.
    """

    file: str
    digest: str
    tree: ast.Module
    package: str
    imports: list[str]


def import_folders(dag_folder: str, location: Location) -> list[str]:
    """Return the folders that transforms are imported from: that of the DAG file, and that of the definitions."""
    return [dag_folder, *([] if location.repo is None else [str(location.repo)])]


Late = Mapping[str, Sequence[str]]
"""Dataset → a column that is known later than its row, and the column of when; then others that are known with it."""


def load_transform(entrypoint: str, code_paths: Sequence[str], late: Late = MappingProxyType({})) -> Transform:
    """Import a transform, anew when its code was edited, or lies elsewhere, since this process imported it.

    :param entrypoint: ``module:function``.
    :param code_paths: Folders that it, and the modules beside it, are imported from.
    :raises ConfigError: when there is no such module or function, or one of the modules is in several folders.
    """
    sources = _sources(entrypoint, code_paths)
    if any(_differs(name, found.file, found.digest) for name, found in sources.items()):
        for name in sources:
            sys.modules.pop(name, None)
    function = load_object(entrypoint, *code_paths)
    _imported.update((found.file, found.digest) for found in sources.values())
    return Transform(function, _identity(entrypoint, sources, late))


def code_identity(entrypoint: str, code_paths: Sequence[str], late: Late = MappingProxyType({})) -> Code:
    """Return the identity of a transform's code, without importing it.

    What counts is the syntax of its module and of the modules that this one imports, as far as they lie in
    ``code_paths`` or belong to its own package; comments, docstrings and layout do not, nor do installed libraries.
    Of a feature view only what makes its rows counts, where that can be told: see
    :func:`~airflow_mlops.engine.features.computing.syntax.parts_by_view`. So a view that is added beside others
    changes none of them.

    :param entrypoint: ``module:function``.
    :param code_paths: Folders that it, and the modules beside it, are imported from.
    :param late: What it is shown only once it is known.
    :raises ConfigError: when one of the modules is in several folders.
    """
    return _identity(entrypoint, _sources(entrypoint, code_paths), late)


def _identity(entrypoint: str, sources: dict[str, _Source], late: Late) -> Code:
    module, _, function = entrypoint.partition(":")
    # What the transform is not shown counts as its code does.
    named = [entrypoint, *([{name: list(columns) for name, columns in late.items()}] if late else [])]
    whole = content_hash([*named, {name: found.digest for name, found in sources.items()}])[:16]
    parts = parts_by_view(sources[module].tree, function) if module in sources else {}
    return Code(whole, {view: _of_part(named, module, part, sources) for view, part in parts.items()})


def _of_part(named: Sequence[object], module: str, part: ast.Module, sources: dict[str, _Source]) -> str:
    """Return the identity of a part of the transform's module, and of all modules that this part reaches."""
    reached: set[str] = set()
    waiting = [*_parents(module), *_imports(part, sources[module].package)]
    while waiting:
        name = waiting.pop()
        if name in sources and name not in reached and name != module:
            reached.add(name)
            waiting += sources[name].imports
    others = {name: sources[name].digest for name in sorted(reached)}
    return content_hash([*named, ast.unparse(part), others])[:16]


def _sources(entrypoint: str, code_paths: Sequence[str]) -> dict[str, _Source]:
    """Return the transform's module, and the local ones that it imports, directly or not, by name."""
    found: dict[str, _Source] = {}
    module = entrypoint.partition(":")[0]
    package, waiting = module.partition(".")[0], [module]
    while waiting:
        name = waiting.pop()
        if name in found or (spec := _find(name, code_paths, package)) is None:
            continue
        file = None if spec.origin is None else Path(spec.origin)
        if file is None or file.suffix != ".py":
            continue  # a folder without __init__.py, or not Python: there is nothing to read
        tree = bare(file.read_bytes(), file.name)
        base = name if spec.submodule_search_locations is not None else name.rpartition(".")[0]
        imports = [*_parents(name), *_imports(tree, base)]
        found[name] = _Source(str(file), content_hash(ast.unparse(tree)), tree, base, imports)
        waiting += imports
    return dict(sorted(found.items()))


def _differs(name: str, file: str, digest: str) -> bool:
    """Return whether a module is imported already, and from elsewhere or before an edit."""
    module = sys.modules.get(name)
    return module is not None and (getattr(module, "__file__", None) != file or _imported.get(file, digest) != digest)


def _find(name: str, code_paths: Sequence[str], package: str) -> ModuleSpec | None:
    """Return where a local module is; None for one that is not there, or is not local."""
    top, *rest = name.split(".")
    spec = find_in(top, code_paths)
    if spec is None and top == package:
        spec = PathFinder.find_spec(top)
    for part in rest:
        if spec is None or spec.submodule_search_locations is None:
            return None
        spec = PathFinder.find_spec(f"{spec.name}.{part}", list(spec.submodule_search_locations))
    return spec


def _parents(name: str) -> Iterator[str]:
    while name := name.rpartition(".")[0]:
        yield name


def _imports(tree: ast.AST, package: str) -> Iterator[str]:
    """Yield every name that may be a module's among those imported anywhere in some code.

    :param package: What relative imports start from.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)
