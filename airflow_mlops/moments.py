"""Days and moments as users write them, in ISO 8601."""

from __future__ import annotations

from datetime import UTC, date, datetime

from airflow_mlops.exceptions import ConfigError


def parse_day(text: str, name: str) -> date:
    """Return the day that ``text`` says.

    :param name: What it is called, for the error.
    :raises ConfigError: when it is not written as ``2013-01-15``.
    """
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"{name}={text!r} is not a day.", hint="Write it as 2013-01-15.") from None


def parse_moment(text: str, name: str) -> datetime:
    """Return the moment that ``text`` says, in UTC.

    :param name: What it is called, for the error.
    :raises ConfigError: when it is no moment, or has no time zone.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise ConfigError(
            f"{name}={text!r} is not a moment.", hint="Write it with its time zone, as 2013-06-01T00:00:00+00:00."
        )
    return moment.astimezone(UTC)


def parse_day_or_moment(text: str, name: str) -> datetime:
    """Return the moment that ``text`` says, in UTC; a day means its UTC midnight.

    :raises ConfigError: when it is neither.
    """
    return parse_moment(f"{text}T00:00:00+00:00" if is_day(text) else text, name)


def is_day(text: str) -> bool:
    """Whether ``text`` is written as a day and not as a moment."""
    return "T" not in text and " " not in text.strip()
