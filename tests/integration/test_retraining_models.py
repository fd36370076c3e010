"""What a training was for goes with its model; what was other than usual is named; the same is not trained twice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from airflow.sdk.exceptions import AirflowSkipException
from mlflow import MlflowClient

from airflow_mlops.contracts import ModelManifest
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.engine.retraining.registered import registered, saved
from airflow_mlops.engine.retraining.requests import ask, start
from airflow_mlops.engine.retraining.why import why
from airflow_mlops.operators.mlflow import MLflowRegisterModelOperator
from airflow_mlops.operators.tensorflow import TensorFlowEvaluateModelOperator
from tests.integration.test_model_operators import GATES, Pipeline, TaskInstance, ledger, tracking_uri
from tests.training_fixtures import make_snapshot

__all__ = ["ledger", "tracking_uri"]


def test_from_a_request_to_a_verdict_and_never_the_same_again(
    home: Path, ledger: Ledger, tracking_uri: str, monkeypatch: pytest.MonkeyPatch
):
    make_snapshot(home)
    pipeline = Pipeline(home, "special")
    special = {"window": "20d", "exclude": "2013-01-05", "backfill": "2013-01-20"}
    request = ask(ledger, "special", "backfill", "a bad day", key="run:1", who="ann", special=special)
    assert start(ledger, request, "m.train manual__1", said=request.words)

    training = pipeline.train(skip_known=True)
    evaluated = pipeline.run(TensorFlowEvaluateModelOperator, training=training["training"])
    arguments = {"training": training["training"], "evaluation": evaluated["uri"]}
    version = pipeline.run(MLflowRegisterModelOperator, **arguments)["version"]
    manifest = ModelManifest.from_json((Path(training["saved_model"]) / "assets.extra" / "manifest.json").read_bytes())
    assert (manifest.trigger, manifest.special) == ("backfill: a bad day", special)
    assert manifest.triggered_by == "m.train manual__1"
    made = registered(ledger, "special", version)
    assert (made.why, made.special, made.spec_hash) == (manifest.trigger, special, training["spec_hash"])
    assert made.metrics["auc"] > 0.6
    assert MlflowClient(tracking_uri).get_model_version("special", str(version)).aliases == [], "of a backfill"
    assert made.seconds == training["seconds"]

    monkeypatch.setattr(TaskInstance, "run_id", "manual__2")
    assert pipeline.train(skip_known=True) == training, "it was not judged yet: the other run may have died"
    pipeline.judge(version, evaluated["uri"], GATES[:1])
    [verdict] = ledger.facts("verdict", "special")
    named = [check["reason"] for check in verdict.payload["checks"] if check["gate"] == "special training"]
    assert named == [
        "trained other than usual: window=20d, exclude=2013-01-05, backfill=2013-01-20; backfill: a bad day"
    ]

    for _ in range(2):
        with pytest.raises(AirflowSkipException, match=f"Version {version} of special is this very training"):
            pipeline.train(skip_known=True)
    assert "s of training are saved" in pipeline.links["held"]
    assert saved(ledger, "special").trainings == 1, "counted once a run"
    assert saved(ledger, "special").seconds == training["seconds"]
    assert any(line.startswith("saved: 1 trainings") for line in why(ledger, "special"))
    monkeypatch.setattr(TaskInstance, "run_id", "manual__1")
    assert pipeline.train(skip_known=True) == training, "the run that made it may be cleared"
    json.dumps(training)
