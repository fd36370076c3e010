"""The composed installation held against the laptop stack, which the end-to-end tests run: no container is needed."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from airflow_mlops.resources import GPU_QUEUE
from airflow_mlops.stack.components import AIRFLOW, module_and_flags
from airflow_mlops.stack.environment import _NO_TELEMETRY, BACKFILL_POOL, FEAST_POOL, Layout, _airflow
from airflow_mlops.stack.health import _HEARTBEATS
from airflow_mlops.stack.ports import PUBLISHED, Ports, variable
from airflow_mlops.stack.postgres import DATABASES, Postgres
from airflow_mlops.stack.processes import ProcessRecord

DOCKER = Path(__file__).parent.parent.parent / "docker"
COMPOSE: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
WORKERS = ("worker", "worker-gpu", "worker-nvidia")
ONCE = ("secrets", "migrate")
EXAMPLE = dict(
    line.lstrip("#").split("=", 1)
    for line in (DOCKER / ".env.example").read_text().splitlines()
    if re.match(r"#?[A-Z_0-9]+=", line)
)
DATABASE = Postgres(ProcessRecord("postgres", 1, 1.0), "/socket")

ELSEWHERE = {
    "CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS",  # there is a login
    "LOGGING__WORKER_LOG_SERVER_PORT",  # each container has ports of its own
    "LOGGING__TRIGGER_LOG_SERVER_PORT",
    "CORE__HOSTNAME_CALLABLE",
    "API__EXPOSE_STACKTRACE",
}
"""Settings of the laptop stack that would be wrong in containers."""

DIFFERS = {
    "CORE__DAGS_FOLDER",
    "CORE__PLUGINS_FOLDER",
    "CORE__EXECUTOR",
    "CORE__PARALLELISM",
    "CORE__EXECUTION_API_SERVER_URL",
    "API__HOST",
    "API__PORT",
    "API__BASE_URL",
    "API__WORKERS",
    "LOGGING__BASE_LOG_FOLDER",
    "MLOPS__HOME",
    "WORKERS__MIN_HEARTBEAT_INTERVAL",
}
"""Settings that both have, each with a value of its own."""


def flags(words: list[str]) -> dict[str, str]:
    return dict(word.partition("=")[::2] for word in words if word.startswith("--"))


def test_settings_are_those_of_the_laptop_stack(tmp_path: Path) -> None:
    stack = _airflow(Layout(tmp_path), Ports(), DATABASE, tmp_path / "dags")
    here = SERVICES["scheduler"]["environment"]
    for name, value in stack.items():
        key = name.removeprefix("AIRFLOW__")
        if key == "AIRFLOW_HOME" or key in ELSEWHERE:
            continue
        if key in DIFFERS:
            assert name in here, name
        elif f"{name}_CMD" in here:
            assert here[f"{name}_CMD"].startswith("cat /secrets/airflow/"), name
        else:
            assert here[name] == value, name
    assert here["AIRFLOW__MLOPS__FEAST_POOL"] == FEAST_POOL
    assert _NO_TELEMETRY.items() <= here.items()


@pytest.mark.parametrize("name", AIRFLOW)
def test_airflow_components_are_started_as_on_a_laptop(name: str, tmp_path: Path) -> None:
    stack = module_and_flags(name, Layout(tmp_path), Ports(), DATABASE)
    # The laptop has one log server for all; a container serves the logs of what runs in it.
    assert SERVICES[name]["command"] == ["python", "-m", *(word for word in stack if word != "--skip-serve-logs")]


def test_the_model_server_has_the_flags_of_the_laptop(tmp_path: Path) -> None:
    stack = flags(module_and_flags("serving", Layout(tmp_path), Ports(), DATABASE))
    here = flags(SERVICES["serving"]["command"])
    assert here.keys() == stack.keys()
    assert here == {**stack, "--model_config_file": "/srv/mlops/serving/models.config"}


def test_mlflow_has_the_flags_of_the_laptop_and_accounts(tmp_path: Path) -> None:
    stack = flags(module_and_flags("mlflow", Layout(tmp_path), Ports(), DATABASE))
    here = flags(SERVICES["mlflow"]["command"])
    secret = "--backend-store-uri"
    assert here.keys() == {*stack.keys(), "--app-name"} - {secret}
    assert "MLFLOW_BACKEND_STORE_URI_FILE" in SERVICES["mlflow"]["environment"]
    assert here["--app-name"] == "basic-auth"
    assert here["--artifacts-destination"].startswith("s3://")


def test_only_the_ports_that_a_person_needs_are_published_and_on_the_loopback_interface() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published.keys() == {"api-server", "mlflow", "serving"}
    lines = [line for lines in published.values() for line in lines]
    ports = Ports().as_dict()
    wanted = [f"${{BIND:-127.0.0.1}}:${{{variable(name)}:-{ports[name]}}}:{ports[name]}" for name in PUBLISHED]
    assert sorted(lines) == sorted(wanted)
    assert EXAMPLE["BIND"] == "127.0.0.1"
    assert {name: EXAMPLE[variable(name)] for name in PUBLISHED} == {name: str(ports[name]) for name in PUBLISHED}


def test_every_service_that_stays_has_a_health_check_and_comes_back() -> None:
    for name, service in SERVICES.items():
        if name in ONCE:
            continue
        assert service["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL"), name
        assert service["restart"] == "unless-stopped", name
        assert service["networks"] == ["mlops"], name
        assert service["cap_drop"] == ["ALL"], name
        assert "depends_on" not in service, f"{name}: podman does not restart what depends on one that has ended"


def test_health_checks_ask_what_the_laptop_asks() -> None:
    for name in (*AIRFLOW, "mlflow"):
        assert SERVICES[name]["healthcheck"]["test"][1:] == ["python", "/opt/mlops/healthy.py", name]
    source = (DOCKER / "healthy.py").read_text()
    for name, beat in _HEARTBEATS.items():
        assert f'"{name}": "{beat}"' in source
    assert "/api/v2/monitor/health" in source
    assert "/v1/models/none" in SERVICES["serving"]["healthcheck"]["test"][-1]


def test_there_is_a_worker_on_each_queue() -> None:
    queues = {name: flags(SERVICES[name]["command"])["--queues"] for name in WORKERS}
    assert queues == {"worker": "default", "worker-gpu": "gpu", "worker-nvidia": "gpu"}
    assert SERVICES["worker-gpu"]["profiles"] == ["cpu"]
    assert SERVICES["worker-nvidia"]["profiles"] == ["nvidia"]
    assert SERVICES["worker-nvidia"]["runtime"] == "nvidia"
    assert EXAMPLE["COMPOSE_PROFILES"].split(",")[0] == "cpu"


def test_what_a_killed_worker_had_is_taken_up_within_a_minute() -> None:
    """Whether it had begun or not; and no more is handed out than workers can begin, so that nothing waits as long."""
    settings = {name.rpartition("__")[2]: value for name, value in SERVICES["scheduler"]["environment"].items()}
    noticed = int(settings["TASK_INSTANCE_HEARTBEAT_TIMEOUT"])
    noticed += int(settings["TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL"])
    assert noticed + 15 < 60, "15 s of airflow_local_settings.py"
    assert int(settings["TASK_QUEUED_TIMEOUT"]) + int(settings["TASK_QUEUED_TIMEOUT_CHECK_INTERVAL"]) < 60
    concurrency = {name: flags(SERVICES[name]["command"])["--concurrency"] for name in WORKERS}
    assert concurrency == {"worker": "${WORKER_CONCURRENCY:-4}", "worker-gpu": "1", "worker-nvidia": "1"}
    assert settings["PARALLELISM"] == "${PARALLELISM:-5}"
    assert (EXAMPLE["WORKER_CONCURRENCY"], EXAMPLE["PARALLELISM"]) == ("4", "5")


def test_all_that_share_the_home_have_the_same_volume() -> None:
    for name in (*AIRFLOW, *WORKERS, "serving", *ONCE):
        mounts = [volume.split(":")[:2] for volume in SERVICES[name]["volumes"]]
        assert ["home", "/srv/mlops"] in mounts, name
    named = {
        volume.split(":")[0] for service in SERVICES.values() for volume in service["volumes"] if volume[0] not in "./$"
    }
    assert named == COMPOSE["volumes"].keys()


def test_no_secret_is_written_down() -> None:
    """Only files and commands that read them; a secret comes from nowhere but `prepare.py`, and from chance."""
    for name, service in SERVICES.items():
        for key, value in (service.get("environment") or {}).items():
            if re.search(r"PASSWORD|SECRET|KEY|TOKEN|CONN_|BROKER_URL|BACKEND_STORE", key):
                assert key.endswith(("_FILE", "_CMD")) or key.startswith("AIRFLOW__SECRETS__"), f"{name}: {key}={value}"
                assert "/secrets/" in str(value) or key.startswith("AIRFLOW__SECRETS__"), f"{name}: {key}={value}"
        own = {volume.split(":")[0] for volume in service["volumes"] if volume.startswith("secrets-")}
        assert name == "secrets" or len(own) <= 1, f"{name} sees the secrets of another service: {own}"
    for key in EXAMPLE:
        assert not re.search(r"PASSWORD|SECRET|TOKEN|_KEY", key), key
    # What is built into an image is on a list.
    ignored = (DOCKER.parent / ".dockerignore").read_text().splitlines()
    assert ignored[1] == "*"
    assert "docker/.env" in ignored


def test_databases_and_pools_are_those_of_the_laptop() -> None:
    source = (DOCKER / "prepare.py").read_text()
    assert f"DATABASES = {DATABASES!r}".replace("'", '"') in source
    assert re.findall(r'\("(\w+)", "[12]", "', source) == [FEAST_POOL, BACKFILL_POOL, GPU_QUEUE]


def test_settings_of_the_example_are_those_of_the_compose() -> None:
    text = (DOCKER / "compose.yaml").read_text()
    used = set(re.findall(r"\$\{([A-Z_0-9]+)", text))
    assert EXAMPLE.keys() <= used | {"COMPOSE_PROFILES"}
    assert "${COMPOSE_PROFILES:?there is no docker/.env." in text, "without one it says so"


def test_images_are_tagged_with_the_version() -> None:
    version = tomllib.loads((DOCKER.parent / "pyproject.toml").read_text())["project"]["version"]
    text = (DOCKER / "compose.yaml").read_text()
    assert set(re.findall(r"localhost/airflow-mlops/[a-z-]+:([\w.]+)", text)) == {version}
    targets = set(re.findall(r"^FROM \S+ AS (\S+)$", (DOCKER / "Dockerfile").read_text(), re.MULTILINE))
    built = {service["build"]["target"] for service in SERVICES.values() if "build" in service}
    assert built | {"train"} <= targets


def test_a_task_knows_the_image_that_it_runs_in() -> None:
    for name, service in SERVICES.items():
        if "MLOPS_IMAGE" in (service.get("environment") or {}):
            assert service["environment"]["MLOPS_IMAGE"] == service["image"], name
    assert all("MLOPS_IMAGE" in SERVICES[name]["environment"] for name in WORKERS)


@pytest.mark.parametrize(
    "command",
    [
        ["hadolint", "--failure-threshold=warning", "docker/Dockerfile"],
        ["compose-lint", "--config=docker/.compose-lint.yml", "docker/compose.yaml"],
    ],
    ids=["hadolint", "compose-lint"],
)
def test_lint(command: list[str]) -> None:
    tool = Path(sys.executable).parent / command[0]
    done = subprocess.run([tool, *command[1:]], cwd=DOCKER.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_scripts_are_shell() -> None:
    for script in DOCKER.glob("*.sh"):
        subprocess.run(["bash", "-n", str(script)], check=True)
