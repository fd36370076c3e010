"""Profiles of partitions: every type, every kind of emptiness, one pass, merging."""

import datetime as dt
import math
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_mlops.contracts import Profile, SliceProfile
from airflow_mlops.engine.data.profiles import (
    distinct,
    histogram,
    label_rate,
    merge,
    near_unique,
    null_rate,
    profile_files,
    profile_table,
    quantiles,
    std,
)
from airflow_mlops.exceptions import ConfigError, DataError
from tests.thorough import examples

NOON = dt.datetime(2013, 1, 1, 12, tzinfo=dt.UTC)
MICROSECONDS = NOON.timestamp() * 1e6


def profiled(columns, key="2013-01-01", **declared):
    table = columns if isinstance(columns, pa.Table) else pa.table(columns)
    return profile_table(table, dataset="d", key=key, revision=f"r-{key}", **declared)


def column(values, type=None):
    return profiled({"c": pa.array(values, type)}).columns["c"]


# --- what is counted --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "kind", "low", "high"),
    [
        (pa.array([3, None, 1], pa.int8()), "number", 1, 3),
        (pa.array([2**64 - 1, None, 1], pa.uint64()), "number", 1, 2.0**64),
        (pa.array([2.5, None, 1], pa.float32()), "number", 1, 2.5),
        (pa.array(np.array([2.5, 1], np.float16)), "number", 1, 2.5),
        (pa.array([Decimal("2.50"), None, Decimal("1")]), "number", 1, 2.5),
        (pa.array([7, None, 7]).dictionary_encode(), "number", 7, 7),
        (pa.array([True, None, False]), "boolean", 0, 1),
        (pa.array([NOON, None], pa.timestamp("us", "UTC")), "time", MICROSECONDS, MICROSECONDS),
        (pa.array([NOON, None], pa.timestamp("s", "America/New_York")), "time", MICROSECONDS, MICROSECONDS),
        (pa.array([NOON.replace(tzinfo=None), None], pa.timestamp("ns")), "time", MICROSECONDS, MICROSECONDS),
        (pa.array([NOON.date(), None]), "time", MICROSECONDS - 43_200e6, MICROSECONDS - 43_200e6),
        (pa.array([NOON.date(), None], pa.date64()), "time", MICROSECONDS - 43_200e6, MICROSECONDS - 43_200e6),
        (pa.array(["b", None, "a"]), "category", None, None),
        (pa.array(["b", None, "a"], pa.large_string()), "category", None, None),
        (pa.array(["b", None, "a"], pa.string_view()), "category", None, None),
        (pa.array(["b", None, "a"]).dictionary_encode(), "category", None, None),
        (pa.array([b"b", None]), "other", None, None),
        (pa.array([[1], None]), "other", None, None),
        (pa.array([{"a": 1}, None]), "other", None, None),
        (pa.array([None, None]), "other", None, None),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else "",
)
def test_every_type_is_profiled(values, kind, low, high):
    found = column(values)

    assert (found.type, found.kind) == (str(values.type), kind)
    assert (found.count, found.nulls) == (len(values), values.null_count)
    assert (found.min, found.max) == (low, high)
    assert Profile.from_json(profiled({"c": values}).to_json()).columns["c"] == found


def test_nan_and_infinities_are_counted_apart_from_the_finite_values():
    found = column([1.0, 3.0, math.nan, math.inf, -math.inf, None])

    assert (found.count, found.nulls, found.nans, found.infinities) == (6, 1, 1, 2)
    assert (found.min, found.max, found.mean, std(found)) == (1, 3, 2, math.sqrt(2))
    assert null_rate(found) == pytest.approx(2 / 6)
    assert distinct(found) == 2


@pytest.mark.parametrize(
    "values",
    [pa.array([], pa.float64()), pa.array([None], pa.float64()), pa.array([math.nan]), pa.array([], pa.string())],
    ids=["empty", "null", "nan", "no texts"],
)
def test_columns_without_a_value(values):
    found = column(values)

    assert (found.min, found.max, found.mean, std(found), histogram(found)) == (None, None, None, None, None)
    assert distinct(found) == 0
    assert math.isnan(quantiles(found, [0.5])[0])
    assert merge([profiled({"c": values}), profiled({"c": values}, "2013-01-02")]).columns["c"].count == 2 * len(values)


def test_quantiles_and_histogram_of_few_values_are_exact():
    found = column([*range(1, 101)])

    assert quantiles(found, [0, 0.25, 0.5, 1]) == [1, 25, 50, 100]
    assert histogram(found, 4).counts == (25, 25, 25, 25)
    assert histogram(found, [0, 11, 200]).counts == (10, 90)
    assert histogram(found, [20, 30, 40]).counts == (29, 71), "what lies outside is counted at the ends"
    assert histogram(column([5, 5])).counts == (2,)


def test_top_values_of_categories_booleans_and_whole_numbers_are_counted():
    texts = profiled({"c": pa.array(["a"] * 3 + ["b"] + [None])}).columns["c"]

    assert (texts.top, texts.top_error) == ({"a": 3, "b": 1}, 0)
    assert column([True, True, False]).top == {"true": 2, "false": 1}
    assert column([3, 3, 1]).top == {"3": 2, "1": 1}
    assert column([0.5, 0.5]).top == {}, "measures are no categories"
    assert column([*range(51)] * 2).top == {}, "nor are whole numbers with many values"


def test_top_values_that_are_cut_off_leave_an_error_that_holds():
    random = np.random.default_rng(2)
    values = [f"v{n}" for n in random.zipf(1.3, 200_000) % 5000]
    found = column(values)
    truth = {value: values.count(value) for value in [*found.top, "v4321", "v77"]}

    assert len(found.top) == 100
    assert all(0 <= count - found.top.get(value, 0) <= found.top_error for value, count in truth.items())
    assert found.top_error < 0.01 * len(values)


def test_nearly_unique_columns_keep_no_values():
    names = column([f"person {n}" for n in range(100)])

    assert near_unique(names)
    assert names.top == {}
    assert "person" not in names.to_json()
    assert near_unique(column([*range(100)])), "whole numbers name rows, too"
    assert near_unique(column([*map(float, range(100))])), "also when pandas made them floating"
    assert not near_unique(column([n + 0.5 for n in range(100)])), "measures do not"
    assert not near_unique(column([f"person {n}" for n in range(50)]))
    assert not near_unique(column([f"person {n % 60}" for n in range(200)]))


# --- slices, labels, keys ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "label",
    [pa.array([True, None, False, True]), pa.array([1, None, 0, 1]), pa.array([1.0, math.nan, 0.0, 1.0])],
    ids=["bool", "int", "float with NaN"],
)
def test_slices_count_rows_labels_and_positives(label):
    found = profiled({"s": ["a", "a", None, "a"], "y": label}, slices=["s"], label="y")

    means = ({"mean": 1.0}, {"mean": 0.0}) if label.type != pa.bool_() else ({}, {})
    assert found.slices == {
        "s": {
            "a": SliceProfile(rows=3, labelled=2, positives=2, **means[0]),
            "∅": SliceProfile(rows=1, labelled=1, **means[1]),
        }
    }
    assert label_rate(found) == pytest.approx(2 / 3)


def test_without_a_label_no_row_is_labelled():
    found = profiled({"s": [True, None]}, slices=["s"])

    assert found.slices == {"s": {"true": SliceProfile(rows=1), "∅": SliceProfile(rows=1)}}
    assert label_rate(found) is None


def test_rows_that_repeat_the_key_are_counted_exactly():
    columns = {"a": [1, 1, 1, None, None, 2], "b": ["x", "x", "y", "z", "z", "x"]}

    assert profiled(columns, unique=["a", "b"]).duplicates == 2
    assert profiled(columns).duplicates is None
    assert profiled({"a": pa.array([], pa.int64())}, unique=["a"]).duplicates == 0


# --- files ------------------------------------------------------------------------------------------------


def test_files_and_table_give_the_same_profile_whatever_the_blocks_and_row_groups(tmp_path):
    random = np.random.default_rng(0)
    table = pa.table({f"c{n}": random.normal(size=150) for n in range(150)} | {"s": ["a", "b", "c"] * 50})
    pq.write_table(table.slice(0, 100), tmp_path / "1.parquet", row_group_size=40)
    pq.write_table(table.slice(100), tmp_path / "2.parquet")
    declared = {"dataset": "d", "key": "k", "revision": "r", "slices": ["s"], "unique": ["c140", "s"]}

    found = profile_files([tmp_path / "1.parquet", tmp_path / "2.parquet"], **declared)
    expected = profile_table(table, **declared)

    assert list(found.columns) == table.column_names
    assert (found.rows, found.slices, found.duplicates) == (150, expected.slices, 0)
    for name, wanted in expected.columns.items():
        moments = {"mean": pytest.approx(wanted.mean), "m2": pytest.approx(wanted.m2)}
        assert found.columns[name].model_dump() == wanted.model_dump() | moments


def test_the_same_files_give_the_same_profile(tmp_path):
    table = pa.table({"x": np.random.default_rng(0).normal(size=100_000), "s": [f"{n % 700}" for n in range(100_000)]})
    pq.write_table(table, tmp_path / "1.parquet")

    first, second = (
        profile_files([tmp_path / "1.parquet"], dataset="d", key="k", revision="r").to_json() for _ in range(2)
    )

    assert first == second


def test_a_column_named_with_a_dot_beside_a_struct(tmp_path):
    table = pa.table({"a.b": [1, 2], "a": pa.array([{"b": 1}, None])})
    pq.write_table(table, tmp_path / "1.parquet")

    found = profile_files([tmp_path / "1.parquet"], dataset="d", key="k", revision="r")

    assert {name: (part.kind, part.count, part.nulls) for name, part in found.columns.items()} == {
        "a.b": ("number", 2, 0),
        "a": ("other", 2, 1),
    }


def write(path, *columns):
    pq.write_table(pa.Table.from_arrays([pa.array([1])] * len(columns), names=list(columns)), path)
    return path


def test_bad_files_are_refused_in_words(tmp_path):
    def profile(*files):
        return profile_files(files, dataset="d", key="k", revision="r")

    with pytest.raises(DataError, match="'x' more than once"):
        profile(write(tmp_path / "twice.parquet", "x", "x"))
    with pytest.raises(DataError, match=r"(?s)different columns.*no 'y'; unexpected 'z'"):
        profile(write(tmp_path / "1.parquet", "x", "y"), write(tmp_path / "2.parquet", "x", "z"))
    with pytest.raises(DataError, match="not there"):
        profile(tmp_path / "nowhere.parquet")
    with pytest.raises(DataError, match="no files"):
        profile()
    whole = write(tmp_path / "cut.parquet", "x").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[:-10])
    with pytest.raises(DataError, match="cannot be read"):
        profile(tmp_path / "cut.parquet")


@pytest.mark.parametrize("use", ["slices", "unique"])
def test_a_declared_column_that_is_not_there_is_a_config_error(use):
    with pytest.raises(ConfigError, match=r"'carier'.*Did you mean 'carrier'"):
        profiled({"carrier": ["a"]}, **{use: ["carier"]})
    with pytest.raises(ConfigError, match="label column 'late'"):
        profiled({"carrier": ["a"]}, label="late")


def test_a_slice_column_must_not_have_a_value_for_every_row():
    with pytest.raises(ConfigError, match="'s' is no slice"):
        profiled({"s": [str(n) for n in range(10_001)]}, slices=["s"])


# --- merging ----------------------------------------------------------------------------------------------


def some_rows(seed, n):
    random = np.random.default_rng(seed)
    return pa.table(
        {
            "x": pa.array(random.normal(50, 20, n).round(1), mask=random.random(n) < 0.1),
            "n": pa.array(random.integers(0, 30, n)),
            "t": pa.array(random.integers(0, 86_400_000_000, n), pa.int64()).cast(pa.timestamp("us", "UTC")),
            "c": pa.array([f"c{code}" for code in random.integers(0, 40, n)], pa.string()),
            "id": pa.array([f"{code}" for code in random.integers(0, 10**9, n)], pa.string()),
            "y": pa.array(random.random(n) < 0.3, mask=random.random(n) < 0.2),
        }
    )


rows = st.builds(some_rows, st.integers(0, 10**6), st.integers(0, 1200))
DECLARED = {"slices": ["c"], "label": "y", "unique": ["n", "c"]}


@pytest.mark.property
@settings(max_examples=examples(25), deadline=None)
@given(rows, rows, rows)
def test_merged_profiles_say_what_the_profile_of_all_rows_says(first, second, third):
    parts = [profiled(table, f"2013-01-0{day}", **DECLARED) for day, table in enumerate((first, second, third), 1)]
    together = profiled(pa.concat_tables([first, second, third]), **DECLARED)

    at_once, chained, reverse = merge(parts), merge([merge(parts[:2]), parts[2]]), merge(parts[::-1])

    for merged in (at_once, chained, reverse):
        assert (merged.rows, merged.slices) == (together.rows, together.slices)
        assert merged.revisions == {f"2013-01-0{day}": f"r-2013-01-0{day}" for day in (1, 2, 3)}
        for name, whole in together.columns.items():
            part = merged.columns[name]
            for field in ("type", "kind", "count", "nulls", "nans", "infinities", "min", "max", "distinct"):
                assert getattr(part, field) == getattr(whole, field), (name, field)
            if whole.mean is not None:
                assert part.mean == pytest.approx(whole.mean)
                assert part.m2 == pytest.approx(whole.m2, rel=1e-6)
        assert merged.columns["c"].top == together.columns["c"].top
        assert merged.columns["y"].top == together.columns["y"].top
    for name in ("x", "t"):
        # The orders agree to the last bit of the sketch; the sums only to rounding.
        assert at_once.columns[name].quantiles == reverse.columns[name].quantiles


@pytest.mark.property
@settings(max_examples=examples(25), deadline=None)
@given(st.lists(rows, min_size=2, max_size=5))
def test_merged_quantiles_are_within_the_stated_error(tables):
    values = np.sort(pa.concat_tables(tables)["x"].drop_null().to_numpy())
    if not len(values):
        return
    merged = merge(profiled(table, f"{day}") for day, table in enumerate(tables)).columns["x"]

    for rank in (0.05, 0.25, 0.5, 0.75, 0.95):
        (found,) = quantiles(merged, [rank])
        low, high = (np.searchsorted(values, found, side) / len(values) for side in ("left", "right"))
        assert low - 0.0133 <= rank <= high + 0.0133


def test_duplicates_add_up_only_over_the_same_key():
    one, two = (profiled({"a": [1, 1], "b": [1, 2]}, key, unique=["a"]) for key in ("1", "2"))
    other = profiled({"a": [1, 1], "b": [1, 2]}, "3", unique=["b"])

    assert merge([one, two]).duplicates == 2
    assert merge([one, two]).unique == ("a",)
    assert merge([one, other]).duplicates is None
    assert merge([one, profiled({"a": [1]}, "4")]).duplicates is None


def test_a_column_that_only_some_days_have_counts_the_rows_of_those():
    merged = merge([profiled({"a": [1, None]}), profiled({"b": ["x"]}, "2013-01-02")])

    assert {name: found.count for name, found in merged.columns.items()} == {"a": 2, "b": 1}
    assert null_rate(merged.columns["a"]) == 0.5


def test_a_column_that_changed_its_kind_keeps_counts_and_nulls():
    merged = merge([profiled({"zip": [10001, None]}), profiled({"zip": ["10001"]}, "2013-01-02")]).columns["zip"]

    assert (merged.kind, merged.count, merged.nulls) == ("other", 3, 1)
    assert (merged.min, merged.top, distinct(merged)) == (None, {}, 0)


def test_nothing_and_different_datasets_cannot_be_merged():
    other = profile_table(pa.table({"a": [1]}), dataset="e", key="k", revision="r")

    with pytest.raises(ConfigError, match="one dataset"):
        merge([])
    with pytest.raises(ConfigError, match=r"(?s)one dataset.*d, e"):
        merge([profiled({"a": [1]}), other])


LISTS = pa.table({"tags": pa.array([["a"], ["b"]]), "name": ["x", "y"]})


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"slices": ["tags"]}, "slice column 'tags' holds values that rows cannot be grouped by"),
        ({"unique": ["tags"]}, "unique column 'tags' holds values that rows cannot be grouped by"),
        ({"label": "tags", "slices": ["name"]}, "label column 'tags' is neither boolean, nor a number, nor a text"),
    ],
)
def test_columns_of_a_type_that_is_no_use_as_such_are_refused_in_words(how, says):
    with pytest.raises(ConfigError, match=says):
        profile_table(LISTS, dataset="d", key="2013-01-01", revision="r", **how)


@pytest.mark.parametrize(("type", "positives"), [(pa.null(), 0), (pa.float16(), 1)])
def test_labels_of_a_rare_type_are_counted(type, positives):
    values = pa.nulls(2) if pa.types.is_null(type) else pa.array([1.0, 0.0], type)
    table = pa.table({"late": values, "name": ["x", "x"]})
    profile = profile_table(table, dataset="d", key="2013-01-01", revision="r", label="late", slices=["name"])
    assert profile.slices["name"]["x"].positives == positives
