"""Call a function in this process, which was started for it. Run by any Python from 3.11 on, also one without us.

The folder that it is given has ``call.json``; ``result.json`` or ``error.json`` comes into it.
"""

from __future__ import annotations

import ast
import json
import logging
import math
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

from airflow_mlops.engine.process import die_with_parent
from airflow_mlops.engine.users_code import TRIED_AGAIN, is_transient
from airflow_mlops.exceptions import MlopsError, TrainingError, TransientError

_MOST = 1_000_000
"""Characters of JSON that a result may have: it goes through Airflow's database."""
_LAST_FRAMES = 3
_SMALL = "numbers, texts, lists or dicts; write anything larger to a file and {} its path."


class NotJsonError(Exception):
    """A value that JSON cannot hold: where it is, and what it is."""

    def __init__(self, place: str, what: str, *, number: bool = False) -> None:
        super().__init__(f"{place} is {what}")
        self.number = number


class SkippedError(Exception):
    """The function raised Airflow's ``AirflowSkipException``: the task is to be skipped."""


def main(folder: Path) -> int:
    """Call what ``folder`` says. Returns the exit status."""
    die_with_parent()
    logging.basicConfig(stream=sys.stdout, format="%(message)s", level=logging.INFO)
    told = json.loads((folder / "call.json").read_bytes())
    sys.path += [path for path in told["path"] if path not in sys.path]
    try:
        result = _result(told["name"], _called(told))
    except SkippedError as error:
        (folder / "skipped.txt").write_text(str(error))
        return 1
    except MlopsError as error:
        words = {"headline": error.headline, "detail": error.detail, "hint": error.hint, "retryable": error.retryable}
        (folder / "error.json").write_text(json.dumps(words))
        return 1
    (folder / "result.json").write_text(result)
    return 0


def plain(value: Any, place: str, text_of: Callable[[Any], str | None] = lambda _: None) -> Any:
    """Return a value as JSON has it; paths become texts.

    :param place: What to call it in the error.
    :param text_of: What else becomes a text, or None.
    :raises NotJsonError: when there is something in it that JSON does not have.
    """
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise NotJsonError(place, f"{value}, which is not finite")
        return float(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise NotJsonError(f"a key of {place}", f"{_named(key)}, and not a text")
        return {key: plain(item, f"{place}[{key!r}]", text_of) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray | memoryview):
        return [plain(item, f"{place}[{number}]", text_of) for number, item in enumerate(value)]
    text = text_of(value)
    if text is None:
        raise NotJsonError(place, _named(value), number=getattr(value, "shape", None) == ())
    return text


def _named(value: Any) -> str:
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"


def _called(told: dict[str, Any]) -> Any:
    """Load the function and call it; what it raises becomes an error in words.

    :raises TransientError: when that may not be raised again.
    :raises SkippedError: when the task is to be skipped.
    """
    name = told["name"]
    try:
        return _loaded(told)(*told["args"], **told["kwargs"])
    except MlopsError:
        raise
    except SystemExit as error:
        raise TrainingError(
            f"{name}() ended itself by sys.exit({error.code!r}).",
            detail=_frames(error, told),
            hint="Return a result, or raise an error that says what is wrong.",
        ) from None
    except Exception as error:
        kinds = {kind.__name__ for kind in type(error).__mro__}
        if "AirflowSkipException" in kinds:
            raise SkippedError(error) from None
        error.__traceback__ = _theirs(error.__traceback__)
        traceback.print_exception(error)
        message = (str(error).strip().splitlines() or [""])[0]
        passing = "AirflowFailException" not in kinds and is_transient(error)
        hint = f"Correct {name}(); the whole traceback is in the log above."
        if isinstance(error, NameError):
            hint = "Hand it over as an argument, or define it at the top of the file. Only what is named there is run."
        raise (TransientError if passing else TrainingError)(
            f"{name}() raised {type(error).__name__}: {message}",
            detail=_frames(error, told),
            hint=TRIED_AGAIN if passing else hint,
        ) from None


def _loaded(told: dict[str, Any]) -> Callable[..., Any]:
    """Return the function, after running the statements of its file that it needs."""
    wanted = {(line, column): left_out for line, column, left_out in told["statements"]}
    body = list(_chosen(ast.parse(told["text"], told["file"]), wanted))
    code = compile(ast.Module(body, []), told["file"], "exec", dont_inherit=True)
    # A module, because dataclasses and the like look theirs up. Not by the file's name, which others may import.
    module = ModuleType(f"function_of_{Path(told['file']).stem}")
    module.__file__, module.__package__ = told["file"], told["package"]
    sys.modules[module.__name__] = module
    exec(code, module.__dict__)
    return vars(module)[told["name"]]


def _chosen(node: ast.AST, wanted: dict[tuple[int, int], int]) -> Iterator[ast.stmt]:
    """Yield the wanted statements of a file, each ``with`` around those that are in it."""
    for child in ast.iter_child_nodes(node):
        left_out = wanted.get((child.lineno, child.col_offset)) if isinstance(child, ast.stmt) else None
        if not isinstance(child, ast.stmt) or left_out is None:
            yield from _chosen(child, wanted)
            continue
        if isinstance(child, ast.FunctionDef):
            child.decorator_list = child.decorator_list[left_out:]
        elif isinstance(child, ast.With):
            inner = list(_chosen(ast.Module(child.body, []), wanted))
            child.body = inner or [ast.copy_location(ast.Pass(), child)]
        yield child


def _theirs(trace: TracebackType | None) -> TracebackType | None:
    """Return a traceback from the first frame that is not ours."""
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    return trace


def _frames(error: BaseException, told: dict[str, Any]) -> str:
    """Return where in the user's code an error was raised: lines of no library's."""
    frames = [
        f"{Path(frame.filename).name}:{frame.lineno} in {frame.name}: {frame.line}"
        for frame in traceback.extract_tb(error.__traceback__)
        if "site-packages" not in frame.filename
        and frame.filename != __file__
        and any(Path(frame.filename).is_relative_to(folder) for folder in told["path"])
    ]
    return "\n         ".join(frames[-_LAST_FRAMES:]) or told["file"]


def _result(name: str, value: Any) -> str:
    """Return what the function returned as JSON.

    :raises TrainingError: when it is none, or too large.
    """
    hint = "Return " + _SMALL.format("return")
    try:
        text = json.dumps(plain(value, "result"))
    except NotJsonError as error:
        raise TrainingError(
            f"What {name}() returned is not JSON.",
            detail=str(error),
            hint=f"float() makes a number of it. {hint}" if error.number else hint,
        ) from None
    except RecursionError:
        raise TrainingError(f"What {name}() returned contains itself, or is nested too deeply.", hint=hint) from None
    if len(text) > _MOST:
        raise TrainingError(
            f"What {name}() returned is too large.",
            detail=f"{len(text)} characters of JSON; the most is {_MOST}",
            hint=hint,
        )
    return text
