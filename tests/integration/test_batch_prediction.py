"""Predictions of many rows: by the model in this process and through a real model server, killed, resumed, refused."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import great_expectations.expectations as gxe
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_mlops.engine.data.partitions import PartitionStore
from airflow_mlops.engine.data.validation import Suite
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.engine.prediction.batch import PREDICTION, Predictions, predict_partition
from airflow_mlops.engine.prediction.plan import Plan
from airflow_mlops.engine.prediction.rows import rows_of_entities, rows_of_partition
from airflow_mlops.engine.prediction.scorers import InProcess, Scorer, ThroughServer
from airflow_mlops.engine.serving.client import ServingClient
from airflow_mlops.engine.serving.config import ModelConfig, ServerConfig
from airflow_mlops.engine.serving.saved_model import SavedModel
from airflow_mlops.engine.training.inputs import read_inputs
from airflow_mlops.exceptions import ConfigError, DataError, MlopsError, TransientError
from tests.integration.test_s3_partitions import client, connection, endpoint, keys  # noqa: F401  fixtures
from tests.integration.test_shared_files import here, s3, there  # noqa: F401  fixtures
from tests.model_server import FLAGS, ModelServer, config_text, model_text
from tests.saved_models import INPUTS, make_saved_model

KEY, DATASET = "2024-03-01", "m.predictions"
BEGIN = datetime(2024, 3, 1, tzinfo=UTC)
TIME = pa.timestamp("us", "UTC")


def trips(rows: int = 1000, **changes: Any) -> pa.Table:
    """Return trips of a day; some have no distance."""
    columns = {
        "trip": [f"t{i}" for i in range(rows)],
        "at": pa.array([BEGIN + timedelta(seconds=i) for i in range(rows)], TIME),
        "distance": pa.array([None if i % 50 == 0 else i / 100 for i in range(rows)], pa.float64()),
        "hour": pa.array([i % 24 for i in range(rows)], pa.int64()),
        "carrier": pa.array(["AA", "DL", None, "United"] * (rows // 4), pa.string()),
        "city": ["B"] * rows,
    }
    given = {**columns, **changes}
    return pa.table({name: column for name, column in given.items() if column is not None})


@dataclass
class Place:
    """A home with sealed trips."""

    home: Path

    @property
    def store(self) -> PartitionStore:
        return PartitionStore.under(self.home, self.ledger)

    @property
    def ledger(self) -> Ledger:
        return Ledger(f"sqlite:///{self.home}/ledger.db")

    def land(self, table: pa.Table, **how: Any) -> Path:
        folder = self.home / "lake" / "trips"
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, folder / "a.parquet", **{"row_group_size": 150, **how})
        return folder

    def seal(self, table: pa.Table) -> None:
        folder = self.land(table)
        self.store.seal(
            "trips", KEY, folder, event_time="at", batch_hash=None, suite_hash=None, may_be_empty=True
        )  # fmt: skip

    def predict(self, scorer: Scorer, suite: Suite | None = None, **plan: Any) -> Predictions:
        """Predict the sealed trips."""
        how = {"entity": "trip", "event_time": "at", "batch_rows": 64, "shard_rows": 200, **plan}
        with rows_of_partition(self.store, "trips", KEY) as rows:
            return predict_partition(
                Plan(rows, scorer, **how), home=self.home, store=self.store, ledger=self.ledger, dataset=DATASET,
                key=KEY, suite=suite,
            )  # fmt: skip

    def predictions(self) -> pa.Table:
        return self.store.read([self.store.get(DATASET, KEY)])


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[int, Path]:
    base = tmp_path_factory.mktemp("models") / "m"
    return {number: make_saved_model(base / str(number), 0.03 * number, answers="many") for number in (1, 2)}


@pytest.fixture(scope="module")
def server(models) -> Iterator[ModelServer]:
    config = models[1].parent.parent / "models.config"
    config.write_text(config_text(model_text("m", models[1].parent, [1, 2], stable=1)))
    with ModelServer(f"--model_config_file={config}", *FLAGS) as server:
        server.wait_until_open()
        server.wait_for_states("m", {1: "AVAILABLE", 2: "AVAILABLE"})
        yield server


@pytest.fixture
def place(home) -> Place:
    return Place(home)


@pytest.fixture
def model(models) -> Iterator[InProcess]:
    with InProcess(models[1], model="m") as model:
        yield model


class Wrapped:
    """A scorer to which something happens before one of its batches."""

    def __init__(self, scorer: Scorer, at: int, happens: Any) -> None:
        self._scorer, self._at, self._happens = scorer, at, happens
        self._count = itertools.count(1)
        self.model, self.version, self.identity = scorer.model, scorer.version, scorer.identity
        self.signature, self.in_flight = scorer.signature, scorer.in_flight

    def predict(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        if next(self._count) == self._at:
            self._happens()
        return self._scorer.predict(inputs)


# --- the same numbers, and where they are from ------------------------------------------------------------


def test_predictions_are_the_models_and_can_be_traced(place, model, models):
    table = trips()
    place.seal(table)
    made = place.predict(model, columns=["city"])
    found = place.predictions()
    with SavedModel(models[1]) as by_hand:
        expected = by_hand.run(read_inputs(table, INPUTS))
    assert found.schema == pa.schema(
        [("trip", pa.string()), ("at", TIME), ("city", pa.string()), ("class", pa.string()),
         ("probabilities", pa.list_(pa.float32())), ("probability", pa.float32()), ("raw", pa.float32()),
         ("model", pa.string()), ("version", pa.string()), ("predicted_at", TIME)]
    )  # fmt: skip
    assert found["trip"].equals(table["trip"])
    # To the last bit they depend on how many rows are asked for at once.
    assert found["probability"].to_numpy() == pytest.approx(expected["probability"][:, 0], abs=1e-6)
    assert np.array(found["probabilities"].to_pylist()) == pytest.approx(expected["probabilities"], abs=1e-6)
    assert found["class"].to_pylist() == [value.decode() for value in expected["class"]]
    assert set(found["class"].to_pylist()) == {"späť", "pünktlich"}
    assert set(found["model"].to_pylist()) == {"m"}
    assert set(found["version"].to_pylist()) == {"1"}
    assert (made.version, made.shards, made.taken_up, made.nan) == ("1", 5, 0, {"raw": 20})
    [fact] = place.ledger.facts(PREDICTION, DATASET, key=KEY)
    source = place.store.get("trips", KEY)
    assert fact.payload["rows_of"] == {"dataset": "trips", "key": KEY, "revision": source.revision}
    assert fact.payload["revision"] == made.partition.revision
    assert not list((place.home / "predictions").glob("*/*/*")), "what is sealed is kept twice"


def test_the_same_rows_by_the_same_version_are_predicted_once(place, model, models):
    place.seal(trips())
    first = place.predict(model)

    def never() -> None:
        pytest.fail("predicted again")

    assert place.predict(Wrapped(model, 1, never)).partition == first.partition
    with InProcess(models[2], model="m") as other:
        second = place.predict(other)
    assert second.version == "2"
    assert second.partition.revision != first.partition.revision
    assert set(place.predictions()["version"].to_pylist()) == {"2"}
    [late] = place.ledger.facts("late_arrival", DATASET)
    assert late.payload["old"] == first.partition.revision, "what was trained on the first is not marked"


def test_through_a_server_they_are_the_same(place, model, server):
    place.seal(trips())
    place.predict(model)
    in_process = place.predictions()
    through = place.predict(ThroughServer(server.client, model="m", label="stable"))
    served = place.predictions()
    assert through.version == "1"
    for name in ("trip", "probability", "probabilities", "class"):
        assert served[name].equals(in_process[name]), name


def test_a_promotion_in_the_middle_mixes_no_versions(place, server, models):
    place.seal(trips())

    def promote(number: int) -> None:
        config = ServerConfig((ModelConfig("m", str(models[1].parent), (1, 2), {"stable": number}),))
        server.client.reload(config, timeout=20)

    scorer = ThroughServer(server.client, model="m", label="stable")
    try:
        made = place.predict(Wrapped(scorer, 5, lambda: promote(2)))
        assert ThroughServer(server.client, model="m", label="stable").version == "2"
    finally:
        promote(1)
    found = place.predictions()
    with SavedModel(models[1]) as first:
        expected = first.run(read_inputs(trips(), INPUTS))["probability"][:, 0]
    assert (made.version, set(found["version"].to_pylist())) == ("1", {"1"})
    assert found["probability"].to_numpy() == pytest.approx(expected, abs=1e-6)


# --- killed, and taken up ---------------------------------------------------------------------------------

KILLED = """
import sys, time
from pathlib import Path
from airflow_mlops.engine.prediction.scorers import InProcess
from tests.integration.test_batch_prediction import Place, Wrapped
place, model = Place(Path(sys.argv[1])), InProcess(Path(sys.argv[2]), model="m")
place.predict(Wrapped(model, 9, lambda: (print("there", flush=True), time.sleep(600))))
"""


def test_killed_in_the_middle_the_retry_takes_up_what_was_finished(place, model, models):
    place.seal(trips())
    command = [sys.executable, "-c", textwrap.dedent(KILLED), str(place.home), str(models[1])]
    child = subprocess.Popen(
        command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )
    assert child.stdout.readline() == b"there\n"
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert place.store.current(DATASET, KEY) is None, "half a partition can be seen"
    with InProcess(models[2], model="m") as other:
        assert place.predict(other).taken_up == 0, "shards of another version were taken up"
    asked: list[int] = []
    made = place.predict(Counted(model, asked))
    assert (made.shards, made.taken_up, made.partition.rows) == (5, 2, 1000)
    assert sum(asked) == 600
    found = place.predictions()
    with SavedModel(models[1]) as by_hand:
        expected = by_hand.run(read_inputs(trips(), INPUTS))["probability"][:, 0]
    assert found["trip"].equals(trips()["trip"])
    assert found["probability"].to_numpy() == pytest.approx(expected, abs=1e-6)
    assert made.nan == {"raw": 20}, "what was NaN before the kill is not counted"


class Counted(Wrapped):
    """A scorer that notes how many rows it was asked for."""

    def __init__(self, scorer: Scorer, asked: list[int]) -> None:
        super().__init__(scorer, 0, None)
        self._asked = asked

    def predict(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        self._asked.append(len(inputs["hour"]))
        return super().predict(inputs)


def test_a_server_that_goes_down_is_worth_a_retry_and_nothing_is_lost(place, models):
    place.seal(trips())
    config = place.home / "models.config"
    config.write_text(config_text(model_text("m", models[1].parent, [1])))
    with ModelServer(f"--model_config_file={config}", *FLAGS) as server:
        server.wait_until_open()
        server.wait_for_states("m", {1: "AVAILABLE"})
        with ServingClient("127.0.0.1", server.port, timeout=5) as client:
            scorer = ThroughServer(client, model="m", version=1, in_flight=2, waits=[0.01, 0.01])
            with pytest.raises(TransientError, match="does not answer"):
                place.predict(Wrapped(scorer, 9, server.process.kill))
            with pytest.raises(TransientError, match="does not answer"):
                ThroughServer(client, model="m", version=1)
    again = ModelServer(f"--model_config_file={config}", *FLAGS)
    with again:
        again.wait_until_open()
        again.wait_for_states("m", {1: "AVAILABLE"})
        made = place.predict(ThroughServer(again.client, model="m", version=1))
    assert (made.shards, made.taken_up, made.partition.rows) == (5, 2, 1000)


def test_another_worker_takes_up_what_is_in_the_bucket(here, there, model, tmp_path, client):  # noqa: F811
    landed = Place(tmp_path / "source").land(trips())

    def predict(scorer: Scorer, home: Path) -> Predictions:
        with rows_of_entities(landed) as rows:
            plan = Plan(rows, scorer, "trip", "at", batch_rows=64, shard_rows=200)
            return predict_partition(
                plan, home=home, store=PartitionStore.under(home), ledger=None, dataset=DATASET, key=KEY
            )

    def die() -> None:
        raise TransientError("The worker is gone.")

    with here as home, pytest.raises(TransientError, match="gone"):
        predict(Wrapped(model, 9, die), home)
    with there as home:
        made = predict(model, home)
        assert (made.taken_up, made.shards, made.partition.rows) == (2, 5, 1000)
        store = PartitionStore.under(home)
        found = store.read([made.partition])
        with rows_of_partition(store, DATASET, KEY) as sealed:
            assert sealed.count == 1000
        folder = store.folder(DATASET, KEY) / made.partition.revision
        for entities in (folder, folder / "part-0000[1-2]*.parquet"):
            with rows_of_entities(entities) as rows:
                assert rows.count == (1000 if entities is folder else 400)
    assert found["trip"].equals(trips()["trip"])
    assert str(made.partition.uri).startswith("s3://")
    assert not [key for key in keys(client, "mlops") if "/predictions/" in key]


class Busy(ServingClient):
    """A client whose server is too busy for some calls."""

    refused = 0

    def predict(self, *args: Any, **kwargs: Any) -> dict[str, np.ndarray]:
        self.refused += 1
        if self.refused in {2, 3}:
            raise TransientError("The model server could not take the request now.")
        return super().predict(*args, **kwargs)


def test_a_batch_that_the_server_could_not_take_is_sent_again(place, server):
    place.seal(trips())
    with Busy("127.0.0.1", server.port, timeout=20) as busy:
        made = place.predict(ThroughServer(busy, model="m", version=2, in_flight=1, waits=[0, 0]), batch_rows=200)
        assert busy.refused == 5 + 2
    assert (made.version, made.partition.rows) == ("2", 1000)


# --- other rows -------------------------------------------------------------------------------------------


def own(place: Place, scorer: Scorer, entities: Path | str, **plan: Any) -> pa.Table:
    with rows_of_entities(entities) as rows:
        predict_partition(
            Plan(rows, scorer, "trip", **plan), home=place.home, store=place.store, ledger=place.ledger,
            dataset=DATASET, key=KEY,
        )  # fmt: skip
    return place.predictions()


def test_rows_of_files_and_of_a_query(place, model):
    folder = place.land(trips().drop_columns("at"))
    pq.write_table(trips(100, trip=[f"u{i}" for i in range(100)]).drop_columns("at"), folder / "b.parquet")
    whole = own(place, model, folder)
    assert whole.num_rows == 1100
    assert set(whole["event_time"].to_pylist()) == {BEGIN}
    assert own(place, model, folder / "b*.parquet")["trip"].to_pylist()[0] == "u0"
    query = (
        f"SELECT * REPLACE (hour::INTEGER AS hour), '{BEGIN.isoformat()}'::TIMESTAMPTZ AS at FROM '{folder}/b.parquet'"
    )
    asked = own(place, model, query, event_time="at")
    assert asked["probability"].equals(whole["probability"][1000:])
    with pytest.raises(DataError, match=r"query of the entities failed(.|\n)*nowhere"):
        own(place, model, "SELECT * FROM nowhere")
    with pytest.raises(DataError, match="no Parquet files"):
        own(place, model, folder / "*.csv")
    with pytest.raises(DataError, match="gives no table"):
        own(place, model, "-- SELECT")
    with pytest.raises(DataError, match="query of the entities failed") as refused:
        own(place, model, f"SELECT carrier::INTEGER AS hour FROM '{folder}/b.parquet'")
    assert "DL" not in str(refused.value), "a value of a row is in an error"


def test_memory_does_not_grow_with_the_rows(tmp_path):
    columns = {name: np.random.default_rng(1).normal(size=100_000) for name in "abcd"}
    most = []
    for groups in (2, 12):
        file = tmp_path / f"{groups}.parquet"
        with pq.ParquetWriter(file, pa.table(columns).schema) as writer:
            for _ in range(groups):
                writer.write_table(pa.table(columns))
        before, pool = pa.default_memory_pool(), pa.proxy_memory_pool(pa.default_memory_pool())
        pa.set_memory_pool(pool)
        try:
            with rows_of_entities(file) as rows:
                read = sum(table.num_rows for _, table in rows.batches("abcd", 8192, lambda *_: False))
        finally:
            pa.set_memory_pool(before)
        assert read == rows.count == groups * 100_000
        most.append(pool.max_memory())
    assert most[1] < 1.5 * most[0] < file.stat().st_size


def test_no_rows_are_an_empty_partition(place, model, caplog):
    place.seal(trips(0))
    made = place.predict(model, suite=suite(gxe.ExpectColumnToExist(column="probability")))
    assert (made.partition.rows, made.shards) == (0, 1)
    assert "There are no rows" in caplog.text
    assert place.predictions().schema.field("probabilities").type == pa.list_(pa.float32())


# --- what is refused --------------------------------------------------------------------------------------


def suite(*expectations: Any) -> Suite:
    return Suite("predictions", "1", expectations)


def test_what_the_suite_blocks_is_not_sealed(place, model):
    place.seal(trips())
    told: list[Any] = []
    bounds = {"column": "probability", "min_value": 0, "max_value": 0.1}
    with pytest.raises(DataError, match="probability"):
        place.predict(model, suite(gxe.ExpectColumnValuesToBeBetween(**bounds, severity="critical")))
    assert place.store.current(DATASET, KEY) is None
    [fact] = place.ledger.facts("validation", DATASET, key=KEY)
    assert fact.payload["outcomes"]
    passing = suite(gxe.ExpectColumnValuesToBeBetween(**{**bounds, "max_value": 1}, severity="critical"))
    made = place.predict(Wrapped(model, 1, lambda: told.append("predicted")), passing)
    assert (made.taken_up, told) == (5, []), "what only the suite refused was predicted again"
    assert made.partition.suite_hash == passing.hash


@pytest.mark.parametrize(
    ("changes", "plan", "says"),
    [
        ({"distance": None}, {}, r"lacks 1 of the model's inputs(.|\n)*missing: distance(.|\n)*service="),
        ({"distance": None, "distanze": [1.0] * 8}, {}, "Did you mean 'distanze'"),
        ({"distance": pa.array([[1.0]] * 8)}, {}, "distance"),
        ({"hour": ["one"] * 8}, {}, "'hour' has type object, and the model takes int64"),
        ({"hour": [1.5] * 8}, {}, "'hour' has type float32, and the model takes int64"),
        ({"hour": pa.array([1, None] * 4, pa.int64())}, {}, "'hour' holds whole numbers, and 4 are missing"),
        ({"hour": pa.array([1, None] * 4, pa.float64())}, {}, "'hour' has type float32"),
        ({"carrier": [1.0] * 8}, {}, "'carrier' has type float32, and the model takes string"),
        ({"trip": pa.array(["a", None] * 4)}, {}, "4 of 8 rows .* have no 'trip'"),
        ({}, {"entity": "tripp"}, "no column 'tripp'. Did you mean 'trip'"),
        ({}, {"columns": ["town"]}, "no column 'town'"),
        ({}, {"event_time": "city"}, "no moment"),
        ({"class": ["x"] * 8}, {"columns": ["class"]}, "Two columns of the predictions would be called 'class'"),
        ({"Version": ["x"] * 8}, {"columns": ["Version"]}, "Two columns of the predictions would be called 'Version'"),
        ({}, {"shard_rows": 0}, "a positive number at a time"),
    ],
)
def test_bad_rows_are_said_in_words(place, model, changes, plan, says):
    place.seal(trips(8, **changes))
    with pytest.raises(MlopsError, match=says) as refused:
        place.predict(model, **plan)
    assert isinstance(refused.value, ConfigError | DataError)
    assert "t1" not in str(refused.value)
    assert place.store.current(DATASET, KEY) is None


def test_a_partition_that_changed_or_never_was_is_refused(place, model):
    with pytest.raises(DataError, match="There is no partition"):
        place.predict(model)
    place.seal(trips(8))
    partition = place.store.get("trips", KEY)
    file = place.home / "partitions" / "trips" / KEY / partition.revision / "a.parquet"
    file.write_bytes(file.read_bytes()[:-9] + b"x" * 9)
    with pytest.raises(DataError, match="changed after it was sealed"):
        place.predict(model)


def test_an_entity_of_a_partition_twice_at_one_time_is_refused_and_of_ones_own_rows_kept(place, model):
    names = ["t0", "t0", "t1", "t1", *(f"t{i}" for i in range(4, 1000))]
    at = [BEGIN + timedelta(seconds=i // 2 if i in {2, 3} else i) for i in range(1000)]
    table = trips(trip=names, at=pa.array(at, TIME))
    place.seal(table)
    with pytest.raises(
        DataError, match=r"^1 entities are in partition 2024-03-01 of 'trips' more than once"
    ) as refused:
        place.predict(model)
    assert "t1" not in str(refused.value), "a row's value"
    assert place.store.current(DATASET, KEY) is None
    assert own(place, model, place.land(table), event_time="at").num_rows == 1000


def test_files_that_change_while_they_are_read_are_refused(place, model):
    folder = place.land(trips())
    another = Wrapped(model, 3, lambda: place.land(trips(city=["C"] * 1000)))
    with pytest.raises(TransientError, match="changed while they were read"):
        own(place, another, folder, event_time="at", batch_rows=64)
    assert place.store.current(DATASET, KEY) is None


def test_rows_of_another_day_are_refused(place, model):
    folder = place.land(trips(8, at=pa.array([BEGIN + timedelta(days=2)] * 8, TIME)))
    with pytest.raises(DataError, match="do not belong to the partition"):
        own(place, model, folder, event_time="at")


@pytest.mark.parametrize("asked", [{"label": "nowhere"}, {"version": 9}, {"model": "other"}])
def test_what_a_server_does_not_have_is_refused_at_once(server, asked):
    with pytest.raises(DataError, match=r"(.|\n)*(nowhere|9|other)"):
        ThroughServer(server.client, **{"model": "m", **asked})


def test_no_model_is_said(tmp_path):
    with pytest.raises(DataError, match="no SavedModel"):
        InProcess(tmp_path / "none", model="m")
    with pytest.raises(DataError, match=r"no saved_model\.pb"):
        InProcess(tmp_path, model="m")
