"""The parts of the laptop stack that need no process: settings, state, what the user sees, requests."""

from __future__ import annotations

import json
import stat
from datetime import date
from pathlib import Path

import httpx
import pytest

from airflow_mlops.demo.history import History
from airflow_mlops.demo.prediction import flight_after
from airflow_mlops.exceptions import ConfigError, TransientError
from airflow_mlops.stack.airflow_api import AirflowApi
from airflow_mlops.stack.console import Console
from airflow_mlops.stack.environment import FEAST_POOL, Layout, process_environment
from airflow_mlops.stack.ports import Ports
from airflow_mlops.stack.postgres import Postgres, start
from airflow_mlops.stack.processes import ProcessRecord
from airflow_mlops.stack.state import State
from airflow_mlops.templates.base import TASK_DEFAULTS

DATABASE = Postgres(ProcessRecord("postgres", 1, 0.0), "/a folder/socket")


def environment(home: Path) -> dict[str, str]:
    return process_environment(Layout(home), Ports(), DATABASE, dags=home / "dags", feature_repo=home / "repo")


def test_the_users_own_airflow_does_not_leak_into_the_stack(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", "CeleryExecutor")
    monkeypatch.setenv("AIRFLOW_CONN_MLFLOW_DEFAULT", "http://production")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://production")
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setenv("HTTP_PROXY", "http://proxy")
    settings = environment(home)
    assert settings["AIRFLOW__CORE__EXECUTOR"] == "LocalExecutor"
    assert "production" not in json.dumps(settings)
    assert "PYTHONDONTWRITEBYTECODE" not in settings
    assert "127.0.0.1" in settings["NO_PROXY"].split(",")


def test_connections_are_of_the_types_that_the_hooks_want(home: Path) -> None:
    (home / "repo").mkdir()
    settings = environment(home)
    types = {name: json.loads(settings[f"AIRFLOW_CONN_{name}_DEFAULT"])["conn_type"] for name in CONNECTIONS}
    assert types == {name: name.lower() for name in CONNECTIONS}
    assert "a%20folder" in json.loads(settings["AIRFLOW_CONN_MLOPS_LEDGER_DEFAULT"])["host"]


def test_features_are_applied_in_a_pool_of_their_own(home: Path) -> None:
    assert environment(home)["AIRFLOW__MLOPS__FEAST_POOL"] == FEAST_POOL


def test_what_a_killed_scheduler_or_worker_left_is_missed_within_a_minute(home: Path) -> None:
    """With the half minute that a pipeline's tasks wait before they are tried again."""
    settings, airflow = environment(home), "AIRFLOW__SCHEDULER__"
    missed = sum(
        float(settings[f"{airflow}TASK_INSTANCE_HEARTBEAT_TIMEOUT{name}"]) for name in ("", "_DETECTION_INTERVAL")
    )
    orphaned = sum(
        float(settings[airflow + name])
        for name in ("SCHEDULER_HEALTH_CHECK_THRESHOLD", "ORPHANED_TASKS_CHECK_INTERVAL")
    )
    assert missed + TASK_DEFAULTS["retry_delay"].total_seconds() <= 60
    assert orphaned < float(settings[f"{airflow}TASK_INSTANCE_HEARTBEAT_TIMEOUT"]), "begun again, and no try is lost"


CONNECTIONS = ("MLFLOW", "FEAST", "TF_SERVING", "MLOPS_LEDGER")


def test_secrets_are_made_once_and_for_their_owner_only(home: Path) -> None:
    first, second = environment(home), environment(home)
    assert first == second
    assert len(first["AIRFLOW__API_AUTH__JWT_SECRET"].encode()) >= 64
    assert stat.S_IMODE((Layout(home).run / "secrets.json").stat().st_mode) == 0o600


def test_state_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    assert State.read(path) is None
    one, two = ProcessRecord("one", 11, 1.5), ProcessRecord("two", 12, 2.5)
    state = State(Ports(airflow=1234), "dags", "feature_repo").plus(one).plus(two).plus(ProcessRecord("one", 13, 3.5))
    state.write(path)
    assert State.read(path) == state
    assert state.of(["one"]) == [ProcessRecord("one", 13, 3.5)]
    assert state.minus(["one"]).processes == (two,)


def test_a_log_gets_a_line_when_the_step_changes(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console()
    for n in range(100):
        console.step("history", f"{n} of 100")
    console.step("week", "1 of 7")
    console.say("done")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("] ")[1] for line in lines] == ["… history: 0 of 100", "… week: 1 of 7", "done"]


def test_the_flight_to_predict_leaves_after_the_last_features() -> None:
    flight = flight_after(date(2013, 6, 7))
    assert flight.row["sched_dep_utc"].isoformat() >= "2013-06-08T00:00", "of a day that nobody has features of"
    assert "minutes" in flight.outcome() or "never arrived" in flight.outcome()


def test_history_is_made_again_when_the_code_changed(tmp_path: Path) -> None:
    dags, repo = tmp_path / "dags", tmp_path / "repo"
    dags.mkdir()
    repo.mkdir()
    (dags / "pipeline.py").write_text("window = 1")
    history = History(tmp_path / "home", dags, repo, "sqlite://", date(2013, 1, 1), date(2013, 1, 3))
    assert history.days == ["2013-01-01", "2013-01-02", "2013-01-03"]
    assert not history.done
    history.mark_done()
    assert history.done
    (dags / "pipeline.py").write_text("window = 2")
    assert not history.done


def test_postgres_refuses_a_path_that_it_cannot_be_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="space"):
        start(tmp_path / "my clone" / "postgres")


def test_a_request_that_the_database_ended_is_repeated_unless_it_makes_something(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("airflow_mlops.stack.airflow_api._PAUSES", (0.0, 0.0))
    answers = [500, 500, 200, 500]
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/auth/token":
            return httpx.Response(201, json={"access_token": "t"})
        asked.append(request.method)
        return httpx.Response(answers.pop(0), json={})

    with AirflowApi("http://airflow") as airflow:
        airflow._http = httpx.Client(base_url="http://airflow", transport=httpx.MockTransport(answer))
        airflow.unpause("d")
        assert asked == ["PATCH"] * 3
        with pytest.raises(TransientError, match="500"):
            airflow.trigger("d")
        assert asked == ["PATCH"] * 3 + ["POST"]


def test_an_airflow_that_is_not_there_is_said_in_words() -> None:
    url = f"http://127.0.0.1:{Ports.free().airflow}"
    with AirflowApi(url) as airflow, pytest.raises(TransientError, match="does not answer"):
        airflow.dag_ids()
