"""The doctor, asked about installations that are broken in one way each. A whole one: tests/containers."""

from __future__ import annotations

import json
import socket
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_mlops import cli, doctor
from airflow_mlops.doctor import HOSTS, OK, UNKNOWN, WRONG, Installation, examine
from airflow_mlops.stack.ports import PUBLISHED, Ports, variable


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home, a ledger and a Feast repository; no MLflow and no model server where their connections point."""
    home = tmp_path / "home"
    (home / "models").mkdir(parents=True)
    (home / "models.config").touch()
    connections: dict[str, dict[str, Any]] = {
        "mlflow_default": {"conn_type": "mlflow", "host": "http://127.0.0.1:9"},
        "mlops_ledger_default": {"conn_type": "mlops_ledger", "host": f"sqlite:///{home}/ledger.db"},
        "tf_serving_default": {
            "conn_type": "tf_serving",
            "host": "127.0.0.1",
            "port": 9,
            "extra": {
                "grpc_port": 9,
                "timeout": 0.2,
                "model_base_path": str(home / "models"),
                "model_config_file": str(home / "models.config"),
            },
        },
    }
    for name, value in connections.items():
        monkeypatch.setenv(f"AIRFLOW_CONN_{name.upper()}", json.dumps(value))
    monkeypatch.setenv("AIRFLOW__MLOPS__HOME", str(home))
    return home


def place(
    home: Path, *, queues: dict[str, list[str]] | None = None, tasks: Any = (), pools: Any = None
) -> Installation:
    """An installation whose workers and Airflow answer what a test says."""
    place = Installation(str(home))
    answers = {worker: [{"name": name} for name in names] for worker, names in (queues or {}).items()}
    inspect = SimpleNamespace(active_queues=lambda: answers)
    place.__dict__.update(
        executor="CeleryExecutor",
        celery=SimpleNamespace(control=SimpleNamespace(inspect=lambda timeout: inspect)),
        airflow=SimpleNamespace(pools=lambda: pools or {}),
        tasks=list(tasks),
    )
    return place


def task(**words: str) -> tuple[str, dict[str, Any]]:
    return "m.train", {"task_id": "train", "pool": "default_pool", "queue": "default", **words}


def test_each_thing_is_asked_whatever_the_others_say(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--airflow-url", "http://127.0.0.1:9"]) == 1
    said = capsys.readouterr()
    lines = [line for line in said.out.splitlines() if not line.startswith(" ")]
    states = {line[18:].split(": ")[0].strip(): line[:18].strip() for line in lines}
    assert states.keys() == doctor.CHECKS.keys()
    assert states["versions"] == states["ledger"] == states["home"] == states["permissions"] == OK
    assert states["airflow"] == WRONG
    assert states["pools"] == UNKNOWN, "it is the same thing that is wrong"
    assert "MLflow does not answer" in said.out
    assert "There is no Airflow connection 'feast_default'" in said.out
    assert "The model server at 127.0.0.1:9 does not answer" in said.out
    wrong = sum(line.startswith(WRONG) for line in lines)
    assert f"{wrong} things are wrong with this installation." in said.err
    # Whatever is wrong has a line that says how to mend it.
    every = said.out.splitlines()
    for number, line in enumerate(every):
        assert not line.startswith(WRONG) or every[number + 1].strip().startswith("fix:"), line


def test_a_package_that_is_too_new_is_named_with_its_bound(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    version = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "5.7.0" if name == "celery" else version(name))
    wrong = [finding for finding in doctor.versions(Installation(str(home))) if finding.state == WRONG]
    assert [finding.words for finding in wrong] == ["celery 5.7.0 is none of celery<5.7,>=5.5"]
    assert wrong[0].hint == 'pip install "celery<5.7,>=5.5"'


def test_a_home_that_is_not_there(home: Path) -> None:
    found = [finding for name, finding in examine(place(home / "other")) if name == "home"]
    assert [finding.state for finding in found] == [WRONG]
    assert "There is no home folder." in found[0].words
    assert "mount the volume" in found[0].hint


def test_a_worker_with_a_home_of_its_own(home: Path) -> None:
    workers = {"celery@a": ["default"], "celery@b": ["gpu"]}
    assert {finding.state for finding in doctor.shared(place(home, queues=workers))} == {UNKNOWN}, "nobody left a mark"
    (home / HOSTS).mkdir(parents=True)
    (home / HOSTS / "a").touch()
    a, b = doctor.shared(place(home, queues=workers))
    assert (a.state, b.state) == (OK, WRONG)
    assert "worker b was started with another home" in b.words
    [nobody] = doctor.shared(place(home))
    assert nobody.state == UNKNOWN


def test_a_queue_that_nobody_works_on(home: Path) -> None:
    tasks = [task(), task(queue="gpu")]
    default, gpu = doctor.queues(place(home, queues={"celery@a": ["default"]}, tasks=tasks))
    assert (default.state, gpu.state) == (OK, WRONG)
    assert gpu.words == "no worker listens on queue 'gpu': m.train.train never starts"
    assert "--queues=gpu" in gpu.hint


def test_a_pool_that_is_not_there_or_has_no_slot(home: Path) -> None:
    tasks = [task(), task(pool="feast"), task(pool="gpu")]
    found = doctor.pools(place(home, tasks=tasks, pools={"default_pool": 128, "feast": 0}))
    assert [finding.state for finding in found] == [OK, WRONG, WRONG]


def test_a_model_store_that_is_not_there(home: Path) -> None:
    (home / "models").rmdir()
    wrong = [finding for finding in doctor.server(Installation(str(home))) if finding.state == WRONG]
    assert any(f"the model store {home / 'models'} is not there" == finding.words for finding in wrong)


def test_a_check_that_breaks_stops_no_other(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Installation) -> Any:
        raise OSError("a cable")

    monkeypatch.setattr(doctor, "CHECKS", {"versions": broken, "home": doctor.home})
    (_, first), (_, second) = examine(place(home))
    assert (first.state, first.words) == (UNKNOWN, "OSError: a cable")
    assert second.state == OK


def test_before_the_start_of_a_compose(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ports = Ports.free().as_dict()
    settings = [f"{variable(name)}={ports[name]}" for name in PUBLISHED]
    with socket.create_server(("127.0.0.1", ports["mlflow"])):
        assert cli.main(["doctor", "--compose", str(tmp_path)]) == 1
        assert f"cp {tmp_path}/.env.example {tmp_path}/.env" in capsys.readouterr().out
        (tmp_path / ".env").write_text("\n".join(["# ports", *settings]))
        assert cli.main(["doctor", "--compose", str(tmp_path)]) == 1
        said = capsys.readouterr().out
    assert f"port {ports['mlflow']}, for the MLflow tracking server, is in use by another program" in said
    assert f"or change {tmp_path}/.env: MLFLOW_PORT=" in said
    assert cli.main(["doctor", "--compose", str(tmp_path)]) == 0


def test_half_a_login_is_refused(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--user", "admin"]) == 1
    assert "--user and --password-file belong together." in capsys.readouterr().err
