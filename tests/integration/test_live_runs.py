"""The MLflow run of a training: there from its beginning, and complete although MLflow was away."""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from mlflow import MlflowClient

from airflow_mlops.contracts import Evaluation, TrainingProgress
from airflow_mlops.engine.registry import live as module
from airflow_mlops.engine.registry import registry as registry_module
from airflow_mlops.engine.registry.live import LiveRun
from airflow_mlops.engine.registry.manifest import pack_manifest
from airflow_mlops.engine.registry.registry import Registry, TrainingRun
from airflow_mlops.engine.training.workdir import finished_training
from airflow_mlops.exceptions import TrainingError, TransientError
from tests.training_fixtures import copy_of, mlflow_server, trained

BEGAN = datetime.now(UTC) - timedelta(hours=2)
TIMES = tuple(BEGAN.timestamp() + 60 * epoch for epoch in (1, 2, 3))
EVALUATION = Evaluation(snapshot_id="snap1", split="test", rows=800, metrics={"challenger": {"auc": 0.7}})


class Story:
    """A training of a model under a name of its own."""

    def __init__(self, folder: Path, model: str) -> None:
        self.workdir = copy_of(trained(), folder)
        spec, result = finished_training(self.workdir.path)
        self.spec = spec.model_copy(update={"model": model})
        self.result = result.model_copy(
            update={
                "spec_hash": self.spec.hash,
                "history": {"loss": [0.5, 0.4, 0.3]},
                "times": TIMES,
                "started": BEGAN,
                "ended": BEGAN + timedelta(minutes=4),
                "resources": {"cpu_seconds": 7.0, "cost": 0.25},
            }
        )
        self.registry = Registry(mlflow_server())
        self.client = MlflowClient(mlflow_server())
        self.opened: list[TrainingRun] = []
        self.down = False

    def connect(self) -> Registry:
        if self.down:
            raise TransientError("MLflow does not answer.")
        return self.registry

    def live(self) -> LiveRun:
        tags = {"mlflow.user": "ana", "airflow.run_id": "manual__1"}
        return LiveRun(self.connect, self.spec, tags, self.opened.append, logging.getLogger("task"))

    def progress(self, epochs: int) -> TrainingProgress:
        return TrainingProgress(
            at=datetime.now(UTC), spec_hash=self.spec.hash, epoch=epochs + 1, epochs=3, step=5, examples=1,
            examples_left=1, examples_per_second=1.0, seconds_left=1.0, oldest_event_time=None, newest_event_time=None,
            metrics={}, history={"loss": [0.5, 0.4, 0.3][:epochs]}, times=TIMES[:epochs],
        )  # fmt: skip

    def register(self) -> str:
        manifest = pack_manifest(self.spec, self.result, parent_version=None, triggered_by="me")
        run = self.registry.open_run(self.spec, {"mlflow.user": "ana"}, started=self.result.started)
        return self.registry.register(run, self.result, manifest, EVALUATION).run_id

    def losses(self, run_id: str) -> list[tuple[int, float, int]]:
        found = self.client.get_metric_history(run_id, "epoch/loss")
        return [(one.step, one.value, one.timestamp) for one in found]


ALL = [(epoch, loss, round(TIMES[epoch] * 1000)) for epoch, loss in enumerate((0.5, 0.4, 0.3))]


def test_the_run_is_there_while_it_trains_and_has_every_epoch_once(tmp_path: Path):
    story = Story(tmp_path / "t", "live")
    live = story.live()
    before = time.time()
    live.follow(story.progress(0))
    [run] = story.opened
    live.follow(story.progress(2))
    found = story.client.get_run(run.run_id)
    assert found.info.status == "RUNNING"
    assert found.info.user_id == "ana"
    assert found.data.tags["mlflow.source.name"] == "flights.model:build"
    assert found.data.params["seed"] == "7"
    assert abs(found.info.start_time / 1000 - before) < 10
    assert story.losses(run.run_id) == ALL[:2]

    live.end("KILLED")
    assert story.client.get_run(run.run_id).info.status == "KILLED"
    again = story.live()  # the next try
    again.follow(story.progress(3))
    assert story.client.get_run(run.run_id).info.status == "RUNNING"
    again.end("FINISHED", story.result.ended)
    for _ in "12":
        assert story.register() == run.run_id
    assert story.losses(run.run_id) == ALL
    found = story.client.get_run(run.run_id)
    assert found.info.status == "FINISHED"
    assert found.info.end_time == round(story.result.ended.timestamp() * 1000)
    assert (found.data.metrics["cpu_seconds"], found.data.metrics["cost"]) == (7.0, 0.25)


def test_while_mlflow_is_away_it_goes_on_and_all_is_delivered_with_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog
):
    story = Story(tmp_path / "t", "away")
    story.down = True
    live = story.live()
    for epochs in (0, 1, 2):
        live.follow(story.progress(epochs))
    live.end("FINISHED")
    assert not story.opened
    assert caplog.text.count("the training goes on") == 1
    run_id = story.register()
    found = story.client.get_run(run_id)
    assert found.info.start_time == round(BEGAN.timestamp() * 1000)
    assert found.info.end_time - found.info.start_time == 4 * 60 * 1000, "the training's duration, not the delivery's"
    assert story.losses(run_id) == ALL

    # Back while it trains: what was missed is made up for.
    back = Story(tmp_path / "u", "back")
    back.down = True
    live = back.live()
    live.follow(back.progress(1))
    back.down = False
    monkeypatch.setattr(module, "_AGAIN", 0)
    live.follow(back.progress(2))
    assert back.losses(back.opened[0].run_id) == ALL[:2]


def test_what_it_uses_of_its_machine_is_on_the_run_over_time_also_what_was_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    story = Story(tmp_path / "t", "using")
    monkeypatch.setattr(module, "_AGAIN", 0)
    live = story.live()
    for place, down in enumerate((False, True, False)):
        story.down = down
        live._registry = None
        used = {"system/cpu_utilization_percentage": 10.0 * place, "system/gpu_0_memory_usage_megabytes": 5.0}
        live.follow(story.progress(0).model_copy(update={"usage": used}))
        time.sleep(0.01)
    found = story.client.get_metric_history(story.opened[0].run_id, "system/cpu_utilization_percentage")
    assert [one.value for one in found] == [0.0, 10.0, 20.0]
    assert len({one.timestamp for one in found}) == 3
    assert story.client.get_run(story.opened[0].run_id).data.metrics["system/gpu_0_memory_usage_megabytes"] == 5.0


def test_logs_for_tensorboard_go_with_the_model_unless_they_are_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog
):
    story = Story(tmp_path / "t", "logged")
    logs = story.workdir.path / "tensorboard" / "train"
    logs.mkdir(parents=True)
    (logs / "events.1").write_bytes(b"x" * 1000)
    monkeypatch.setattr(registry_module, "_MOST_LOGS", 999)
    run_id = story.register()
    assert "0 MB: more than 0 MB do not go to MLflow" in caplog.text
    assert not story.client.list_artifacts(run_id, "tensorboard")
    monkeypatch.setattr(registry_module, "_MOST_LOGS", 1000)
    for _ in "12":
        story.register()
    assert [one.path for one in story.client.list_artifacts(run_id, "tensorboard/train")] == [
        "tensorboard/train/events.1"
    ]


def test_a_training_that_fails_is_a_failed_run_with_its_epochs(tmp_path: Path):
    story = Story(tmp_path / "t", "failing")
    live = story.live()
    live.follow(story.progress(1))
    live.fail(TrainingError("The training's loss explodes."))
    found = story.client.get_run(story.opened[0].run_id)
    assert found.info.status == "FAILED"
    assert found.data.tags["mlops.error"] == "The training's loss explodes."
    assert story.losses(found.info.run_id) == ALL[:1]
