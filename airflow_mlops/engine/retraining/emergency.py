"""A training that is other than usual: what a person asked for, checked, priced, and said wherever the model is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from airflow_mlops.contracts import Exclusion, content_hash
from airflow_mlops.durations import parse_duration
from airflow_mlops.engine.data import storage
from airflow_mlops.engine.data.exclusions import excluded_keys, exclusions
from airflow_mlops.engine.data.parquet import parquet_files, readable
from airflow_mlops.engine.data.partitions import FACT as PARTITION
from airflow_mlops.engine.data.partitions import PartitionStore
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.engine.retraining.registered import Registered, registered
from airflow_mlops.engine.retraining.triggers import basis_of
from airflow_mlops.exceptions import ConfigError, DataError
from airflow_mlops.moments import parse_day

if TYPE_CHECKING:
    from airflow_mlops.engine.data.storage import AnyPath


@dataclass(frozen=True)
class Estimate:
    """What a training would take: partitions, rows, and seconds and cost by the last one, if there was any."""

    begin: datetime
    end: datetime
    partitions: int
    rows: int
    seconds: float | None
    cost: float | None

    def __str__(self) -> str:
        words = (
            f"{self.rows:,} rows of {self.partitions} partitions, from {self.begin:%Y-%m-%d %H:%M} to "
            f"{self.end:%Y-%m-%d %H:%M} UTC"
        )
        if self.seconds is None:
            return f"{words}; how long it takes is not known: no training was written down yet"
        cost = "" if self.cost is None else f", cost about {self.cost:,.2f}"
        return f"{words}; about {timedelta(seconds=round(self.seconds))} of training{cost}"


def parse_excluded(text: str, dataset: str, who: str, reason: str) -> list[Exclusion]:
    """Return the windows that days stand for: ``2013-01-05, 2013-01-07/2013-01-09``, both ends included.

    :raises ConfigError: when one is no day, ends before it begins, or is named twice.
    """
    found: list[Exclusion] = []
    for named in filter(None, (part.strip() for part in text.split(","))):
        first, _, last = named.partition("/")
        start, end = (
            _midnight(parse_day(first.strip(), "exclude")),
            _midnight(parse_day((last or first).strip(), "exclude")),
        )
        end += timedelta(days=1)
        twice = next((one for one in found if one.start < end and start < one.end), None)
        if end <= start or twice is not None:
            raise ConfigError(
                f"exclude={text!r} {'ends before it begins' if twice is None else 'names a day twice'}.",
                detail=named,
                hint="Write days and spans of days, such as 2013-01-05, 2013-01-07/2013-01-09.",
            )
        identity = content_hash([dataset, start.isoformat(), end.isoformat(), "this training"])[:12]
        found.append(Exclusion(id=identity, dataset=dataset, start=start, end=end, reason=reason, who=who))
    return found


def parse_slices(text: str) -> dict[str, list[str]]:
    """Return column → values that ``carrier=AA, carrier=UA, origin=JFK`` stands for.

    :raises ConfigError: when one is no column and value, or is named twice.
    """
    found: dict[str, list[str]] = {}
    for named in filter(None, (part.strip() for part in text.split(","))):
        column, equals, value = (part.strip() for part in named.partition("="))
        if not (column and equals and value) or value in found.get(column, ()):
            raise ConfigError(
                f"slices={text!r} {'names a slice twice' if value in found.get(column, ()) else 'is not readable'}.",
                detail=named,
                hint="Write columns and values, such as carrier=AA, carrier=UA, origin=JFK.",
            )
        found.setdefault(column, []).append(value)
    return found


def check_window(window: str, validation: str, test: str) -> None:
    """Refuse a window of which nothing is left to train on, once its end is held out.

    :raises ConfigError: then; or when one is no duration.
    """
    if parse_duration(window) <= parse_duration(validation) + parse_duration(test):
        raise ConfigError(
            f"A window of {window} leaves nothing to train on.",
            detail=f"its end is held out: validation={validation}, test={test}",
            hint="Ask for a window longer than these two together.",
        )


def check_data(data: str, asked: Mapping[str, str]) -> None:
    """Refuse rows that are brought along, where something else is asked of the sealed ones.

    :param asked: Field of the form → what it says.
    :raises ConfigError: then; or when it is a query: a form runs none.
    """
    if data.split(None, 1)[0].upper() in ("SELECT", "FROM", "WITH"):
        raise ConfigError(
            "A form runs no query.",
            detail=f"data={data!r}",
            hint="Name a Parquet file, or a folder of them. A relative path starts at the home folder.",
        )
    if said := [name for name in ("window", "exclude", "as_of") if asked.get(name)]:
        raise ConfigError(
            "These rows are brought along, and something else is asked of the sealed ones.",
            detail=f"data={data!r}, {', '.join(f'{name}={asked[name]!r}' for name in said)}",
            hint=f"Leave out {' and '.join(said)}: bring along just the rows to train on.",
        )


def rows_of(data: AnyPath) -> int:
    """Return how many rows a Parquet file, or a folder of them, has, without reading them.

    :raises DataError: when they cannot be read.
    """
    files = [data] if str(data).endswith(".parquet") else parquet_files(data)
    with readable(data), storage.on_disk(files) as here:
        return sum(pq.ParquetFile(file).metadata.num_rows for file in here)


def check_parameters(usual: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters of the trainer with some of them replaced.

    :raises ConfigError: when one is replaced by what is of another type: it would train something else.
    """
    for name, value in asked.items():
        had = usual.get(name)
        number = isinstance(had, (int, float)) and isinstance(value, (int, float)) and not isinstance(value, bool)
        if had is not None and not number and type(value) is not type(had):
            raise ConfigError(
                f"Parameter {name!r} is {had!r}, and is to be {value!r}.",
                detail=f"{type(had).__name__} and {type(value).__name__}",
                hint="Give a value of the same type.",
            )
    return {**usual, **asked}


def begin_of(store: PartitionStore, source: str, end: datetime, window: str, start: date) -> datetime:
    """Return since when a training reads rows; its parameters are those of :func:`estimate`."""
    return max(end - parse_duration(window), store.partitioning(source).first(start))


def check_read(without: list[Exclusion], begin: datetime, end: datetime) -> None:
    """Refuse to leave out days of which a training of ``[begin, end)`` reads nothing: others are meant.

    :raises ConfigError: naming them.
    """
    beside = [f"{one.start:%Y-%m-%d}" for one in without if one.end <= begin or end <= one.start]
    if beside:
        raise ConfigError(
            "Days are to be left out that this training does not read.",
            detail=f"{', '.join(beside)}; it reads from {begin:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC",
            hint="Correct the days, or leave them away: without them nothing is different.",
        )


def estimate(  # noqa: PLR0917
    ledger: Ledger,
    store: PartitionStore,
    model: str,
    source: str,
    end: datetime,
    window: str,
    start: date,
    without: list[Exclusion],
    held_out: timedelta = timedelta(0),
) -> Estimate:
    """Return what a training would read and take, without reading any of it.

    :param end: End of the prediction times whose labels have matured.
    :param start: First day of the data.
    :param without: Windows that only this training leaves out.
    :param held_out: End of the window that is not trained on, but for validation and test.
    :raises DataError: when nothing is left to train on.
    """
    cut, begin = store.partitioning(source), begin_of(store, source, end, window, start)
    left_out = excluded_keys([*exclusions(ledger, source), *without], cut)
    facts = ledger.facts(PARTITION, source, after_key=cut.key(begin)[:-1], limit=None) if begin < end else []
    rows = {fact.key: fact.payload["rows"] for fact in reversed(facts)}
    read = {
        key: count
        for key, count in rows.items()
        if key not in left_out and cut.interval(key)[1] > begin and cut.interval(key)[0] < end
    }
    last = end - held_out
    if all(cut.interval(key)[0] >= last for key in read):
        raise DataError(
            "Nothing is left to train on.",
            detail=f"{source}: from {begin:%Y-%m-%d} to {end:%Y-%m-%d %H:%M} UTC, {len(left_out)} partitions excluded"
            + (f", what comes after {last:%Y-%m-%d %H:%M} UTC held out for validation and test" if held_out else ""),
            hint="Widen the window, or exclude less.",
        )
    total, known = sum(read.values()), _last(ledger, model)
    share = total / known.rows if known is not None and known.rows else None
    return Estimate(
        begin=begin,
        end=end,
        partitions=len(read),
        rows=total,
        seconds=None if share is None or known is None else known.seconds * share,
        cost=None if share is None or known is None or known.cost is None else known.cost * share,
    )


def _last(ledger: Ledger, model: str) -> Registered | None:
    basis = basis_of(ledger, model)
    return None if basis is None else registered(ledger, model, basis.version)


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)
