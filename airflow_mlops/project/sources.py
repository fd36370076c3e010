"""Where the rows of a new project come from: files on disk or in a bucket, or a table, behind one face."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from airflow_mlops.exceptions import ConfigError, DataError, did_you_mean
from airflow_mlops.feeds import DATABASES
from airflow_mlops.partitioning import Partitioning
from airflow_mlops.project.plan import Bounds, Feed, renamed, safe_name, used, with_names

if TYPE_CHECKING:
    import pyarrow as pa

    from airflow_mlops.engine.survey.columns import Survey
    from airflow_mlops.engine.survey.files import Files
    from airflow_mlops.engine.survey.tables import Table

SAMPLE = 200_000
"""Rows that are looked at, at most."""
_NAMED = 5


class Source(ABC):
    """Rows that nobody has described yet.

    :param zone: Of days, and of times without one.
    """

    bounds: Bounds
    """From when to when, and how many rows; once :meth:`rows` was called."""

    def __init__(self, zone: str) -> None:
        self.zone = zone

    @property
    @abstractmethod
    def said(self) -> str:
        """What was found before any row was read, in words."""

    @property
    @abstractmethod
    def columns(self) -> list[str]:
        """All columns."""

    @property
    @abstractmethod
    def empty(self) -> bool:
        """Whether there is no row."""

    @property
    @abstractmethod
    def times(self) -> list[str]:
        """The columns that can say when a row happened, as far as that is known."""

    @abstractmethod
    def rows(self, time: str) -> pa.Table:
        """Return all rows, or many: drawn by chance from those that were looked at.

        :param time: Column of the event times.
        """

    @abstractmethod
    def feed(self, survey: Survey, folder: Path) -> tuple[Feed, Survey, str]:
        """Return how the pipeline takes them, the survey in the names that the columns then have, and why so, in words.

        :param folder: Of the project: rows that cannot be taken where they lie are copied below it.
        """


class _OfFiles(Source):
    def __init__(self, files: Files, uri: str, zone: str) -> None:
        super().__init__(zone)
        self._files, self._uri = files, uri

    @property
    def said(self) -> str:
        found, placed = self._files.entries, self._files.placement
        size = f"{sum(one.bytes for one in found) / 1e6:.1f} MB"
        said = f"{len(found)} file{'s' if len(found) > 1 else ''}, {size}"
        if placed is None:
            return said + ", not cut by a time in their paths"
        kind = "days" if placed.partitioning.every == "daily" else "months"
        gaps = f", of which {len(placed.missing)} are missing between" if placed.missing else ""
        return f"{said}: {len(set(placed.keys))} {kind} from {min(placed.keys)} to {max(placed.keys)}{gaps}"

    @property
    def columns(self) -> list[str]:
        return list(self._files.schema.names)

    @property
    def empty(self) -> bool:
        return not any(batch.num_rows for batch in self._files.batches())

    @property
    def times(self) -> list[str]:
        from airflow_mlops.engine.survey.times import times

        return times(self._files.schema)

    def rows(self, time: str) -> pa.Table:
        from airflow_mlops.engine.data.leaks import Sample
        from airflow_mlops.engine.survey.times import check_time

        if time not in self.columns:
            raise _no_column(time, self.columns)
        sample, counted, bounds = Sample(SAMPLE), 0, []
        for batch in self._files.batches():
            if time not in self.times:
                check_time(batch, time)
            counted += batch.num_rows
            bounds += _bounds(batch[time], self.zone)
            sample.add(batch)
        if sample.rows is None or not bounds:
            raise DataError(
                f"No row has a time in {time!r}." if counted else "There are no rows.",
                detail=self._uri,
                hint="Name another column, --time, or data that has some, --from.",
            )
        if self._files.are_csv and (floats := self._floats(sample.rows)):
            # CSV of pandas has them with 17 digits, each of which a float needs to be the same again.
            self._files = self._files.reading(floats)
            return self.rows(time)
        looked = sum(one.bytes for one in self._files.looked_at)
        every = sum(one.bytes for one in self._files.entries)
        past = [one for one in bounds if one <= datetime.now(UTC)] or bounds
        self.bounds = _past(Bounds(min(past), max(past), round(counted * every / looked)), time)
        return sample.rows

    def feed(self, survey: Survey, folder: Path) -> tuple[Feed, Survey, str]:
        from airflow_mlops.engine.survey.landing import LAYOUT, cut_for, split

        names = renamed(survey.rows.column_names, survey.time)
        placed, dataset = self._files.placement, self._dataset
        if not (why := self._why_not(survey, names)):
            assert placed is not None  # else there is a reason
            here = Feed(
                dataset=dataset,
                partitioning=placed.partitioning,
                uri=self._uri if "://" in self._uri else str(Path(self._uri).resolve()),
                layout=placed.layout,
                marked=self._files.marked,
                reader=self._files.options,
            )
            return here, survey, "taken where they lie"
        cut = cut_for(self.bounds.rows, self.bounds.first, self.bounds.last, self.zone)
        wanted = {name: names[name] for name in used(survey)}
        left_out = split(
            self._files.all_batches(), folder / "landing" / dataset, survey.time, cut, wanted, until=self.bounds.last
        )
        lost = "".join(f"; left out: {n} row{'s' if n > 1 else ''} {why}" for why, n in left_out.items() if n)
        why = f"copied to landing/{dataset}, cut {cut.every}, because {why}{_called(wanted)}{lost}"
        made = Feed(dataset=dataset, partitioning=cut, layout=LAYOUT, copied=True, may_be_empty=True)
        return made, with_names(survey, names), why

    def _why_not(self, survey: Survey, names: Mapping[str, str]) -> str:
        """Say why the files cannot be taken where they lie; nothing where they can."""
        placed = self._files.placement
        if placed is None:
            return "no path says its day"
        if lost := placed.missing:
            return f"{lost[0]}{f' and {len(lost) - 1} more' if lost[1:] else ''} did not land"
        if unsafe := [name for name in used(survey) if names[name] != name]:
            return f"Feast or Python cannot hold {', '.join(map(repr, unsafe))}"
        for key, batches in self._files.first_and_last():
            begin, end = placed.partitioning.interval(key)
            for batch in batches:
                if any(not begin <= moment < end for moment in _bounds(batch[survey.time], self.zone)):
                    return f"{survey.time!r} is not always of the day that the path says"
        return ""

    def _floats(self, rows: pa.Table) -> list[str]:
        """Return the columns of texts that are numbers with a point, and that nobody gave a type."""
        from airflow_mlops.engine.survey.values import is_decimal, is_text

        free = [one for one in rows.schema if one.name not in self._files.options.get("types", {})]
        return [one.name for one in free if is_text(one.type) and is_decimal(rows[one.name])]

    @cached_property
    def _dataset(self) -> str:
        name = self._uri.rstrip("/").rsplit("/", 1)[-1] if "://" in self._uri else Path(self._uri).resolve().name
        return safe_name(name.partition(".")[0])


class _OfTable(Source):
    def __init__(self, table: Table, name: str, conn_id: str, zone: str) -> None:
        super().__init__(zone)
        self._table, self._name, self._conn_id = table, name, conn_id

    @property
    def said(self) -> str:
        return f"table {self._name} of connection {self._conn_id}: {len(self._table.columns)} columns"

    @property
    def columns(self) -> list[str]:
        return self._table.columns

    @property
    def empty(self) -> bool:
        return not self._table.count

    @property
    def times(self) -> list[str]:
        return self._table.columns

    def rows(self, time: str) -> pa.Table:
        from airflow_mlops.engine.data.leaks import Sample

        if time not in self._table.columns:
            raise _no_column(time, self._table.columns)
        self.bounds = _past(Bounds(*self._table.span(time), self._table.count), time)
        sample = Sample(SAMPLE)
        for batch in self._table.batches(time):
            sample.add(batch)
        assert sample.rows is not None  # a table without a row has no span
        return sample.rows

    def feed(self, survey: Survey, folder: Path) -> tuple[Feed, Survey, str]:
        from airflow_mlops.engine.survey.landing import cut_for

        cut = cut_for(self.bounds.rows, self.bounds.first, self.bounds.last, self.zone)
        names = renamed(survey.rows.column_names, survey.time)
        wanted = {name: names[name] for name in used(survey)}
        query = ""
        if any(old != new for old, new in wanted.items()):
            query = self._table.renamed(wanted, survey.time)
        made = Feed(
            dataset=safe_name(self._name.rsplit(".", 1)[-1]),
            partitioning=cut,
            conn_id=self._conn_id,
            table=self._name,
            query=query,
            may_be_empty=True,
        )
        return made, with_names(survey, names), f"extracted {cut.every}{_called(wanted)}"


@contextmanager
def open_source(uri: str, zone: str, reader: Mapping[str, Any]) -> Iterator[Source]:
    """Open what ``--from`` names.

    :param uri: A path, ``s3://connection@bucket/prefix``, or ``postgres://connection/table``.
    :param reader: Options of the reader, for CSV and JSON.
    :raises ConfigError: when there is no such connection, or it names no table.
    :raises DataError: when there is nothing to read.
    """
    Partitioning("daily", zone)
    scheme = uri.partition("://")[0] if "://" in uri else ""
    if scheme in DATABASES:
        from airflow_mlops.engine.survey.tables import open_table
        from airflow_mlops.hooks.databases import database

        parts = urlsplit(uri)
        name = parts.path.strip("/")
        if not parts.netloc or not name or "@" in parts.netloc:
            raise ConfigError(
                f"{scheme}://... names no Airflow connection and table.",
                hint=f"Write {scheme}://CONNECTION/TABLE, where CONNECTION is the id of an Airflow connection: its "
                "address and password stay there.",
            )
        with open_table(database(parts.netloc), name, zone=zone) as table:
            yield _OfTable(table, name, parts.netloc, zone)
        return
    from airflow_mlops.engine.survey.files import open_files
    from airflow_mlops.operators.base import path_of

    with open_files(path_of(uri), zone=zone, options=reader) as files:
        yield _OfFiles(files, uri, zone)


def _no_column(name: str, names: list[str]) -> ConfigError:
    return ConfigError(
        f"There is no column {name!r}.{did_you_mean(name, names)}",
        detail=f"--time {name}; columns: {', '.join(names[:40])}",
        hint=how_to_read(names) or "Name the column that says when a row happened.",
    )


def _called(names: Mapping[str, str]) -> str:
    """Say which columns have other names in the project."""
    new = [f"; {old!r} is called {name!r}" for old, name in names.items() if old != name]
    return "".join(new[:_NAMED]) + (f"; and {len(new) - _NAMED} more: see its README" if new[_NAMED:] else "")


def _past(bounds: Bounds, time: str) -> Bounds:
    """Return bounds that end now, where rows are of later."""
    now = datetime.now(UTC)
    if bounds.first > now:
        raise DataError(
            "All rows are of the future.",
            detail=f"{time!r} begins on {bounds.first:%Y-%m-%d}",
            hint="Name the column that says when a row happened, --time; or see what wrote these times.",
        )
    return bounds._replace(last=min(bounds.last, now))


def how_to_read(names: Sequence[str]) -> str:
    """Say with which option a file is to be read again of which all is one column; nothing where it is not."""
    if list(names) == ["json"]:
        return 'It is one JSON array, it seems: --reader \'{"format": "array"}\'.'
    mark = next((one for one in ";|\t" if one in names[0]), "") if len(names) == 1 else ""
    return f"Say what is between its columns: --reader '{json.dumps({'delim': mark})}'." if mark else ""


def _bounds(times: pa.ChunkedArray, zone: str) -> list[datetime]:
    """Return the first and the last moment, also of those that are no future; of days their midnights in the zone."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from airflow_mlops.engine.data.tables.query import as_utc

    now = datetime.now(UTC)
    past = times.filter(
        pc.less_equal(times, pa.scalar(now.date() if pa.types.is_date(times.type) else now, times.type))
    )
    found = [pc.min_max(some).as_py() for some in (times, past)]
    moments = [as_utc(one, zone) for pair in found for one in (pair["min"], pair["max"])]
    return [one for one in moments if one is not None]
