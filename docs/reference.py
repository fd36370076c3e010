"""A page of each operator, sensor, trigger, decorator and hook: its docstring, and the examples that use it."""

from __future__ import annotations

import ast
import inspect
import shutil
import sys
from collections.abc import Iterator, Mapping
from inspect import get_annotations
from pathlib import Path
from typing import Any, is_typeddict

from sphinx.application import Sphinx

from airflow_mlops.decorators.tensorflow import tensorflow_task
from tests.contract import classes

DOCS = Path(__file__).parent
EXAMPLES = DOCS / "examples"
PAGES = DOCS / "reference"
"""Made anew each time, and in no commit."""
KINDS: Mapping[str, list[Any]] = {
    "Operators": classes.OPERATORS,
    "Sensors": classes.SENSORS,
    "Decorators": [tensorflow_task],
    "Triggers": [*classes.TRIGGERS, *classes.EVENT_TRIGGERS],
    "Hooks": classes.HOOKS,
}
ABOUT = {
    "Operators": "Tasks that do one thing each. They return a small dictionary, from which the next task takes.",
    "Sensors": "Tasks that wait. With `deferrable=True` no worker waits meanwhile.",
    "Decorators": "For a function of your DAG file.",
    "Triggers": "What waits in Airflow's triggerer. Sensors defer to them: you name one for an `AssetWatcher` only.",
    "Hooks": "What a connection leads to. Operators open them; a task of yours may too.",
}
WAITS_FOR = {sensor.__name__.removesuffix("Sensor") + "Trigger": sensor.__name__ for sensor in classes.SENSORS}
"""Trigger → the sensor that defers to it: nobody names such a trigger in a DAG file."""


def setup(app: Sphinx) -> None:
    """Write the pages before Sphinx looks for them, and add to a class what its bases take."""
    app.connect("builder-inited", lambda _app: write())
    app.connect("autodoc-process-docstring", _inherit)


def _inherit(_app: Sphinx, kind: str, _name: str, one: Any, _options: object, lines: list[str]) -> None:
    if kind != "class":
        return
    for base in one.__mro__[1:]:
        if base.__module__.startswith("airflow_mlops."):
            said = (inspect.getdoc(base) or "").splitlines() if base.__doc__ else []
            first = next((at for at, line in enumerate(said) if line.startswith(":param")), len(said))
            lines += said[first:]


def write() -> None:
    """Write a page of each, and the list of all."""
    shutil.rmtree(PAGES, ignore_errors=True)
    PAGES.mkdir()
    (PAGES / "index.md").write_text("\n".join(_index()) + "\n")
    for ones in KINDS.values():
        for one in ones:
            (PAGES / f"{_name(one)}.md").write_text("\n".join(_page(one)) + "\n")


def examples(name: str) -> dict[Path, list[int]]:
    """Return the example DAG files that use something, and in which lines.

    >>> [path.name for path in examples("SweepHomeOperator")]
    ['upkeep.py']
    """
    name = WAITS_FOR.get(name, name)
    found = {path: list(_lines(path, name)) for path in sorted(EXAMPLES.glob("*.py"))}
    return {path: lines for path, lines in found.items() if lines}


def _lines(path: Path, name: str) -> Iterator[int]:
    """Yield the lines of the calls and decorators of a name."""
    named = {name, f"{name}.partial"} if name != "tensorflow_task" else {"task.tensorflow"}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in named:
            yield from range(node.lineno, (node.end_lineno or node.lineno) + 1)


def _name(one: Any) -> str:
    return "task.tensorflow" if one is tensorflow_task else one.__name__


def _first_sentence(one: Any) -> str:
    words = " ".join((inspect.getdoc(one) or "").partition("\n\n")[0].split())
    return words.replace("``", "`")


def _index() -> Iterator[str]:
    yield "# Reference: every class, with an example\n"
    yield "For looking up. [Single operators](../tutorial-operators.md) shows how they work together in one DAG."
    for kind, ones in KINDS.items():
        yield f"\n## {kind}\n\n{ABOUT[kind]}\n\n| | |\n|---|---|"
        yield from (f"| [{_name(one)}]({_name(one)}.md) | {_first_sentence(one)} |" for one in ones)
    yield "\n```{toctree}\n:hidden:\n"
    yield from (_name(one) for ones in KINDS.values() for one in ones)
    yield "```"


def _page(one: Any) -> Iterator[str]:
    yield f"# {_name(one)}\n"
    yield f"```python\nfrom {one.__module__} import {one.__name__}\n```\n" if inspect.isclass(one) else ""
    directive = "autoclass" if inspect.isclass(one) else "autofunction"
    yield f"```{{eval-rst}}\n.. {directive}:: {one.__module__}.{one.__name__}"
    yield from ("   :members: get_conn, test_connection",) if one in classes.HOOKS else ()
    yield "```\n"
    yield from _returned(one)
    yield from _shown(one)


def _returned(one: Any) -> Iterator[str]:
    """Yield the keys of what an operator returns: each is an XCom of its own too."""
    said = inspect.signature(one.perform).return_annotation if hasattr(one, "perform") else ""
    record = next((vars(sys.modules[base.__module__]).get(said) for base in one.__mro__), None) if said else None
    if is_typeddict(record):
        yield "## What it returns\n\n" + (inspect.getdoc(record) or "") + "\n"
        yield from (f"- `{key}`" for key in get_annotations(record))
        yield ""


def _shown(one: Any) -> Iterator[str]:
    if (sensor := WAITS_FOR.get(one.__name__)) is not None:
        yield f"[{sensor}]({sensor}.md) defers to it; you name the sensor.\n"
    for path, lines in examples(one.__name__).items():
        yield f"## Example: `{path.name}`\n"
        yield f"```{{literalinclude}} ../examples/{path.name}"
        yield f":emphasize-lines: {','.join(map(str, lines))}\n```\n"
