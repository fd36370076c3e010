"""What a training may cost, how few rows it may have, how often it is saved, and what it uses."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowFailException

from airflow_mlops import Trainer
from airflow_mlops.contracts import Signature, Snapshot, TrainingResult
from airflow_mlops.engine.devices.nvml import Device, find_gpus
from airflow_mlops.engine.devices.usage import Usage
from airflow_mlops.engine.training.checkpoints import Checkpoints, Position
from airflow_mlops.engine.training.launch import train
from airflow_mlops.engine.training.shrinkage import check_rows
from airflow_mlops.engine.training.spending import Spending
from airflow_mlops.engine.training.workdir import Workdir
from airflow_mlops.exceptions import ConfigError, TrainingError
from airflow_mlops.operators.base import positive
from airflow_mlops.operators.tensorflow import TensorFlowTrainOperator
from tests.fake_nvml import with_gpus
from tests.training_fixtures import START, make_snapshot, make_spec
from tests.unit.test_pipeline import pipeline

# --- cost -------------------------------------------------------------------------------------------------


@pytest.fixture
def workdir(tmp_path: Path) -> Workdir:
    return Workdir(tmp_path / "t")


def test_tries_add_up_and_what_costs_too_much_does_not_begin(workdir: Workdir):
    for before in (0.0, 0.25):
        spending = Spending(workdir, price=3600, max_cost=0.5)
        with spending.counting():
            assert before <= spending.before < before + 0.2
            assert 0 < spending.left <= 0.5 - before
            time.sleep(0.25)
    says = r"price limit of 0\.5(.|\n)*at 3600 an hour, which is 0\.[5-9]"
    with pytest.raises(TrainingError, match=says) as over, spending.counting():
        raise AssertionError("it began")
    assert "raise max_cost and clear the task" in over.value.hint
    with Spending(workdir, 3600, 5).counting():
        pass  # with a higher limit it goes on
    assert not workdir.keeps, "there is nothing in it to go on from"


def test_one_whose_machine_is_lost_has_cost_what_was_written_down(workdir: Workdir, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("airflow_mlops.engine.training.spending._WRITTEN", 0)
    spending = Spending(workdir, price=1)
    with spending.counting():
        time.sleep(0.2)
        spending.mind()
        other = Spending(workdir, price=1)
        with other.counting():
            assert other.before >= 0.2


def test_a_count_that_cannot_be_read_counts_from_nothing(workdir: Workdir):
    workdir.checkpoints.mkdir(parents=True)
    for text in ("", "[]", '{"seconds": "many"}', "{"):
        workdir.spent.write_text(text)
        spending = Spending(workdir, price=1)
        with spending.counting():
            assert spending.before == 0


def test_without_a_price_nothing_is_left_of_a_training_that_has_saved_nothing(workdir: Workdir):
    with Spending(workdir).counting():
        pass
    assert not workdir.checkpoints.exists()


def test_a_limit_without_a_price_is_refused(tmp_path: Path):
    spec = make_spec(make_snapshot(tmp_path, rows=20))
    with pytest.raises(ConfigError, match=r"max_cost=3 limits nothing(.|\n)*AIRFLOW__MLOPS__PRICE_PER_HOUR"):
        train(spec, tmp_path / "t", timeout=10, max_cost=3)
    assert not (tmp_path / "t").exists()


@pytest.mark.parametrize("value", ["0", "-1", "much", "nan", "inf"])
def test_a_rendered_limit_is_a_number(value: str):
    with pytest.raises(ConfigError, match=f"max_cost='{value}' is no number above 0"):
        positive(value, "max_cost")
    assert [positive(one, "max_cost") for one in (None, "", "None", " 2.5 ", 3)] == [None, None, None, 2.5, 3.0]


# --- rows -------------------------------------------------------------------------------------------------


def trained_on(home: Path, snapshot: Snapshot, *, days: int, model: str = "flight_delay") -> None:
    """Leave what a finished training leaves."""
    spec = make_spec(snapshot.model_copy(update={"model": model}), model=model)
    result = TrainingResult(
        spec_hash=spec.hash, snapshot_id=snapshot.id, saved_model="", signature=Signature(inputs={}, outputs={}),
        history={}, examples=1, seconds=1, examples_per_second=1, oldest_event_time=START, newest_event_time=START,
        hardware="", versions={}, ended=START + timedelta(days=days),
    )  # fmt: skip
    workdir = Workdir(home / "trainings" / spec.hash[:16])
    workdir.path.mkdir(parents=True)
    workdir.spec.write_text(spec.to_json())
    workdir.result.write_text(result.to_json())


def test_far_fewer_rows_than_last_time_are_refused_with_both_numbers(home: Path):
    few = make_snapshot(home, rows=40, snapshot_id="now")
    check_rows(home, few, 0.5)  # a first training has nothing to be compared with
    trained_on(home, make_snapshot(home, rows=400, snapshot_id="older"), days=1)
    trained_on(home, make_snapshot(home, rows=100, snapshot_id="last"), days=2)
    trained_on(home, make_snapshot(home, rows=900, snapshot_id="others"), days=3, model="another")
    trained_on(home, few, days=4)  # itself, in a try before
    for name, text in (("unfinished", None), ("of another release", "{}")):
        (home / "trainings" / name).mkdir()
        if text:
            (home / "trainings" / name / "spec.json").write_text(text)
            (home / "trainings" / name / "result.json").write_text(text)
    with pytest.raises(TrainingError) as refused:
        check_rows(home, few, 0.5)
    assert refused.value.headline == "There are 40 rows to train 'flight_delay' on, and last time there were 100."
    assert "that is 40% of them, and min_rows_share is 0.5" in refused.value.detail
    assert "snapshot 'now', last time 'last'" in refused.value.detail
    assert "min_rows_share=0.4:" in refused.value.hint
    check_rows(home, few, 0.4)


def test_an_old_window_is_not_compared_with_what_came_later(home: Path):
    trained_on(home, make_snapshot(home, rows=400, snapshot_id="newer"), days=2)
    old = make_snapshot(home, rows=40, snapshot_id="old")
    check_rows(home, old.model_copy(update={"label_cut": old.label_cut - timedelta(days=9)}), 0.9)


def operator(home: Path, **arguments: object) -> TensorFlowTrainOperator:
    return TensorFlowTrainOperator(
        task_id="t", home=str(home), model="flight_delay", snapshot="now", entrypoint="flights.model:build",
        dag=DAG("d", schedule=None), mlflow_conn_id=None, ledger_conn_id=None, **arguments,
    )  # fmt: skip


def test_a_task_is_refused_in_words_before_anything_starts(home: Path):
    trained_on(home, make_snapshot(home, rows=400, snapshot_id="last"), days=1)
    make_snapshot(home, rows=40, snapshot_id="now")
    before = set((home / "trainings").iterdir())
    for arguments, says in (
        ({"min_rows_share": "0.5"}, "There are 40 rows to train 'flight_delay' on, and last time there were 400"),
        ({"max_cost": "12.5", "min_rows_share": 0.1}, r"max_cost=12\.5 limits nothing"),
        ({"min_rows_share": "half"}, "min_rows_share='half' is no number above 0"),
    ):
        with pytest.raises(AirflowFailException, match=says):
            operator(home, **arguments).execute({"ti": SimpleNamespace(dag_id="d", run_id="r")})
    assert set((home / "trainings").iterdir()) == before


def test_the_train_dag_has_what_the_trainer_says():
    train = Trainer(
        "code:build",
        window="60d",
        max_cost=3.0,
        min_rows_share=0.4,
        checkpoint_every="2m",
        checkpoint_epochs=5,
        tensorboard=True,
    )
    task = pipeline(train=train).dags()["m_train"].get_task("train")
    assert (task.max_cost, task.min_rows_share, task.checkpoint_every, task.tensorboard) == (3.0, 0.4, 120.0, True)
    assert task.checkpoint_epochs == 5
    task = pipeline().dags()["m_train"].get_task("train")
    assert (task.max_cost, task.min_rows_share, task.checkpoint_every, task.tensorboard) == (None, None, None, False)


# --- how often --------------------------------------------------------------------------------------------


def test_it_is_saved_as_often_as_is_asked(tmp_path: Path):
    asked, usual = Checkpoints(tmp_path, "s", every=0.1), Checkpoints(tmp_path, "s")
    for one in (asked, usual):
        one.save(Position(1), {}, {})
        assert not one.due(Position(1, 1))
    asked._cost = usual._cost = 60.0  # it takes long; who asks for it pays for it
    time.sleep(0.12)
    assert asked.due(Position(1, 2))
    assert not usual.due(Position(1, 2))


def test_it_is_saved_after_so_many_epochs(tmp_path: Path):
    by_epochs, by_both = Checkpoints(tmp_path, "s", epochs=2), Checkpoints(tmp_path, "s", every=0.1, epochs=2)
    time.sleep(0.12)
    due = [Position(1, 7), Position(2), Position(2, 1), Position(3), Position(4)]
    assert [by_epochs.due(position) for position in due] == [False, True, False, False, True]
    assert by_both.due(Position(1, 7))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"checkpoint_every": "2h"}, "stopped before its first checkpoint(.|\n)*timeout=2h, checkpoint_every=2h"),
        ({"stall_timeout": "3h"}, "stopped before it can have stood still so long"),
        ({"entrypoint": None, "fit": "code:fit", "checkpoint_every": "2m"}, "is for a model function(.|\n)*code:fit"),
        ({"entrypoint": None, "script": "t.py", "checkpoint_epochs": 2}, "checkpoint_epochs=2(.|\n)*t.py"),
        ({"checkpoint_epochs": 0}, "checkpoint_epochs: Input should be greater than or equal to 1"),
        ({"max_cost": 0.0}, "max_cost: Input should be greater than 0"),
        ({"min_rows_share": 1.5}, "min_rows_share: Input should be less than or equal to 1"),
        ({"checkpoint_evry": "2m"}, "Did you mean 'checkpoint_every'"),
        ({"epochs": 0}, "epochs: Input should be greater than 0"),
    ],
)
def test_what_cannot_come_to_pass_is_refused_when_the_dag_is_parsed(given: dict[str, object], says: str):
    with pytest.raises(ConfigError, match=says):
        Trainer(**{"entrypoint": "code:build", "window": "60d", **given})


def test_a_short_timeout_alone_is_no_mistake():
    Trainer("code:build", window="60d", timeout="10m")


@pytest.mark.parametrize(
    ("every", "says"),
    [
        (0, "is no number of seconds"),
        (-5, "is no number of seconds"),
        ("2m", "checkpoint_every='2m' is no number of seconds"),
        (7200, "checkpoint_every=7200 saves nothing within timeout=7200"),
    ],
)
def test_an_operator_whose_training_would_never_be_saved_is_refused(every: float, says: str):
    with pytest.raises(ConfigError, match=says):
        TensorFlowTrainOperator(task_id="t", model="m", checkpoint_every=every)


# --- what it uses -----------------------------------------------------------------------------------------

BUSY = """
import subprocess, sys, time
open(sys.executable, "rb").read(); open(sys.executable, "rb").read()
if len(sys.argv) < 2:
    other = subprocess.Popen([sys.executable, __file__, "other"])
kept = b"x" * 60_000_000
print("ready", flush=True)
while True:
    sum(range(10000))
"""


def test_what_a_process_and_those_that_it_started_use(tmp_path: Path):
    (tmp_path / "busy.py").write_text(BUSY)
    process = subprocess.Popen([sys.executable, str(tmp_path / "busy.py")], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        process.stdout.readline(), process.stdout.readline()
        usage = Usage(process.pid)
        usage.sample()
        time.sleep(0.5)
        found = usage.sample()
        own = psutil.Process(process.pid).memory_info().rss / 1e6
        assert found["system/memory_usage_megabytes"] > own + 60, "the other one's too"
        assert 0 < found["system/cpu_utilization_percentage"] <= 110
        assert found["system/bytes_read_megabytes"] > 4 * Path(sys.executable).stat().st_size / 1e6
        assert found.keys() == {
            f"system/{name}"
            for name in ("memory_usage_megabytes", "cpu_utilization_percentage", "bytes_read_megabytes")
        }
    finally:
        for one in (*psutil.Process(process.pid).children(), process):
            one.kill()
        process.wait()
    assert usage.sample() == {}, "nothing is said of one that has ended"


def test_its_own_gpus_by_nvml(monkeypatch: pytest.MonkeyPatch):
    with_gpus(monkeypatch, "A", "B", "C", parts={2: ["C 1g"]})
    _, second, part = find_gpus().devices
    found = Usage(os.getpid(), [second, part, Device(7, "GPU-gone", "lost")]).sample()
    assert {name: value for name, value in found.items() if "gpu" in name} == {
        "system/gpu_0_memory_usage_megabytes": pytest.approx(78 * 2**30 / 1e6, abs=0.1),
        "system/gpu_0_utilization_percentage": 20.0,
        "system/gpu_1_memory_usage_megabytes": pytest.approx(79 * 2**30 / 1e6, abs=0.1),
    }
    with_gpus(monkeypatch, "A", driver=False)
    assert not [name for name in Usage(os.getpid(), [second]).sample() if "gpu" in name], "its driver is gone"
