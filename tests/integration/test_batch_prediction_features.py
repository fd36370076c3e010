"""Predictions from features of Feast, as they were known at each row's time: the same as those a model is judged by."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from airflow_mlops.engine.data.snapshots import read_split
from airflow_mlops.engine.features.governance.apply import ensure_applied
from airflow_mlops.engine.prediction.batch import Predictions, predict_partition
from airflow_mlops.engine.prediction.features import PointInTime
from airflow_mlops.engine.prediction.plan import Plan
from airflow_mlops.engine.prediction.rows import Rows, rows_of_entities, rows_of_partition
from airflow_mlops.engine.prediction.scorers import InProcess
from airflow_mlops.engine.serving.saved_model import SavedModel
from airflow_mlops.engine.training.inputs import read_inputs
from airflow_mlops.exceptions import ConfigError, DataError
from tests.rides import A_DAY, MODEL, SERVICE, Rides, key_of, midnight, rides_of
from tests.saved_models import make_saved_model

INPUTS = {
    "zone": "string",
    "km_asked": "float32",
    "hour": "int64",
    "idle_minutes": "float32",
    "zone_rides": "float32",
    "zone_late_rate": "float32",
    "last_minutes": "float32",
}
DAYS, LAST = 7, 6
DATASET = f"{MODEL}.predictions"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Rides:
    return Rides.make(tmp_path_factory.mktemp("rides"), days=DAYS)


@pytest.fixture
def world(made, tmp_path) -> Rides:
    """The rides, with a ledger and a registry of the test's own."""
    for name in ("home", "repo", "dags"):
        shutil.copytree(getattr(made, name), tmp_path / name)
    world = Rides(tmp_path)
    ensure_applied(world.location, world.ledger)
    return world


@pytest.fixture(scope="module")
def saved_model(tmp_path_factory) -> Path:
    return make_saved_model(tmp_path_factory.mktemp("models") / "3", 0.01, INPUTS)


def predict(
    world: Rides, saved_model: Path, rows: Rows, n: int = LAST, columns: Sequence[str] = (), **changes: Any
) -> Predictions:
    how = {"service": SERVICE, "entity": "ride_id", "event_time": "called_at", **changes}
    with InProcess(saved_model, model=MODEL) as model:
        features = PointInTime(
            world.location, rows, inputs=model.signature.inputs, span=(midnight(n), midnight(n + 1)),
            store=world.store, ledger=world.ledger, **how,
        )  # fmt: skip
        return predict_partition(
            Plan(rows, model, how["entity"], how["event_time"], columns, features, shard_rows=32, batch_rows=10),
            home=world.home, store=world.store, ledger=None, dataset=DATASET, key=key_of(n),
        )  # fmt: skip


def by_ride(world: Rides, n: int = LAST) -> dict[str, float]:
    table = world.store.read([world.store.get(DATASET, key_of(n))])
    return dict(zip(table["ride_id"].to_pylist(), table["probability"].to_pylist(), strict=True))


def test_a_partitions_rows_get_the_features_that_training_would_see(world, saved_model):
    """Without a label too: a ride that never ended is predicted as the others are."""
    day = 4  # whose labels have matured: the last day of a snapshot
    snapshot = world.snapshot(as_of=day + 2)
    test = read_split(snapshot, "test")
    with SavedModel(saved_model) as model:
        expected = model.run(read_inputs(test, {name: snapshot.features[name] for name in INPUTS}))["probability"]
    with rows_of_partition(world.store, "rides", key_of(day)) as rows:
        made = predict(world, saved_model, rows, day)
    found = by_ride(world, day)
    assert (made.partition.rows, made.shards, made.version) == (len(rides_of(day)), 3, "3")
    assert len(test) > A_DAY // 2
    assert [found[ride] for ride in test["ride_id"].to_pylist()] == pytest.approx(expected.tolist(), abs=1e-6)
    assert len(set(found.values())) > A_DAY // 2


def test_rows_of_ones_own_get_features_too(world, saved_model):
    with rows_of_partition(world.store, "rides", key_of(LAST)) as rows:
        predict(world, saved_model, rows)
        sealed = by_ride(world)
        own = world.home / "own.parquet"
        pq.write_table(pq.read_table(rows.files[0]).slice(3, 20), own)
    with rows_of_entities(own) as rows:
        predict(world, saved_model, rows)
    found = by_ride(world)
    assert len(found) == 20
    assert found == pytest.approx({ride: sealed[ride] for ride in found}, abs=1e-6)


def test_features_that_were_not_computed_or_are_of_other_data_are_refused(world, saved_model):
    world.seal("rides", DAYS)
    with (
        rows_of_partition(world.store, "rides", key_of(DAYS)) as rows,
        pytest.raises(DataError, match=r"rows of feature view '\w+' for 2024-03-08 were not computed"),
    ):
        predict(world, saved_model, rows, DAYS)
    world.seal("ends", LAST, rides_of(LAST)[:-9])
    with (
        rows_of_partition(world.store, "rides", key_of(LAST)) as rows,
        pytest.raises(DataError, match="computed from other data"),
    ):
        predict(world, saved_model, rows)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"service": "rides_v2"}, "rides_v2"),
        ({"entity": "ride_ib"}, r"no column 'ride_ib'\. Did you mean 'ride_id'"),
        ({"entity": "zone"}, "rows have a 'zone' that is null or not their own"),
    ],
)
def test_what_cannot_be_joined_is_said(world, saved_model, changes, says):
    with (
        rows_of_partition(world.store, "rides", key_of(LAST)) as rows,
        pytest.raises((ConfigError, DataError), match=says),
    ):
        predict(world, saved_model, rows, **changes)


def test_a_column_that_is_a_feature_too_cannot_go_along(world, saved_model, tmp_path):
    with rows_of_partition(world.store, "rides", key_of(LAST)) as rows:
        table = pq.read_table(rows.files[0])
    pq.write_table(table.append_column("hour", table["km"]), tmp_path / "own.parquet")
    with (
        rows_of_entities(tmp_path / "own.parquet") as rows,
        pytest.raises(ConfigError, match="'hour' is a column of the rows and a feature"),
    ):
        predict(world, saved_model, rows, columns=["hour"])


def test_an_input_that_is_neither_a_feature_nor_a_column_is_named(world, tmp_path):
    model = make_saved_model(tmp_path / "1", 0.01, {**INPUTS, "zone_late_rat": "float32"})
    with (
        rows_of_partition(world.store, "rides", key_of(LAST)) as rows,
        pytest.raises(ConfigError, match=r"no column 'zone_late_rat'\. Did you mean 'zone_late_rate'"),
    ):
        predict(world, model, rows)
