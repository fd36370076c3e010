"""The point-in-time join on random data: against Feast's own join, and against one that is too slow to be wrong."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from tests.asof_fixtures import OURS, made_up_views, open_feast, write_rows
from tests.thorough import examples

MINUTE = 60 * 10**9  # ns
START = int(datetime(2013, 3, 10, tzinfo=UTC).timestamp()) * 10**9  # the clocks in New York change on this day
UNITS = {"ms": 10**6, "us": 10**3, "ns": 1}
REFS = [f"{view}:{view}_{letter}" for view in ("short", "endless", "uncreated") for letter in "ab"]


Asked = tuple[str | None, int | None, int]


class Row(NamedTuple):
    """A row of a view, times in nanoseconds."""

    k: str | None
    n: int | None
    a: Any
    b: int | None
    happened: int
    written: int | None


class View(NamedTuple):
    """How a view of ``made_up_views`` is joined."""

    keys: tuple[str, ...]
    lives: int | None
    created: bool
    order: str = "ab"
    """Features in the order of their columns' names."""


VIEWS = {
    "short": View(("k",), 3 * 60 * MINUTE, created=True),
    "endless": View(("k", "n"), None, created=True, order="ba"),
    "uncreated": View(("k",), 2 * 60 * MINUTE, created=False),
}


class Case(NamedTuple):
    """Rows of each view in the order of its files, where the first file ends, and who asks."""

    rows: Mapping[str, Sequence[Row]]
    cuts: Mapping[str, int]
    asked: Sequence[Asked]
    unit: str
    zone: str | None
    asked_unit: str
    asked_zone: str


@st.composite
def cases(draw: st.DrawFn, units: Sequence[str]) -> Case:
    """Few keys and few moments, so that rows tie, come late, are announced, corrected, doubled, and just expire."""
    unit, asked_unit = draw(st.sampled_from(units)), draw(st.sampled_from(units))

    def moments(step: int) -> st.SearchStrategy[int]:
        jitter = st.sampled_from([0, 0, 0, -step, step])
        return st.builds(lambda half, by: START + half * 30 * MINUTE + by, st.integers(0, 14), jitter)

    late = st.sampled_from([None, 0, 0, 30, 30, 90, 240, -30, -60])
    counts = st.sampled_from([None, 1, 2, 3])
    keys, numbers = st.sampled_from(["x", "x", "y", None]), st.sampled_from([1, 1, 2, None])

    def row(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Row]:
        return st.builds(
            lambda k, n, a, b, happened, by: Row(
                k, n, a, b, happened, None if by is None else happened + by * MINUTE
            ),
            *(keys, numbers, values, counts, moments(UNITS[unit]), late),
        )  # fmt: skip

    floats = st.sampled_from([None, math.nan, 0.0, 1.5, -2.0])
    texts = st.sampled_from([None, "", "p", "q"])
    rows = {}
    for view in VIEWS:
        values = texts if view == "uncreated" else floats
        some = draw(st.lists(row(values), min_size=1, max_size=10))
        twins = st.builds(lambda one, a, b: one._replace(a=a, b=b), st.sampled_from(some), values, counts)
        rows[view] = draw(st.permutations([*some, *draw(st.lists(twins, max_size=4))]))
    return Case(
        rows,
        {view: draw(st.integers(1, len(found))) for view, found in rows.items()},
        draw(st.lists(st.tuples(keys, numbers, moments(UNITS[asked_unit])), min_size=1, max_size=10)),
        unit,
        draw(st.sampled_from([None, "UTC", "America/New_York"])),
        asked_unit,
        draw(st.sampled_from(["UTC", "America/New_York", "Asia/Kolkata"])),
    )


# --- a join that is too slow to be wrong ------------------------------------------------------------------


def brute_force(case: Case, *, as_created: bool) -> dict[str, list[Any]]:
    """Look at every row for every one that asks."""
    answer: dict[str, list[Any]] = {}
    for name, view in VIEWS.items():
        found = [_seen(case.rows[name], view, asked, as_created=as_created) for asked in case.asked]
        for letter in "ab":
            answer[f"{name}_{letter}"] = [_plain(getattr(row, letter)) if row else None for row in found]
    return answer


def _seen(
    rows: Sequence[Row], view: View, asked: tuple[str | None, int | None, int], *, as_created: bool
) -> Row | None:
    wanted, now = dict(zip("kn", asked[:2], strict=True)), asked[2]
    best = None
    for row in rows:
        if any(getattr(row, key) is None or getattr(row, key) != wanted[key] for key in view.keys):
            continue
        if row.happened > now or (view.lives is not None and row.happened + view.lives < now):
            continue
        if as_created and view.created and (row.written is None or row.written > now):
            continue
        if best is None or _rank(row, view) > _rank(best, view):
            best = row
    return best


def _rank(row: Row, view: View) -> tuple[Any, ...]:
    """The latest event, then the latest created, then the greatest values: null, then others, then NaN."""
    created = 0 if not view.created else -math.inf if row.written is None else row.written
    return (row.happened, created, *(_worth(getattr(row, letter)) for letter in view.order))


def _worth(value: Any) -> tuple[Any, ...]:
    if value is None:
        return (0,)
    return (2,) if isinstance(value, float) and math.isnan(value) else (1, value)


def ties(case: Case, name: str) -> bool:
    """Whether only values tell some rows of a view apart: then Feast's answer is chance."""
    view = VIEWS[name]
    seen: dict[Any, Any] = {}
    for row in case.rows[name]:
        same = (*(getattr(row, key) for key in view.keys), row.happened, row.written if view.created else None)
        if seen.setdefault(same, (str(row.a), row.b)) != (str(row.a), row.b):
            return True
    return False


# --- the same through Feast -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stores(tmp_path_factory) -> tuple[Path, dict[str, Any]]:
    """The folder of the rows; our store with and without knowledge time, and Feast's."""
    folder = tmp_path_factory.mktemp("asof")
    kinds = {
        "ours": {"type": OURS},
        "ours, events only": {"type": OURS, "knowledge_time": False},
        "feast": {"type": "duckdb"},
    }
    for view in VIEWS:
        write_rows(folder, view, _table(view, [Row("x", 1, None, 1, START, START)], "us", "UTC"))
    return folder, {name: open_feast(folder / name, made_up_views(folder), kind) for name, kind in kinds.items()}


def _table(view: str, rows: Sequence[Row], unit: str, zone: str | None) -> pa.Table:
    def moment(values: list[int | None]) -> pa.Array:
        ticks = [None if value is None else value // UNITS[unit] for value in values]
        return pa.array(ticks, pa.int64()).cast(pa.timestamp(unit, zone))

    kind = pa.string() if view == "uncreated" else pa.float64()
    return pa.table(
        {
            "k": pa.array([row.k for row in rows], pa.string()),
            "n": pa.array([row.n for row in rows], pa.int64()),
            "raw" if view == "endless" else f"{view}_a": pa.array([row.a for row in rows], kind),
            f"{view}_b": pa.array([row.b for row in rows], pa.int64()),
            "happened": moment([row.happened for row in rows]),
            "written": moment([row.written for row in rows]),
        }
    )


def _write(folder: Path, case: Case) -> None:
    for view, rows in case.rows.items():
        table, cut = _table(view, rows, case.unit, case.zone), case.cuts[view]
        write_rows(folder, view, table[:cut], *([table[cut:]] if cut < len(rows) else []))


def _asked(case: Case) -> Any:
    moments = pa.array([time // UNITS[case.asked_unit] for _, _, time in case.asked], pa.int64())
    return pa.table(
        {
            "k": pa.array([k for k, _, _ in case.asked], pa.string()),
            "n": pa.array([n for _, n, _ in case.asked], pa.int64()),
            "event_timestamp": moments.cast(pa.timestamp(case.asked_unit, case.asked_zone)),
            "place": pa.array(range(len(case.asked)), pa.int64()),
        }
    )


def _answer(store: Any, case: Case, *, as_created: bool, pandas: bool = True) -> pa.Table:
    asked = _asked(case)
    rows = asked.to_pandas(types_mapper=lambda kind: None, integer_object_nulls=True) if pandas else asked
    return store.get_historical_features(rows, REFS, filter_by_created_timestamp=as_created).to_arrow()


def _values(table: pa.Table) -> dict[str, list[Any]]:
    return {name: [_plain(value) for value in table[name].to_pylist()] for name in (ref.split(":")[1] for ref in REFS)}


def _plain(value: Any) -> Any:
    return "NaN" if isinstance(value, float) and math.isnan(value) else value


SMALL = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]}


@pytest.mark.property
@settings(max_examples=examples(150), **SMALL)
@given(case=cases(["ms", "us", "ns"]), as_created=st.booleans(), pandas=st.booleans())
def test_is_what_brute_force_finds(stores, case, as_created, pandas):
    folder, opened = stores
    _write(folder, case)
    store = opened["ours" if as_created else "ours, events only"]
    answer = _answer(store, case, as_created=False, pandas=pandas)
    assert answer["place"].to_pylist() == list(range(len(case.asked))), "rows as asked for"
    wanted = brute_force(case, as_created=as_created)
    assert _values(answer) == wanted
    for view in VIEWS:
        event(f"{view} ties: {ties(case, view)}")
    event(f"found: {any(value is not None for column in wanted.values() for value in column)}")


@pytest.mark.property
@settings(max_examples=examples(25), **SMALL)
@given(case=cases(["ms", "us"]))
def test_is_what_feasts_own_join_finds(stores, case):
    folder, opened = stores
    _write(folder, case)
    for as_created in (True, False):
        ours = _answer(opened["ours" if as_created else "ours, events only"], case, as_created=as_created)
        theirs = _answer(opened["feast"], case, as_created=as_created).sort_by("place")
        for view in VIEWS:
            if not ties(case, view):
                for name in (f"{view}_a", f"{view}_b"):
                    assert _values(ours)[name] == _values(theirs)[name], (view, as_created)
