"""The red button: who says so, until when, and which tasks it stops."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from airflow_mlops.cli import main
from airflow_mlops.engine.halts import halt, halted, halts, resume
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.exceptions import ConfigError, TransientError
from airflow_mlops.operators.admit import AdmitTrainingOperator
from airflow_mlops.operators.feast import FeastCheckParityOperator, FeastGetTrainingDataOperator
from airflow_mlops.operators.mlflow import (
    MLflowFetchApprovedModelOperator,
    MLflowJudgeModelOperator,
    MLflowRegisterModelOperator,
)
from airflow_mlops.operators.mlflow_elsewhere import MLflowRegisterSavedModelOperator
from airflow_mlops.operators.roll_through import TFServingRollThroughOperator
from airflow_mlops.operators.runbook import HaltModelOperator, ResumeModelOperator
from airflow_mlops.operators.tensorflow import TensorFlowTrainOperator
from airflow_mlops.operators.tensorflow_adopt import TensorFlowAdoptModelOperator
from airflow_mlops.operators.tensorflow_launch import TensorFlowPrepareTrainingOperator
from airflow_mlops.operators.tf_serving import (
    TFServingLoadVersionOperator,
    TFServingPromoteVersionOperator,
    TFServingPublishModelOperator,
)
from airflow_mlops.triggers.readiness import look
from tests.contract.classes import OPERATORS, example_arguments
from tests.small_days import START, seal_days

STOPPED = [
    AdmitTrainingOperator,
    FeastGetTrainingDataOperator,
    MLflowFetchApprovedModelOperator,
    MLflowJudgeModelOperator,
    MLflowRegisterModelOperator,
    MLflowRegisterSavedModelOperator,
    TFServingRollThroughOperator,
    TFServingLoadVersionOperator,
    TFServingPromoteVersionOperator,
    TFServingPublishModelOperator,
    TensorFlowAdoptModelOperator,
    TensorFlowPrepareTrainingOperator,
    TensorFlowTrainOperator,
]


class TaskInstance:
    dag_id, run_id = "m.train", "manual__1"

    def __init__(self) -> None:
        self.pushed: dict[str, Any] = {}

    def xcom_push(self, key: str, value: Any) -> None:
        self.pushed[key] = value


class Run:
    run_id, triggering_user_name = "manual__1", "ann"


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    url = f"sqlite:///{tmp_path}/ledger.db"
    monkeypatch.setenv("AIRFLOW_CONN_MLOPS_LEDGER_DEFAULT", json.dumps({"conn_type": "mlops_ledger", "host": url}))
    monkeypatch.setenv("AIRFLOW__MLOPS__HOME", str(tmp_path))
    return Ledger(url)


def test_halt_and_resume(ledger: Ledger):
    assert halted(ledger, "m") is None
    made = halt(ledger, "m", "ann", "the labels are wrong")
    assert str(halted(ledger, "m")) == "m is halted by ann until somebody resumes: the labels are wrong"
    assert halts(ledger) == [made]
    assert halted(ledger, "other") is None
    assert resume(ledger, "m", "bob", "repaired") == made
    assert halted(ledger, "m") is None
    assert resume(ledger, "m", "bob", "again") is None
    said = [(fact.payload["action"], fact.payload["who"]) for fact in ledger.facts("halt", "m")]
    assert said == [("resume", "bob"), ("halt", "ann")]


def test_a_halt_runs_out(ledger: Ledger):
    soon = datetime.now(UTC) + timedelta(hours=1)
    halt(ledger, "m", "ann", "why", soon)
    assert f"until {soon:%Y-%m-%d %H:%M} UTC" in str(halted(ledger, "m"))
    halt(ledger, "m", "ann", "why", soon.astimezone(ZoneInfo("Asia/Tokyo")))
    assert f"until {soon:%Y-%m-%d %H:%M} UTC" in str(halted(ledger, "m"))
    with pytest.raises(ConfigError, match="in the year 9999"):
        halt(ledger, "m", "ann", "why", datetime(9999, 12, 31, tzinfo=timezone(timedelta(hours=-12))))
    over = {**ledger.pointer("halt:m").value, "until": (datetime.now(UTC) - timedelta(seconds=1)).isoformat()}
    assert ledger.swap("halt:m", over, ledger.pointer("halt:m"))
    assert halted(ledger, "m") is None
    assert halts(ledger) == []
    with pytest.raises(ConfigError, match="would have run out"):
        halt(ledger, "m", "ann", "why", datetime.now(UTC) - timedelta(hours=1))
    with pytest.raises(ConfigError, match="no time zone"):
        halt(ledger, "m", "ann", "why", datetime(2099, 1, 1))  # noqa: DTZ001
    with pytest.raises(ConfigError, match="lacks: reason"):
        halt(ledger, "m", "ann", " ")


@pytest.mark.parametrize("operator", STOPPED)
def test_what_a_halt_stops_is_skipped_with_its_words(operator: type, ledger: Ledger):
    halt(ledger, "x", "ann", "the labels are wrong")
    arguments = {**example_arguments(operator), "model": "x"}
    if operator in (TensorFlowPrepareTrainingOperator, TensorFlowTrainOperator):
        arguments["ledger_conn_id"] = "mlops_ledger_default"
    ti = TaskInstance()
    with pytest.raises(AirflowSkipException, match="x is halted by ann until somebody resumes: the labels are wrong"):
        operator(task_id="t", **arguments).execute({"ti": ti, "dag_run": Run()})
    assert "clear this task" in ti.pushed["held"]


def test_these_are_all_that_bring_something_new(ledger: Ledger):
    assert {operator for operator in OPERATORS if operator.stopped_by_halt} == set(STOPPED)


def test_the_others_go_on_and_remind(ledger: Ledger, capsys: pytest.CaptureFixture[str]):
    halt(ledger, "x", "ann", "the labels are wrong")
    parity = FeastCheckParityOperator(task_id="t", **{**example_arguments(FeastCheckParityOperator), "model": "x"})
    with pytest.raises(AirflowFailException):
        parity.execute({"ti": TaskInstance(), "dag_run": Run()})
    assert (
        "x is halted by ann until somebody resumes: the labels are wrong. This task goes on." in capsys.readouterr().out
    )


def test_a_training_survives_a_ledger_that_is_down_and_a_registration_waits(
    monkeypatch: pytest.MonkeyPatch, home: Path
):
    down = {"conn_type": "mlops_ledger", "host": "postgresql://127.0.0.1:1/none"}
    monkeypatch.setenv("AIRFLOW_CONN_MLOPS_LEDGER_DEFAULT", json.dumps(down))
    arguments = {"home": str(home), "model": "x", "ledger_conn_id": "mlops_ledger_default"}
    training = {**example_arguments(TensorFlowTrainOperator), **arguments}
    with pytest.raises(AirflowFailException) as failed:
        TensorFlowTrainOperator(task_id="t", **training).execute({"ti": TaskInstance(), "dag_run": Run()})
    assert "ledger" not in str(failed.value)
    registration = {**example_arguments(MLflowRegisterModelOperator), **arguments}
    with pytest.raises(TransientError, match="ledger"):
        MLflowRegisterModelOperator(task_id="r", **registration).execute({"ti": TaskInstance(), "dag_run": Run()})


def test_a_training_that_waits_for_data_waits_for_the_resume(ledger: Ledger, home: Path):
    halt(ledger, "m", "ann", "the labels are wrong")
    seal_days(home, "departures", 1)
    feeds = [{"dataset": "departures", "start": str(START)}]
    reasons, ready = look(ledger, home, feeds, "2013-01-02T00:00:00Z", "m")
    assert reasons == ["m is halted by ann until somebody resumes: the labels are wrong"]
    assert ready is None
    resume(ledger, "m", "ann", "repaired")
    assert look(ledger, home, feeds, "2013-01-02T00:00:00Z", "m").ready is not None


def test_by_the_form_in_the_name_of_who_triggers_it(ledger: Ledger):
    context = {"ti": TaskInstance(), "dag_run": Run()}
    made = HaltModelOperator(task_id="h", model="m").execute(context)
    assert made == {"model": "m", "halted": True, "who": "ann", "reason": "no reason was given", "until": None}
    assert halted(ledger, "m") is not None
    HaltModelOperator(task_id="h", model="m", until="2099-02-01").execute(context)
    assert halted(ledger, "m").until == datetime(2099, 2, 1, tzinfo=UTC)
    assert ResumeModelOperator(task_id="r", model="m").execute(context)["halted"] is False
    assert halted(ledger, "m") is None


def test_by_command(ledger: Ledger, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    place = ["--ledger", ledger.url, "--home", str(tmp_path)]
    assert main(["halt", "flight_dealy", "--reason", "x", *place]) == 1
    ledger.record("verdict", "flight_delay", {})
    assert main(["halt", "flight_dealy", "--reason", "x", *place]) == 1
    assert "Did you mean 'flight_delay'?" in capsys.readouterr().err
    assert halts(ledger) == []
    assert main(["halt", "hotels", "--reason", "not ready", *place]) == 1
    assert "say --untrained" in capsys.readouterr().err
    assert main(["halt", "hotels", "--untrained", "--reason", "not ready", *place]) == 0
    assert resume(ledger, "hotels", "ann", "ready") is not None
    assert main(["halt", "flight_delay", "--reason", "x", "--until", "soon", *place]) == 1
    assert "neither a day nor a moment" in capsys.readouterr().err
    capsys.readouterr()
    assert main(["halt", "flight_delay", "--reason", "the labels are wrong", *place]) == 0
    assert "What serves stays" in capsys.readouterr().out
    assert main(["halts", *place]) == 0
    assert "flight_delay is halted by" in capsys.readouterr().out
    assert main(["resume", "flight_delay", "--reason", "repaired", *place]) == 0
    assert main(["halts", *place]) == 0
    assert "No model is halted." in capsys.readouterr().out
