"""Durations as users write them: ``30s``, ``10m``, ``2h``, ``1d``, ``2w``."""

from __future__ import annotations

import re
from datetime import timedelta

from airflow_mlops.exceptions import ConfigError

LONGEST = timedelta(days=36_500)
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def parse_duration(text: str) -> timedelta:
    """Return the timedelta that ``text`` says.

    :param text: A whole positive number and a unit: ``s``, ``m``, ``h``, ``d`` or ``w``.
    :raises ConfigError: when it says anything else.

    >>> parse_duration("90m")
    datetime.timedelta(seconds=5400)
    """
    match = re.fullmatch(r"([1-9]\d*)([smhdw])", text.strip())
    if match is None:
        raise ConfigError(
            f"{text!r} is not a duration.",
            hint="Write a whole number from 1 and a unit: 30s, 10m, 2h, 1d or 2w.",
        )
    try:
        found = timedelta(**{_UNITS[match[2]]: int(match[1])})
    except OverflowError:
        found = timedelta.max
    if found > LONGEST:
        raise ConfigError(f"{text!r} is too long a duration.", hint=f"The longest is {LONGEST.days}d, a century.")
    return found
