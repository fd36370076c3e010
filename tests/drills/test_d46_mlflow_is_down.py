"""D46: MLflow is down (training side): the training finishes and keeps its result, and only what promotes waits.

Once MLflow answers again, everything is delivered, with the times at which it happened.
"""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG
from mlflow import MlflowClient

from airflow_mlops.contracts import TrainingSpec
from airflow_mlops.engine.training.workdir import finished_training
from airflow_mlops.exceptions import TransientError
from airflow_mlops.hooks.mlflow import MLflowHook
from airflow_mlops.operators import training_progress
from airflow_mlops.operators.mlflow import MLflowRegisterModelOperator
from airflow_mlops.operators.tensorflow import TensorFlowEvaluateModelOperator, TensorFlowTrainOperator
from tests.script_trainings import Scripts
from tests.training_fixtures import mlflow_server

pytestmark = pytest.mark.drill

SCRIPT = "for epoch in (1, 2, 3):\n    say(epoch, 1 / epoch)\nfinish()"


class TaskInstance:
    dag_id, run_id = "flight_delay.train", "manual__1"

    def __init__(self) -> None:
        self.pushed: dict[str, Any] = {}

    def xcom_push(self, key: str, value: Any) -> None:
        self.pushed[key] = value


class Tasks:
    """The tasks of a training, each executed as Airflow executes it."""

    def __init__(self, scripts: Scripts, monkeypatch: pytest.MonkeyPatch) -> None:
        self.scripts, self._monkeypatch = scripts, monkeypatch
        scripts.spec(SCRIPT)
        ledger = {"conn_type": "mlops_ledger", "host": f"sqlite:///{scripts.folder}/ledger.db"}
        monkeypatch.setenv("AIRFLOW_CONN_MLOPS_LEDGER_DEFAULT", json.dumps(ledger))
        self.training = ""

    def mlflow_at(self, uri: str) -> None:
        self._monkeypatch.setenv("AIRFLOW_CONN_MLFLOW_DEFAULT", json.dumps({"conn_type": "mlflow", "host": uri}))

    def run(self, operator: type, **arguments: Any) -> Any:
        with DAG("flight_delay.train", schedule=None) as dag:
            dag.fileloc = str(self.scripts.folder / "code" / "dag.py")
            task = operator(task_id="t", home=str(self.scripts.folder), model="flight_delay", **arguments)
        return task.execute({"ti": TaskInstance()})

    def train(self, seed: int) -> Any:
        """Train; what follows is about this training."""
        made = self.run(
            TensorFlowTrainOperator, snapshot="snap1", script="train.py", seed=seed, epochs=3,
            model_params={"saved_model": str(self.scripts.model)},
        )  # fmt: skip
        self.training = made["training"]
        return made

    def register(self) -> Any:
        evaluated = self.run(TensorFlowEvaluateModelOperator, training=self.training)
        return self.run(MLflowRegisterModelOperator, training=self.training, evaluation=evaluated["uri"])


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tasks:
    return Tasks(Scripts(tmp_path), monkeypatch)


@pytest.fixture
def nobody() -> str:
    """Where nobody answers, at once."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_fault_guard_on(tasks: Tasks, nobody: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    tasks.mlflow_at(nobody)
    made = tasks.train(seed=1)
    assert made["epochs"] == 3
    _, result = finished_training(Path(tasks.training))
    assert (Path(result.saved_model) / "saved_model.pb").exists()
    with pytest.raises(TransientError):  # tried again, until it answers
        tasks.register()

    tasks.mlflow_at(mlflow_server())
    assert tasks.train(seed=1) == made, "nothing is trained again"
    registered = tasks.register()
    client = MlflowClient(mlflow_server())
    run = client.get_run(registered["run_id"])
    history = client.get_metric_history(run.info.run_id, "epoch/loss")
    assert [one.value for one in history] == [1, 1 / 2, pytest.approx(1 / 3)]
    assert result.started is not None
    assert result.ended is not None
    assert run.info.start_time == round(result.started.timestamp() * 1000), "when it happened, not when it was told"
    assert run.info.end_time == round(result.ended.timestamp() * 1000)
    assert run.info.status == "FINISHED"


def test_fault_guard_off(tasks: Tasks, nobody: str, monkeypatch: pytest.MonkeyPatch):
    """Where the run must be there first, hours of work hang on a server that only keeps records."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    tasks.mlflow_at(nobody)

    def opened_first(_context: object, _task: object, mlflow_conn_id: str, spec: TrainingSpec) -> None:
        MLflowHook(mlflow_conn_id).get_conn().open_run(spec)

    monkeypatch.setattr(training_progress, "live_run", opened_first)
    with pytest.raises(TransientError):
        tasks.train(seed=2)
    assert not list(tasks.scripts.folder.glob("trainings/*/result.json")), "nothing is trained"


def test_no_fault(tasks: Tasks):
    tasks.mlflow_at(mlflow_server())
    tasks.train(seed=3)
    again = [tasks.register() for _ in "12"]
    assert again[0] == again[1]
    history = MlflowClient(mlflow_server()).get_metric_history(again[0]["run_id"], "epoch/loss")
    assert len(history) == 3, "nothing twice"
