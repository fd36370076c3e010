"""Snapshots: named by everything that went in, published whole, and refused when nothing can be learned."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from airflow_mlops.contracts import Exclusion, SplitRule
from airflow_mlops.engine.data.parquet import parquet_files
from airflow_mlops.engine.data.partitions import batch_hash
from airflow_mlops.engine.data.snapshot_writer import Columns, SnapshotWriter
from airflow_mlops.engine.data.snapshots import check_validated, load_snapshot, read_split
from airflow_mlops.engine.data.splits import SplitRows
from airflow_mlops.exceptions import DataError

START = datetime(2013, 1, 1, tzinfo=UTC)
EXCLUSION = Exclusion(id="e", dataset="source", start=START, end=START + timedelta(hours=1), reason="bad", who="ann")


def split(day: int, n: int = 6, *, late: list[bool] | None = None, reverse: bool = False) -> SplitRows:
    begin = START + timedelta(days=day)
    order = range(n - 1, -1, -1) if reverse else range(n)
    rows = pa.table(
        {
            "late": pa.array([(late or [True, False] * n)[i] for i in order]),
            "speed": pa.array([float(i) for i in order]),
            "at": pa.array([begin + timedelta(hours=i // 2) for i in order], pa.timestamp("us", tz="UTC")),
            "id": pa.array([f"{day}-{i}" for i in order]),
            "unused": pa.array([0] * n),
        }
    )
    return SplitRows(rows, begin, begin + timedelta(days=1))


def write(home: Path, splits: dict | None = None, features: tuple[str, ...] = ("speed",), **changes):
    contents = {
        "model": "m",
        "partitions": {"source": {"2013-01-01": "a"}},
        "feature_service": "s",
        "feature_definition": "d",
        "as_of": START + timedelta(days=4),
        "label_cut": START + timedelta(days=3),
        "unlabelled_rows": 2,
    }
    splits = splits or {"train": split(0), "validation": split(1), "test": split(2)}
    contents |= changes
    rule = contents.get("split_rule", SplitRule())
    with SnapshotWriter(home, Columns("id", "at", features, "late"), apart=rule.column) as writer:
        writer.add(splits)
        return writer.publish(**contents)


def test_splits_have_their_columns_and_rows_in_order(home):
    snapshot = write(home)
    table = read_split(snapshot, "train")
    assert table.column_names == ["id", "at", "speed", "late"]
    assert table["id"].to_pylist() == [f"0-{i}" for i in range(6)]
    assert snapshot.splits["train"].rows == 6
    assert snapshot.splits["train"].positives == 3
    assert load_snapshot(home, snapshot.id) == snapshot


def test_the_same_again_is_the_same_snapshot_whatever_the_order_of_the_rows(home):
    first = write(home)
    file = Path(first.uri) / "train.parquet"
    written = file.stat().st_mtime_ns
    backwards = {"train": split(0, reverse=True), "validation": split(1), "test": split(2, reverse=True)}
    assert write(home, backwards) == first
    assert file.stat().st_mtime_ns == written
    assert [path.name for path in (home / "snapshots").iterdir()] == [first.id]


def test_another_home_gives_the_same_id(home, tmp_path):
    assert write(home).id == write(tmp_path / "elsewhere").id


@pytest.mark.parametrize(
    "change",
    [
        {"partitions": {"source": {"2013-01-01": "b"}}},
        {"feature_service": "t"},
        {"feature_definition": "e"},
        {"feature_project": "p"},
        {"feature_code": {"view": "c"}},
        {"as_of": START + timedelta(days=5)},
        {"label_cut": START + timedelta(days=4)},
        {"unlabelled_rows": 3},
        {"excluded_rows": 1},
        {"exclusions": (EXCLUSION,)},
        {"split_rule": SplitRule(salt="s")},
        {"splits": {"train": split(0, 8), "validation": split(1), "test": split(2)}},
    ],
)
def test_everything_that_went_in_is_in_the_id(home, change):
    assert write(home, **change).id != write(home).id


def test_rows_that_nobody_read_are_counted_but_change_no_id(home, tmp_path):
    before = write(home, excluded_rows=1)
    after = write(tmp_path / "elsewhere", excluded_rows=1, unread_rows=5)
    assert (after.id, after.excluded_rows) == (before.id, 6)


@pytest.mark.parametrize("name", ["train", "validation", "test"])
def test_an_empty_split_is_refused(home, name):
    splits = {"train": split(0), "validation": split(1), "test": split(2)}
    splits[name] = splits[name]._replace(rows=splits[name].rows.slice(0, 0))
    with pytest.raises(DataError, match=f"The {name} split has no rows"):
        write(home, splits)
    assert list((home / "snapshots").iterdir()) == []


@pytest.mark.parametrize("value", [True, False])
def test_a_split_with_one_class_is_refused(home, value):
    splits = {"train": split(0), "validation": split(1), "test": split(2, late=[value] * 6)}
    with pytest.raises(DataError, match="The test split has only one class"):
        write(home, splits)


def test_an_entity_on_two_sides_is_refused(home):
    with pytest.raises(DataError, match="6 rows of the snapshot repeat an entity"):
        write(home, {"train": split(0), "validation": split(1), "test": split(0)})


def test_a_changed_file_is_not_believed(home):
    snapshot = write(home)
    file = Path(snapshot.uri) / "test.parquet"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(DataError, match=r"test split of snapshot(.|\n)*changed"):
        read_split(snapshot, "test")


def test_a_missing_snapshot_is_explained(home):
    with pytest.raises(DataError, match=r"no snapshot 'nope'(.|\n)*fix:"):
        load_snapshot(home, "nope")
    known = write(home).id
    with pytest.raises(DataError, match=f"Did you mean {known!r}"):
        load_snapshot(home, known[:-2])


@pytest.mark.parametrize("contents", [b"{", b"{}", b"\xff\xfe"])
def test_a_broken_manifest_is_said_to_be_one(contents, home):
    snapshot = write(home)
    (Path(snapshot.uri) / "manifest.json").write_bytes(contents)
    with pytest.raises(DataError, match=f"manifest of snapshot {snapshot.id!r} cannot be read") as refused:
        load_snapshot(home, snapshot.id)
    assert "manifest.json" in refused.value.detail


def test_a_snapshot_that_must_come_out_as_another_one_does_or_is_refused(home, tmp_path):
    first = write(home)
    assert write(tmp_path / "elsewhere", expected=first).id == first.id
    changed = {"train": split(0, 8), "validation": split(1), "test": split(2)}
    with pytest.raises(
        DataError, match=rf"{first.id!r} comes out differently(.|\n)*train split: 6 rows.* → 8"
    ) as refused:
        write(tmp_path / "third", changed, expected=first, unlabelled_rows=5)
    assert "different: unlabelled_rows; train split" in refused.value.detail
    assert "test split" not in refused.value.detail
    assert not list((tmp_path / "third" / "snapshots").iterdir())
    with pytest.raises(DataError, match="different: feature_definition"):
        write(tmp_path / "third", feature_definition="other", expected=first)


def test_only_the_files_that_were_validated_are_trained_on(home):
    snapshot, other = write(home), write(home, {"train": split(0, 8), "validation": split(1), "test": split(2)})
    check_validated(snapshot, batch_hash(parquet_files(Path(snapshot.uri))))
    with pytest.raises(DataError, match=r"What was validated is not what would be trained on(.|\n)*fix:"):
        check_validated(snapshot, batch_hash(parquet_files(Path(other.uri))))


# --- what the features may be -----------------------------------------------------------------------------


def with_feature(values: dict[str, pa.Array], n: int = 40) -> dict[str, SplitRows]:
    """Three splits of rows, alternately late and not, with a feature ``x`` more."""
    splits = {name: split(day, n) for day, name in enumerate(("train", "validation", "test"))}
    return {
        name: rows._replace(rows=rows.rows.append_column("x", values.get(name, values["train"])))
        for name, rows in splits.items()
    }


def write_with(home: Path, **values: pa.Array):
    return write(home, with_feature(values), features=("speed", "x"))


def alternating(yes, no, n: int = 40) -> list:
    return [yes, no] * (n // 2)


@pytest.mark.parametrize(
    "leak",
    [
        pytest.param(pa.array(alternating(True, False)), id="a copy of the label"),
        pytest.param(pa.array(alternating(False, True)), id="its opposite"),
        pytest.param(pa.array([i + 100.0 * (i % 2) for i in range(40)]), id="a number that separates"),
        pytest.param(pa.array(alternating("LATE", "ON TIME")), id="a category that separates"),
        pytest.param(pa.array(alternating("a", "b", 20) + alternating("c", "d", 20)), id="categories that separate"),
        pytest.param(pa.array(alternating(1.0, None)), id="whether there is a value"),
        pytest.param(pa.array([None] * 10 + [i % 2 for i in range(10, 40)]), id="the values there are"),
        pytest.param(pa.array(alternating(START, START + timedelta(days=1))), id="a time"),
    ],
)
def test_a_feature_that_tells_the_label_is_a_leak(home, leak):
    with pytest.raises(DataError, match=r"A leak: x alone tells the label 'late'(.|\n)*x: AUC 1.0000 on 40 rows"):
        write_with(home, train=leak)


@pytest.mark.parametrize(
    "honest",
    [
        pytest.param(pa.array([1.0] * 40), id="constant"),
        pytest.param(pa.array([f"id-{i}" for i in range(40)]), id="every value once"),
        pytest.param(pa.array([*alternating(True, False, 38), False, True]), id="nearly the label"),
        pytest.param(pa.array(alternating(1, None, 6) + [None] * 34), id="too few values to tell"),
        pytest.param(pa.array([[1]] * 40), id="a list"),
    ],
)
def test_what_is_no_leak_passes(home, honest):
    assert write_with(home, train=honest).features["x"] == str(honest.type)


def test_infinities_are_refused_by_name_and_nan_is_a_missing_value(home):
    values = [float(i % 7) for i in range(40)]
    with pytest.raises(DataError, match=r"Features are infinite: x\.(.|\n)*x: 1 of 40 rows"):
        write_with(home, train=pa.array(values), test=pa.array([-math.inf, *values[1:]]))
    table = read_split(write_with(home, train=pa.array([math.nan, *values[1:]])), "train")
    assert table["x"].to_pylist() == [None, *values[1:]]


@pytest.mark.parametrize("empty", [pa.nulls(40, pa.float64()), pa.array([math.nan] * 40)])
def test_a_feature_without_any_value_in_a_split_is_refused(home, empty):
    values = pa.array([float(i % 7) for i in range(40)])
    with pytest.raises(DataError, match="no value at all in the test split: x"):
        write_with(home, train=values, test=empty)


def test_a_value_that_was_split_by_is_on_one_side(home):
    def of(tail: str, day: int) -> SplitRows:
        rows = split(day)
        return rows._replace(rows=rows.rows.append_column("tail", pa.array(["N1", tail] * 3)))

    rule = SplitRule(kind="entity", column="tail", validation=0.1, test=0.1)
    with pytest.raises(DataError, match="2 values of 'tail' are on two sides"):
        write(home, {"train": of("N2", 0), "validation": of("N3", 1), "test": of("N4", 2)}, split_rule=rule)
