"""What a function needs of its file, so that it can be called without running the rest: no DAG is made again.

That is the function and all that it names, directly or not: imports, constants, other functions, classes. What a
statement names is what Python's compiler says that it looks up, so a variable of the function that happens to be
called like one of the file is none of it.
"""

from __future__ import annotations
import __future__

import ast
import builtins
import dis
import inspect
import linecache
from collections.abc import Callable, Iterator
from types import CodeType
from typing import Any, NamedTuple

from airflow_mlops.exceptions import ConfigError

_LOADS = {"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"}


class Source(NamedTuple):
    """A function's file and which statements of it to run.

    ``statements`` are line, column, and how many decorators to leave out.
    """

    name: str
    file: str
    text: str
    package: str
    statements: list[tuple[int, int, int]]


def source_of(function: Callable[..., Any], decorator: str) -> Source:
    """Return what a function needs of its file.

    :param decorator: Last part of the name of what decorates it: that, and all decorators above it, are left out.
    :raises ConfigError: when the file cannot be read, or is not as it was imported.
    """
    original = inspect.unwrap(function)
    code = original.__code__
    text = "".join(linecache.getlines(code.co_filename, original.__globals__))
    tree = ast.parse(text, code.co_filename)
    found = (
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and _first_line(node) == code.co_firstlineno
    )
    target = next((node for node in found if node.name == code.co_name), None)
    if target is None:
        raise ConfigError(
            f"The source of {code.co_name}() cannot be read.",
            detail=f"{code.co_filename}:{code.co_firstlineno}",
            hint="Define it in a file that workers have. If the file was edited just now, try again.",
        )
    left_out = _left_out(target, decorator, wrapped=original is not function)
    target.decorator_list = target.decorator_list[left_out:]
    statements = [(node.lineno, node.col_offset, left_out if node is target else 0) for node in _needed(tree, target)]
    package = original.__globals__.get("__package__") or ""
    return Source(code.co_name, code.co_filename, text, package, sorted(statements))


def _first_line(node: ast.FunctionDef) -> int:
    return min([node.lineno, *(one.lineno for one in node.decorator_list)])


def _left_out(target: ast.FunctionDef, decorator: str, *, wrapped: bool) -> int:
    """Return how many decorators belong to the task and not to the function: the upper ones."""
    for number, node in enumerate(target.decorator_list, 1):
        call = node.func if isinstance(node, ast.Call) else node
        if isinstance(call, ast.Attribute) and call.attr == decorator:
            return number
    # It goes by another name here, or is not written with an @: then what wraps the function is the function's own.
    return 0 if wrapped else len(target.decorator_list)


def _needed(tree: ast.Module, target: ast.FunctionDef) -> list[ast.stmt]:
    """Return the function and the statements of its file that it needs."""
    futures = [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.module == "__future__"]
    texts = any(alias.name == "annotations" for node in futures for alias in node.names)
    flags = __future__.annotations.compiler_flag if texts else 0
    others = {node: _compiled(_head(node), flags) for node in _statements(tree, target) if node not in futures}
    gives = {node: _stored(code) | _changed(node) for node, code in others.items()}
    picked: list[ast.stmt] = [target, *futures]
    wanted = _loaded(_compiled(target, flags))
    growing = True
    while growing:
        growing = False
        unknown = wanted - set().union(*gives.values()) - set(dir(builtins))
        for node, code in others.items():
            if node not in picked and (gives[node] & wanted or (unknown and _star(node))):
                picked.append(node)
                wanted |= _loaded(code)
                growing = True
    return picked


def _statements(node: ast.AST, target: ast.FunctionDef) -> Iterator[ast.stmt]:
    """Yield the statements of a file; those of a ``with``, which is mostly a DAG's, and of what the function is in, one
    by one.
    """
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.With):
            yield child
        elif isinstance(child, ast.stmt) and not any(one is target for one in ast.walk(child)):
            yield child
            continue
        if not isinstance(child, ast.FunctionDef | ast.ClassDef):
            yield from _statements(child, target)


def _head(node: ast.stmt) -> ast.stmt:
    """Return a statement, without the body of a ``with``: of that only what is needed is run."""
    if not isinstance(node, ast.With):
        return node
    return ast.fix_missing_locations(ast.copy_location(ast.With(node.items, [ast.Pass()]), node))


def _compiled(node: ast.stmt, flags: int) -> CodeType:
    return compile(ast.Module([node], []), "<statement>", "exec", flags=flags, dont_inherit=True)


def _loaded(code: CodeType) -> set[str]:
    """Return the names of the file that some code, and the functions in it, look up."""
    names = {one.argval for one in dis.get_instructions(code) if one.opname in _LOADS}
    return names.union(*(_loaded(inner) for inner in code.co_consts if isinstance(inner, CodeType)))


def _stored(code: CodeType) -> set[str]:
    return {one.argval for one in dis.get_instructions(code) if one.opname == "STORE_NAME"}


def _changed(node: ast.stmt) -> set[str]:
    """Return what a statement changes in place: ``x["a"] = 1``, ``x.a = 1``, ``x.update(...)``."""
    targets: list[ast.expr] = []
    if isinstance(node, ast.Assign):
        targets = node.targets
    elif isinstance(node, ast.AugAssign | ast.AnnAssign):
        targets = [node.target]
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        targets = [node.value.func]
    roots = set()
    for target in targets:
        root = target
        while isinstance(root, ast.Attribute | ast.Subscript):
            root = root.value
        if root is not target and isinstance(root, ast.Name):
            roots.add(root.id)
    return roots


def _star(node: ast.stmt) -> bool:
    return isinstance(node, ast.ImportFrom) and node.names[0].name == "*"
