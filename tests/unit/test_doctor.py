"""The doctor, asked about installations that are broken in one way each. A whole one: tests/containers."""

from __future__ import annotations

import json
import shutil
import socket
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_mlops import cli, doctor
from airflow_mlops.compose import before_the_start
from airflow_mlops.doctor import HOSTS, OK, UNKNOWN, WRONG, Installation, examine
from airflow_mlops.stack.ports import PUBLISHED, Ports, variable
from tests.conftest import ROOT

COMPOSE = ROOT / "docker"


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
    usual = {"operator_name": "TensorFlowTrainOperator", "pool": "default_pool", "queue": "default"}
    return "m.train", {"task_id": "train", **usual, **words}


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


def test_where_nobody_uses_feast_its_connection_is_not_missed(home: Path) -> None:
    def feast(*tasks: Any) -> doctor.Finding:
        return list(doctor.connections(place(home, tasks=tasks)))[-1]

    assert feast(task()).state == OK
    assert feast(task(), task(operator_name="FeastApplyOperator")).state == WRONG
    assert "There is no Airflow connection 'feast_default'" in feast(task(operator_name="FeastApplyOperator")).words


def test_what_keeps_two_questions_from_being_asked_is_said_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIRFLOW_CONN_TF_SERVING_DEFAULT")
    [found] = [finding for name, finding in examine(place(home)) if name == "server"]
    assert "There is no Airflow connection 'tf_serving_default'" in found.words


def test_a_queue_that_nobody_works_on(home: Path) -> None:
    tasks = [task(), task(queue="gpu")]
    default, gpu = doctor.queues(place(home, queues={"celery@a": ["default"]}, tasks=tasks))
    assert (default.state, gpu.state) == (OK, WRONG)
    assert gpu.words == "no worker listens on queue 'gpu': m.train.train never starts"
    assert "--queues=gpu" in gpu.hint


def test_a_broker_that_does_not_answer(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__CELERY__BROKER_URL", "redis://:secret@127.0.0.1:9/0")
    monkeypatch.setattr(doctor, "CHECKS", {name: doctor.CHECKS[name] for name in ("shared home", "queues")})
    mine = place(home)
    del mine.__dict__["celery"]
    found = dict(examine(mine))
    assert found["shared home"].state == WRONG
    assert found["shared home"].words.startswith("Celery's broker does not answer.")
    assert "secret" not in found["shared home"].words
    assert (found["queues"].state, found["queues"].words) == (UNKNOWN, "see shared home, above")


def test_a_pool_that_is_not_there_or_has_no_slot(home: Path) -> None:
    tasks = [task(), task(pool="feast"), task(pool="gpu")]
    found = doctor.pools(place(home, tasks=tasks, pools={"default_pool": 128, "feast": 0}))
    assert [finding.state for finding in found] == [OK, WRONG, WRONG]


def test_a_dag_of_ones_own_is_looked_at_too(home: Path) -> None:
    mine = Installation(str(home))
    told = {"dag_ids": lambda: {"churn"}, "dag_tasks": lambda _: [task(pool="gpu")[1]], "pools": lambda: {"default": 9}}
    mine.__dict__["airflow"] = SimpleNamespace(**told)
    [found] = doctor.pools(mine)
    assert (found.words, found.hint) == (
        "there is no pool 'gpu': churn.train never starts",
        "airflow pools set gpu 1 ''",
    )


def test_a_pool_that_is_too_small_for_a_task(home: Path) -> None:
    tasks = [task(pool="gpu"), ("big.train", {"task_id": "train", "pool": "gpu", "queue": "gpu", "pool_slots": 2.0})]
    [found] = doctor.pools(place(home, tasks=tasks, pools={"gpu": 1}))
    assert found.words == "pool 'gpu' has 1 slots, and big.train.train takes 2: it never starts"
    for fine in (2, -1):
        [found] = doctor.pools(place(home, tasks=tasks, pools={"gpu": fine}))
        assert found.state == OK


def test_a_task_that_the_broker_would_hand_out_twice(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__CELERY__BROKER_URL", "redis://:secret@redis:6379/0")
    long = {**task()[1], "execution_timeout": {"__type": "TimeDelta", "days": 1, "seconds": 60, "microseconds": 0}}
    mine = place(home, queues={"celery@a": ["default"]}, tasks=[task(), ("m.train", long)])
    [wrong] = [finding for finding in doctor.queues(mine) if finding.state == WRONG]
    assert wrong.words.startswith("m.train.train may take 86460 s, and after 86400 s the broker hands it")
    name = "AIRFLOW__CELERY_BROKER_TRANSPORT_OPTIONS__VISIBILITY_TIMEOUT"
    assert wrong.hint == f"{name}=172920, everywhere"
    monkeypatch.setenv(name, "172920")
    assert {finding.state for finding in doctor.queues(mine)} == {OK}


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
    settings = ["COMPOSE_PROFILES=cpu,storage", *(f"{variable(name)}={ports[name]}" for name in PUBLISHED)]
    shutil.copy(COMPOSE / "compose.yaml", tmp_path)
    with socket.create_server(("127.0.0.1", ports["mlflow"])):
        assert cli.main(["doctor", "--compose", str(tmp_path)]) == 1
        assert f"cp {tmp_path}/.env.example {tmp_path}/.env" in capsys.readouterr().out
        (tmp_path / ".env").write_text("\n".join(["# ports", *settings]))
        assert cli.main(["doctor", "--compose", str(tmp_path)]) == 1
        said = capsys.readouterr().out
    assert f"port {ports['mlflow']}, for the MLflow tracking server, is in use by another program" in said
    assert f"or change {tmp_path}/.env: MLFLOW_PORT=" in said
    assert cli.main(["doctor", "--compose", str(tmp_path)]) == 0


def compose_with(folder: Path, **changes: str) -> str:
    """Ask about the compose with other settings than those of the example."""
    shutil.copy(COMPOSE / "compose.yaml", folder)
    lines = (COMPOSE / ".env.example").read_text().splitlines()
    settings = dict(line.split("=", 1) for line in lines if line and line[0] != "#")
    settings |= {"DAGS": ".", "FEATURE_REPO": ".", "PLUGINS": "."}
    settings |= {variable(name): str(port) for name, port in Ports.free().as_dict().items() if name in PUBLISHED}
    (folder / ".env").write_text("\n".join(f"{name}={value}" for name, value in (settings | changes).items()))
    return "\n".join(f"{found.words} {found.hint}" for _, found in before_the_start(folder) if found.state == WRONG)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"AIRFLOW_PORT": "http"}, "AIRFLOW_PORT='http' is not a port number. Give a whole number"),
        ({"S3_ENDPONT": "http://s3"}, "compose.yaml reads no S3_ENDPONT. Did you mean 'S3_ENDPOINT'?"),
        ({"COMPOSE_PROFILES": "cup,storage"}, "no profile 'cup'. Did you mean 'cpu'? Profiles: cpu, nvidia, storage."),
        ({"COMPOSE_PROFILES": "storage"}, "no worker trains"),
        ({"COMPOSE_PROFILES": "nvidia"}, "MLflow has no store for artifacts"),
        ({"DAGS": "../nowhere"}, "DAGS: there is no folder"),
        ({"PARALLELISM": "0"}, "PARALLELISM=0 is no number"),
        ({"BIND": "localhost"}, "BIND=localhost is no address"),
    ],
    ids=lambda one: next(iter(one)) if isinstance(one, dict) else "",
)
def test_settings_of_a_compose_that_cannot_be_meant(tmp_path: Path, changes: dict[str, str], says: str) -> None:
    assert says in compose_with(tmp_path, **changes)


def test_settings_of_a_compose_that_are_fine(tmp_path: Path) -> None:
    assert compose_with(tmp_path) == ""
    real = {"COMPOSE_PROFILES": "nvidia", "S3_ENDPOINT": "https://s3", "BIND": "[::]", "OF_MY_OVERRIDE_FILE": "1"}
    assert compose_with(tmp_path, **real) == ""


def test_a_folder_without_a_compose(tmp_path: Path) -> None:
    [(_, found)] = before_the_start(tmp_path)
    assert found.words == f"there is no {tmp_path}/compose.yaml"


def test_half_a_login_is_refused(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--user", "admin"]) == 1
    assert "--user and --password-file belong together." in capsys.readouterr().err
