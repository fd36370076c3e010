"""D33: the input is ten times slower than usual: that the deadline will be missed is said before it is."""

from __future__ import annotations

import logging
import re

import pytest

from airflow_mlops.engine.training.launch import train
from airflow_mlops.engine.training.watch import Watch
from airflow_mlops.exceptions import TrainingError
from tests.script_trainings import Scripts

pytestmark = pytest.mark.drill

READS = """
for epoch in range(first + 1, told["epochs"] + 1):
    time.sleep(params["seconds"])
    say(epoch)
    keep(epoch)
finish()
"""
USUAL, TIMEOUT = 0.05, 7
MISSES = "This training will miss its deadline"


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Scripts:
    return Scripts(tmp_path_factory.mktemp("d33"))


def run(scripts: Scripts, name: str, seconds: float, caplog, timeout: float = TIMEOUT) -> list[logging.LogRecord]:
    """Train, and return when its deadline was spoken of."""
    caplog.set_level(logging.INFO)
    spec = scripts.spec(READS, {"seconds": seconds}, epochs=40)
    train(spec, scripts.workdir(name).path, timeout=timeout)
    return [record for record in caplog.records if MISSES in record.getMessage()]


def test_fault_guard_on(scripts: Scripts, caplog):
    with pytest.raises(TrainingError, match=f"did not end within {TIMEOUT} s"):
        run(scripts, "slow", 10 * USUAL, caplog)
    [warned] = [record for record in caplog.records if MISSES in record.getMessage()]
    began = next(record for record in caplog.records if record.getMessage().startswith("Running"))
    assert warned.created - began.created < TIMEOUT - 1, "there was time left to do something about it"
    left, time_left = re.findall(r"(\d+):(\d+):(\d+)", warned.getMessage())
    assert int(left[2]) > int(time_left[2])
    assert scripts.workdir("slow").keeps, "what it has done by then is kept"


@pytest.mark.slow
def test_fault_guard_off(scripts: Scripts, monkeypatch: pytest.MonkeyPatch, caplog):
    monkeypatch.setattr(Watch, "_mind_limits", lambda *_: None)
    with pytest.raises(TrainingError, match="did not end within"):
        run(scripts, "unwarned", 10 * USUAL, caplog)
    assert MISSES not in caplog.text, "the end comes without a word before"


def test_no_fault(scripts: Scripts, caplog):
    slow_machine = 60  # whose start alone may take most of the usual time
    assert run(scripts, "usual", USUAL, caplog, timeout=slow_machine) == []
