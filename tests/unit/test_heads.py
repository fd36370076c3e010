"""Further labels beside the label: what may be one, how it is frozen and learned, and which gates it meets."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_mlops import Checks, FeatureService, Gate, Label, ModelPipeline, Partitions, Slice, Trainer
from airflow_mlops.contracts import EvaluatedHead, Evaluation, Snapshot
from airflow_mlops.engine.data.checks import check_partition
from airflow_mlops.engine.data.labels import latest_labels
from airflow_mlops.engine.data.partitions import PartitionStore, batch_hash
from airflow_mlops.engine.data.snapshot_writer import Columns, SnapshotWriter
from airflow_mlops.engine.data.snapshots import load_snapshot
from airflow_mlops.engine.data.splits import SplitRows
from airflow_mlops.engine.evaluation.gates import gates_of, judge
from airflow_mlops.engine.evaluation.rejudge import _labels
from airflow_mlops.engine.features.computing.compute import _as_known
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.engine.registry.comparing import _of_problem_types
from airflow_mlops.engine.training import data as data_module
from airflow_mlops.engine.training.data import TrainingData
from airflow_mlops.engine.training.own_data import OwnColumns, snapshot_of_files
from airflow_mlops.exceptions import ConfigError, DataError, MlopsError
from airflow_mlops.problems import less_is_better

START = datetime(2024, 1, 1, tzinfo=UTC)
HEADS = {"refund": "", "kind": ""}


# --- what a user writes -----------------------------------------------------------------------------------


def pipeline(label: Label, **changes: Any) -> ModelPipeline:
    source = Partitions("lake/orders", event_time="at", suite="suites:all", start=date(2024, 1, 1))
    features = {"transform": "code:compute", "suite": "suites:snapshot", **changes.pop("features", {})}
    settings = {"train": Trainer("code:build", window="60d"), **changes}
    return ModelPipeline(
        "m", source=source, entity="id", label=label, features=FeatureService("s", **features), **settings
    )


def returned(**more: Any) -> Label:
    return Label("returned", **{"known_at": "decided", "heads": {"refund": "regression", "kind": ""}, **more})


def test_a_head_is_needed_of_the_feed_and_known_with_the_label():
    made = pipeline(returned())
    assert made.needs(made.source) == ["id", "returned", "refund", "kind", "decided"]
    assert made.late == {"orders": ["returned", "decided", "refund", "kind"]}
    assert pipeline(Label("returned", known_at="decided")).late == {"orders": ["returned", "decided"]}


def test_a_transform_sees_no_head_before_it_is_known():
    at = pa.array([START, START + timedelta(days=2), None], pa.timestamp("us", "UTC"))
    rows = pa.table({"returned": [True] * 3, "decided": at, "refund": [1.0, 2.0, 3.0], "price": [1, 2, 3]})
    found = _as_known(rows, "returned", "decided", "refund", end=START + timedelta(days=1), timezone="UTC")
    assert found["refund"].to_pylist() == [1.0, None, None]
    assert found["price"].to_pylist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: returned(heads={"refund": "regresion"}), "no problem type 'regresion'. Did you mean 'regression'?"),
        (lambda: returned(heads={"re fund": ""}), "'re fund' cannot be a name"),
        (lambda: returned(heads={"refund": "ranking"}), "does not say one clear thing"),
        (lambda: pipeline(returned(heads={"returned": ""})), "The head 'returned' of 'm' is the label too"),
        (lambda: pipeline(returned(heads={"id": ""})), "is the entity too"),
        (lambda: pipeline(returned(), features={"keys": ["kind"]}), "'kind' of 'm' is an input of the model"),
        (lambda: pipeline(returned(), gates=[Gate("refund.rmsee", max=1)]), "Did you mean 'refund.rmse'?"),
        (lambda: pipeline(returned(), gates=[Gate("refnd.rmse", max=1)]), "no head 'refnd'. Did you mean 'refund'?"),
        (lambda: pipeline(returned(), gates=[Gate("refund.auc", min=1)]), "A regression has no metric 'refund.auc'"),
    ],
)
def test_what_is_mistyped_is_explained(build: Any, says: str):
    with pytest.raises(ConfigError) as error:
        build()
    assert says in str(error.value)


def test_gates_may_name_the_metric_of_a_head():
    pipeline(returned(), gates=[Gate("refund.rmse", max=9), Gate("kind.auc", min=0.6), Gate("auc", min=0.6)])
    assert returned(heads={"clicks": "ranking"}, group="search").columns == ("returned", "clicks")


def test_the_first_partition_of_a_head_that_cannot_be_learned_is_refused(home: Path):
    landed = home / "landed"
    landed.mkdir(parents=True)
    pq.write_table(orders(0).append_column("stars", pa.array([i % 5 for i in range(60)])), landed / "a.parquet")
    asked = {
        "event_time": "at",
        "validated": batch_hash([landed / "a.parquet"]),
        "checks": Checks(),
        "label": "returned",
    }
    ledger, day = Ledger(f"sqlite:///{home}/ledger.db"), "2024-01-01"
    store = PartitionStore.under(home, ledger)
    check_partition(store, ledger, "orders", day, landed, **asked, heads={"refund": "", "stars": "multiclass"})
    with pytest.raises(DataError, match=r"'stars' is of whole numbers(.|\n)*heads=\{'stars': \"multiclass\"\}"):
        check_partition(store, ledger, "orders", day, landed, **asked, heads={"refund": "", "stars": ""})


# --- frozen -----------------------------------------------------------------------------------------------


def orders(day: int, n: int = 60, **changes: Any) -> pa.Table:
    rng = np.random.default_rng(day)
    begin = START + timedelta(days=day)
    columns = {
        "id": [f"{day}-{i}" for i in range(n)],
        "at": pa.array([begin + timedelta(minutes=i) for i in range(n)], pa.timestamp("us", tz="UTC")),
        "price": rng.normal(size=n),
        "returned": [i % 2 == 0 for i in range(n)],
        "refund": pa.array([None if i % 4 == 0 else float(i) for i in range(n)], pa.float64()),
        "kind": pa.array([["late", "size", None][i % 3] for i in range(n)]),
    }
    return pa.table(columns | changes)


def frozen(home: Path, change: dict[str, dict[str, Any]] | None = None) -> Snapshot:
    """Write a snapshot; ``change`` is split → columns that are others there."""
    columns = Columns("id", "at", ("price",), "returned", heads=HEADS)
    with SnapshotWriter(home, columns) as writer:
        for day, name in enumerate(("train", "validation", "test")):
            begin = START + timedelta(days=day)
            rows = orders(day, **(change or {}).get(name, {}))
            writer.add({name: SplitRows(rows, begin, begin + timedelta(days=1))})  # type: ignore[dict-item]
        return writer.publish(
            model="m", partitions={}, feature_service="s", as_of=START, label_cut=START, unlabelled_rows=0
        )


@pytest.fixture
def snapshot(home: Path) -> Snapshot:
    return frozen(home)


def test_heads_are_columns_of_a_snapshot_and_part_of_its_id(home: Path, snapshot: Snapshot):
    assert pq.read_schema(Path(snapshot.uri) / "train.parquet").names[-3:] == ["returned", "refund", "kind"]
    assert list(snapshot.targets) == ["returned", "refund", "kind"]
    assert (snapshot.heads["refund"].problem, snapshot.heads["kind"].classes) == ("regression", ("late", "size"))
    rows = snapshot.splits["test"].heads
    assert (rows["refund"].rows, rows["kind"].rows) == (45, 40)
    assert rows["kind"].labels == {"late": 20.0, "size": 20.0}
    assert load_snapshot(home, snapshot.id) == snapshot
    assert "heads" not in snapshot.model_copy(update={"heads": {}}).told()
    other = snapshot.heads | {"kind": snapshot.heads["kind"].model_copy(update={"classes": ("a", "b")})}
    assert snapshot.model_copy(update={"heads": other}).told() != snapshot.told()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"train": {"kind": ["late"] * 60}}, r"only one class: 'late'(.|\n)*label 'kind'"),
        (
            {"validation": {"refund": pa.nulls(60, pa.float64())}},
            "The validation split has no row in which the head 'r",
        ),
        ({"test": {"refund": [2.0] * 60}}, r"only one value: each label is 2(.|\n)*'refund'"),
        (
            {"validation": {"refund": [1e300, -1e300] * 30}},
            r"'refund' of the validation split has a number that is too large to be learned(.|\n)*float32",
        ),
        ({"test": {"kind": ["new"] * 60}}, r"classes that the train split does not have: 'new'"),
        ({"train": {"price": [float(i) for i in range(60)]}}, r"A leak: price alone tells the label 'refund'"),
    ],
    ids=["one class", "unknown", "one value", "too large", "unseen", "leak"],
)
def test_a_head_that_cannot_be_learned_is_refused(home: Path, change: dict[str, dict[str, Any]], says: str):
    with pytest.raises(DataError, match=says):
        frozen(home, change)


def test_heads_go_along_with_the_label_that_came_last():
    at = pa.array([START, START + timedelta(days=1), START, START], pa.timestamp("us", "UTC"))
    rows = pa.table({"id": list("aabc"), "at": at, "y": [True, False, None, True], "refund": [1.0, None, 3.0, 4.0]})
    found = latest_labels(rows, "id", "at", "y", "orders", heads=["refund"]).sort_by("id")
    assert found.to_pylist() == [{"id": "a", "y": False, "refund": None}, {"id": "c", "y": True, "refund": 4.0}]
    torn = pa.table({"id": ["a", "a"], "at": at.take(pa.array([0, 0])), "y": [True, True], "refund": [1.0, 2.0]})
    with pytest.raises(DataError, match="two different labels of the same moment"):
        latest_labels(torn, "id", "at", "y", "orders", heads=["refund"])


def test_a_corrected_head_is_told_when_a_model_is_judged_again(home: Path, snapshot: Snapshot):
    now = frozen(home, {"test": {"refund": [float(i + 1) for i in range(60)]}})
    assert list(_labels(snapshot, now)) == ["45 of 60 labels of 'refund' of the test split are others"]


# --- learned ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["in memory", "streamed"])
def test_batches_are_by_label_and_what_is_unknown_counts_nothing(
    snapshot: Snapshot, way: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(data_module, "WINDOW_ROWS", 20)
    data = TrainingData(snapshot, memory=10**12 if way == "in memory" else 1)
    assert data.in_memory == (way == "in memory")
    found = list(data.train.tf_dataset(16, shuffle=3).as_numpy_iterator())
    assert sorted(len(labels["kind"]) for _, labels, _ in found) == [12, 16, 16, 16]
    prices = np.concatenate([inputs["price"] for inputs, _, _ in found])
    labels, weights = (
        {name: np.concatenate([batch[part][name] for batch in found]) for name in snapshot.targets} for part in (1, 2)
    )
    assert labels["returned"].shape == labels["refund"].shape == (60, 1)
    assert (labels["kind"].dtype, labels["kind"].shape) == (np.int64, (60,))
    rows = orders(0)
    place = {price: i for i, price in enumerate(rows["price"].to_numpy().astype(np.float32).tolist())}
    for i, row in enumerate([rows.slice(place[price], 1).to_pylist()[0] for price in prices.tolist()]):
        assert labels["returned"][i, 0] == row["returned"]
        assert labels["refund"][i, 0] == (row["refund"] or 0.0)
        assert weights["returned"][i] == 1
        assert weights["refund"][i] == (row["refund"] is not None)
        assert weights["kind"][i] == (row["kind"] is not None)
        assert row["kind"] is None or labels["kind"][i] == ("late", "size").index(row["kind"])


# --- judged -----------------------------------------------------------------------------------------------


def evaluation(**metrics: dict[str, float]) -> Evaluation:
    good = {"auc": 0.7, "refund.r2": 0.5, "refund.rmse": 2.0, "kind.log_loss": 0.5, "kind.accuracy": 0.8}
    roles = {"challenger": good, "baseline": {"auc": 0.5, "refund.r2": 0.0, "kind.log_loss": 0.7}}
    roles |= {role: (roles["challenger"] if role == "challenger" else {}) | given for role, given in metrics.items()}
    heads = {
        "refund": EvaluatedHead(problem="regression", rows=450),
        "kind": EvaluatedHead(problem="multiclass", rows=400),
    }
    by = {"DE": {"n": 900.0, "expected_n": 900.0, "refund.n": 45.0, "refund.expected_n": 45.0, "refund.rmse": 3.0}}
    return Evaluation(snapshot_id="s", split="test", rows=900, metrics=roles, heads=heads, slices={"country": by})


def failed(found: Evaluation, *gates: Gate) -> list[str]:
    return [check.gate for check in judge("m", [asdict(gate) for gate in gates], found).checks if not check.passed]


def test_without_gates_those_of_every_head_judge():
    assert [gate["metric"] for gate in gates_of([], evaluation())] == [
        "auc", "auc", "refund.r2", "refund.r2", "kind.log_loss", "kind.log_loss",
    ]  # fmt: skip
    assert failed(evaluation()) == []
    assert failed(evaluation(challenger={"refund.r2": 0.01})) == ["refund.r2 vs baseline min_gain"]
    assert failed(evaluation(challenger={"kind.log_loss": 0.7})) == ["kind.log_loss vs baseline min_gain"]
    assert failed(evaluation(challenger={"refund.r2": float("nan")}))


def test_one_head_that_is_too_good_to_be_true_fails():
    too_good = evaluation(challenger={"refund.r2": 0.99999})
    assert failed(too_good, Gate("auc", min=0.6)) == ["refund.r2 not too good"]


def test_bounds_and_slices_of_a_head():
    assert failed(evaluation(), Gate("refund.rmse", max=2.5)) == []
    assert failed(evaluation(), Gate("refund.rmse", max=1.5)) == ["refund.rmse max"]
    assert failed(evaluation(), Gate("refund.rmse", max=2.5, by=Slice("country", min_n=40))) == [
        "refund.rmse of country=DE max"
    ]
    few = judge("m", [asdict(Gate("refund.rmse", max=9, by=Slice("country", min_n=100)))], evaluation())
    assert "no value of 'country' has 100 test rows" in few.checks[0].reason, "those in which the refund is known"


def test_compared_with_a_champion():
    champion = {"auc": 0.7, "refund.r2": 0.9, "refund.rmse": 1.0}
    assert failed(evaluation(champion=champion)) == ["refund.r2 vs champion max_drop"]
    less = Gate("refund.rmse", vs="champion", max_drop=0.5)
    assert failed(evaluation(champion=champion), less) == ["refund.rmse vs champion max_drop"], "less is better"
    assert failed(evaluation(champion={"auc": 0.7})) == []


def test_a_gate_on_a_head_that_is_not_there_is_refused():
    with pytest.raises(
        ConfigError, match=r"no metric 'colour.auc'(.|\n)*'colour' is no head of it; heads: refund, kind"
    ):
        failed(evaluation(), Gate("colour.auc", min=0.5))
    with pytest.raises(ConfigError, match=r"A multiclass has no metric 'kind.rmse'"):
        failed(evaluation(), Gate("kind.rmse", max=0.5))


def test_versions_are_compared_on_heads_too():
    logged = {1: {"auc": 0.7, "refund.rmse": 2.0, "champion_auc": 0.6, "epoch/loss": 1.0}, 2: {"kind.f1": 0.5}}
    assert _of_problem_types(logged) == ["auc", "kind.f1", "refund.rmse"]
    assert less_is_better("refund.rmse") is True
    assert less_is_better("refund.loss") is None


# --- of files of one's own --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"heads": {"refnd": ""}}, "no column 'refnd'. Did you mean 'refund'?"),
        ({"heads": {"refund": ""}, "inputs": ["price", "refund"]}, "The column 'refund' is a head, and something else"),
        ({"heads": {"returned": ""}}, "The column 'returned' is a head, and something else"),
        ({"heads": {"stars": ""}}, "of whole numbers"),
        ({"heads": {"stars": "ranking"}}, "does not say one clear thing"),
        ({"heads": {"constant": ""}}, "only one value"),
    ],
)
def test_files_with_a_head_that_cannot_be_one(tmp_path: Path, columns: dict[str, Any], says: str):
    table = orders(0, 600).drop_columns(["id", "at"]).append_column("stars", pa.array([i % 5 for i in range(600)]))
    pq.write_table(table.append_column("constant", pa.array([0.5] * 600)), tmp_path / "a.parquet")
    with pytest.raises(MlopsError) as error:
        snapshot_of_files(tmp_path / "home", "m", tmp_path / "a.parquet", OwnColumns("returned", **columns))
    assert says in str(error.value)


@pytest.mark.parametrize("heads", [["refund"], "refund", {"refund": 1}], ids=str)
def test_a_task_says_how_heads_are_written(tmp_path: Path, heads: Any):
    from airflow_mlops.operators.tensorflow import TensorFlowTrainOperator

    task = TensorFlowTrainOperator(
        task_id="t", model="m", data=str(tmp_path), label_column="y", heads=heads, home=str(tmp_path), fit="code:fit"
    )
    with pytest.raises(ConfigError, match=r"heads=.* is no dictionary(.|\n)*\{\"refund\": \"regression\"\}"):
        task._snapshot_of_files()
