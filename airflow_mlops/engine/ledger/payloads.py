"""What a fact or a pointer can hold and be called: JSON and text that SQLite and PostgreSQL both give back the same."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import date, datetime
from typing import Any

from airflow_mlops.exceptions import ConfigError


def as_json(value: Any, where: str = "payload") -> Any:
    """Return a value as the ledger stores it.

    Times become ISO 8601 text with their offset, tuples lists, NumPy scalars Python's own. NaN and the infinities
    become null: PostgreSQL has no other JSON for them.

    :param where: Path of the value, for the error.
    :raises ConfigError: when there is no honest JSON for it: an object, a naive time, a name that is not text.
    """
    if isinstance(value, Mapping):
        return {_name(name, where): as_json(item, f"{where}.{name}") for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(item, f"{where}[{index}]") for index, item in enumerate(value)]
    if getattr(value, "shape", None) == ():  # a NumPy scalar
        return as_json(value.item(), where)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, datetime) and value.tzinfo is None:
        raise _refused(where, "a time without a time zone", "Give it one: datetime.now(UTC).")
    if isinstance(value, date):
        return value.isoformat()
    if value is None or isinstance(value, (str, int)):
        return value
    hint = "Pass text, numbers, times, lists and dicts; of a record, its model_dump()."
    raise _refused(where, f"a value of type {type(value).__name__}", hint)


def check_names(**names: str | None) -> None:
    """Check the names by which a fact or a pointer is kept and found; None is one that was not given.

    :raises ConfigError: when a database cannot keep one: it holds a NUL character, or half of a surrogate pair.
    """
    for where, name in names.items():
        if isinstance(name, str) and any(letter == "\0" or "\ud800" <= letter <= "\udfff" for letter in name):
            raise _refused(where, f"the text {name!r}", "Use text without NUL characters, in valid Unicode.")


def _name(name: Any, where: str) -> str:
    if not isinstance(name, str):
        raise _refused(where, f"a name of type {type(name).__name__}", "Names in JSON are text: use str(name).")
    return name


def _refused(where: str, what: str, hint: str) -> ConfigError:
    return ConfigError("The ledger cannot keep this.", detail=f"{where}: {what}", hint=hint)
