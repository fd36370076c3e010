"""Where the files of a partition lie in a feed: a pattern, such as ``dt={key}/*.parquet``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from string import Formatter
from zoneinfo import ZoneInfo

from airflow_mlops.exceptions import ConfigError, did_you_mean
from airflow_mlops.partitioning import Partitioning

FOLDER = "{key}/*"
"""A folder a partition, as the key says."""

_FIELDS = ("key", "start", "year", "month", "day", "hour", "iso_year", "iso_week")
_WILD = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class Layout:
    """A pattern below a feed's folder, with the time of the partition in braces.

    What an upstream lands in smaller pieces than a partition is lies in one place a piece: the pattern is of a piece.

    >>> Layout("{year}/{month:02}/{day:02}/orders-*.csv.gz").of("2013-01-05", Partitioning())
    ['2013/01/05/orders-*.csv.gz']

    :param pattern: In braces: ``key``; of the start, in the partitions' zone, ``year``, ``month``, ``day``, ``hour``,
        ``iso_year``, ``iso_week``; or ``start`` with a ``strftime`` format, ``{start:%Y%m%d}``. ``*`` and ``?`` stand
        for anything within a name, ``**`` for any folders.
    :param lands: How the upstream cuts what it lands, where that is finer: the times in braces are then of a piece.
    :raises ConfigError: when it is not such a pattern, or is the same for every partition.
    """

    pattern: str = FOLDER
    lands: Partitioning | None = None

    def __post_init__(self) -> None:
        named = {name.partition("!")[0] for _, name, _, _ in self._parsed() if name is not None}
        if unknown := sorted(named - set(_FIELDS)):
            raise ConfigError(
                f"There is no {{{unknown[0]}}} in the layout of a feed.{did_you_mean(unknown[0], _FIELDS)}",
                detail=f"layout={self.pattern!r}",
                hint=f"In braces may be: {', '.join(_FIELDS)}.",
            )
        if not named:
            raise ConfigError(
                f"The layout {self.pattern!r} is the same for every partition.",
                hint="Say where the time is, such as 'dt={key}/*.parquet' or '{year}/{month:02}/{day:02}/*.csv'.",
            )
        if {"{month}", "{day}"} <= set(re.findall(r"\{(?:month|day)\}", self.pattern)) and re.search(
            r"\{(?:year|month|day)\}\{(?:month|day|hour)\}", self.pattern
        ):
            raise ConfigError(
                f"The layout {self.pattern!r} is the same for some days.",
                detail="the 11th of January and the 1st of November are both 111",
                hint="Write numbers with two digits: {month:02}{day:02}; or {start:%Y%m%d}.",
            )
        if self.pattern.startswith("/") or ".." in self.pattern.split("/"):
            raise ConfigError(
                f"The layout {self.pattern!r} leads out of the feed.",
                hint="It is below the feed's uri: leave out what is before.",
            )

    def _parsed(self) -> list[tuple[str, str | None, str | None, str | None]]:
        try:
            return list(Formatter().parse(self.pattern))
        except ValueError as error:
            raise ConfigError(
                f"The layout {self.pattern!r} cannot be read.",
                detail=str(error),
                hint="Close each brace, as in '{year}/{month:02}/{day:02}/*'.",
            ) from None

    def of(self, key: str, partitioning: Partitioning) -> list[str]:
        """Return the pattern of each piece of a partition, relative to the feed: of one that lands whole, just one.

        :raises ConfigError: when the key is none, or two neighbours have the same pattern.
        """
        return list(self.pieces(key, partitioning).values())

    def pieces(self, key: str, partitioning: Partitioning) -> dict[str, str]:
        """Return the key of each piece → its pattern; see :meth:`of`."""
        if self.lands is None:
            return {key: self._of(key, partitioning)}
        return {piece: self._of(piece, self.lands) for piece in self.lands.keys(*partitioning.interval(key))}

    def _of(self, key: str, partitioning: Partitioning) -> str:
        start, end = partitioning.interval(key)
        found = self._at(key, start, partitioning)
        following = self._at(partitioning.key(end), end, partitioning)
        if found == following and not self._hour_twice(start, end, partitioning):
            raise ConfigError(
                f"The layout {self.pattern!r} is the same for {key} and the partition after it.",
                detail=f"partitions are {partitioning.every}; both are {found!r}",
                hint="Name more of the time: {key}, or {hour:02} for hours.",
            )
        return found

    def shared(self, key: str, partitioning: Partitioning) -> bool:
        """Return whether a partition beside this one has some of the same files.

        So it is with an hour that the clock has twice, and with pieces that are cut elsewhere than partitions.
        """
        start, end = partitioning.interval(key)
        if self.lands is not None:
            return self.lands.floor(start) != start or self.lands.floor(end) != end
        before = partitioning.floor(start - timedelta(microseconds=1))
        return self._hour_twice(start, end, partitioning) or self._hour_twice(before, start, partitioning)

    @property
    def time_names(self) -> frozenset[str]:
        """The names before ``=`` in folders that say the partition's time: ``dt`` in ``dt={key}``."""
        named = (folder.split("=", 1) for folder in self.pattern.split("/") if "=" in folder)
        return frozenset(name for name, value in named if "{" in value)

    def _hour_twice(self, one: datetime, other: datetime, partitioning: Partitioning) -> bool:
        """Return whether two neighbouring hours are the same one on the clock, and to this layout."""
        if partitioning.every != "hourly" or partitioning.timezone == "UTC":
            return False
        zone = ZoneInfo(partitioning.timezone)
        clocks = {moment.astimezone(zone).replace(tzinfo=None, fold=0) for moment in (one, other)}
        same = {self._at(partitioning.key(moment), moment, partitioning) for moment in (one, other)}
        return len(clocks) == 1 and len(same) == 1

    def _at(self, key: str, start: datetime, partitioning: Partitioning) -> str:
        local = start.astimezone(UTC if partitioning.timezone == "UTC" else ZoneInfo(partitioning.timezone))
        iso = local.isocalendar()
        parts = {name: getattr(local, name) for name in ("year", "month", "day", "hour")}
        try:
            return self.pattern.format(key=key, start=local, iso_year=iso.year, iso_week=iso.week, **parts)
        except (ValueError, AttributeError, IndexError) as error:
            raise ConfigError(
                f"The layout {self.pattern!r} cannot be filled in.",
                detail=f"for {key}: {error}",
                hint="Numbers take formats such as {month:02}, the start such as {start:%Y%m%d}.",
            ) from None


def literal(pattern: str) -> tuple[str, str]:
    """Return the folders of a pattern before the first that has a wildcard, and the rest."""
    names = pattern.split("/")
    wild = next((n for n, name in enumerate(names) if _WILD.search(name)), len(names) - 1)
    return "/".join(names[:wild]), "/".join(names[wild:])
