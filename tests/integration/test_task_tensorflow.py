"""``@task.tensorflow``: a function of one's own file in a process of its own, and what goes wrong is said."""

from __future__ import annotations

import importlib.util
import logging
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from airflow.sdk import Asset, ObjectStoragePath

from airflow_mlops.decorators.tensorflow import _uri, tensorflow_task
from airflow_mlops.engine import process
from airflow_mlops.engine.functions.run import FunctionProcess
from airflow_mlops.exceptions import ConfigError, TrainingError, TransientError

FILE = """
from __future__ import annotations
import contextlib, functools, json, os, sys, time
from dataclasses import dataclass
from pathlib import Path
from beside import *

if True:
    import math
open(Path(__file__).parent / "ran", "a").write("x")  # what no function names is not run again
RATES = {"a": 1}
RATES["b"] = 2
rows = os.environ["NOT_IN_A_CHILD"]


@dataclass
class Point:
    x: float


def twice(function):
    @functools.wraps(function)
    def both(*args):
        return function(*args) * 2
    return both


@twice
def helper(point):
    return point.x * RATES["b"]


with contextlib.nullcontext(5) as given:
    FIVE = given

    def compute(rows, *, scale=FIVE):
        return {"rows": rows, "helped": helper(Point(3.0)), "pi": math.floor(math.pi), "scale": scale, "more": MORE}


def fails():
    return json.loads("{")

def unreachable():
    raise RuntimeError("no rates") from ConnectionResetError("gone")

def leaves():
    sys.exit(3)

def gone():
    print("so long", flush=True)
    os._exit(4)

def asks():
    return input("name? ")

def secrets():
    return [name for name in os.environ if "AIRFLOW" in name]

def points():
    return {"loss": [1.0, Point(1.0)]}

def numpys():
    import numpy
    return numpy.float32(1)

def nan():
    return [float("nan")]

def keyed():
    return {1: "a"}

def itself():
    found = []
    found.append(found)
    return found

def large():
    return "x" * 1_000_001

def path():
    return Path("/data/x")

def where():
    import numpy
    return sys.executable

class AirflowFailException(Exception):
    status_code = 500  # as Airflow's has, which else says: try again

def given_up():
    raise AirflowFailException("no")

def unknown():
    return nowhere

def killed():
    os.kill(os.getpid(), 9)

def waits(file, apart=False):
    import subprocess
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=apart)
    Path(file).write_text(str(child.pid))
    print("waiting", flush=True)
    time.sleep(600)

def starts(apart=False):
    import subprocess
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=apart).pid

def prints():
    for _ in range(30):
        sys.stdout.write("x" * 1_000_000)
    print("\\nthe end")
"""


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """A module somewhere, as Airflow loads a DAG file: under a name that nobody can import."""
    folder = tmp_path_factory.mktemp("dags")
    (folder / "pipeline.py").write_text(FILE)
    (folder / "beside.py").write_text("MORE = 'more'\n")
    os.environ["NOT_IN_A_CHILD"] = "x"
    spec = importlib.util.spec_from_file_location("unusual_prefix_pipeline", folder / "pipeline.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.append(str(folder))
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    del os.environ["NOT_IN_A_CHILD"]
    yield module
    sys.path.remove(str(folder))


def call(function, *args, timeout: float = 60, python: str = "", **kwargs):
    return FunctionProcess(function, python=python, log=logging.getLogger("task")).call(args, kwargs, timeout, _uri)


def gone(pid: int) -> bool:
    """Whether a process ends, as one does soon after it was killed."""
    deadline = time.monotonic() + 10
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def test_it_runs_with_what_it_names_of_its_file_and_the_rest_of_the_file_is_not_run(theirs):
    table = ObjectStoragePath("s3://aws_default@lake/rows")
    rows = [1, None, "a", (2.5,), {"a": Path("/x")}, Asset("s3://lake/x"), table]
    assert call(theirs.compute, rows) == {
        "rows": [1, None, "a", [2.5], {"a": "/x"}, "s3://lake/x", str(table)],
        "helped": 12.0, "pi": 3, "scale": 5, "more": "more",
    }  # fmt: skip
    assert call(theirs.compute, [], scale=1)["scale"] == 1
    assert Path(theirs.__file__).with_name("ran").read_text() == "x"
    assert call(theirs.path) == "/data/x"


@pytest.mark.parametrize(
    ("function", "kind", "words"),
    [
        ("fails", TrainingError, r"fails\(\) raised JSONDecodeError: (.|\n)*: pipeline.py:\d+ in fails: return json"),
        ("unreachable", TransientError, r"raised RuntimeError: no rates(.|\n)*tried again"),
        ("leaves", TrainingError, r"leaves\(\) ended itself by sys.exit\(3\)(.|\n)*in leaves: sys.exit"),
        ("gone", TrainingError, r"ended with status 4 and without a result(.|\n)*so long"),
        ("asks", TrainingError, r"asks\(\) raised EOFError"),
        ("given_up", TrainingError, r"raised AirflowFailException: no"),
        ("unknown", TrainingError, r"raised NameError: (.|\n)*define it at the top of the file"),
        ("killed", TransientError, r"killed by SIGKILL"),
        ("points", TrainingError, r"points\(\) returned is not JSON(.|\n)*result\['loss'\]\[1\] is \S+Point\n"),
        ("numpys", TrainingError, r"result is numpy.float32\n(.|\n)*float\(\) makes a number of it"),
        ("nan", TrainingError, r"result\[0\] is nan, which is not finite"),
        ("keyed", TrainingError, r"a key of result is int, and not a text"),
        ("itself", TrainingError, r"contains itself"),
        ("large", TrainingError, r"is too large(.|\n)*write anything larger to a file and return its path"),
    ],
)  # fmt: skip
def test_what_goes_wrong_is_said(theirs, function, kind, words, caplog):
    with pytest.raises(kind, match=words):
        call(getattr(theirs, function))


def test_the_log_has_the_traceback_without_ours(theirs, caplog):
    with caplog.at_level(logging.INFO), pytest.raises(TrainingError) as caught:
        call(theirs.fails)
    assert "Traceback (most recent call last):" in caplog.text
    assert "in fails" in caplog.text
    assert "airflow_mlops" not in caplog.text
    assert "decoder.py" not in caught.value.detail, "the standard library is not theirs"


def test_an_argument_that_is_no_json_is_refused(theirs):
    with pytest.raises(ConfigError, match=r"compute\(\) is given is not JSON(.|\n)*argument 1\['a'\]\[0\] is \S*Point"):
        call(theirs.compute, {"a": [theirs.Point(1.0)]})
    with pytest.raises(ConfigError, match=r"argument scale is bytes(.|\n)*a time by isoformat"):
        call(theirs.compute, 1, scale=b"x")


def test_it_gets_none_of_airflows_secrets(theirs, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_SECRET", "planted")
    monkeypatch.setenv("_AIRFLOW__SECRET", "planted")
    assert call(theirs.secrets) == []


@pytest.mark.parametrize("apart", [False, True])
def test_in_time_it_is_stopped_with_what_it_started(theirs, tmp_path, apart):
    started = time.monotonic()
    with pytest.raises(TrainingError, match=r"waits\(\) did not end within 2 s(.|\n)*waiting"):
        call(theirs.waits, tmp_path / "pid", apart, timeout=2)
    assert time.monotonic() - started < 20
    assert gone(int((tmp_path / "pid").read_text()))


def test_when_the_task_is_killed_it_ends_with_what_it_started(theirs, tmp_path):
    task = tensorflow_task(theirs.waits)(str(tmp_path / "pid")).operator
    caught: list[BaseException] = []

    def perform() -> None:
        try:
            task.perform({})
        except TransientError as error:
            caught.append(error)

    thread = threading.Thread(target=perform)
    thread.start()
    deadline = time.monotonic() + 60
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    task.on_kill()
    thread.join(20)
    assert "killed by SIGKILL" in str(caught[0])
    assert gone(int((tmp_path / "pid").read_text()))


@pytest.mark.parametrize("apart", [False, True], ids=["", "in a session of its own"])
def test_what_it_leaves_running_is_ended_and_does_not_hold_it_up(theirs, apart):
    started = time.monotonic()
    pid = call(theirs.starts, apart)
    assert time.monotonic() - started < 30
    assert gone(pid)


def test_one_that_prints_without_end_does_not_fill_the_log(theirs, caplog, monkeypatch):
    monkeypatch.setattr(process, "_MOST_SAID", 100_000)
    with caplog.at_level(logging.INFO):
        assert call(theirs.prints) is None
    assert len(caplog.text) < 1_000_000
    assert "no more of it is kept here" in caplog.text


def test_another_python_needs_nothing_of_ours_and_gets_none_of_our_libraries(theirs, tmp_path):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    python = str(tmp_path / "bare" / "bin" / "python")
    assert call(theirs.compute, [1], python=python)["helped"] == 12.0
    with pytest.raises(TrainingError, match=r"where\(\) raised ModuleNotFoundError: No module named 'numpy'"):
        call(theirs.where, python=python)
    with pytest.raises(ConfigError, match=r"where\(\) cannot be run(.|\n)*/nowhere/python: No such file"):
        call(theirs.where, python="/nowhere/python")


def variable_of_another():
    here = 1

    def inner():
        return here

    return inner


def generator():
    yield 1


async def coroutine():
    return 1


@pytest.mark.parametrize(
    ("function", "more", "words"),
    [
        (variable_of_another(), {}, r"inner\(\) uses 'here' of the function around it(.|\n)*as an argument"),
        (lambda: 1, {"task_id": "x"}, r"takes a function that has a name"),
        (generator, {}, r"generator\(\) is a generator or a coroutine"),
        (coroutine, {}, r"coroutine\(\) is a generator or a coroutine"),
        (test_an_argument_that_is_no_json_is_refused, {"timeout": "2h"}, r"timeout='2h' is not a number of seconds"),
        (test_an_argument_that_is_no_json_is_refused, {"timeout": 0}, r"timeout=0 is not a number of seconds"),
    ],
)
def test_what_cannot_work_is_refused_when_the_file_is_parsed(function, more, words):
    with pytest.raises(ConfigError, match=words):
        tensorflow_task(function, **more)(1) if function.__code__.co_argcount else tensorflow_task(function, **more)()


def test_a_function_without_a_file_is_refused():
    space: dict = {"__name__": "nowhere"}
    exec("def made(): return 1", space)
    with pytest.raises(ConfigError, match=r"The source of made\(\) cannot be read"):
        call(space["made"])
