"""Days and moments as users write them, in ISO 8601."""

from __future__ import annotations

from datetime import UTC, date, datetime

from airflow_mlops.exceptions import ConfigError

_LAST_YEAR = 9999


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
    return _in_utc(moment, name)


def parse_day_or_moment(text: str, name: str) -> datetime:
    """Return the moment that ``text`` says, in UTC; a day means its UTC midnight.

    :raises ConfigError: when it is neither.
    """
    try:
        return parse_moment(f"{text.strip()}T00:00:00+00:00" if is_day(text) else text, name)
    except ConfigError:
        raise ConfigError(
            f"{name}={text!r} is neither a day nor a moment.",
            hint="Write a day as 2013-06-01, or a moment with its time zone as 2013-06-01T08:30:00+00:00.",
        ) from None


def to_come(until: datetime | None, what: str) -> datetime | None:
    """Return an end in UTC, if it is still to come; None never comes.

    :param what: What ends then, for the error.
    :raises ConfigError: when it is over, or has no time zone.
    """
    if until is None:
        return None
    if until.tzinfo is None:
        raise ConfigError(
            f"The end of {what} has no time zone.",
            detail=f"until {until.isoformat()}",
            hint="Give it one, such as UTC.",
        )
    now = datetime.now(UTC)
    if until <= now:
        raise ConfigError(
            f"{what[0].upper()}{what[1:]} would have run out already.",
            detail=f"until {until.isoformat()}, now {now.isoformat(timespec='seconds')}",
            hint="Name a moment that is still to come, or none: then it holds until somebody ends it.",
        )
    return _in_utc(until, what)


def _in_utc(moment: datetime, name: str) -> datetime:
    """Return a moment in UTC; what cannot be counted on from is refused."""
    if not 1 < moment.year < _LAST_YEAR:
        raise ConfigError(f"{name} is in the year {moment.year}.", hint=f"Name a year from 2 to {_LAST_YEAR - 1}.")
    return moment.astimezone(UTC)


def is_day(text: str) -> bool:
    """Whether ``text`` is written as a day and not as a moment."""
    return "T" not in text and " " not in text.strip()
