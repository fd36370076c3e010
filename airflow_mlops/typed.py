"""What the pieces of a ModelPipeline are made with: strict, frozen, and with errors in words."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable
from typing import Annotated, Any, TypeVar, dataclass_transform

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass as pydantic_dataclass

from airflow_mlops.durations import parse_duration
from airflow_mlops.exceptions import ConfigError, did_you_mean
from airflow_mlops.partitioning import Partitioning

_Part = TypeVar("_Part", bound=type)


def _is_duration(text: str) -> str:
    parse_duration(text)
    return text


def _is_entrypoint(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", text):
        raise ConfigError(
            f"{text!r} does not name a function.",
            hint="Write 'package.module:function'; the module lies beside the DAG file (a transform's may lie in the "
            "Feast repository).",
        )
    return text


def _is_suite(text: str) -> str:
    """A suite is a function, or a file as Great Expectations writes it."""
    return text if text.endswith(".json") else _is_entrypoint(text)


def is_name(text: str) -> str:
    """Return a text that can be part of DAG ids and paths.

    :raises ConfigError: when it cannot.
    """
    if not re.fullmatch(r"[A-Za-z]\w*", text):
        raise ConfigError(
            f"{text!r} cannot be a name.",
            hint="Start with a letter and use letters, digits and '_' only: it becomes part of DAG ids, paths or "
            "the names of outputs.",
        )
    return text


Duration = Annotated[str, AfterValidator(_is_duration)]
Entrypoint = Annotated[str, AfterValidator(_is_entrypoint)]
SuiteName = Annotated[str, AfterValidator(_is_suite)]
Name = Annotated[str, AfterValidator(is_name)]
Cut = Annotated[Partitioning, BeforeValidator(lambda given: Partitioning.parse(given) if type(given) is str else given)]


def _explain(cls: type, error: ValidationError) -> ConfigError:
    """Turn pydantic's report into one error per config, with the nearest known key."""
    known = [field.name for field in dataclasses.fields(cls)]
    lines, hints = [], []
    problems = error.errors(include_url=False)
    problems.sort(key=lambda problem: problem["type"] != "unexpected_keyword_argument")
    for problem in problems:
        where = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "unexpected_keyword_argument":
            lines.append(f"unknown key {where!r}.{did_you_mean(where, known)}")
            hints.append(f"{cls.__name__} knows: {', '.join(known)}.")
        elif problem["type"] in ("missing", "missing_argument"):
            lines.append(f"{where!r} is missing")
        elif problem["type"] == "sequence_str":
            lines.append(f"{where!r} is a list: write [{problem['input']!r}]")
        else:
            lines.append(f"{where}: {problem['msg']} (got {problem['input']!r})")
    return ConfigError(
        f"{cls.__name__}(...) is not valid: {lines[0]}",
        detail="; ".join(lines[1:]),
        hint=" ".join(dict.fromkeys(hints)) or f"See help({cls.__name__}).",
    )


@dataclass_transform(frozen_default=True, field_specifiers=(Field,))
def part(cls: _Part) -> _Part:
    """Make a class a strict, frozen, typed piece of configuration that explains its errors."""
    made = pydantic_dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True))(cls)
    validate: Callable[..., None] = made.__init__

    @functools.wraps(validate)
    def explained(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            validate(self, *args, **kwargs)
        except ValidationError as error:
            raise _explain(cls, error) from None

    made.__init__ = explained  # type: ignore[method-assign]
    return made  # type: ignore[return-value]
