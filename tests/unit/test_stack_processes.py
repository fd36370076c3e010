"""Processes and ports of the laptop stack: found again, stopped whole, and never somebody else's."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from airflow_mlops.exceptions import ConfigError
from airflow_mlops.stack import postgres, processes
from airflow_mlops.stack.ports import Ports, require_free

# A leader, and a child in a process group of its own, as Airflow's task processes are. Both ignore SIGTERM.
STUBBORN = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], process_group=0)
print(child.pid, flush=True)
time.sleep(600)
"""


def runs(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


@pytest.fixture
def stubborn(tmp_path: Path) -> Iterator[tuple[processes.ProcessRecord, psutil.Process]]:
    log = tmp_path / "stubborn.log"
    record = processes.spawn("stubborn", [sys.executable, "-c", STUBBORN], env=os.environ, cwd=tmp_path, log=log)
    while not (said := log.read_text()).endswith("\n"):
        time.sleep(0.02)
    yield record, psutil.Process(int(said))
    processes.stop([record], grace=0)


def test_a_session_is_stopped_whole(stubborn: tuple[processes.ProcessRecord, psutil.Process]) -> None:
    record, child = stubborn
    assert record.alive
    assert processes.stop([record], grace=0.3) == ["stubborn"]
    assert not record.alive
    assert not runs(child)


def test_children_are_stopped_when_their_leader_was_killed(
    stubborn: tuple[processes.ProcessRecord, psutil.Process],
) -> None:
    record, child = stubborn
    os.kill(record.pid, signal.SIGKILL)
    while record.alive:
        time.sleep(0.02)
    assert runs(child)
    assert processes.stop([record], grace=0.3) == []
    assert not runs(child)


def test_a_reused_pid_is_somebody_else(stubborn: tuple[processes.ProcessRecord, psutil.Process]) -> None:
    record, child = stubborn
    foreign = replace(record, started=record.started - 3600)  # what an old state file would say of this pid
    assert not foreign.alive
    assert processes.stop([foreign], grace=0.3) == []
    assert record.alive
    assert runs(child)


def test_the_log_before_is_kept(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "echo.log"
    for word in ("first", "second"):
        record = processes.spawn("echo", ["echo", word], env=os.environ, cwd=tmp_path, log=log)
        while record.alive:
            time.sleep(0.02)
    assert log.read_text() == "second\n"
    assert log.with_name("echo.log.1").read_text() == "first\n"
    assert processes.tail(log) == "  second"
    assert processes.tail(tmp_path / "none.log") == "  (no log)"


def test_postgres_starts_over_a_lock_file_of_a_reused_pid(tmp_path: Path) -> None:
    data = tmp_path / "postgres"
    server = postgres.start(data)
    try:
        assert postgres.find(data) == server
        assert postgres.start(data) == server
        os.kill(server.process.pid, signal.SIGKILL)
        while server.process.alive:
            time.sleep(0.02)
        assert postgres.find(data) is None
        # After a reboot the pid in the lock file may be anybody's: here, this test's own.
        lock = data / "postmaster.pid"
        lines = lock.read_text().splitlines()
        lock.write_text("\n".join([str(os.getpid()), *lines[1:]]))
        assert postgres.find(data) is None
        server = postgres.start(data)
        assert server.process.alive
        assert postgres.schema_revision(server, "airflow") is None
    finally:
        processes.stop([server.process], sig=signal.SIGINT, grace=20)


def test_ports_come_from_the_environment() -> None:
    default = Ports(serving_grpc=9000)
    assert Ports.from_environment({"AIRFLOW_PORT": "18080"}, default) == Ports(airflow=18080, serving_grpc=9000)
    for wrong in ("80a", "-1", "70000", "0"):
        with pytest.raises(ConfigError, match="MLFLOW_PORT"):
            Ports.from_environment({"MLFLOW_PORT": wrong}, default)


def test_port_clashes_are_reported_together_with_ports_that_are_free() -> None:
    ports = Ports.free()
    require_free(ports, set(ports.as_dict()))
    twins = replace(ports, serving_rest=ports.serving_grpc)
    with socket.create_server(("127.0.0.1", ports.airflow)):
        require_free(ports, {"mlflow"})
        with pytest.raises(ConfigError) as refused:
            require_free(twins, set(ports.as_dict()))
    assert f"port {ports.airflow}, for the Airflow UI and API" in refused.value.detail
    assert f"port {ports.serving_grpc} is asked for by gRPC of the model server and by REST" in refused.value.detail
    advised = refused.value.hint.split("environment: ")[1].split()
    assert [word.split("=")[0] for word in advised] == ["AIRFLOW_PORT", "SERVING_REST_PORT"]
    for word in advised:
        socket.create_server(("127.0.0.1", int(word.split("=")[1]))).close()
