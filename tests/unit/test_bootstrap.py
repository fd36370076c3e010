"""`airflow-mlops stack up --until-served`: which pipelines, what is not done again, and how a failure is told."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from airflow_mlops import FeatureService, Label, ModelPipeline, Partitions, SQLSource, Trainer
from airflow_mlops.bootstrap.connections import bring_connections
from airflow_mlops.bootstrap.pipelines import pipelines_in
from airflow_mlops.bootstrap.serve import example
from airflow_mlops.bootstrap.train import deploy, train
from airflow_mlops.bootstrap.watch import TaskFailedError, Watcher
from airflow_mlops.engine.data.partitions import PartitionStore
from airflow_mlops.exceptions import ConfigError, MlopsError
from airflow_mlops.stack.console import Console
from tests.small_days import seal_days

AS_OF = datetime(2024, 3, 1, tzinfo=UTC)
PIPELINE = """
from datetime import date
from airflow_mlops import FeatureService, Label, ModelPipeline, Partitions, Trainer

churn = ModelPipeline(
    model="churn",
    source=Partitions("/lake/visits", event_time="at", suite="code:suite", start=date(2024, 1, 1), arrived="still"),
    entity="id",
    label=Label("bought", known_at="at"),
    features=FeatureService("churn_v1", transform="code:compute", suite="code:suite"),
    train=Trainer("code:build", window="30d", validation="2d", test="4d"),
)
"""


@pytest.fixture
def dags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = set(sys.modules)
    (tmp_path / "dags").mkdir()
    yield tmp_path / "dags"
    for name in set(sys.modules) - before:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


# --- which pipelines --------------------------------------------------------------------------------------------------


def test_pipelines_are_those_whose_dags_a_file_makes(dags):
    (dags / "churn_dag.py").write_text(f"{PIPELINE}\nglobals().update(churn.dags())\n")
    (dags / "parts.py").write_text(PIPELINE.replace('"churn"', '"parts"'))  # its DAG is one of the user's own
    (dags / "slow.py").write_text("raise SystemExit('an Airflow DAG that is none of ours is not imported')\n")
    [found] = pipelines_in(dags)
    assert (found.file.name, found.pipeline.model) == ("churn_dag.py", "churn")
    assert {"churn.train", "churn.deploy", "churn.features"} <= set(found.dag_ids)
    assert pipelines_in(dags, ["churn"]) == [found]
    with pytest.raises(ConfigError, match="Did you mean 'churn'"):
        pipelines_in(dags, ["chrun"])


def test_no_pipelines(dags):
    with pytest.raises(ConfigError, match="No DAG file has a pipeline"):
        pipelines_in(dags)


def test_a_dag_file_that_cannot_be_imported(dags):
    (dags / "churn_dag.py").write_text(f"{PIPELINE}\nglobals().update(chrun.dags())\n")
    with pytest.raises(MlopsError, match=r"churn_dag\.py cannot be imported: NameError") as refused:
        pipelines_in(dags)
    assert "name 'chrun' is not defined" in refused.value.detail


# --- what is not done again -------------------------------------------------------------------------------------------


class Airflow:
    """Airflow with some runs, of which those that are started succeed."""

    url = "http://airflow"

    def __init__(self, **runs: list[dict[str, Any]]) -> None:
        self.kept = {f"churn.{name}": some for name, some in runs.items()}
        self.triggered: list[tuple[str, Any]] = []
        self.cleared: list[str] = []
        self.skipped: list[str] = []
        self.lines: list[str] = []
        self.added: dict[str, Any] = {}

    def runs(self, dag_id: str) -> list[dict[str, Any]]:
        return self.kept.get(dag_id, [])

    def run(self, dag_id: str, run_id: str) -> dict[str, Any]:
        return next(run for run in self.runs(dag_id) if run["dag_run_id"] == run_id)

    def trigger(self, dag_id: str, conf: Any) -> dict[str, Any]:
        self.triggered.append((dag_id, conf))
        self.kept.setdefault(dag_id, []).insert(0, {"dag_run_id": "new", "conf": conf, "state": "success"})
        return {"dag_run_id": "new", "conf": conf, "state": "queued"}

    def clear(self, dag_id: str, run_id: str) -> None:
        self.cleared.append(run_id)
        self.run(dag_id, run_id)["state"] = "success"

    def tasks(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        state = self.run(dag_id, run_id)["state"] if dag_id == "churn.train" else "success"
        registered = "skipped" if run_id in self.skipped else "success"
        return [
            {"task_id": "register", "state": registered, "try_number": 1, "map_index": -1},
            {"task_id": "fetch", "state": state, "try_number": 1, "map_index": -1},
        ]

    def xcom(self, dag_id: str, run_id: str, task_id: str) -> dict[str, int]:
        return {"version": 3}

    def log(self, *_: Any) -> list[str]:
        return self.lines

    def run_page(self, dag_id: str, run_id: str) -> str:
        return f"{self.url}/dags/{dag_id}/runs/{run_id}"

    def connections(self) -> set[str]:
        return {"there"}

    def add_connection(self, conn_id: str, fields: Any) -> None:
        self.added[conn_id] = fields


def watching(airflow: Airflow) -> Watcher:
    stack = SimpleNamespace(console=Console(), check=lambda: None, dags=Path("dags"))
    return Watcher(cast(Any, airflow), cast(Any, stack))


def training(state: str, run_id: str = "before") -> dict[str, Any]:
    return {"dag_run_id": run_id, "conf": {"as_of": "2024-03-01T00:00:00Z"}, "state": state}


@pytest.mark.parametrize(
    ("before", "run_id"),
    [
        ([], "new"),
        ([training("success")], "before"),
        ([training("failed")], "new"),
        ([training("success") | {"conf": {"as_of": "2024-02-01T00:00:00Z"}}], "new"),
    ],
)
def test_a_training_that_succeeded_is_used_and_one_that_failed_is_tried_anew(before, run_id, capsys):
    airflow = Airflow(train=before)
    assert train(watching(airflow), "churn", AS_OF).run_id == run_id
    assert bool(airflow.triggered) == (run_id == "new")
    said = capsys.readouterr().out
    assert ("http://airflow/dags/churn.train/runs/new" in said) == (run_id == "new")
    assert "churn.train: version 3, which passed its gates" in said


def test_what_is_not_trained_again_is_judged_again(capsys):
    airflow = Airflow(train=[training("failed")])
    airflow.skipped = ["new"]
    assert train(watching(airflow), "churn", AS_OF).run_id == "before"
    assert airflow.cleared == ["before"]


def test_nothing_to_train():
    airflow = Airflow()
    airflow.skipped = ["new"]
    with pytest.raises(MlopsError, match=r"A run of churn\.train trained nothing"):
        train(watching(airflow), "churn", AS_OF)


def test_a_deployment_that_failed_is_cleared(capsys):
    airflow = Airflow(deploy=[{"dag_run_id": "before", "conf": {}, "state": "failed"}])
    assert deploy(watching(airflow), "churn", 3) == "before"
    assert airflow.cleared == ["before"]
    assert "churn.deploy: version 3 in service" in capsys.readouterr().out


# --- how a failure is told --------------------------------------------------------------------------------------------


def test_a_failed_task_is_told_in_the_words_of_its_error():
    airflow = Airflow(train=[training("failed")])
    airflow.lines = [
        "judging: 2 gates",
        "GateError: Version 3 of 'churn' is refused.",
        "  where: auc 0.51 < 0.6",
        "    recall 0.1 < 0.2",
        "  fix:   Correct the model, or the gates.",
    ]
    error = watching(airflow).failure("churn.train", airflow.run("churn.train", "before"))
    assert error.headline == "Task fetch of churn.train failed: Version 3 of 'churn' is refused."
    assert error.hint == "Correct the model, or the gates. Then start again: what succeeded is kept."
    assert "http://airflow/dags/churn.train/runs/before" in error.detail


def test_a_failed_task_without_an_error_of_ours():
    airflow = Airflow(train=[training("failed")])
    airflow.lines = ["Traceback", "ValueError: shapes do not match"]
    with pytest.raises(TaskFailedError, match=r"Task fetch of churn\.train failed") as failed:
        watching(airflow).finish("churn.train", "before")
    assert "ValueError: shapes do not match" in failed.value.detail


# --- connections ------------------------------------------------------------------------------------------------------


def sold_by(*sources: Any) -> ModelPipeline:
    return ModelPipeline(
        model="churn",
        source=sources[0],
        entity="id",
        label=Label("bought", known_at="at"),
        features=FeatureService("churn_v1", transform="code:compute", suite="code:suite", sources=list(sources[1:])),
        train=Trainer("code:build", window="30d", validation="2d", test="4d"),
    )


def feed(kind: Any, *address: str, **more: Any) -> Any:
    return kind(*address, event_time="at", suite="code:suite", start=date(2024, 1, 1), **more)


def test_connections_that_the_stack_lacks_are_taken_from_the_shell(capsys):
    airflow = Airflow()
    pipeline = sold_by(
        feed(SQLSource, "shop_db", table="visits"),
        feed(SQLSource, "there", table="shops"),
        feed(Partitions, "s3://lake_aws@lake/pages", arrived="still"),
    )
    shell = {
        "AIRFLOW_CONN_SHOP_DB": "postgres://me:hidden%40word@db:5433/shop",
        "AIRFLOW_CONN_LAKE_AWS": json.dumps({"conn_type": "aws", "login": "key", "extra": {"region_name": "eu"}}),
    }
    bring_connections(watching(airflow), pipeline, shell)
    assert airflow.added["shop_db"] == {
        "conn_type": "postgres", "host": "db", "login": "me", "password": "hidden@word", "schema": "shop", "port": 5433,
    }  # fmt: skip
    assert json.loads(airflow.added["lake_aws"].pop("extra")) == {"region_name": "eu"}
    assert airflow.added["lake_aws"] == {"conn_type": "aws", "login": "key"}
    assert "hidden" not in capsys.readouterr().out


def test_a_connection_that_nobody_has():
    with pytest.raises(ConfigError, match="The stack has no connection 'shop_db'") as refused:
        bring_connections(watching(Airflow()), sold_by(feed(SQLSource, "shop_db", table="visits")), {})
    assert "AIRFLOW_CONN_SHOP_DB" in refused.value.hint


# --- what is asked ----------------------------------------------------------------------------------------------------


def test_the_example_is_of_the_newest_day(tmp_path):
    seal_days(tmp_path, "visits", 3)
    visits = feed(Partitions, str(tmp_path / "visits"), arrived="still")
    asked = dict(example(visits, PartitionStore.under(tmp_path), ["at", "value", "other"]))
    assert asked == {"at": "2013-01-03T12:00:00+00:00", "value": "1", "other": ""}
