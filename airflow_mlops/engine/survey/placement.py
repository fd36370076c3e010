"""Which layout the paths of files have: where in them their day or month stands."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from airflow_mlops.partitioning import Partitioning

_YEAR, _MONTH, _DAY = r"((?:19|20)\d\d)", r"(0[1-9]|1[0-2])", r"(0[1-9]|[12]\d|3[01])"
_APART = r"(?<!\d){}(?!\d)"
_STYLES = [
    ("daily", rf"year={_YEAR}/month={_MONTH}/day={_DAY}", "year={year}/month={month:02}/day={day:02}"),
    ("daily", rf"year={_YEAR}/month=(\d\d?)/day=(\d\d?)", "year={year}/month={month}/day={day}"),
    ("daily", rf"{_YEAR}/{_MONTH}/{_DAY}", "{year}/{month:02}/{day:02}"),
    ("daily", rf"{_YEAR}-{_MONTH}-{_DAY}", "{key}"),
    ("daily", rf"{_YEAR}_{_MONTH}_{_DAY}", "{start:%Y_%m_%d}"),
    ("daily", rf"{_YEAR}{_MONTH}{_DAY}", "{start:%Y%m%d}"),
    ("monthly", rf"year={_YEAR}/month={_MONTH}", "year={year}/month={month:02}"),
    ("monthly", rf"{_YEAR}/{_MONTH}", "{year}/{month:02}"),
    ("monthly", rf"{_YEAR}-{_MONTH}(?!-\d)", "{key}"),
]
"""How people write days and months: cut, pattern, and the same in a layout; the first that fits all paths counts."""


@dataclass(frozen=True)
class Placement:
    """How files are cut by the time in their paths.

    :param layout: As ``Partitions(layout=...)`` takes it.
    :param keys: Of each file, in the order in which they were given, the partition that its path names.
    """

    layout: str
    partitioning: Partitioning
    keys: tuple[str, ...]

    @property
    def missing(self) -> list[str]:
        """The partitions between the first and the last that have no file."""
        first, last = (self.partitioning.interval(key)[0] for key in (min(self.keys), max(self.keys)))
        return [key for key in self.partitioning.keys(first, last) if key not in set(self.keys)]


def placement(paths: Sequence[str], timezone: str = "UTC") -> Placement | None:
    """Return how files are cut by what their paths say, or None where not all of them say it in one way.

    >>> placement(["dt=2024-01-05/part-0.csv", "dt=2024-01-06/part-1.csv"]).layout
    'dt={key}/*.csv'

    :param paths: Relative to the folder that they land in.
    :param timezone: Zone of the days.
    """
    if len({path.count("/") for path in paths}) != 1:
        return None
    for cut, pattern, token in _STYLES:
        found = [re.search(_APART.format(pattern), path) for path in paths]
        if not all(found):
            continue
        partitioning = Partitioning.parse(f"{cut}@{timezone}")
        try:
            keys = tuple(_key(one.groups(), partitioning) for one in found if one)
        except ValueError:  # the 31st of February: no day
            continue
        marked = [path[: one.start()] + "\0" + path[one.end() :] for path, one in zip(paths, found, strict=True) if one]
        return Placement(_merged(marked).replace("\0", token), partitioning, keys)
    return None


def _key(parts: Sequence[str], partitioning: Partitioning) -> str:
    year, month, day = (int(part) for part in (*parts, "1")[:3])
    noon = datetime(year, month, day, 12, tzinfo=UTC)
    return noon.strftime(partitioning.key_format)


def _merged(paths: Sequence[str]) -> str:
    """Return one pattern for all paths: what differs between them is ``*``."""
    return "/".join(map(_segment, zip(*(path.split("/") for path in paths), strict=True)))


def _segment(names: Sequence[str]) -> str:
    if len(set(names)) == 1:
        return names[0]
    if all("\0" in name for name in names):
        before, after = zip(*(name.split("\0", 1) for name in names), strict=True)
        return f"{_segment(before)}\0{_segment(after)}"
    endings = {name.partition(".")[2] for name in names}, {name.rpartition(".")[2] for name in names}
    return next((f"*.{one}" for found in endings if len(found) == 1 for one in found if one), "*")
