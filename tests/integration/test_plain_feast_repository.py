"""A Feast repository that knows nothing of this package: its own files, tags and stores; single operators on it."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowFailException

from airflow_mlops.engine.data.snapshots import load_snapshot, read_split
from airflow_mlops.engine.features.governance.plan import plan
from airflow_mlops.engine.features.online.reader import OnlineReader
from airflow_mlops.engine.features.project.location import Location
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.exceptions import ConfigError
from airflow_mlops.operators.feast import (
    FeastApplyOperator,
    FeastCheckParityOperator,
    FeastGetTrainingDataOperator,
    FeastMaterializeOperator,
)
from airflow_mlops.sensors.feast import FeastFeatureFreshnessSensor
from tests.asof_fixtures import OURS

SETTINGS = """
project: plain
provider: local
registry: data/registry.db
online_store:
  type: sqlite
  path: data/online.db
entity_key_serialization_version: 3
"""
DEFINITIONS = """
from datetime import timedelta

import pandas as pd
from feast import Entity, FeatureService, FeatureView, Field, FileSource, RequestSource
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64, Int64

driver = Entity(name="driver", join_keys=["driver_id"])
stats = FeatureView(
    name="driver_stats", entities=[driver], ttl=timedelta(days=1),
    schema=[Field(name="conv_rate", dtype=Float64), Field(name="trips", dtype=Int64)],
    source=FileSource(name="stats", path="data/stats.parquet", timestamp_field="event_timestamp"),
    tags={"team": "drivers", "status": "prod", "valid_from": "forever"},
)
asked = RequestSource(name="asked", schema=[Field(name="bonus", dtype=Float64)])


@on_demand_feature_view(sources=[stats, asked], schema=[Field(name="conv_and_bonus", dtype=Float64)])
def with_bonus(inputs: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({"conv_and_bonus": inputs["conv_rate"] + inputs["bonus"]})


drivers = FeatureService(name="drivers", features=[stats, with_bonus])
unused = FeatureService(name="unused", features=[stats[["trips"]]])
"""
TODAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
DAYS = 20


@pytest.fixture
def repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The repository, and the connections that lead to it."""
    repo, home = tmp_path / "repo", tmp_path / "home"
    (repo / "data").mkdir(parents=True)
    home.mkdir()
    (repo / "feature_store.yaml").write_text(SETTINGS)
    (repo / "definitions.py").write_text(DEFINITIONS)
    rng = random.Random(1)
    rows = [
        {"driver_id": driver, "event_timestamp": TODAY - timedelta(days=day, hours=-12), "conv_rate": rng.random(),
         "trips": rng.randrange(40)}
        for day in range(1, DAYS) for driver in range(10) if (day + driver) % 7
    ]  # fmt: skip
    stamp = pa.timestamp("us", "UTC")
    schema = pa.schema(
        {"driver_id": pa.int64(), "event_timestamp": stamp, "conv_rate": pa.float64(), "trips": pa.int64()}
    )
    pq.write_table(pa.Table.from_pylist(rows, schema), repo / "data" / "stats.parquet")
    monkeypatch.setenv("AIRFLOW__MLOPS__HOME", str(home))
    monkeypatch.setenv("AIRFLOW_CONN_FEAST_DEFAULT", json.dumps({"conn_type": "feast", "host": str(repo)}))
    ledger = {"conn_type": "mlops_ledger", "host": f"sqlite:///{home}/ledger.db"}
    monkeypatch.setenv("AIRFLOW_CONN_MLOPS_LEDGER_DEFAULT", json.dumps(ledger))
    return repo


def orders(folder: Path) -> Path:
    """Rows of one's own: who drove when, with what bonus, and whether it went well; of some nobody knows."""
    rng = random.Random(2)
    rows = [
        {"order": f"o{n}", "at": TODAY - timedelta(minutes=40 * n), "driver_id": rng.randrange(12),
         "bonus": rng.random(), "well": None if n % 30 == 7 else rng.random() < 0.5}
        for n in range(600)
    ]  # fmt: skip
    file = folder / "orders.parquet"
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file


class TaskInstance:
    """As much of a running task as the operators look at."""

    def xcom_push(self, key: str, value: object) -> None:
        """Take the link that the task pushes."""


def execute(cls: type, **arguments):
    with DAG("by_hand", schedule=None):
        operator = cls(task_id="t", **arguments)
    result = operator.execute({"ti": TaskInstance()})
    assert json.loads(json.dumps(result)) == result, "an XCom is JSON"
    return result


def training_data(entities: str | Path, **changes):
    arguments = {
        "model": "good_rides", "entity": "order", "event_time": "at", "service": "drivers", "label_column": "well",
        "validation": "3d", "test": "3d", "keys": ["driver_id"], "entities": str(entities),
    }  # fmt: skip
    return execute(FeastGetTrainingDataOperator, **{**arguments, **changes})


def test_single_operators_take_it_as_it_is(repo, tmp_path):
    planned = execute(FeastApplyOperator, plan_only=True)
    assert (planned["planned_only"], planned["services"]) == (True, ["drivers", "unused"])
    applied = execute(FeastApplyOperator)
    assert applied["effects"] == {"additive": 5}
    yesterday = str((TODAY - timedelta(days=1)).date())
    done = execute(FeastMaterializeOperator, service="drivers", key=yesterday)
    assert done["views"]["driver_stats"]["watermark"] == TODAY.isoformat()
    with DAG("waiting", schedule=None):
        fresh = FeastFeatureFreshnessSensor(
            task_id="fresh", service="drivers", max_age="26h", key=yesterday, deferrable=False
        )
    assert fresh.poke({"ti": TaskInstance()})
    asked = tmp_path / "asked.parquet"
    pq.write_table(pa.table({"driver_id": [*range(12)], "bonus": [0.5] * 12}), asked)
    same = execute(FeastCheckParityOperator, service="drivers", entities=str(asked))
    assert (same["status"], same["rows"], same["features"], same["unlike"]) == ("PASS", 12, 3, {})


def test_a_training_set_of_rows_of_ones_own(repo, tmp_path, caplog):
    execute(FeastApplyOperator)
    file = orders(tmp_path)
    made = training_data(file)
    assert "whether their labels were known by then is not checked" in caplog.text
    assert (sum(made["rows"].values()), made["unlabelled_rows"]) == (580, 20)
    snapshot = load_snapshot(tmp_path / "home", made["id"])
    assert snapshot.features == {
        "driver_id": "int64", "conv_rate": "double", "trips": "int64", "conv_and_bonus": "double"
    }  # fmt: skip
    test = read_split(snapshot, "test")
    sums = {row["order"]: row["conv_and_bonus"] for row in test.to_pylist() if row["conv_rate"] is not None}
    bonus = {row["order"]: row["bonus"] for row in pq.read_table(file).to_pylist()}
    rates = {row["order"]: row["conv_rate"] for row in test.to_pylist()}
    assert sums and all(total == pytest.approx(rates[order] + bonus[order]) for order, total in sums.items())
    assert any(rate is None for rate in rates.values()), "a driver of whom nothing is known is no less a row"

    by_query = training_data(f"SELECT * FROM '{file}'")
    assert by_query["id"] == made["id"], "the rows count, not where they came from"
    by_entity = training_data(file, split="entity", split_column="driver_id")
    assert by_entity["id"] != made["id"]
    tips = f"SELECT *, CASE WHEN driver_id > 3 THEN (hash(\"order\") % 100)::DOUBLE END AS tip FROM '{file}'"
    with_tips = load_snapshot(tmp_path / "home", training_data(tips, heads={"tip": ""})["id"])
    assert (with_tips.features, with_tips.heads["tip"].problem) == (snapshot.features, "regression")
    assert with_tips.splits["test"].rows == snapshot.splits["test"].rows > with_tips.splits["test"].heads["tip"].rows


@pytest.mark.parametrize("knowledge_time", [True, False])
def test_values_that_were_created_later_count_where_the_store_says_so(repo, tmp_path, knowledge_time):
    store = f"offline_store:\n  type: {OURS}\n  knowledge_time: {str(knowledge_time).lower()}\n"
    (repo / "feature_store.yaml").write_text(SETTINGS + store)
    file = repo / "data" / "stats.parquet"
    stats = pq.read_table(file)
    created = pa.array([TODAY] * stats.num_rows, pa.timestamp("us", "UTC"))
    pq.write_table(stats.append_column("created", created), file)
    definitions = repo / "definitions.py"
    text = definitions.read_text()
    stamped = text.replace('_field="event_timestamp"', '_field="event_timestamp", created_timestamp_column="created"')
    assert stamped != text
    definitions.write_text(stamped)
    execute(FeastApplyOperator)
    if knowledge_time:
        with pytest.raises(AirflowFailException, match=r"no value at all(.|\n)*knowledge_time: false"):
            training_data(orders(tmp_path))
    else:
        assert sum(training_data(orders(tmp_path))["rows"].values()) == 580


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"event_time": "when"}, "no column 'when'"),
        ({"label_column": "wel"}, r"no column 'wel'\. Did you mean 'well'"),
        ({"label_column": "bonus", "problem": "binary"}, "type double, and not true or false"),
        ({"heads": {"wel": ""}}, r"no column 'wel'\. Did you mean 'well'"),
        ({"heads": {"bonus": ""}}, "The head 'bonus' is something that the model is told, or asked with"),
        ({"entity": "driver_id"}, "null or not their own"),
        ({"service": "driver"}, r"no feature service 'driver'\. Did you mean 'drivers'"),
        ({"entities": "SELECT * FRM x"}, "The query of the entities failed"),
        ({"entities": ""}, "source_dataset is empty"),
    ],
)
def test_what_cannot_be_is_said(repo, tmp_path, change, words):
    execute(FeastApplyOperator)
    with pytest.raises(AirflowFailException, match=words):
        training_data(**{"entities": orders(tmp_path), **change})


def test_times_without_a_zone_are_not_guessed(repo, tmp_path):
    execute(FeastApplyOperator)
    rows = pq.read_table(orders(tmp_path))
    naive = rows.set_column(1, "at", rows["at"].cast(pa.timestamp("us")))
    pq.write_table(naive, tmp_path / "naive.parquet")
    with pytest.raises(AirflowFailException, match="'at' of the entities is timestamp"):
        training_data(tmp_path / "naive.parquet")


def test_a_join_key_of_unknown_type_is_named_where_there_are_no_rows_yet(repo):
    (repo / "data" / "stats.parquet").unlink()
    with pytest.raises(AirflowFailException, match="The type of join key 'driver_id' is not known") as refused:
        execute(FeastApplyOperator)
    assert 'join_keys=["driver_id"], value_type=ValueType.STRING)' in str(refused.value)


# --- rules --------------------------------------------------------------------------------------------------


def planned(repo: Path) -> list[str]:
    home = repo.parent / "home"
    return plan(Location(repo, home), Ledger(f"sqlite:///{home}/ledger.db")).lines()


def test_what_it_lacks_is_a_warning(repo):
    said = "\n".join(planned(repo))
    assert "warning: feature view 'driver_stats': status='prod' cannot be read." in said
    assert "warning: feature service 'drivers': It has no owner." in said
    assert "error" not in said


def test_rules_of_the_repository_refuse_or_say_nothing(repo):
    file = repo / "definitions.py"
    rules = "from airflow_mlops import FeatureRules\nRULES = FeatureRules(owner='block', tags='off')\n"
    file.write_text(DEFINITIONS + rules)
    said = "\n".join(planned(repo))
    assert "status" not in said
    assert "error: feature service 'drivers': It has no owner." in said
    with pytest.raises(AirflowFailException, match="break 4 rules; nothing was applied"):
        execute(FeastApplyOperator)
    file.write_text(DEFINITIONS + rules + "MORE = FeatureRules()\n")
    with pytest.raises(ConfigError, match="sets its rules more than once"):
        planned(repo)


def test_a_tag_that_cannot_be_read_counts_as_not_there(repo, tmp_path):
    execute(FeastApplyOperator)
    assert OnlineReader(Location(repo, tmp_path / "home"), "drivers").keys == {"driver_id": "int64"}
    assert training_data(orders(tmp_path))["rows"]["train"] > 0, "status='prod' and valid_from='forever' refuse nothing"
    (repo / "definitions.py").write_text(
        DEFINITIONS.replace('"prod"', '"blocked"') + "drivers.tags = {'status': 'blocked'}\n"
        "unused.tags = {'status': 'blocked'}\n"
    )
    execute(FeastApplyOperator)
    with pytest.raises(AirflowFailException, match="It is blocked"):
        training_data(orders(tmp_path))
