"""What the columns of a table are good for in predicting one of them, and which would tell too much."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.engine.data.arrow import is_list
from airflow_mlops.exceptions import ConfigError, DataError, did_you_mean
from airflow_mlops.problems import PROBLEMS, Problem, as_label, problem_named

MOST_INPUTS = 40
"""Columns that a first model takes as they are, at most."""
FEW_VALUES = 50
"""Different texts that a model learns one by one, at most."""
NEARLY_UNIQUE = 0.9
_REPEATS = 3
"""Rows that a value of a key has on average, at least: of fewer there is no history."""
_NEARLY_ALL = 0.99
_ENOUGH = 20
_SUSPICIOUS = 0.9
_DAY = 86_400
_LOOKED_AT = 20_000
"""Rows on which it is measured how well a column tells the label, at most."""
_IS_CODE = re.compile(r"(?i)(^|_|\b)(id|code|number|no|nr|key|zip)$|Id$")


@dataclass(frozen=True)
class Column:
    """What was seen of a column.

    :param type: Arrow type.
    :param missing: Share of rows without a value.
    :param distinct: How many different values.
    :param use: What it is taken for: ``entity``, ``time``, ``label``, ``known at``, ``key``, ``input``; empty: nothing.
    :param why: Why it is left out, or what to look at.
    """

    name: str
    type: pa.DataType
    missing: float
    distinct: int
    use: str = ""
    why: str = ""


@dataclass(frozen=True)
class Survey:
    """What a table can be used for.

    :param known_at: Column of when the label is known; empty where none says it.
    :param matures_after: How long after its time a row's label may still come.
    :param key: Column that rows share, and by which a history is computed.
    :param inputs: Columns that a model takes as they are.
    :param classes: Classes of a label, the most frequent first; none of truths and numbers.
    :param label_rate: Share of truths; mean of numbers; share of the most frequent class.
    """

    rows: pa.Table
    columns: tuple[Column, ...]
    entity: str
    time: str
    label: str
    problem: Problem
    known_at: str
    matures_after: timedelta
    key: str
    inputs: tuple[str, ...]
    classes: tuple[str, ...] = field(default=())
    label_rate: float = 0.0

    def of(self, name: str) -> Column:
        """Return what was seen of a column."""
        return next(one for one in self.columns if one.name == name)


# --- what a person may be asked ---------------------------------------------------------------------------


def times(schema: pa.Schema) -> list[str]:
    """Return the columns that can say when a row happened."""
    return [one.name for one in schema if pa.types.is_timestamp(one.type) or pa.types.is_date(one.type)]


def entities(rows: pa.Table) -> list[str]:
    """Return the columns that can name a row: no value is missing, and none is there twice."""
    named = [one.name for one in rows.schema if _is_text(one.type) or pa.types.is_integer(one.type)]
    return [one for one in named if not rows[one].null_count and pc.count_distinct(rows[one]).as_py() == len(rows)]


def labels(rows: pa.Table, taken: Sequence[str]) -> list[str]:
    """Return the columns that can be predicted, those first that look like it."""
    possible = [
        one.name
        for one in rows.schema
        if one.name not in taken and (pa.types.is_boolean(one.type) or 2 <= _distinct(rows[one.name]) <= FEW_VALUES)
    ]
    return sorted(possible, key=lambda name: (not pa.types.is_boolean(rows[name].type), rows.column_names.index(name)))


# --- what is decided --------------------------------------------------------------------------------------


def survey(
    rows: pa.Table,
    *,
    entity: str,
    time: str,
    label: str,
    known_at: str = "",
    problem: str = "",
    key: str = "",
) -> Survey:
    """Say what each column is taken for, and why some are left out.

    :param rows: All rows, or many.
    :param known_at: Column of when the label is known; by default the one that looks like it.
    :param problem: Problem type; by default that of the label's type.
    :param key: Column to compute a history by; by default the one that looks best.
    :raises ConfigError: when a column is not there, or is not what it was said to be.
    :raises DataError: when nothing can be learned from these rows.
    """
    for what, name in {"time": time, "entity": entity, "label": label, "known-at": known_at, "key": key}.items():
        if name and name not in rows.column_names:
            raise ConfigError(
                f"There is no column {name!r}.{did_you_mean(name, rows.column_names)}",
                detail=f"--{what} {name}; columns: {', '.join(rows.column_names)}",
                hint="Name one of them.",
            )
    if repeated := sorted({name for name in (time, entity, label) if [time, entity, label].count(name) > 1}):
        raise ConfigError(
            f"The column {repeated[0]!r} cannot be two things.",
            detail=f"--time {time} --entity {entity} --label {label}",
            hint="Name three different columns.",
        )
    check_time(rows, time)
    _check_entity(rows, entity)
    rows, of_type = _labelled(rows, label, problem)
    known_at = known_at or _known_at(rows, time, label)
    if known_at and not (pa.types.is_timestamp(rows[known_at].type) or pa.types.is_date(rows[known_at].type)):
        raise ConfigError(
            f"The column {known_at!r} does not say when the label is known: it is no time.",
            detail=f"--known-at {known_at}: it is {rows.schema.field(known_at).type}",
            hint="Name a column of times, or leave --known-at out.",
        )
    uses = {entity: "entity", time: "time", label: "label", **({known_at: "known at"} if known_at else {})}
    found = _Found(rows, uses, label, of_type)
    columns = found.columns(key)
    classes, rate = _usual(rows[label].drop_null())
    return Survey(
        rows=rows,
        columns=tuple(columns),
        entity=entity,
        time=time,
        label=label,
        problem=of_type,
        known_at=known_at,
        matures_after=_matures_after(rows, time, label, known_at),
        key=found.key,
        inputs=tuple(one.name for one in columns if one.use == "input"),
        classes=classes,
        label_rate=rate,
    )


class _Found:
    """What was found of one table's columns."""

    def __init__(self, rows: pa.Table, uses: dict[str, str], label: str, problem: Problem) -> None:
        self.rows, self.uses, self.label, self.problem = rows, uses, label, problem
        self.known = rows.filter(pc.is_valid(rows[label])).slice(0, _LOOKED_AT)
        self.truths = self.known[label].to_numpy()
        self.key = ""

    def columns(self, key: str) -> list[Column]:
        """Return what each column is taken for."""
        seen = {name: self._seen(name) for name in self.rows.column_names}
        rest = {name: one for name, one in seen.items() if name not in self.uses}
        telling = {name: self.problem.telling(self.known[name], self.truths) for name in rest}
        excluded = {name: why for name, one in rest.items() if (why := self._excluded(one, telling[name]))}
        self.key = key or _best_key([one for name, one in rest.items() if name not in excluded], self.rows)
        if not self.key:
            raise DataError(
                "No column repeats its values, so there is no history to compute features from.",
                detail=f"columns: {', '.join(rest) or 'none'}",
                hint="Name what rows share, such as a customer, a shop or a machine: --key COLUMN, a text or a whole "
                "number.",
            )
        able = [name for name, one in rest.items() if name not in excluded and not self._unfit(one)]
        chosen = sorted(able, key=lambda name: -telling[name])[:MOST_INPUTS]
        return [self._taken(one, excluded, able, chosen, telling.get(name, 0.0)) for name, one in seen.items()]

    def _taken(
        self, one: Column, excluded: dict[str, str], able: list[str], chosen: list[str], telling: float
    ) -> Column:
        name, use, why = one.name, self.uses.get(one.name, ""), ""
        if name == self.key:
            use = "key"
        elif name in excluded:
            why = excluded[name]
        elif name in chosen:
            use = "input"
            if telling >= _SUSPICIOUS:
                unit, _ = self.problem.leak
                why = f"tells the label well ({unit} {telling:.2f}): is it known before the label?"
        elif name in able:
            why = f"{len(chosen)} others tell more"
        elif name not in self.uses:
            why = self._unfit(one)
        return Column(name, one.type, one.missing, one.distinct, use, why)

    def _seen(self, name: str) -> Column:
        column = self.rows[name]
        return Column(name, column.type, column.null_count / max(1, len(column)), _distinct(column))

    def _excluded(self, one: Column, telling: float) -> str:
        """Say why a column must be no input; nothing where it may be one."""
        unit, bound = self.problem.leak
        column, label = self.rows[one.name], self.rows[self.label]
        if _is_copy(self.known[one.name], self.known[self.label]):
            return "a copy of the label"
        if telling >= bound:
            return f"tells the label alone ({unit} {telling:.3f}): it is known only with it"
        unknown = pc.is_null(label)
        if label.null_count >= _ENOUGH and pc.all(pc.equal(pc.is_null(column), unknown)).as_py():
            return "known only when the label is"
        return ""

    def _unfit(self, one: Column) -> str:
        """Say why a column cannot be an input as it is; nothing where it can."""
        rows, kind = len(self.rows), one.type
        if one.missing == 1:
            return "no values"
        if one.distinct < 2 and not one.missing:
            return "the same in every row"
        if pa.types.is_temporal(kind):
            return "a time"
        if is_list(kind) or pa.types.is_nested(kind) or pa.types.is_binary(kind):
            return f"of type {kind}"
        if pa.types.is_boolean(kind) and one.missing:
            return "true, false or missing: a model takes no missing truth values"
        if pa.types.is_floating(kind) or pa.types.is_decimal(kind) or pa.types.is_boolean(kind):
            return ""
        if _is_text(kind) and _is_decimal(self.rows[one.name]):
            return f"""numbers of more digits than a float keeps: --reader '{{"types": {{"{one.name}": "DOUBLE"}}}}'"""
        if one.distinct > NEARLY_UNIQUE * rows and rows > _ENOUGH:
            return "nearly unique"
        if _is_text(kind) and one.distinct > FEW_VALUES:
            return f"a text of {one.distinct:,} values"
        return ""


def check_time(rows: pa.Table, time: str) -> None:
    """Refuse a column that does not say when a row happened.

    :raises ConfigError: when it is of another type.
    :raises DataError: when it has no value.
    """
    kind = rows[time].type
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        if rows[time].null_count == len(rows):
            raise DataError(f"The time {time!r} is missing in every row.", hint="Name another column: --time.")
        return
    sample = rows[time].drop_null()
    like = re.sub(r"[A-Za-z]", "a", re.sub(r"[0-9]", "9", str(sample[0].as_py())[:30])) if len(sample) else ""
    raise ConfigError(
        f"The time {time!r} is {'a text' if _is_text(kind) else str(kind)}, and no time.",
        detail=f"it looks like {like!r}" if like else "it has no value",
        hint="Nobody can say which of 01/02 is the month. Write times as ISO 8601 does, 2024-01-15 10:00:00; or, of "
        f'CSV, say their format: --reader \'{{"timestampformat": "%d/%m/%Y %H:%M", "types": '
        f'{{"{time}": "TIMESTAMP"}}}}\'',
    )


def _check_entity(rows: pa.Table, entity: str) -> None:
    column = rows[entity]
    if column.null_count:
        raise DataError(
            f"The entity {entity!r} is missing in {column.null_count} of {len(rows)} rows.",
            hint="Name a column that every row has a value of, its own: --entity.",
        )
    if repeated := len(column) - _distinct(column):
        possible = entities(rows)
        raise DataError(
            f"The entity {entity!r} does not name a row: {repeated} of {len(rows)} rows repeat one.",
            detail=f"columns that do: {', '.join(possible) or 'none'}",
            hint="Name the column that is different in every row: --entity. What rows share, such as a customer, is "
            "--key.",
        )


def _labelled(rows: pa.Table, label: str, problem: str) -> tuple[pa.Table, Problem]:
    """Return the rows with the label as its problem type has it, and the type."""
    column = rows[label]
    if column.null_count == len(column):
        raise DataError(f"The label {label!r} is missing in every row.", hint="Name another column: --label.")
    if pa.types.is_temporal(column.type):
        raise ConfigError(
            f"The label {label!r} is a time, of which nothing can be learned.",
            hint="Name a column of true and false, of classes, or of numbers: --label.",
        )
    if _distinct(column) == 1:
        raise DataError(
            f"The label {label!r} has one value only: there is nothing to tell apart.",
            detail=f"{len(column) - column.null_count} rows",
            hint="Name another label; or look where the rows of the other class went.",
        )
    if not problem and _is_text(column.type) and _distinct(column) > FEW_VALUES:
        raise DataError(
            f"The label {label!r} is a text of {_distinct(column):,} values: are they classes?",
            hint="Name another label; or say that they are: --problem multiclass.",
        )
    if not problem and pa.types.is_integer(column.type) and not PROBLEMS["binary"].claims(column):
        raise ConfigError(
            f"The label {label!r} is of whole numbers: are they classes, or amounts?",
            detail=f"{_distinct(column)} different values",
            hint="Say it: --problem multiclass, or --problem regression.",
        )
    if problem:
        problem_named(problem)
        if problem == "ranking":
            raise ConfigError(
                "A project for a ranking cannot be written from one table yet.",
                hint="Begin with --problem regression, and see docs/models.md for Label(problem='ranking').",
            )
    rows = as_label(rows, label, "the rows that were looked at", problem)
    of_type = problem_named(problem) if problem else next(o for o in PROBLEMS.values() if o.claims(column))
    return rows, of_type


def _known_at(rows: pa.Table, time: str, label: str) -> str:
    """Return the column that looks like when the label is known; empty where none does."""
    known = rows.filter(pc.is_valid(rows[label]))
    found: dict[str, float] = {}
    for name in times(rows.schema):
        if name == time:
            continue
        waited = _waited(known, time, name)
        there = len(waited) / max(1, len(known))
        if there >= _NEARLY_ALL and (waited >= 0).mean() >= _NEARLY_ALL and (waited > 0).any():
            found[name] = float(np.median(waited))
    # The last of them, of several: nobody can know before that.
    return max(found, key=lambda name: found[name], default="")


def _waited(rows: pa.Table, time: str, until: str) -> np.ndarray:
    """Return the seconds from one column's times to another's, where both are there."""
    both = rows.filter(pc.and_(pc.is_valid(rows[time]), pc.is_valid(rows[until])))
    begin, end = (both[name].cast(pa.timestamp("us", "UTC")).cast(pa.int64()).to_numpy() for name in (time, until))
    over = _DAY if pa.types.is_date(rows[until].type) else 0  # what is known on a date is known when it is over
    return np.asarray((end - begin) / 1e6 + over)


def _matures_after(rows: pa.Table, time: str, label: str, known_at: str) -> timedelta:
    """Return in how many days nearly all labels are known; seven where nothing says it."""
    if not known_at:
        return timedelta(days=7)
    waited = _waited(rows.filter(pc.is_valid(rows[label])), time, known_at)
    return timedelta(days=max(1, math.ceil(float(np.quantile(waited, 0.995)) / _DAY)))


def _usual(label: pa.ChunkedArray) -> tuple[tuple[str, ...], float]:
    """Return the classes, the most frequent first, and what is usual of the label."""
    if pa.types.is_string(label.type):
        counted = sorted(pc.value_counts(label).to_pylist(), key=lambda one: (-one["counts"], one["values"]))
        return tuple(one["values"] for one in counted), counted[0]["counts"] / len(label)
    return (), float(pc.mean(label.cast(pa.float64())).as_py())


def _best_key(able: Sequence[Column], rows: pa.Table) -> str:
    """Return the column with the most values that still repeat."""

    def repeated() -> Iterator[Column]:
        for one in able:
            code = pa.types.is_integer(one.type) and _IS_CODE.search(one.name)
            there = len(rows) * (1 - one.missing)
            if (_is_text(one.type) or code) and one.missing < 0.5 and 2 <= one.distinct <= there / _REPEATS:
                yield one

    return max(repeated(), key=lambda one: one.distinct, default=Column("", pa.null(), 0, 0)).name


def _is_copy(column: pa.ChunkedArray, label: pa.ChunkedArray) -> bool:
    """Return whether a column has the label's values, by whatever names."""
    if column.null_count or _distinct(column) != _distinct(label) or _distinct(label) > 1000:
        return False
    pairs = pa.table({"one": column, "other": label}).group_by(["one", "other"]).aggregate([])
    return bool(pairs.num_rows == _distinct(label))


def _is_decimal(column: pa.ChunkedArray) -> bool:
    """Return whether texts are numbers with a point: what has so many digits was left a text."""
    there = column.drop_null()
    numbers = pc.match_substring_regex(there.slice(0, _LOOKED_AT), r"^-?\d*\.\d+([eE][+-]?\d+)?$")
    return bool(len(there) and pc.all(numbers).as_py())


def _distinct(column: pa.ChunkedArray) -> int:
    try:
        return int(pc.count_distinct(column).as_py())
    except pa.ArrowNotImplementedError:  # lists and structs
        return len(column)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
