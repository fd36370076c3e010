"""The tags by which people govern features, and how they are read.

Ours are these tags of feature views, of single features, of on-demand views and of feature services; all others
are free:

=====================  ============================================================================================
``owner``              who answers for it; every view and every service has one
``status``             ``active``, which it is without the tag; ``deprecated``: no new training; ``blocked``: neither
                       training nor bringing a model into service. A service that uses something deprecated or
                       blocked must say as much of itself
``allowed_use``        models that may use it, separated by spaces; ``*``, or no tag, is everyone
``model``              of a service: the models that it is for, separated by spaces; else its ``allowed_use`` says
``valid_from``         first day, and ``valid_until`` the day after the last, of the event times at which it can be
                       used (ISO, UTC)
``derived_from_model`` the model version that computes it, pinned: ``models:/name/3``
``columns``            ``dataset.column`` that it is computed from
``max_age``            how old its newest online value may be, such as ``2h``
``parity_tolerance``   largest absolute difference between its online and its offline value
=====================  ============================================================================================

A tag of a view goes for all of its features. What an on-demand view is computed from is used by whoever uses it.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, time

from airflow_mlops.durations import parse_duration
from airflow_mlops.exceptions import ConfigError, did_you_mean

STATUSES = ("active", "deprecated", "blocked")
ANYONE = "*"

_PINNED = re.compile(r"models:/[^/@\s]+/[1-9]\d*")
_COLUMN = re.compile(r"[^.\s]+(\.[^.\s]+)+")
_TOO_SHORT_TO_GUESS = 6  # letters: a tag `mode` or `order` is no misspelled `model` or `owner`


def wrong_value(tag: str, text: str) -> str | None:
    """Return how to write the value of a tag of ours that cannot be read; None when it can, or is not ours."""
    return _WRONG[tag](text) if tag in _WRONG else None


def readable(tags: Mapping[str, str]) -> dict[str, str]:
    """Return tags without those of ours whose value cannot be read: these count as not there."""
    return {tag: text for tag, text in tags.items() if wrong_value(tag, text) is None}


def meant_tag(tag: str) -> str | None:
    """Return the tag of ours that a tag which is none was probably meant to be."""
    plain = re.sub(r"[^a-z]+", "_", tag.lower()).strip("_")
    if tag in _WRONG or plain in _WRONG:
        return plain if tag not in _WRONG else None
    long = [name for name in _WRONG if len(name) >= _TOO_SHORT_TO_GUESS]
    return next(iter(difflib.get_close_matches(plain, long, n=1, cutoff=0.85)), None)


def status_of(tags: Mapping[str, str]) -> str:
    """Return the status of what has these tags."""
    return tags.get("status", STATUSES[0])


def allowed_models(tags: Mapping[str, str]) -> frozenset[str] | None:
    """Return the models that may use what has these tags; None when all may."""
    names = frozenset(tags.get("allowed_use", ANYONE).split())
    return None if ANYONE in names or not names else names


def models_of(tags: Mapping[str, str]) -> frozenset[str] | None:
    """Return the models that a service with these tags is for; None when it does not say, or is for everyone."""
    return frozenset(tags["model"].split()) if tags.get("model", "").strip() else allowed_models(tags)


def validity(tags: Mapping[str, str]) -> tuple[datetime | None, datetime | None]:
    """Return the first moment at which what has these tags is valid, and the first at which it is not any more."""

    def midnight(tag: str) -> datetime | None:
        return datetime.combine(date.fromisoformat(tags[tag]), time(), UTC) if tag in tags else None

    return midnight("valid_from"), midnight("valid_until")


# --- what is wrong with a value: how to write it, or None -----------------------------------------------------


def _words(text: str) -> str | None:
    return None if text.strip() else "Write at least one word."


def _anything(_: str) -> None:
    return None


def _status(text: str) -> str | None:
    if text in STATUSES:
        return None
    return f"Write one of {', '.join(STATUSES)}.{did_you_mean(text.strip().lower(), STATUSES)}"


def _day(text: str) -> str | None:
    try:
        return None if date.fromisoformat(text).isoformat() == text else "Write a day as 2013-01-15."
    except ValueError:
        return "Write a day as 2013-01-15."


def _pinned(text: str) -> str | None:
    if _PINNED.fullmatch(text):
        return None
    return "Pin the version, as models:/name/3: what an alias or a name stands for changes under its users."


def _columns(text: str) -> str | None:
    names = re.split(r"[\s,]+", text.strip())
    return None if all(_COLUMN.fullmatch(name) for name in names) else "Write dataset.column, separated by spaces."


def _duration(text: str) -> str | None:
    try:
        parse_duration(text)
    except ConfigError as error:
        return error.hint
    return None


def _tolerance(text: str) -> str | None:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    return None if math.isfinite(value) and value >= 0 else "Write a number that is not negative, such as 0.001."


_WRONG: dict[str, Callable[[str], str | None]] = {
    "owner": _anything,  # that there is one is a rule of its own
    "status": _status,
    "allowed_use": _words,
    "model": _words,
    "valid_from": _day,
    "valid_until": _day,
    "derived_from_model": _pinned,
    "columns": _columns,
    "max_age": _duration,
    "parity_tolerance": _tolerance,
}
