"""What the columns of a dataset mean, by version, and what a change of them breaks downstream."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal

from pydantic import Field

from airflow_mlops.contracts import ColumnProfile, ExpectationOutcome, Profile
from airflow_mlops.engine.data.robust import outcome
from airflow_mlops.typed import part

Casing = Literal["lower", "upper"]

_WIDER = (
    ("int8", "int16", "int32", "int64"),
    ("uint8", "uint16", "uint32", "uint64"),
    ("halffloat", "float", "double"),
    ("string", "large_string"),
    ("date32[day]", "date64[ms]"),
)
"""Arrow types, each of which holds every value of those before it."""


@part
class Column:
    """One column of a contract.

    :param type: Arrow type, as in ``Partition.columns``: ``int64``, ``double``, ``string``, ``timestamp[us, tz=UTC]``.
    :param nullable: Whether values may be missing.
    :param unit: What one means: ``minutes``, ``miles``. Named when the values look as if it had changed.
    :param casing: How text is written, ``lower`` or ``upper``.
    :param meaning: In words, for the people who read the contract.
    """

    type: str
    nullable: bool = True
    unit: str | None = None
    casing: Casing | None = None
    meaning: str = ""


@part
class SchemaContract:
    """The columns that consumers of a dataset rely on.

    :param version: Raised with every change that consumers must know of, such as ``1.2``.
    :param columns: Name → :class:`Column`. What lands is cast to its type, where that loses nothing.
    :param new_columns: What becomes of columns that are not in it: ``keep``, ``drop`` or ``refuse``.
    """

    version: str
    columns: Mapping[str, Column] = Field(default_factory=dict)
    new_columns: Literal["keep", "drop", "refuse"] = "keep"


def check_schema(
    contract: SchemaContract,
    found: Profile | Mapping[str, str],
    *,
    usual: Profile | None = None,
) -> list[ExpectationOutcome]:
    """Compare what landed with the contract. Breaking changes block, compatible ones warn or inform.

    Breaking: a column was removed, renamed or retyped, its type holds less than before, a column that must not be
    null is, or text is in another casing. Compatible: a column was added, or its type holds more than before.

    :param found: Profile of what landed, or just column name → Arrow type.
    :param usual: Profile of an earlier day: tells a renamed column from a new one by its values.
    """
    types = found if isinstance(found, Mapping) else {name: column.type for name, column in found.columns.items()}
    profiles = {} if isinstance(found, Mapping) else found.columns
    removed = [name for name in contract.columns if name not in types]
    added = [name for name in types if name not in contract.columns]
    outcomes = [
        *_removed(contract, removed, {name: (types[name], profiles.get(name)) for name in added}, usual),
        *_added(contract, added, types),
    ]
    for name in contract.columns:
        if name in types:
            outcomes += _changed(contract, name, types[name], profiles.get(name))
    return outcomes or [
        outcome("schema_contract", observed={"columns": len(types)}, bound={"version": contract.version})
    ]


def uses_of(
    tags_by_view: Mapping[str, Mapping[str, str]],
    views_by_service: Mapping[str, Sequence[str]],
    *,
    dataset: str,
    models: Mapping[str, str],
    columns_of_models: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, list[str]]:
    """Return column → who reads it, such as ``feature view origin_traffic`` and ``model flight_delay``.

    :param tags_by_view: Feature view → its tags. The tag ``columns`` lists what it is computed from:
        ``departures.dep_delay departures.cancelled``.
    :param views_by_service: Feature service → its feature views.
    :param dataset: Only its columns are returned.
    :param models: Model → its feature service.
    :param columns_of_models: Model → columns of ``dataset`` that it reads by itself: entity, keys, label.
    """
    uses: dict[str, list[str]] = {}
    for view, tags in tags_by_view.items():
        services = {service for service, views in views_by_service.items() if view in views}
        readers = [f"feature view {view}"]
        readers += [f"model {model}" for model, service in models.items() if service in services]
        for name in re.split(r"[\s,]+", tags.get("columns", "").strip()):
            source, _, column = name.rpartition(".")
            if source == dataset:
                uses.setdefault(column, []).extend(readers)
    for model, columns in (columns_of_models or {}).items():
        for column in columns:
            uses.setdefault(column, []).append(f"model {model}")
    return {column: list(dict.fromkeys(readers)) for column, readers in uses.items()}


def name_readers(outcomes: Iterable[ExpectationOutcome], uses: Mapping[str, Sequence[str]]) -> list[ExpectationOutcome]:
    """Return the outcomes, with those that failed saying who reads their column.

    :param uses: Column → who reads it, as :func:`uses_of` returns it.
    """

    def named(said: ExpectationOutcome) -> ExpectationOutcome:
        readers = uses.get(said.column or "", ())
        if said.success or not readers:
            return said
        return said.model_copy(update={"note": f"{said.note}; affects {', '.join(readers)}".removeprefix("; ")})

    return [named(said) for said in outcomes]


# --- changes ----------------------------------------------------------------------------------------------


def _removed(
    contract: SchemaContract,
    removed: Sequence[str],
    added: Mapping[str, tuple[str, ColumnProfile | None]],
    usual: Profile | None,
) -> Iterator[ExpectationOutcome]:
    for name in removed:
        expected = contract.columns[name].type
        before = usual.columns.get(name) if usual is not None else None
        candidates = [new for new, (type_, its) in added.items() if type_ == expected and _alike(before, its)]
        note = f"removed {name!r}"
        if candidates:
            alike = "type and similar values" if before is not None and added[candidates[0]][1] is not None else "type"
            note += f", added {', '.join(map(repr, candidates))} of the same {alike}: renamed?"
        yield outcome(
            "schema_column_present",
            column=name,
            level="block",
            bound={"type": expected, "version": contract.version},
            note=note,
        )


def _added(contract: SchemaContract, added: Sequence[str], types: Mapping[str, str]) -> Iterator[ExpectationOutcome]:
    for name in added:
        yield outcome(
            "schema_column_known",
            column=name,
            level="info",
            observed=types[name],
            bound={"version": contract.version},
            note="added, and not in the contract: nobody reads it yet",
        )


def _changed(
    contract: SchemaContract, name: str, found: str, profile: ColumnProfile | None
) -> Iterator[ExpectationOutcome]:
    column = contract.columns[name]
    bound = {"type": column.type, "version": contract.version}
    if found != column.type:
        wider, narrower = _wider(column.type, found), _wider(found, column.type)
        word = "widened" if wider else "narrowed" if narrower else "retyped"
        level: Literal["warn", "block"] = "warn" if wider else "block"
        note = f"{word} from {column.type} to {found}"
        yield outcome("schema_column_type", column=name, level=level, observed=found, bound=bound, note=note)
    if profile is None:
        return
    if not column.nullable and profile.nulls:
        yield outcome(
            "schema_not_null",
            column=name,
            level="block",
            observed=profile.nulls / profile.count,
            bound={"nullable": False, "version": contract.version},
            count=profile.nulls,
            note="must not be null",
        )
    wrong = sum(count for value, count in profile.top.items() if not _cased(value, column.casing))
    if wrong:
        yield outcome(
            "schema_casing",
            column=name,
            level="block",
            observed=wrong / profile.count,
            bound={"casing": column.casing, "version": contract.version},
            count=wrong,
            note=f"not in {column.casing} case",
        )


def _cased(value: str, casing: Casing | None) -> bool:
    return casing is None or value == (value.lower() if casing == "lower" else value.upper())


def _wider(old: str, new: str) -> bool:
    return any(old in order and new in order and order.index(old) < order.index(new) for order in _WIDER)


def _alike(before: ColumnProfile | None, after: ColumnProfile | None) -> bool:
    """Say whether two columns may hold the same thing: ranges that overlap, or values in common."""
    if before is None or after is None:
        return True
    if before.kind == "category" and before.top and after.top:
        return bool(before.top.keys() & after.top.keys())
    bounds = (before.min, before.max, after.min, after.max)
    if None in bounds:
        return before.kind == after.kind
    if before.kind == "time":  # another day has other times
        return after.kind == "time"
    lowest, highest, low, high = bounds
    return bool(low <= highest and high >= lowest)  # type: ignore[operator]
