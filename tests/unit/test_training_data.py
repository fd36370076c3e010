"""The data of a training: read once where it fits, streamed where it does not, and the same rows either way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from airflow_mlops.contracts import Snapshot
from airflow_mlops.engine.data.files import sha256
from airflow_mlops.engine.data.profiles import profile_table
from airflow_mlops.engine.training import data as module
from airflow_mlops.engine.training.data import TrainingData, available_memory
from airflow_mlops.engine.training.golden import ROWS, UNSEEN, as_columns, golden_inputs
from airflow_mlops.engine.training.inputs import read_inputs, specs_of
from airflow_mlops.exceptions import ConfigError, DataError, TrainingError
from tests.training_fixtures import START, flights, write_snapshot

ROW_GROUP, WINDOW, ROWS_OF_TRAIN, BATCH = 500, 1500, 5010, 64


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    """Small row groups, and ``weekday`` of the training split says which row it is."""
    home = tmp_path_factory.mktemp("home")
    tables = {
        name: flights(rows, seed, START)
        for seed, (name, rows) in enumerate([("train", ROWS_OF_TRAIN), ("validation", 700), ("test", 700)])
    }
    train = tables["train"]
    place = train.schema.get_field_index("weekday")
    tables["train"] = train.set_column(place, "weekday", pa.array(range(ROWS_OF_TRAIN), pa.int64()))
    made = write_snapshot(home, tables)
    for name, table in tables.items():
        pq.write_table(table, Path(made.uri) / f"{name}.parquet", row_group_size=ROW_GROUP)
    splits = {
        name: split.model_copy(update={"sha256": sha256(Path(made.uri) / split.file)})
        for name, split in made.splits.items()
    }
    return made.model_copy(update={"splits": splits, "weight": "distance_miles"})


@pytest.fixture(scope="module")
def weighted(snapshot: Snapshot) -> Snapshot:
    """No weight is missing."""
    features = {name: kind for name, kind in snapshot.features.items() if name not in ("distance_miles",)}
    return snapshot.model_copy(update={"features": features, "weight": "month"})


@pytest.fixture(params=["in memory", "streamed"])
def data(request: pytest.FixtureRequest, weighted: Snapshot, monkeypatch: pytest.MonkeyPatch) -> TrainingData:
    monkeypatch.setattr(module, "WINDOW_ROWS", WINDOW)
    made = TrainingData(weighted, memory=10**12 if request.param == "in memory" else 1000)
    assert made.in_memory == (request.param == "in memory")
    return made


def batches(data: TrainingData, shuffle: int | None = None) -> Iterator[Any]:
    return data.train.tf_dataset(BATCH, shuffle=shuffle).as_numpy_iterator()


def test_all_rows_come_in_order_with_their_labels_and_weights(data: TrainingData):
    found = list(batches(data))
    assert [len(labels) for _, labels, _ in found] == [BATCH] * (ROWS_OF_TRAIN // BATCH) + [ROWS_OF_TRAIN % BATCH]
    columns, targets, weights = data.train.arrays(data.train.arrow())
    for name, values in columns.items():
        given = np.concatenate([inputs[name] for inputs, _, _ in found])
        assert given.dtype == values.dtype
        if values.dtype == object:
            assert [one.decode() for one in given] == values.tolist()
        else:
            np.testing.assert_array_equal(given, values)
    np.testing.assert_array_equal(np.concatenate([labels for _, labels, _ in found])[:, 0], targets)
    np.testing.assert_array_equal(np.concatenate([counts for _, _, counts in found]), weights)


def test_the_order_is_by_the_seed_and_another_in_every_epoch(data: TrainingData):
    def epochs(seed: int) -> list[list[int]]:
        dataset = data.train.tf_dataset(BATCH, shuffle=seed)
        assert len(dataset) == -(-ROWS_OF_TRAIN // BATCH)
        return [[int(row) for inputs, *_ in dataset.as_numpy_iterator() for row in inputs["weekday"]] for _ in "12"]

    first, second = epochs(7)
    assert first != second
    assert sorted(first) == sorted(second) == list(range(ROWS_OF_TRAIN))
    assert epochs(7) == [first, second]
    assert epochs(8)[0] != first
    groups = [{row // ROW_GROUP for row in first[begin : begin + BATCH]} for begin in range(0, len(first), BATCH)]
    assert max(map(len, groups)) > 1, "rows of several row groups in a batch"


def test_a_pass_may_begin_in_the_middle_of_any_epoch(data: TrainingData):
    def rows(batches: Any) -> list[list[int]]:
        return [inputs["weekday"].tolist() for inputs, *_ in batches.as_numpy_iterator()]

    dataset = data.train.tf_dataset(BATCH, shuffle=7)
    _, second = rows(dataset), rows(dataset)
    assert rows(data.train.tf_dataset(BATCH, shuffle=7, first_epoch=1)) == second
    for seed, whole in ((7, second), (None, rows(data.train.tf_dataset(BATCH)))):
        for skipped in (1, 30, 78, 79):
            assert rows(data.train.batches(BATCH, seed, iter([(1, skipped)]))) == whole[skipped:]


def test_a_row_stays_a_row_when_it_is_shuffled(data: TrainingData):
    labels = data.train.arrow()[data.label].to_pylist()
    for inputs, late, _ in batches(data, 7):
        assert [labels[row] for row in inputs["weekday"]] == [bool(one) for [one] in late]


def test_what_fits_is_read_once(weighted: Snapshot, monkeypatch: pytest.MonkeyPatch):
    data = TrainingData(weighted)
    dataset = data.train.tf_dataset(BATCH, shuffle=1)
    monkeypatch.setattr(pq, "read_table", None)
    monkeypatch.setattr(pq, "ParquetFile", None)
    for _ in range(3):
        assert sum(len(labels) for _, labels, _ in dataset) == ROWS_OF_TRAIN
    assert data.train.arrow() is data.train.arrow()


def test_the_forms_that_it_has(data: TrainingData, weighted: Snapshot):
    assert data.inputs == weighted.features
    assert (data.label, data.problem, data.classes, data.weight) == ("late_15", "binary", (), "month")
    assert data.train.files == [Path(weighted.uri) / "train.parquet"]
    assert (data.train.rows, data.validation.rows, data.test.rows) == (ROWS_OF_TRAIN, 700, 700)
    assert isinstance(data.test.pandas(), pd.DataFrame)
    assert data.test.pandas()["flight_id"].is_unique
    profile = data.train.profile()
    assert profile.rows == ROWS_OF_TRAIN
    assert set(weighted.features) <= set(profile.columns)


def test_columns_of_a_stream_are_of_some_rows(weighted: Snapshot, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "SAMPLE_ROWS", 900)
    columns = TrainingData(weighted, memory=1).train.columns
    assert {len(values) for values in columns.values()} <= {1000, 510 + 10}
    assert set(columns["weekday"]) <= set(range(ROWS_OF_TRAIN))


def test_how_much_memory_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    of_the_machine = available_memory()
    assert of_the_machine > 10**8
    monkeypatch.setattr(module, "_CGROUP", tmp_path)
    (tmp_path / "memory.max").write_text("3000000\n")
    (tmp_path / "memory.current").write_text("1000000\n")
    assert available_memory() == 2_000_000
    (tmp_path / "memory.max").write_text("max\n")
    assert available_memory() > 10**8


def test_a_split_without_rows_is_refused(weighted: Snapshot):
    splits = weighted.splits | {"validation": weighted.splits["validation"].model_copy(update={"rows": 0})}
    with pytest.raises(TrainingError, match="The validation split has no rows"):
        TrainingData(weighted.model_copy(update={"splits": splits}))


# --- more than one value a row ----------------------------------------------------------------------------

VECTORS = pa.table(
    {
        "embedding": pa.array([[1.0, 2.0], [3.0, 4.0], None], pa.list_(pa.float32())),
        "fixed": pa.array([[1.0, 2.0, 3.0]] * 3, pa.list_(pa.float64(), 3)),
        "words": pa.array([["a", "b"], [], None]),
        "image": pa.array([b"\x89PNG", None, b"GIF"]),
    }
)


def features(table: pa.Table) -> dict[str, str]:
    return {field.name: str(field.type) for field in table.schema}


def test_vectors_texts_and_bytes_are_arrays():
    columns = read_inputs(VECTORS, features(VECTORS))
    np.testing.assert_array_equal(columns["embedding"], [[1, 2], [3, 4], [np.nan, np.nan]])
    assert columns["fixed"].dtype == np.float32
    assert columns["fixed"].shape == (3, 3)
    assert columns["words"].tolist() == [["a", "b"], ["", ""], ["", ""]]
    assert columns["image"].tolist() == [b"\x89PNG", b"", b"GIF"]
    assert {name: (spec.dtype, spec.shape) for name, spec in specs_of(columns).items()} == {
        "embedding": ("float32", (-1, 2)),
        "fixed": ("float32", (-1, 3)),
        "words": ("string", (-1, -1)),
        "image": ("string", (-1,)),
    }
    empty = read_inputs(VECTORS.slice(0, 0), features(VECTORS))
    assert empty["fixed"].shape == (0, 3)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (
            pa.array([[1.0], [1.0, 2.0]]),
            r"vectors of feature 'x' are of several lengths(.|\n)*some have 1 numbers, others 2",
        ),
        (pa.array([[1, 2]]), r"lists that no model takes: list<(item|element): int64>"),
        (pa.array([[[1.0]]]), "lists that no model takes"),
    ],
    ids=["ragged", "whole numbers", "nested"],
)
def test_lists_that_no_model_takes(values: pa.Array, says: str):
    table = pa.table({"x": values})
    with pytest.raises(DataError, match=says):
        read_inputs(table, features(table))


def test_golden_vectors_are_nobodys():
    table = VECTORS.select(["embedding", "fixed", "words"])
    like = read_inputs(table, features(table))
    made = golden_inputs(profile_table(table, dataset="t", key="t", revision=""), like, 7)
    columns = as_columns(made, like)
    assert columns["embedding"].shape == (ROWS, 2)
    assert columns["embedding"][:4].tolist() == [[1, 0], [0, 1], [-1, 0], [0, -1]]
    assert columns["embedding"][-1].tolist() == [0, 0]
    assert {text for [text] in made["words"]} == {UNSEEN, ""}
    with pytest.raises(ConfigError, match=r"not rows of the model's inputs(.|\n)*\[rows, 2\]"):
        as_columns({**made, "embedding": [[1.0, 2.0, 3.0]] * ROWS}, like)
    bytes_too = read_inputs(VECTORS, features(VECTORS))
    with pytest.raises(ConfigError, match=r"'image': it holds bytes(.|\n)*Trainer\(golden="):
        golden_inputs(profile_table(VECTORS, dataset="t", key="t", revision=""), bytes_too, 7)


@pytest.mark.parametrize("memory", [10**12, 1], ids=["in memory", "streamed"])
def test_vectors_come_in_batches(tmp_path: Path, memory: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "WINDOW_ROWS", 1)
    rows = 10
    table = flights(rows, 1, START)
    table = table.append_column("embedding", pa.array([None if n < 3 else [float(n), n + 0.5] for n in range(rows)]))
    table = table.append_column("words", pa.array([["w"] * (n % 4) for n in range(rows)]))
    snapshot = write_snapshot(tmp_path, dict.fromkeys(("train", "validation", "test"), table))
    pq.write_table(table, Path(snapshot.uri) / "train.parquet", row_group_size=3)
    split = snapshot.splits["train"]
    digest = sha256(Path(snapshot.uri) / "train.parquet")
    splits = snapshot.splits | {"train": split.model_copy(update={"sha256": digest})}
    chosen = {"embedding": "list<element: double>", "words": "list<element: string>"}
    data = TrainingData(snapshot.model_copy(update={"features": chosen, "splits": splits}), memory=memory)
    found = list(data.train.tf_dataset(4).as_numpy_iterator())
    given = np.concatenate([inputs["embedding"] for inputs, _ in found])
    np.testing.assert_array_equal(given[:, 0], [np.nan, np.nan, np.nan, *range(3, rows)])
    texts = [[one for one in row if one] for inputs, _ in found for row in inputs["words"].tolist()]
    assert [len(row) for row in texts] == [n % 4 for n in range(rows)]
    assert pc.sum(pc.list_value_length(table["words"])).as_py() == sum(map(len, texts))
