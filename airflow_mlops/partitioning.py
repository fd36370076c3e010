"""How the time of a feed is cut into partitions: by the hour, day, week or month of a time zone, and their keys."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Literal, get_args
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from airflow_mlops.exceptions import ConfigError, did_you_mean

Every = Literal["hourly", "daily", "weekly", "monthly"]

_HOUR, _DAY = timedelta(hours=1), timedelta(days=1)
_FORMATS: dict[str, str] = {
    "hourly": "%Y-%m-%dT%H%MZ",
    "daily": "%Y-%m-%d",
    "weekly": "%Y-%m-%d",
    "monthly": "%Y-%m",
}
_EXAMPLES = {
    "hourly": "an hour's start in UTC such as 2013-01-15T0700Z",
    "daily": "a day such as 2013-01-15",
    "weekly": "the Monday that a week begins with, such as 2013-01-14",
    "monthly": "a month such as 2013-01",
}


@dataclass(frozen=True)
class Partitioning:
    """Partitions of one size, one after the other, without a gap.

    Keys sort as time does. An hour's key is its start in UTC, for a local hour may come twice; a day is as long as the
    zone's, 23 and 25 hours once a year each.

    >>> Partitioning("daily", "America/New_York").interval("2013-03-10")[1].isoformat()
    '2013-03-11T04:00:00+00:00'

    :param every: ``hourly``, ``daily``, ``weekly`` (from Monday) or ``monthly``.
    :param timezone: Zone whose days, weeks and months these are, by its IANA name.
    :raises ConfigError: when there is no such size or zone.
    """

    every: Every = "daily"
    timezone: str = "UTC"

    def __post_init__(self) -> None:
        if self.every not in get_args(Every):
            sizes = get_args(Every)
            raise ConfigError(
                f"{self.every!r} is no size of partitions.{did_you_mean(str(self.every), sizes)}",
                hint=f"Partitions are {', '.join(sizes)}.",
            )
        _zone(self.timezone)

    @classmethod
    def parse(cls, text: str) -> Partitioning:
        """Return what ``str`` of one gives back: ``daily``, ``hourly@Europe/Berlin``."""
        every, _, timezone = text.partition("@")
        return cls(every, timezone or "UTC")  # type: ignore[arg-type]

    def __str__(self) -> str:
        return self.every if self.timezone == "UTC" else f"{self.every}@{self.timezone}"

    # --- keys ---------------------------------------------------------------------------------------------

    @property
    def key_format(self) -> str:
        """The ``strftime`` format of keys, as a timetable takes it."""
        return _FORMATS[self.every]

    @property
    def cron(self) -> tuple[str, str]:
        """The cron expression at which each partition begins, and the zone that it is meant in."""
        if self.every == "hourly":
            return f"{_minutes(self.timezone)} * * * *", "UTC"
        return {"daily": "0 0 * * *", "weekly": "0 0 * * 1", "monthly": "0 0 1 * *"}[self.every], self.timezone

    def key(self, moment: datetime) -> str:
        """Return the key of the partition in which a moment lies."""
        start = self.floor(moment)
        return start.astimezone(UTC if self.every == "hourly" else _zone(self.timezone)).strftime(self.key_format)

    def interval(self, key: str) -> tuple[datetime, datetime]:
        """Return what a key names, as ``[start, end)`` in UTC.

        :raises ConfigError: when it is not a key of these partitions.
        """
        found = _interval(self, key)
        if found is None:
            raise ConfigError(
                f"{key!r} is not a partition key.",
                detail=f"partitions are {self.every}, in {self.timezone}",
                hint=f"A key is {_EXAMPLES[self.every]}; a timetable needs key_format={self.key_format!r}.",
            )
        return found

    def is_key(self, text: str) -> bool:
        """Return whether a text is a key of these partitions."""
        return _interval(self, text) is not None

    # --- time ---------------------------------------------------------------------------------------------

    def floor(self, moment: datetime) -> datetime:
        """Return the start, in UTC, of the partition in which a moment lies: all before it can be complete then."""
        if self.every == "hourly":
            moment = moment.astimezone(UTC)
            over = (moment.minute - _minutes(self.timezone)) % 60
            return moment.replace(second=0, microsecond=0) - timedelta(minutes=over)
        return self._begin(moment.astimezone(_zone(self.timezone)).date())

    def ceil(self, moment: datetime) -> datetime:
        """Return the end of the partition in which a moment lies, or the moment when a partition begins then."""
        start = self.floor(moment)
        return start if start == moment else self.next(start)

    def next(self, start: datetime) -> datetime:
        """Return the start of the partition after the one that begins at ``start``."""
        if self.every == "hourly":
            return start + _HOUR
        day = start.astimezone(_zone(self.timezone)).date()
        days = {"daily": 1, "weekly": 7, "monthly": 31}[self.every]
        return self._begin(day + timedelta(days=days))

    def first(self, day: date) -> datetime:
        """Return the start of the partition in which a day of the zone begins."""
        return self.floor(_midnight(day, self.timezone))

    def after(self, day: date) -> datetime:
        """Return the end of the partition in which a day of the zone ends."""
        return self.ceil(_midnight(day + _DAY, self.timezone))

    def span(self, start: date | datetime, end: date | datetime) -> tuple[datetime, datetime]:
        """Return two bounds as ``[start, end)`` in UTC: moments as they are; days of the zone, both included."""
        first = start if isinstance(start, datetime) else self.first(start)
        return first, end if isinstance(end, datetime) else self.after(end)

    def cycle(self, key: str) -> Hashable:
        """Return what partitions that can be compared with each other have in common: weekday, and hour of the day."""
        local = self.interval(key)[0].astimezone(_zone(self.timezone))
        return {"hourly": (local.weekday() // 5, local.hour), "daily": local.weekday()}.get(self.every)

    # --- several ------------------------------------------------------------------------------------------

    def keys(self, start: datetime, end: datetime, without: Collection[str] = ()) -> Iterator[str]:
        """Yield the keys of the partitions that overlap ``[start, end)``, in order.

        :param without: Keys to leave out.
        """
        at = self.floor(start)
        while at < end:
            if (key := self.key(at)) not in without:
                yield key
            at = self.next(at)

    def last_ended(self, by: datetime) -> str:
        """Return the key of the last partition that has ended by a moment."""
        return self.key(self.floor(by) - timedelta(microseconds=1))

    def counted(self, begin: datetime, end: datetime, *, ahead: bool = False) -> datetime:
        """Return the end of the last of these partitions that counts for the time ``[begin, end)`` of another cut.

        That is the last that has ended with it; of partitions that are there when they begin, the one it begins in.
        """
        return self.next(self.floor(begin)) if ahead else self.floor(end)

    def within(self, start: datetime, end: datetime) -> Iterator[str]:
        """Yield the keys of the partitions that lie wholly within ``[start, end)``."""
        at = self.ceil(start)
        while (after := self.next(at)) <= end:
            yield self.key(at)
            at = after

    def _begin(self, day: date) -> datetime:
        if self.every == "weekly":
            day -= timedelta(days=day.weekday())
        elif self.every == "monthly":
            day = day.replace(day=1)
        return _midnight(day, self.timezone)


@lru_cache(maxsize=16_384)
def _interval(partitioning: Partitioning, key: str) -> tuple[datetime, datetime] | None:
    zone = UTC if partitioning.every == "hourly" else _zone(partitioning.timezone)
    try:
        named = datetime.strptime(key, partitioning.key_format).replace(tzinfo=zone).astimezone(UTC)
        start = partitioning.floor(named)
        return (start, partitioning.next(start)) if start == named and partitioning.key(start) == key else None
    except (ValueError, OverflowError):
        return None


def _midnight(day: date, timezone: str) -> datetime:
    """Return when a day of a zone begins: at its midnight, the first of two, or just after one that is left out."""
    return datetime(day.year, day.month, day.day, tzinfo=_zone(timezone)).astimezone(UTC)


def _minutes(timezone: str) -> int:
    """Return at which minute of a UTC hour the zone's hours begin: always the same, whatever its clocks did once."""
    offset = datetime(2024, 1, 1, tzinfo=_zone(timezone)).utcoffset() or timedelta(0)
    return int(-offset.total_seconds() // 60) % 60


@lru_cache(maxsize=64)
def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ConfigError(
            f"There is no time zone {name!r}.{did_you_mean(name, available_timezones())}",
            hint="Use its name in the IANA database, such as UTC, Europe/Berlin or America/New_York.",
        ) from None


DAILY = Partitioning()
_FINEST_FIRST = get_args(Every)


def latest(cut: str, last: str = "") -> str:
    """Return the key of the last partition that has ended by now; of a source that has ended, of its last one.

    :param cut: The partitioning, in words.
    :param last: Last day there is (ISO); empty for a source that goes on.
    """
    partitioning = Partitioning.parse(cut)
    ended = partitioning.floor(datetime.now(UTC))
    if last:
        ended = min(ended, partitioning.after(date.fromisoformat(last)))
    return partitioning.key(ended - timedelta(microseconds=1))


def aligned(key: str | None, cut: str, feed: str, ahead: bool = False) -> str:
    """Return the partition of a feed that belongs to a partition of another cut: see :meth:`Partitioning.counted`.

    >>> aligned("2013-01-16", "daily", "weekly"), aligned("2013-01-16", "daily", "weekly", ahead=True)
    ('2013-01-07', '2013-01-14')

    :param cut: Of which ``key`` is one; both cuts as text.
    """
    if key in (None, "", "None"):
        return ""  # a run without a key: the task that needs one says so
    partitioning = Partitioning.parse(feed)
    counted = partitioning.counted(*Partitioning.parse(cut).interval(str(key)), ahead=ahead)
    return partitioning.key(counted - timedelta(microseconds=1))


def is_finer(one: Partitioning, other: Partitioning) -> bool:
    """Return whether the partitions of one are of a smaller size than those of another."""
    return _FINEST_FIRST.index(one.every) < _FINEST_FIRST.index(other.every)


def finest_of(several: Iterable[Partitioning]) -> Partitioning:
    """Return the one with the smallest partitions; of several of a size the first, of none the UTC day."""
    return min(several, key=lambda one: _FINEST_FIRST.index(one.every), default=DAILY)
