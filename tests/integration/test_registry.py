"""The registry against a real MLflow server."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient

from airflow_mlops.contracts import (
    Evaluation,
    GateCheck,
    ModelManifest,
    RegisteredModel,
    TrainingResult,
    Verdict,
    VerdictStatus,
)
from airflow_mlops.engine.data.files import checksums
from airflow_mlops.engine.registry.copying import put, take
from airflow_mlops.engine.registry.curves import curves
from airflow_mlops.engine.registry.manifest import pack_manifest
from airflow_mlops.engine.registry.registry import Registry, TrainingRun
from airflow_mlops.engine.training.workdir import Workdir, finished_training
from airflow_mlops.exceptions import ConfigError, DataError, TrainingError, TransientError
from tests.training_fixtures import copy_of, golden_of, mlflow_server, trained

EVALUATION = Evaluation(
    snapshot_id="snap1",
    split="test",
    rows=800,
    metrics={
        "challenger": {"auc": 0.7, "log_loss": 0.5, "brier": float("nan"), "accuracy": 0.8},
        "baseline": {"auc": 0.5, "log_loss": 0.6, "brier": 0.2, "accuracy": 0.7},
    },
)


@pytest.fixture(scope="module")
def tracking_uri() -> str:
    return mlflow_server()


@pytest.fixture(scope="module")
def registry(tracking_uri: str) -> Registry:
    return Registry(tracking_uri)


@pytest.fixture(scope="module")
def client(tracking_uri: str) -> MlflowClient:
    return MlflowClient(tracking_uri)


class Trained:
    """A training under a model name of its own, so that tests do not see each other's versions."""

    def __init__(self, registry: Registry, folder: Path, model: str, seed: int = 7) -> None:
        self.registry = registry
        self.workdir = copy_of(trained(), folder)
        spec, result = finished_training(self.workdir.path)
        self.spec = spec.model_copy(update={"model": model, "seed": seed})
        self.result: TrainingResult = result.model_copy(update={"spec_hash": self.spec.hash})
        self.manifest: ModelManifest = pack_manifest(self.spec, self.result, parent_version=None, triggered_by="me")

    def open_run(self, **tags: str) -> TrainingRun:
        return self.registry.open_run(self.spec, tags)

    def register(self) -> RegisteredModel:
        return self.registry.register(self.open_run(), self.result, self.manifest, EVALUATION)


def test_run_has_everything_and_repeating_it_adds_nothing(
    registry: Registry, client: MlflowClient, tmp_path: Path, tracking_uri: str
):
    training = Trained(registry, tmp_path / "t", "whole")
    run = training.open_run(**{"airflow.run_id": "manual__1"})
    first = registry.register(run, training.result, training.manifest, EVALUATION)
    again = training.register()
    assert again == first
    assert first.version == "1"
    found = client.get_run(first.run_id)
    assert found.info.status == "FINISHED"
    assert found.info.experiment_id == first.experiment_id
    assert found.data.params["entrypoint"] == "flights.model:build"
    assert found.data.tags["airflow.run_id"] == "manual__1"
    assert found.data.tags["mlops.training_id"] == training.spec.hash
    assert found.data.metrics["auc"] == 0.7
    assert found.data.metrics["baseline_log_loss"] == 0.6
    assert "brier" not in found.data.metrics  # not defined, so not kept
    losses = client.get_metric_history(first.run_id, "epoch/val_loss")
    assert [metric.value for metric in losses] == training.result.history["val_loss"]
    by_epoch = curves(registry, "whole", 1)
    assert list(by_epoch["val_loss"].values()) == training.result.history["val_loss"]
    assert min(by_epoch["val_loss"]) == 1, "the first epoch is the first"
    assert {file.path for file in client.list_artifacts(first.run_id)} == {
        "manifest.json",
        "evaluation.json",
        "spec.json",
    }
    (data,) = found.inputs.dataset_inputs
    assert data.dataset.digest == "snap1"
    assert found.outputs.model_outputs

    version = client.get_model_version("whole", "1")
    assert version.status == "READY"
    assert version.aliases == ["challenger"]
    assert version.tags["mlops.snapshot_id"] == "snap1"
    assert len(client.search_model_versions("name = 'whole'")) == 1
    assert len(client.search_runs([first.experiment_id])) == 1


def test_registered_version_is_a_model_that_mlflow_loads(
    registry: Registry, tmp_path: Path, tracking_uri: str, monkeypatch
):
    training = Trained(registry, tmp_path / "t", "loads")
    training.register()
    inputs, expected = golden_of(training.workdir.saved_model)
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri)
    model = mlflow.pyfunc.load_model("models:/loads@challenger")
    np.testing.assert_allclose(model.predict(inputs)["probability"], expected, rtol=0, atol=1e-6)
    assert {spec.name: str(spec.type) for spec in model.metadata.signature.inputs.inputs}["carrier"] == "object"
    assert model.metadata.signature.inputs.required_input_names() == list(training.result.signature.inputs)


def test_another_training_is_another_version_and_aliases_move(registry: Registry, tmp_path: Path):
    trainings = [Trained(registry, tmp_path / str(seed), "moves", seed) for seed in (1, 2, 3)]
    assert [training.register().version for training in trainings] == ["1", "2", "3"]
    assert trainings[0].register().version == "1"  # a cleared task of an old run
    assert registry.by_alias("moves", "challenger").version == "3"
    assert registry.find_alias("moves", "champion") is None

    def roles() -> tuple[str | None, str | None]:
        found = [registry.find_alias("moves", alias) for alias in ("champion", "previous")]
        return tuple(role.version if role else None for role in found)

    for version, expected in (("1", ("1", None)), ("2", ("2", "1")), ("2", ("2", "1")), ("3", ("3", "2"))):
        assert registry.set_alias("moves", version, "champion").alias == "champion"
        assert roles() == expected
    registry.set_alias("moves", "2", "champion")  # a rollback
    assert roles() == ("2", "3")


def test_download_is_the_trained_model_and_heals_what_is_there(registry: Registry, tmp_path: Path):
    training = Trained(registry, tmp_path / "t", "fetched")
    training.register()
    target = tmp_path / "cache" / "fetched" / "1"
    assert registry.download("fetched", "1", target) == target
    expected = checksums(training.workdir.saved_model)
    assert {"assets.extra/manifest.json", "assets.extra/golden.json", "saved_model.pb"} <= set(expected)
    assert checksums(target) == expected

    inode = target.stat().st_ino
    registry.download("fetched", "1", target)
    assert target.stat().st_ino == inode  # left alone
    (target / "saved_model.pb").write_bytes(b"half")
    registry.download("fetched", "1", target)
    assert checksums(target) == expected
    assert [path.name for path in target.parent.iterdir()] == ["1"]


def test_artifact_that_changed_in_the_store_is_not_handed_out(registry: Registry, client: MlflowClient, tmp_path: Path):
    training = Trained(registry, tmp_path / "t", "rotten")
    model_id = training.register().source.removeprefix("models:/")
    (tmp_path / "saved_model.pb").write_bytes(b"rotten")
    client.log_model_artifact(model_id, str(tmp_path / "saved_model.pb"), "saved_model")
    with pytest.raises(TransientError, match="did not arrive as it was logged"):
        registry.download("rotten", "1", tmp_path / "cache" / "1")
    assert not list((tmp_path / "cache").iterdir())


def test_copy_in_another_registry_is_the_trained_model_and_can_be_judged_there(
    registry: Registry, client: MlflowClient, tmp_path: Path, monkeypatch
):
    training = Trained(registry, tmp_path / "t", "copied")
    original = training.register()
    production = Registry(mlflow_server("production"))
    copy = put(production, take(registry, "copied", "challenger", tmp_path / "taken"), "copied").made
    fetched = production.download("copied", copy.version, tmp_path / "d")
    assert checksums(fetched) == checksums(training.workdir.saved_model)
    assert production.content_hash("copied", "1") == registry.content_hash("copied", "1")
    assert production.training_of("copied", "1") == training.spec.hash
    manifest = production.client.download_artifacts(copy.run_id, "manifest.json", str(tmp_path))
    assert Path(manifest).read_text() == training.manifest.to_json()
    assert production.client.get_run(copy.run_id).data.metrics["auc"] == 0.7
    verdict = Verdict(model="copied", status=VerdictStatus.PASS, checks=(), inputs_hash="h")
    assert production.log_verdict("copied", "1", verdict).run_id == copy.run_id

    inputs, expected = golden_of(training.workdir.saved_model)
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", production.tracking_uri)
    answers = mlflow.pyfunc.load_model("models:/copied/1").predict(inputs)["probability"]
    np.testing.assert_allclose(answers, expected, rtol=0, atol=1e-6)

    (tmp_path / "saved_model.pb").write_bytes(b"rotten")
    client.log_model_artifact(original.source.removeprefix("models:/"), str(tmp_path / "saved_model.pb"), "saved_model")
    with pytest.raises(TransientError, match="did not arrive as they were logged"):
        take(registry, "copied", "1", tmp_path / "rotten")


def test_failed_training_is_kept_and_a_later_success_takes_over(
    registry: Registry, client: MlflowClient, tmp_path: Path
):
    training = Trained(registry, tmp_path / "t", "fails")
    run = training.open_run()
    registry.log_failure(run, TrainingError("The loss is NaN.", "epoch 1", "Normalise."))
    failed = client.get_run(run.run_id)
    assert failed.info.status == "FAILED"
    assert failed.data.tags["mlops.error"] == "The loss is NaN."
    assert failed.data.params["seed"] == "7"
    assert "fix:   Normalise." in Path(client.download_artifacts(run.run_id, "error.txt", str(tmp_path))).read_text()

    assert training.register().run_id == run.run_id
    healed = client.get_run(run.run_id)
    assert healed.info.status == "FINISHED"
    assert "mlops.error" not in healed.data.tags


def test_registration_goes_on_where_it_was_cut_off(registry: Registry, client: MlflowClient, tmp_path: Path):
    training = Trained(registry, tmp_path / "t", "cut")
    run = training.open_run()
    client.create_logged_model(run.experiment_id, "cut", source_run_id=run.run_id)  # killed before the upload
    assert training.register().version == "1"
    assert checksums(registry.download("cut", "1", tmp_path / "d")) == checksums(training.workdir.saved_model)


def test_verdict_is_on_the_version_and_on_its_run(registry: Registry, client: MlflowClient, tmp_path: Path):
    registered = Trained(registry, tmp_path / "t", "judged").register()
    check = GateCheck(gate="auc min", passed=False, metric="auc", observed=0.7, bound=0.8, reason="0.7, asked >= 0.8")
    verdict = Verdict(model="judged", status=VerdictStatus.FAIL, checks=(check,), inputs_hash="h")
    assert registry.log_verdict("judged", "1", verdict).run_id == registered.run_id
    assert client.get_model_version("judged", "1").tags["mlops.verdict"] == "FAIL"
    assert client.get_run(registered.run_id).data.tags["mlops.verdict"] == "FAIL"
    kept = Path(client.download_artifacts(registered.run_id, "verdict.json", str(tmp_path))).read_text()
    assert json.loads(kept)["checks"][0]["reason"] == "0.7, asked >= 0.8"


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda r, _: r.by_alias("nobody", "champion"), "No version of model 'nobody' has the alias 'champion'"),
        (lambda r, _: r.version("nobody", "7"), "name=nobody, version=7"),
        (lambda r, _: r.set_alias("nobody", "7", "champion"), "name=nobody, version=7"),
        (lambda r, path: r.download("nobody", "7", path / "d"), "name=nobody not found"),
    ],
)
def test_what_is_not_there_is_named(registry: Registry, tmp_path: Path, call, says: str):
    with pytest.raises(DataError, match=says):
        call(registry, tmp_path)


def test_mlflow_down_can_be_retried_and_no_password_is_shown(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(TransientError) as caught:
        Registry("http://me:hidden@127.0.0.1:9").check()
    assert "MLflow does not answer" in str(caught.value)
    assert "http://127.0.0.1:" in caught.value.detail
    assert "hidden" not in str(caught.value)


def test_what_is_no_tracking_uri_is_a_config_error():
    with pytest.raises(ConfigError, match="tracking URI"):
        Registry("ftp://mlflow.example.com").check()


def test_works_on_a_database_without_a_server(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    training = Trained(Registry(f"sqlite:///{tmp_path}/mlflow.db"), tmp_path / "t", "local")
    assert training.register().version == "1"
    fetched = training.registry.download("local", "1", tmp_path / "d")
    assert checksums(fetched) == checksums(Workdir(tmp_path / "t").saved_model)
