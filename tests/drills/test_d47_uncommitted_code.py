"""D47: a run from code that nobody committed, or an experiment, asks for promotion.

A real training is registered and judged; what differs is the repository that its code lay in.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException

from airflow_mlops.cli import main
from airflow_mlops.contracts import TrainingResult, TrainingSpec
from airflow_mlops.engine.evaluation.committed import FACT, check_committed
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.engine.registry.manifest import MANIFEST_FILE, pack_manifest
from airflow_mlops.exceptions import ConfigError
from airflow_mlops.operators.mlflow import MLflowFetchApprovedModelOperator, MLflowRegisterModelOperator
from airflow_mlops.operators.tensorflow import TensorFlowEvaluateModelOperator
from tests.integration.test_model_operators import Pipeline
from tests.training_fixtures import DAGS, make_snapshot, mlflow_server

pytestmark = pytest.mark.drill

MODEL = "uncommitted"
AUTHOR = ["-c", "user.name=ann", "-c", "user.email=ann@example.com"]


def git(folder: Path, *arguments: str) -> None:
    subprocess.run(["git", "-C", str(folder), *AUTHOR, *arguments], check=True, capture_output=True)


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The code of the training, in a repository of its own; somebody has tried something out in it."""
    folder = tmp_path_factory.mktemp("repository") / "code"
    shutil.copytree(DAGS, folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / ".gitignore").write_text("__pycache__/\n")
    git(folder.parent, "init", "-q", str(folder))
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "the model")
    (folder / "flights" / "tried_out.py").write_text("LEARNING_RATE = 10\n")
    return folder


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory, code: Path) -> Iterator[Pipeline]:
    """A version that was trained, registered and judged, and has passed."""
    home = tmp_path_factory.mktemp("d47")
    connections = {
        "mlflow_default": {"conn_type": "mlflow", "host": mlflow_server()},
        "mlops_ledger_default": {"conn_type": "mlops_ledger", "host": f"sqlite:///{home}/ledger.db"},
    }
    make_snapshot(home)
    made = Pipeline(home, MODEL)
    made.dag.fileloc = str(code / "flight_delay.py")
    with pytest.MonkeyPatch.context() as patch:
        for name, connection in connections.items():
            patch.setenv(f"AIRFLOW_CONN_{name.upper()}", json.dumps(connection))
        training = made.train(epochs=1)
        evaluated = made.run(TensorFlowEvaluateModelOperator, training=training["training"])
        made.run(MLflowRegisterModelOperator, training=training["training"], evaluation=evaluated["uri"])
        assert made.judge(1, evaluated["uri"], [{"metric": "auc", "min": 0.1}])["status"] == "PASS"
        yield made


@pytest.fixture
def ledger(pipeline: Pipeline) -> Ledger:
    return Ledger(f"sqlite:///{pipeline.home}/ledger.db")


def fetch(pipeline: Pipeline, code: str = "committed") -> Any:
    return pipeline.run(MLflowFetchApprovedModelOperator, code=code)


def training_of(pipeline: Pipeline) -> tuple[TrainingSpec, TrainingResult]:
    folder = next((pipeline.home / "trainings").glob("*/result.json")).parent
    spec, result = (folder / name for name in ("spec.json", "result.json"))
    return TrainingSpec.from_json(spec.read_bytes()), TrainingResult.from_json(result.read_bytes())


def test_fault_guard_on(pipeline: Pipeline, ledger: Ledger, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(AirflowFailException, match="its code had changes on commit") as refused:
        fetch(pipeline)
    assert "nobody answers for it" in str(refused.value)

    # By name, with a reason, and for a while only.
    allow = ["allow-code", MODEL, "1", "--ledger", ledger.url]
    assert main([*allow, "--reason", "the fix cannot wait", "--until", "2020-01-01"]) == 1
    assert "would have run out already" in capsys.readouterr().err
    until = datetime.now(UTC) + timedelta(hours=2)
    assert main([*allow, "--reason", "the fix cannot wait", "--until", until.isoformat()]) == 0
    [passed] = fetch(pipeline)["passed"]
    assert "allowed by " in passed
    assert passed.endswith("UTC: the fix cannot wait")
    over = {"who": "ann", "reason": "it ran out", "until": (datetime.now(UTC) - timedelta(seconds=1)).isoformat()}
    ledger.record(FACT, MODEL, over, key="1")
    with pytest.raises(AirflowFailException, match="it was allowed by ann until"):
        fetch(pipeline)


def test_fault_guard_on_an_experiment_never_comes_so_far(pipeline: Pipeline):
    spec, result = training_of(pipeline)
    tried = spec.model_copy(update={"experimental": True})
    with pytest.raises(ConfigError, match="is an experiment, and is not registered"):
        pack_manifest(tried, result, parent_version=None, triggered_by="ann")


def test_fault_guard_off(pipeline: Pipeline):
    """Where any code will do, it goes on its way to the callers."""
    saved_model = Path(fetch(pipeline, "any")["saved_model"])
    assert json.loads((saved_model / MANIFEST_FILE).read_text())["code_dirty"] is True


def test_no_fault(pipeline: Pipeline, ledger: Ledger, code: Path, tmp_path: Path):
    """The same training, registered once what it was trained with is committed."""
    git(code, "add", ".")
    git(code, "commit", "-qm", "tried out")
    spec, result = training_of(pipeline)
    saved_model = shutil.copytree(result.saved_model, tmp_path / "saved_model")
    (saved_model / MANIFEST_FILE).unlink()
    here = result.model_copy(update={"saved_model": str(saved_model)})
    pack_manifest(spec, here, parent_version=None, triggered_by="ann")
    assert check_committed(ledger, "committed", 1, saved_model, "committed") == ""
