"""A suite of expectations: from Python or from a JSON file, checked before anything runs, versioned and hashed."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_mlops.contracts import content_hash
from airflow_mlops.engine.data.validation import library
from airflow_mlops.engine.entrypoints import load_object
from airflow_mlops.engine.users_code import users_code
from airflow_mlops.exceptions import ConfigError, did_you_mean

if TYPE_CHECKING:
    from great_expectations import ExpectationSuite
    from great_expectations.expectations.expectation import Expectation

_SUITE_KEYS = ("name", "expectations", "meta", "notes", "id")
_EXPECTATION_KEYS = ("type", "kwargs", "severity", "meta", "notes", "description", "id", "rendered_content")
_SEVERITIES = ("critical", "warning", "info")


@dataclass(frozen=True)
class Suite:
    """Expectations under a name.

    :param name: What the suite is called in reports.
    :param version: What its author calls this state of it; ``hash`` is what identifies it.
    """

    name: str
    version: str
    expectations: tuple[Expectation, ...]

    @cached_property
    def hash(self) -> str:
        """SHA-256 of what is asked for: types, arguments and severities, in any order."""
        return content_hash(sorted(_identity(expectation) for expectation in self.expectations))


def load_suite(spec: str, code_path: str | None = None) -> Suite:
    """Load a suite.

    :param spec: ``module:function``, which returns a list of expectations or a GX ``ExpectationSuite``; or the
        path of a JSON file as GX writes it: ``{"name", "expectations": [{"type", "kwargs", "severity"}], "meta":
        {"version"}}``.
    :param code_path: Folder of the DAG file: the module is imported from there, a relative path starts there.
    :raises ConfigError: when it cannot be found, or anything in it is misspelt. Nothing has run then.
    :raises TransientError: when what its function reaches for does not answer.
    """
    library.prepare()
    if spec.endswith(".json"):
        return _from_json(Path(code_path or "", spec))
    if ":" not in spec:
        raise ConfigError(
            f"{spec!r} names no suite.",
            detail=f"suite={spec!r}",
            hint="Give a function, 'package.module:function', or a JSON file, 'suites/flights.json'.",
        )
    made = load_object(spec, code_path)
    if callable(made):
        with users_code(ConfigError, f"Suite {spec!r}", hint="Correct the function; nothing was run."):
            made = made()
    return as_suite(made, spec)


def as_suite(suite: Suite | ExpectationSuite | Sequence[Expectation], name: str) -> Suite:
    """Return what Python made as a suite.

    :raises ConfigError: when it is no list of expectations, or one of them waits for a run-time parameter or has
        bounds that nothing can keep.
    """
    library.prepare()
    from great_expectations import ExpectationSuite
    from great_expectations.expectations.expectation import Expectation

    if isinstance(suite, Suite):
        return suite
    meta = (suite.meta or {}) if isinstance(suite, ExpectationSuite) else {}
    expectations = suite.expectations if isinstance(suite, ExpectationSuite) else suite
    if not isinstance(expectations, Sequence) or not all(isinstance(item, Expectation) for item in expectations):
        raise ConfigError(
            f"Suite {name!r} is not a list of expectations.",
            detail=f"it is a {type(suite).__name__}",
            hint="Return a list such as [gxe.ExpectColumnValuesToNotBeNull(column='id')].",
        )
    for expectation in expectations:
        for parameter in _parameters(expectation.configuration.kwargs):
            raise ConfigError(
                f"Great Expectations could not run suite {name!r}.",
                detail=f"{expectation.configuration.type}: No value found for $PARAMETER {parameter}",
                hint="Write the value into the suite, or run a checkpoint with expectation_parameters=.",
            )
        impossible = _impossible(expectation.configuration.kwargs)
        if impossible is not None:
            column = expectation.configuration.kwargs.get("column")
            raise ConfigError(
                f"An expectation of suite {name!r} can never hold: {impossible}.",
                detail=expectation.configuration.type + (f" on {column!r}" if column else ""),
                hint="Correct its arguments; nothing was run.",
            )
    return Suite(name, str(meta.get("version", "")), tuple(expectations))


def _impossible(kwargs: Mapping[str, Any]) -> str | None:
    """Return what is wrong with bounds: a NaN compares with nothing, and no value lies above a maximum's minimum."""
    for name, value in kwargs.items():
        if _holds_nan(value):
            return f"{name} is NaN" if isinstance(value, float | Decimal) else f"{name} holds a NaN"
    low, high = kwargs.get("min_value"), kwargs.get("max_value")
    # Texts may be times of several forms: these are compared when the column's type is known.
    if isinstance(low, str) or isinstance(high, str) or low is None or high is None:
        return None
    try:
        return f"min_value={low!r} is greater than max_value={high!r}" if low > high else None
    except TypeError:
        return None


def _holds_nan(value: Any) -> bool:
    if isinstance(value, float | Decimal):
        return math.isnan(value)
    if isinstance(value, Mapping):
        return any(map(_holds_nan, value.values()))
    return isinstance(value, list | tuple | set) and any(map(_holds_nan, value))


def _identity(expectation: Expectation) -> str:
    """Return what makes two expectations the same check: type, arguments and severity."""
    configuration = expectation.configuration.to_json_dict()
    kwargs = {name: value for name, value in configuration["kwargs"].items() if name != "batch_id"}
    return json.dumps([configuration["type"], kwargs, configuration.get("severity")], sort_keys=True, default=str)


def _parameters(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        if "$PARAMETER" in value:
            yield str(value["$PARAMETER"])
        value = list(value.values())
    if isinstance(value, list | tuple):
        for part in value:
            yield from _parameters(part)


# --- JSON -------------------------------------------------------------------------------------------------


def _from_json(path: Path) -> Suite:
    document = _read(path)
    _check_keys(document, _SUITE_KEYS, required=("expectations",), where=str(path))
    entries = document["expectations"]
    if not isinstance(entries, list):
        raise _wrong(f"'expectations' is a {type(entries).__name__}, not a list.", str(path))
    expectations = [_expectation(entry, f"{path}, expectation {n}") for n, entry in enumerate(entries, start=1)]
    meta = document.get("meta") or {}
    if not isinstance(meta, dict):
        raise _wrong(f"'meta' is a {type(meta).__name__}, not an object.", str(path))
    suite = as_suite(expectations, str(path))
    return Suite(str(document.get("name") or path.stem), str(meta.get("version", "")), suite.expectations)


def _read(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_without_repeats)
    except FileNotFoundError:
        near = [file.name for file in path.parent.glob("*.json")] if path.parent.is_dir() else []
        raise ConfigError(
            f"There is no suite {path.name!r}.{did_you_mean(path.name, near)}",
            detail=f"{path} does not exist",
            hint="A relative path starts at the folder of the DAG file.",
        ) from None
    except OSError as error:
        raise _wrong(f"It cannot be read: {error.strerror}.", str(path)) from None
    except json.JSONDecodeError as error:
        raise _wrong(f"It is not valid JSON: {error.msg}.", f"{path}, line {error.lineno}") from None
    except ValueError as error:  # not UTF-8, or a repeated key
        raise _wrong(f"It cannot be read: {error}.", str(path)) from None
    if not isinstance(document, dict):
        raise _wrong(f"It holds a {type(document).__name__}, not an object.", str(path))
    return document


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse what JSON readers accept: of two equal keys, all but the last would be lost."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} is there twice")
    return found


def _expectation(entry: Any, where: str) -> Expectation:
    from great_expectations.compatibility.pydantic import ValidationError
    from great_expectations.expectations.registry import (
        get_expectation_impl,
        list_registered_expectation_implementations,
    )

    import_all_expectations()
    if not isinstance(entry, dict):
        raise _wrong(f"An expectation is a {type(entry).__name__}, not an object.", where)
    _check_keys(entry, _EXPECTATION_KEYS, required=("type", "kwargs"), where=where)
    known = list_registered_expectation_implementations()
    if entry["type"] not in known:
        raise _wrong(
            f"There is no expectation {entry['type']!r}.{did_you_mean(str(entry['type']), known)}",
            where,
        )
    where = f"{where} ({entry['type']})"
    cls = get_expectation_impl(entry["type"])
    if not isinstance(entry["kwargs"], dict):
        raise _wrong(f"'kwargs' is a {type(entry['kwargs']).__name__}, not an object.", where)
    _check_keys(entry["kwargs"], tuple(cls.__fields__), required=(), where=f"{where}, kwargs")
    severity = entry.get("severity", "critical")
    if severity not in _SEVERITIES:
        near = did_you_mean(str(severity), _SEVERITIES)
        raise _wrong(f"{severity!r} is no severity.{near} Use one of {', '.join(_SEVERITIES)}.", where)
    try:
        return cls(**entry["kwargs"], severity=severity, meta=entry.get("meta"))
    except ValidationError as error:
        said = "; ".join(f"{'.'.join(map(str, e['loc'])).replace('__root__', '')}: {e['msg']}" for e in error.errors())
        raise _wrong("The arguments of an expectation do not fit.", f"{where}: {said.replace('; : ', '; ')}") from None
    except (TypeError, ValueError) as error:
        raise _wrong("The arguments of an expectation do not fit.", f"{where}: {error}") from None


def import_all_expectations() -> None:
    """Make the library know the names of its own expectations."""
    import great_expectations.expectations  # noqa: F401


def _check_keys(found: Mapping[str, Any], known: Sequence[str], required: Sequence[str], where: str) -> None:
    for key in found:
        if key not in known:
            raise _wrong(f"There is no key {key!r}.{did_you_mean(key, known)}", where)
    for key in required:
        if key not in found:
            raise _wrong(f"The key {key!r} is missing.", where)


def _wrong(headline: str, where: str) -> ConfigError:
    return ConfigError(f"A suite file is wrong. {headline}", detail=where, hint="Correct the file; nothing was run.")
