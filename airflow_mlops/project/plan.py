"""What is decided for a new project, from what was seen of its data: each decision can be changed in its files."""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple
from zoneinfo import ZoneInfo

from airflow_mlops.exceptions import ConfigError, DataError
from airflow_mlops.partitioning import Partitioning

if TYPE_CHECKING:
    import pyarrow as pa

    from airflow_mlops.engine.survey.columns import Survey

_SHORTEST = 8
"""Days of matured labels that a first model needs, at least."""
_FEW_CLASSES = 10
_TEXTS_ROWS = 20
_BATCHES = 40
"""Batches in an epoch, about."""
_OLD = timedelta(days=30)
_OF_FEATURES = ("event_timestamp", "created_timestamp")
"""Columns that computed features have beside their values."""


@dataclass(frozen=True)
class Feed:
    """Where the rows come from, as the pipeline says it.

    :param uri: Folder of the files, or below the project where ``copied``; empty for a table.
    :param conn_id: Airflow connection of the table.
    :param query: Instead of the table, where its columns must be renamed.
    """

    dataset: str
    partitioning: Partitioning
    uri: str = ""
    layout: str = ""
    marked: bool = False
    copied: bool = False
    conn_id: str = ""
    table: str = ""
    query: str = ""
    may_be_empty: bool = False
    reader: Mapping[str, Any] | None = None


class Bounds(NamedTuple):
    """From when to when there are rows, and how many."""

    first: datetime
    last: datetime
    rows: int


class Expected(NamedTuple):
    """What is usual of a column: bounds of numbers, or the values there are."""

    column: str
    low: float | int | None = None
    high: float | int | None = None
    values: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """All that the files of a project say.

    :param survey: What was seen, in the names that the project has.
    :param owner: Who answers for it.
    :param history: Days that the computed features look back.
    :param end: Last day of data that ended long ago.
    :param cut_off: How much there is of a last partition that is left out, because it is not whole; empty: it is.
    """

    name: str
    source: str
    feed: Feed
    survey: Survey
    start: date
    last: date
    end: date | None
    window: int
    validation: int
    test: int
    history: int
    batch_size: int
    fewest_rows: int
    model: str
    owner: str
    expected: tuple[Expected, ...]
    label_mean: float = 0.0
    label_spread: float = 1.0
    cut_off: str = ""

    @property
    def as_of(self) -> str:
        """The end of the last partition: what a first training may know."""
        return f"{self.feed.partitioning.after(self.last):%Y-%m-%dT%H:%M:%SZ}"

    @property
    def ttl(self) -> int:
        """Days that a computed feature is good for: two partitions."""
        return 2 * {"daily": 1, "weekly": 7, "monthly": 31}[self.feed.partitioning.every]

    @property
    def view(self) -> str:
        """The feature view."""
        return f"{safe_name(self.survey.key)}_history" if self.survey.key else "overall_history"

    @property
    def count_feature(self) -> str:
        """The feature that counts rows."""
        return self._free(f"rows_{self.history}d")

    @property
    def label_feature(self) -> str:
        """The feature of what became of earlier rows."""
        kind = {"binary": "rate", "multiclass": "usual_rate", "regression": "mean"}[self.survey.problem.name]
        return self._free(f"{self.survey.label}_{kind}_{self.history}d")

    def _free(self, name: str) -> str:
        """Return a name that no column has."""
        return f"{name}_before" if name in self.survey.rows.column_names else name


def decide(name: str, source: str, feed: Feed, survey: Survey, bounds: Bounds, *, model: str, owner: str) -> Plan:
    """Return the plan of a project.

    :param source: Where the rows come from, in words.
    :raises DataError: when there is too little to learn from.
    """
    from airflow_mlops.engine.survey.landing import cut_off

    zone, now = ZoneInfo(feed.partitioning.timezone), datetime.now(UTC)
    # The partition of now is not complete yet.
    known = min(bounds.last, feed.partitioning.floor(now) - timedelta(microseconds=1))
    start, last = bounds.first.astimezone(zone).date(), known.astimezone(zone).date()
    # What has hardly begun would be held back, as a day with too few rows.
    if cut := cut_off(survey.rows[survey.time], feed.partitioning, feed.partitioning.key(known)):
        last = feed.partitioning.floor(known).astimezone(zone).date() - timedelta(days=1)
    matured = (last - start).days + 1 - survey.matures_after.days
    if matured < _SHORTEST:
        raise DataError(
            "There are too few days to train, to validate and to test on.",
            detail=f"rows are from {start} to {last}, and labels may come {survey.matures_after.days} days later: that "
            f"leaves {max(0, matured)} days",
            hint=f"Bring at least {_SHORTEST + survey.matures_after.days} days. If labels come sooner, name the column "
            "that says when: --known-at.",
        )
    history = 30 if matured >= 60 else max(2, matured // 4)
    window = min(365, matured - min(history, matured // 5))
    test, validation = max(2, window // 7), max(1, window // 10)
    in_window = bounds.rows * window // max(1, (last - start).days + 1)
    label = survey.rows[survey.label].drop_null()
    mean, spread = _mean_and_spread(label) if survey.problem.name == "regression" else (0.0, 1.0)
    ended = now - bounds.last > _OLD
    return Plan(
        name=name,
        source=source,
        feed=feed,
        survey=survey,
        start=start,
        last=last,
        end=last if ended else None,
        window=window,
        validation=validation,
        test=test,
        history=history,
        batch_size=min(1024, max(16, 2 ** (in_window // _BATCHES).bit_length())),
        fewest_rows=max(20, round(in_window / 10)),
        model=model,
        owner=owner,
        expected=tuple(_expected(survey)),
        label_mean=mean,
        label_spread=spread,
        cut_off=f"{cut[0]} of {cut[1]} rows that are usual" if cut else "",
    )


# --- names ------------------------------------------------------------------------------------------------


def check_name(name: str) -> None:
    """Refuse a name that cannot be that of a model, of its DAGs and of a Python module at once.

    :raises ConfigError: saying what is wrong with it.
    """
    if not _is_safe(name):
        why = "it is a word of Python" if keyword.iskeyword(name) else "letters, digits and '_' only, a letter first"
        raise ConfigError(
            f"{name!r} cannot be the name of a project.",
            detail=f"it names the model, its DAGs and a Python module: {why}",
            hint=f"Such as {safe_name(name)!r}." if safe_name(name) != name else f"Such as '{name}_model'.",
        )
    if find_spec(name) is not None:
        raise ConfigError(
            f"There is a Python package {name!r} already.",
            detail="the project's module of that name would hide it",
            hint=f"Choose another name, such as '{name}_model'.",
        )


def safe_name(name: str) -> str:
    """Return a name that Python and Feast can hold: letters, digits and ``_``, a letter first, no word of Python.

    >>> safe_name("Customer ID"), safe_name("2nd price"), safe_name("größe"), safe_name("class")
    ('Customer_ID', 'c_2nd_price', 'gr_e', 'c_class')
    """
    made = re.sub(r"_+", "_", re.sub(r"[^A-Za-z0-9_]", "_", name)).strip("_")
    return made if _is_safe(made) else f"c_{made}"


def _is_safe(name: str) -> bool:
    # No input of a SavedModel can be called as a word of Python.
    return bool(re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name)) and not keyword.iskeyword(name)


def renamed(columns: Iterable[str], time: str = "") -> dict[str, str]:
    """Return each column → the name that the project has for it, no two alike; a good name stays with its column.

    :param time: Column of the event times, which alone may have a name that features have for theirs.
    """
    names: dict[str, str] = {}
    taken = {name for name in _OF_FEATURES if name != time.casefold()}
    for column in sorted(columns, key=lambda one: not _is_safe(one)):
        name = first = column if _is_safe(column) else safe_name(column)
        n = 2
        while name.casefold() in taken:  # to databases and to CSV readers, Price and price are one name
            name, n = f"{first}_{n}", n + 1
        names[column] = name
        taken.add(name.casefold())
    return names


def with_names(survey: Survey, names: Mapping[str, str]) -> Survey:
    """Return a survey in the names that the project has for its columns."""
    return replace(
        survey,
        rows=survey.rows.rename_columns([names[name] for name in survey.rows.column_names]),
        columns=tuple(replace(one, name=names[one.name]) for one in survey.columns),
        entity=names[survey.entity],
        time=names[survey.time],
        label=names[survey.label],
        known_at=names.get(survey.known_at, ""),
        key=names.get(survey.key, ""),
        inputs=tuple(names[name] for name in survey.inputs),
    )


def used(survey: Survey) -> list[str]:
    """Return the columns that the project reads, in their order."""
    wanted = {survey.entity, survey.time, survey.label, survey.known_at, survey.key, *survey.inputs}
    return [name for name in survey.rows.column_names if name in wanted]


# --- what is usual ----------------------------------------------------------------------------------------


def _expected(survey: Survey) -> Iterable[Expected]:
    """Yield what is usual of the inputs, with head-room, as ``airflow-mlops suggest-suite`` draws it."""
    from airflow_mlops.engine.data.profiles import profile_table
    from airflow_mlops.engine.data.suggest import suggest_suite

    rows = survey.rows.select(list(survey.inputs))
    suite = suggest_suite(profile_table(rows, dataset="rows", key="0", revision="survey"), name="rows")
    for entry in suite["expectations"]:
        said = entry["kwargs"]
        if entry["type"] == "expect_column_values_to_be_between":
            yield Expected(said["column"], said["min_value"], said["max_value"])
        elif entry["type"] == "expect_column_values_to_be_in_set" and len(said["value_set"]) <= _FEW_CLASSES:
            yield Expected(said["column"], values=_texts(said["value_set"], rows[said["column"]]))


def _texts(values: Sequence[Any], column: pa.ChunkedArray) -> tuple[str, ...]:
    import pyarrow.compute as pc

    counts = {one["values"]: one["counts"] for one in pc.value_counts(column).to_pylist()}
    # What few rows have may name someone, and does not belong into a file of code.
    return tuple(str(value) for value in values if counts.get(value, 0) >= _TEXTS_ROWS)


def _mean_and_spread(label: pa.ChunkedArray) -> tuple[float, float]:
    import pyarrow.compute as pc

    mean, spread = pc.mean(label).as_py(), pc.stddev(label).as_py()
    return float(f"{mean:.4g}"), float(f"{spread or 1.0:.4g}")
