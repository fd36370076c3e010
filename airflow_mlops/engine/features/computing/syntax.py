"""Python code as it counts: without its words, and cut down to the part that makes one feature view."""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterable, Iterator, Sequence


def bare(source: bytes, name: str) -> ast.Module:
    """Return the syntax of a file without docstrings and other texts that stand alone.

    :param name: What a syntax error calls the file.
    """
    tree = ast.parse(source, name)
    _Bare().visit(tree)
    return tree


def parts_by_view(module: ast.Module, function: str) -> dict[str, ast.Module]:
    """Return feature view → the part of a module that makes its rows.

    That is known of a function that ends in ``return {"view": …, …}`` and returns nowhere else: what its entry is
    computed from, and whatever of the module that uses, directly or not. Of another function nothing is returned.
    """
    makers = [node for node in module.body if isinstance(node, ast.FunctionDef) and node.name == function]
    if len(makers) != 1 or _star(module):
        return {}
    maker = makers[0]
    last = maker.body[-1]
    if not isinstance(last, ast.Return) or not isinstance(last.value, ast.Dict) or len(_returns(maker.body)) > 1:
        return {}
    parts = {}
    for key, value in zip(last.value.keys, last.value.values, strict=True):
        if not isinstance(key, ast.Constant) or not isinstance(key.value, str):
            return {}
        parts[key.value] = _reached(module, maker, _only(maker, key, value))
    return parts


def _only(maker: ast.FunctionDef, key: ast.expr, value: ast.expr) -> ast.FunctionDef:
    """Return a function that makes one entry: without the assignments that the entry does not need."""
    needed, kept = _names([value]), []
    for statement in reversed(maker.body[:-1]):
        assigned = _assigned(statement)
        if assigned and not assigned & needed:
            continue
        needed |= _names([statement])
        kept.append(statement)
    body = [*reversed(kept), ast.Return(ast.Dict([key], [value]))]
    reduced = copy.copy(maker)
    reduced.body = body
    return ast.fix_missing_locations(reduced)


def _reached(module: ast.Module, maker: ast.FunctionDef, reduced: ast.FunctionDef) -> ast.Module:
    """Return the statements of a module that a function needs; those that bind no name are always among them."""
    wanted, reached = _names([reduced]), {id(maker)}
    growing = True
    while growing:
        growing = False
        for node in module.body:
            bound = _bound(node)
            if id(node) not in reached and (not bound or bound & wanted):
                reached.add(id(node))
                wanted |= _names([node])
                growing = True
    body = [reduced if node is maker else node for node in module.body if id(node) in reached]
    return ast.Module(body=body, type_ignores=[])


def _bound(node: ast.stmt) -> set[str]:
    """Return the names that a statement of a module is there to bind."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {node.name}
    if isinstance(node, ast.Import):
        return {alias.asname or alias.name.partition(".")[0] for alias in node.names}
    if isinstance(node, ast.ImportFrom):
        # `from __future__ import …` binds nothing that is used, and says how the rest is read.
        return set() if node.module == "__future__" else {alias.asname or alias.name for alias in node.names}
    return _assigned(node)


def _assigned(node: ast.stmt) -> set[str]:
    """Return the names that an assignment sets, when it does nothing else."""
    targets: Sequence[ast.expr] = ()
    if isinstance(node, ast.Assign):
        targets = node.targets
    elif isinstance(node, ast.AnnAssign):
        targets = [node.target]
    plain = [each for target in targets for each in (target.elts if isinstance(target, ast.Tuple) else [target])]
    return {each.id for each in plain if isinstance(each, ast.Name)} if _all_names(plain) else set()


def _all_names(targets: Iterable[ast.expr]) -> bool:
    return all(isinstance(target, ast.Name) for target in targets)


def _names(nodes: Iterable[ast.AST]) -> set[str]:
    return {found.id for node in nodes for found in ast.walk(node) if isinstance(found, ast.Name)}


def _returns(body: Sequence[ast.stmt]) -> list[ast.Return]:
    return [found for statement in body for found in _own_returns(statement)]


def _own_returns(node: ast.AST) -> Iterator[ast.Return]:
    """Yield the return statements of a function, not those of functions within it."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
        return
    if isinstance(node, ast.Return):
        yield node
    for child in ast.iter_child_nodes(node):
        yield from _own_returns(child)


def _star(module: ast.Module) -> bool:
    return any(alias.name == "*" for node in module.body if isinstance(node, ast.ImportFrom) for alias in node.names)


class _Bare(ast.NodeTransformer):
    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        alone = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if alone else node
