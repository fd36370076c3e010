"""Files that nobody has described: which there are, what columns they have, and some of their rows."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from airflow_mlops.engine.data import storage
from airflow_mlops.engine.data.fitting import common, fit
from airflow_mlops.engine.data.landed import found, path_columns
from airflow_mlops.engine.data.reading import Reader
from airflow_mlops.engine.data.storage import AnyPath, Entry
from airflow_mlops.engine.survey.placement import Placement, placement
from airflow_mlops.exceptions import DataError
from airflow_mlops.formats import format_of
from airflow_mlops.layout import Layout

ENOUGH_BYTES = 256 * 2**20
"""Of files that are cut by time so many bytes are looked at: the newest, and the very first."""


class Files:
    """The files of a folder, or one file.

    :param folder: Where they lie.
    :param entries: Those that hold rows.
    :param options: Of the reader, for CSV and JSON.
    :param marked: Whether each folder of them has a marker ``_SUCCESS``.
    """

    def __init__(
        self,
        folder: AnyPath,
        entries: list[Entry],
        open_reader: Callable[[Mapping[str, Any]], Reader],
        options: Mapping[str, Any],
        copies: Path,
        *,
        zone: str,
        marked: bool,
    ) -> None:
        self.folder, self.entries, self.marked, self.options = folder, entries, marked, options
        self._open_reader, self._copies, self._zone = open_reader, copies, zone
        self._reader = open_reader(options)

    def reading(self, floats: Sequence[str]) -> Files:
        """Return the same files, of which some columns are read as floats."""
        types = {**self.options.get("types", {}), **dict.fromkeys(floats, "DOUBLE")}
        options = {**self.options, "types": types}
        return Files(
            self.folder, self.entries, self._open_reader, options, self._copies, zone=self._zone, marked=self.marked
        )

    @property
    def are_csv(self) -> bool:
        """Whether all of them are CSV."""
        return all(format_of(str(one.path.name)) == "csv" for one in self.entries)

    @cached_property
    def placement(self) -> Placement | None:
        """How they are cut by the time in their paths, if they are."""
        names = [str(entry.path).removeprefix(str(self.folder)).strip("/") for entry in self.entries]
        return placement(names, self._zone)

    @cached_property
    def looked_at(self) -> list[Entry]:
        """The files to look at: all; of those that are cut by time the newest, and the first."""
        if self.placement is None:
            return self.entries
        first, *newer = [entry for _, entry in sorted(zip(self.placement.keys, self.entries, strict=True), key=_by_key)]
        chosen, size = [first], 0
        for entry in reversed(newer):
            chosen.append(entry)
            size += entry.bytes
            if size > ENOUGH_BYTES:
                break
        return chosen

    @cached_property
    def schema(self) -> pa.Schema:
        """The columns of all files that are looked at, in types that hold all of them."""
        schemas = {}
        for entry in self.looked_at:
            there = self._reader.schema(self._here(entry))
            of_path = [(name, pa.string()) for name in self._of_path(entry) if name not in there.names]
            schemas[str(entry.path)] = pa.schema([*there, *of_path])
        return common(schemas)

    def batches(self) -> Iterator[pa.Table]:
        """Yield the rows of the files that are looked at, all in one schema."""
        return self._batches(self.looked_at)

    def all_batches(self) -> Iterator[pa.Table]:
        """Yield the rows of all files, in the schema of those that were looked at."""
        return self._batches(self.entries)

    def first_and_last(self) -> Iterator[tuple[str, Iterator[pa.Table]]]:
        """Yield key and rows of the first file that is cut by time, and of the last."""
        assert self.placement is not None  # the caller has looked
        pairs = sorted(zip(self.placement.keys, self.entries, strict=True), key=_by_key)
        for key, entry in (pairs[0], pairs[-1]):
            yield key, self._batches([entry])

    def _batches(self, entries: Sequence[Entry]) -> Iterator[pa.Table]:
        schema = self.schema  # before the reader is busy with rows
        for entry in entries:
            of_path = self._of_path(entry)
            for rows in self._reader.batches(self._here(entry)):
                table = rows
                for name in of_path.keys() - {*rows.column_names}:
                    table = table.append_column(name, pa.repeat(pa.scalar(of_path[name]), rows.num_rows))
                yield fit(table, schema, zone=self._zone, where=str(entry.path))

    def _of_path(self, entry: Entry) -> dict[str, str]:
        """Return the columns that only the path has; those that say the time are none."""
        times = Layout(self.placement.layout).time_names if self.placement else frozenset()
        return {name: value for name, value in path_columns(self.folder, entry.path).items() if name not in times}

    def _here(self, entry: Entry) -> Path:
        if isinstance(entry.path, Path):
            return entry.path
        copied = self._copies / f"{self.entries.index(entry)}-{entry.path.name}"
        if not copied.exists():
            with storage.reaching(entry.path):
                storage.copy(entry.path, copied)
        return copied


def _by_key(pair: tuple[str, Entry]) -> str:
    return pair[0]


@contextmanager
def open_files(place: AnyPath, *, zone: str, options: Mapping[str, Any] | None = None) -> Iterator[Files]:
    """Open the files of a folder, or one file.

    :param zone: Of times without one, and of the days in paths.
    :param options: Of the reader, for CSV and JSON.
    :raises DataError: when there are none, or they cannot be reached.
    """
    with ExitStack() as stack:
        folder, entries, marked = _found(place)
        copies = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="survey-")))

        def open_reader(options: Mapping[str, Any]) -> Reader:
            return stack.enter_context(Reader(options, zone=zone))

        yield Files(folder, entries, open_reader, options or {}, copies, zone=zone, marked=marked)


def _found(place: AnyPath) -> tuple[AnyPath, list[Entry], bool]:
    """Return the folder, its files of rows, and whether each folder of them has a marker."""
    with storage.reaching(place):
        if storage.is_folder(place):
            folder, every = place, found(place, "**/*")[1]
        else:
            folder, every = place.parent, [one for one in storage.entries(place.parent) if one.path.name == place.name]
        entries = [one for one in every if format_of(str(one.path.name)) and one.bytes]
        if not every and folder is not place:
            raise FileNotFoundError(place)
    if not entries:
        raise DataError(
            "There are no rows there.",
            detail=f"{place}: {len(every) or 'no'} file{'s' if len(every) != 1 else ''}, and none .parquet, .csv, "
            ".tsv, .json, .jsonl or .orc with a byte in it",
            hint=_how_to_save([str(one.path.name) for one in every if one.bytes]),
        )
    folders = {str(one.path.parent) for one in entries}
    marked = {str(one.path.parent) for one in every if one.path.name == "_SUCCESS"}
    return folder, entries, folders <= marked


def _how_to_save(names: Sequence[str]) -> str:
    """Say what to do about files of which none is of a format that is read."""
    name = next((one for one in names if not format_of(one)), "")
    if not name:
        return "Name the folder that the data lands in, or one file of it."
    if name.lower().endswith((".xls", ".xlsx", ".xlsm", ".ods")):
        return (
            f'Save it as CSV or Parquet, in pandas by pd.read_excel("{name}").to_parquet("{Path(name).stem}.parquet").'
        )
    if not Path(name).suffix:
        return f"Give it an ending that says what it is, such as {name}.csv."
    return "Save it as Parquet or CSV, in pandas by rows.to_parquet(...)."
