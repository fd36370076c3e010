"""What the columns of a table are good for in predicting one of them, and which would tell too much."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.engine.data.arrow import is_list
from airflow_mlops.engine.survey.subjects import FEW_VALUES, check_entity, labelled, usual_label
from airflow_mlops.engine.survey.times import check_time, known_at_of, matures_after
from airflow_mlops.engine.survey.values import LOOKED_AT, distinct, is_decimal, is_text
from airflow_mlops.exceptions import ConfigError, DataError, did_you_mean
from airflow_mlops.problems import Problem

MOST_INPUTS = 40
"""Columns that a first model takes as they are, at most."""
NEARLY_UNIQUE = 0.9
_REPEATS = 3
"""Rows that a value of a key has on average, at least: of fewer there is no history."""
_ENOUGH = 20
_SUSPICIOUS = 0.9
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
    :param key: Column that rows share, and by which a history is computed; empty: none, it is one of all rows.
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
    check_entity(rows, entity)
    rows, of_type = labelled(rows, label, problem)
    known_at = known_at or known_at_of(rows, time, label)
    if known_at and not (pa.types.is_timestamp(rows[known_at].type) or pa.types.is_date(rows[known_at].type)):
        raise ConfigError(
            f"The column {known_at!r} does not say when the label is known: it is no time.",
            detail=f"--known-at {known_at}: it is {rows.schema.field(known_at).type}",
            hint="Name a column of times, or leave --known-at out.",
        )
    uses = {entity: "entity", time: "time", label: "label", **({known_at: "known at"} if known_at else {})}
    found = _Found(rows, uses, label, of_type)
    columns = found.columns(key)
    classes, rate = usual_label(rows[label].drop_null())
    return Survey(
        rows=rows,
        columns=tuple(columns),
        entity=entity,
        time=time,
        label=label,
        problem=of_type,
        known_at=known_at,
        matures_after=matures_after(rows, time, label, known_at),
        key=found.key,
        inputs=tuple(one.name for one in columns if one.use == "input"),
        classes=classes,
        label_rate=rate,
    )


class _Found:
    """What was found of one table's columns."""

    def __init__(self, rows: pa.Table, uses: dict[str, str], label: str, problem: Problem) -> None:
        self.rows, self.uses, self.label, self.problem = rows, uses, label, problem
        self.known = rows.filter(pc.is_valid(rows[label])).slice(0, LOOKED_AT)
        self.truths = self.known[label].to_numpy()
        self.key = ""

    def columns(self, key: str) -> list[Column]:
        """Return what each column is taken for."""
        seen = {name: self._seen(name) for name in self.rows.column_names}
        rest = {name: one for name, one in seen.items() if name not in self.uses}
        telling = {name: self.problem.telling(self.known[name], self.truths) for name in rest}
        excluded = {name: why for name, one in rest.items() if (why := self._excluded(one, telling[name]))}
        self.key = key or _best_key([one for name, one in rest.items() if name not in excluded], self.rows)
        able = [name for name, one in rest.items() if name not in excluded and not self._unfit(one)]
        if not self.key and not able:
            raise DataError(
                "No column says anything that a model could tell rows apart by.",
                detail="; ".join(f"{name}: {excluded.get(name) or self._unfit(one)}" for name, one in rest.items())
                or f"columns: {', '.join(seen)}",
                hint="Bring columns that are known before the label: numbers, truths, or texts of few values.",
            )
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
        return Column(name, column.type, column.null_count / max(1, len(column)), distinct(column))

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
        if is_text(kind) and is_decimal(self.rows[one.name]):
            return "numbers that are texts"
        if one.distinct > NEARLY_UNIQUE * rows and rows > _ENOUGH:
            return "nearly unique"
        if is_text(kind) and one.distinct > FEW_VALUES:
            return f"a text of {one.distinct:,} values"
        return ""


def _best_key(able: Sequence[Column], rows: pa.Table) -> str:
    """Return the column with the most values that still repeat."""

    def repeated() -> Iterator[Column]:
        for one in able:
            code = pa.types.is_integer(one.type) and _IS_CODE.search(one.name)
            there = len(rows) * (1 - one.missing)
            if (is_text(one.type) or code) and one.missing < 0.5 and 2 <= one.distinct <= there / _REPEATS:
                yield one

    return max(repeated(), key=lambda one: one.distinct, default=Column("", pa.null(), 0, 0)).name


def _is_copy(column: pa.ChunkedArray, label: pa.ChunkedArray) -> bool:
    """Return whether a column has the label's values, by whatever names."""
    if column.null_count or distinct(column) != distinct(label) or distinct(label) > 1000:
        return False
    if distinct(label) > len(label) / 2:
        return False  # where hardly a value is there twice, any two columns have pairs that are
    pairs = pa.table({"one": column, "other": label}).group_by(["one", "other"]).aggregate([])
    return bool(pairs.num_rows == distinct(label))
