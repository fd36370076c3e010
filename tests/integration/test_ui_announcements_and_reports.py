"""The plugin's routes in a real API server, with Airflow's own users: who may do what, and in which words it fails."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from airflow_mlops.engine.data.announcements import announced
from airflow_mlops.engine.halts import halted
from airflow_mlops.engine.ledger import Ledger

SOURCE = "/mlops/api/v1/sources/departures/announcements"
CALLER = {"X-Requested-By": "lake"}
DEGRADED = {"state": "degraded", "reason": "half of the sensors are down"}


class Server(NamedTuple):
    """A running API server."""

    url: str
    home: Path
    environment: dict[str, str]
    tokens: dict[str, str]

    @property
    def ledger(self) -> Ledger:
        return Ledger(f"sqlite:///{self.home}/ledger.db")

    def client(self, user: str | None) -> httpx.Client:
        headers = {"Authorization": f"Bearer {self.tokens[user]}"} if user else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=30, trust_env=False)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """``airflow api-server`` and nothing else; the connection to the ledger is in Airflow's database."""
    home = tmp_path_factory.mktemp("ui")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    passwords = home / "passwords.json"
    passwords.write_text(json.dumps({"admin": "a", "vic": "v", "otto": "o"}))
    settings = {
        "CORE__SIMPLE_AUTH_MANAGER_USERS": "admin:admin,vic:viewer,otto:op",
        "CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(passwords),
        "CORE__LOAD_EXAMPLES": "False",
        "CORE__DAGS_FOLDER": str(home / "dags"),
        "CORE__FERNET_KEY": "",
        "API__HOST": "127.0.0.1",
        "API__PORT": str(port),
        "API__WORKERS": "1",
        "API__SECRET_KEY": "s" * 64,
        "API_AUTH__JWT_SECRET": "j" * 64,
        "MLOPS__HOME": str(home),
    }
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "_AIRFLOW"))}
    environment = {
        **inherited,
        "AIRFLOW_HOME": str(home / "airflow"),
        **{f"AIRFLOW__{name}": value for name, value in settings.items()},
    }
    subprocess.run([sys.executable, "-m", "airflow", "db", "migrate"], env=environment, check=True, capture_output=True)
    log = (home / "api-server.log").open("wb")
    process = subprocess.Popen(
        [sys.executable, "-m", "airflow", "api-server"], env=environment, stdout=log, stderr=log, start_new_session=True
    )
    try:
        url = f"http://127.0.0.1:{port}"
        wait_for(url, process, home / "api-server.log")
        tokens = {user: token(url, user, password) for user, password in json.loads(passwords.read_text()).items()}
        started = Server(url, home, environment, tokens)
        connection = {"connection_id": "mlops_ledger_default", "conn_type": "mlops_ledger", "host": started.ledger.url}
        with started.client("admin") as admin:
            admin.post("/api/v2/connections", json=connection).raise_for_status()
        started.ledger.record("partition", "departures", {"revision": "r"}, key="2013-01-15")
        (home / "reports").mkdir()
        (home / "reports" / "departures-2013.01.15.html").write_text("<h1>All well</h1>")
        (home / "secret.html").write_text("never to be seen")
        yield started
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/api/v2/version", trust_env=False).is_success:
                return
        time.sleep(0.2)
    pytest.fail(log.read_text()[-3000:])


def token(url: str, user: str, password: str) -> str:
    answer = httpx.post(f"{url}/auth/token", json={"username": user, "password": password}, trust_env=False)
    return answer.raise_for_status().json()["access_token"]


def test_only_who_asks_for_the_application_imports_it():
    """Tasks and the DAG processor import the plugin too, and have no use for a web framework."""
    code = (
        "import sys\n"
        "from airflow_mlops.plugin import AirflowMlopsPlugin\n"
        "plugin = AirflowMlopsPlugin()\n"
        "light = 'fastapi' not in sys.modules\n"
        "[app] = plugin.fastapi_apps\n"
        "print('light:', light, app['url_prefix'], 'fastapi' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "light: True /mlops True"


# --- announcements ----------------------------------------------------------------------------------------


def test_an_upstream_announces_and_is_heard(server: Server):
    with server.client("otto") as upstream:
        answer = upstream.post(SOURCE, json=DEGRADED, headers=CALLER)
        assert (answer.status_code, answer.json()["who"]) == (201, "otto")
        assert announced(server.ledger, "departures").state == "degraded"
        upstream.post(SOURCE, json={"state": "ok", "reason": "mended"}, headers=CALLER).raise_for_status()
    with server.client("vic") as viewer:
        said = viewer.get(SOURCE).json()
    assert [(one["state"], one["reason"]) for one in said[:2]] == [("ok", "mended"), tuple(DEGRADED.values())]
    assert announced(server.ledger, "departures").state == "ok"


@pytest.mark.parametrize(("user", "code"), [(None, 401), ("vic", 403)])
def test_who_may_not_announce(server: Server, user: str | None, code: int):
    before = server.ledger.facts("announcement")
    with server.client(user) as client:
        assert client.post(SOURCE, json=DEGRADED, headers=CALLER).status_code == code
    assert server.ledger.facts("announcement") == before


def test_every_route_is_closed_to_the_anonymous(server: Server):
    from fastapi.routing import APIRoute

    from airflow_mlops.ui.app import PREFIX, create_app

    routes = [route for route in create_app().routes if isinstance(route, APIRoute)]
    assert len(routes) == 20
    names = {"dataset": "departures", "name": "departures-2013.01.15", "model": "flight_delay"}
    with server.client(None) as anyone:
        for route in routes:
            path = route.path.replace(":path", "").format(**names, number=1, exclusion="e", view="customer")
            for method in route.methods:
                assert anyone.request(method, PREFIX + path, headers=CALLER).status_code == 401, (method, path)
        for page in ("/docs", "/redoc", "/openapi.json"):
            assert anyone.get(PREFIX + page).status_code == 404, page


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ({"json": {"state": "degarded", "reason": "x"}}, 400, "Did you mean 'degraded'?"),
        ({"json": {"state": "degraded", "reason": " "}}, 400, "lacks: reason"),
        ({"json": {"state": "degraded"}}, 422, "body.reason: Field required"),
        ({"json": {**DEGRADED, "until": "noon"}}, 422, "body.until"),
        ({"content": b"state=degraded", "headers": {**CALLER, "Content-Type": "text/plain"}}, 422, "body"),
        ({"json": DEGRADED, "headers": {}}, 400, "X-Requested-By is missing"),
        ({"json": DEGRADED, "url": SOURCE.replace("departures", "departure")}, 404, "Did you mean 'departures'?"),
    ],
)
def test_a_bad_announcement_is_refused_in_words(server: Server, change: dict[str, object], code: int, words: str):
    before = server.ledger.facts("announcement")
    with server.client("otto") as upstream:
        answer = upstream.post(**{"url": SOURCE, "headers": CALLER, **change})
    assert answer.status_code == code
    assert set(answer.json()) == {"headline", "detail", "hint"}
    assert words in answer.json()["headline"] + answer.json()["detail"]
    assert server.ledger.facts("announcement") == before


def test_the_command_line_finds_the_same_ledger(server: Server):
    """Through the connection in Airflow's database, not one in the environment."""
    command = [sys.executable, "-m", "airflow_mlops.cli", "announce", "departures", "ok", "--reason", "all clear"]
    done = subprocess.run(command, env=server.environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "is announced ok" in done.stdout
    assert announced(server.ledger, "departures").reason == "all clear"


# --- reports ----------------------------------------------------------------------------------------------


def test_a_report_is_shown_and_may_not_run_scripts(server: Server):
    with server.client("vic") as viewer:
        answer = viewer.get("/mlops/reports/departures-2013.01.15.html")
    assert (answer.status_code, answer.text) == (200, "<h1>All well</h1>")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script" not in policy


@pytest.mark.parametrize("name", ["nothing", "..%2Fsecret", "%2e%2e%2fsecret", "../secret", "..", ".hidden", "a%00b"])
def test_no_other_file_is_shown(server: Server, name: str):
    with server.client("admin") as admin:
        answer = admin.get(f"/mlops/reports/{name}.html", headers={"Accept": "text/html"})
    assert answer.status_code == 404
    assert "never to be seen" not in answer.text


def test_a_missing_report_is_explained_to_the_person_in_the_browser(server: Server):
    with server.client("admin") as admin:
        answer = admin.get("/mlops/reports/departures.html", headers={"Accept": "text/html,*/*"})
    assert answer.headers["content-type"].startswith("text/html")
    assert "There is no report &#39;departures&#39;." in answer.text
    assert "Clear the task that wrote it" in answer.text


# --- halts ------------------------------------------------------------------------------------------------

HALT = "/mlops/api/v1/models/flight_delay/halt"
RESUME = "/mlops/api/v1/models/flight_delay/resume"
WRONG = {"reason": "the labels are wrong"}


def test_who_may_halt_a_model_and_let_it_go_on(server: Server):
    server.ledger.record("verdict", "flight_delay", {})
    for user, status in ((None, 401), ("vic", 403)):
        with server.client(user) as client:
            assert client.post(HALT, json=WRONG, headers=CALLER).status_code == status
            assert client.post(RESUME, json=WRONG, headers=CALLER).status_code == status
    assert halted(server.ledger, "flight_delay") is None
    with server.client("otto") as otto, server.client("vic") as vic:
        assert otto.post(HALT, json=WRONG).status_code == 400, "another site could have sent it"
        answer = otto.post(HALT, json=WRONG, headers=CALLER)
        assert answer.status_code == 201
        assert answer.json() == {
            "model": "flight_delay",
            "halted": True,
            "who": "otto",
            "reason": "the labels are wrong",
            "until": None,
        }
        assert vic.get(HALT).json() == answer.json()
        assert otto.post(RESUME, json=WRONG, headers=CALLER).json()["halted"] is False
        for wrong in ({}, {"reason": ""}, {"reason": "x", "until": "2001-01-01T00:00:00Z"}, {"reason": "x", "why": 1}):
            assert otto.post(HALT, json=wrong, headers=CALLER).status_code in (400, 422)
        unknown = otto.post(HALT.replace("delay", "dealy"), json=WRONG, headers=CALLER)
        assert unknown.status_code == 400
        assert "Did you mean 'flight_delay'?" in unknown.json()["headline"]
        for asked in (
            otto.get(HALT.replace("delay", "dealy")),
            otto.post(RESUME.replace("delay", "dealy"), json=WRONG, headers=CALLER),
        ):
            assert asked.status_code == 400, "nobody is told that what is mistyped is not halted"
        young = HALT.replace("flight_delay", "hotels")
        assert '"untrained": true' in otto.post(young, json=WRONG, headers=CALLER).json()["hint"]
        assert otto.post(young, json={**WRONG, "untrained": True}, headers=CALLER).status_code == 201
    assert halted(server.ledger, "flight_delay") is None
