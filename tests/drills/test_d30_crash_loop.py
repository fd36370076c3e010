"""D30: a crash-looping reader: the task stays "running", and makes no progress.

The watchdog ends it, in words that say where it stood; the next night's training begins.
"""

from __future__ import annotations

import math

import pytest

from airflow_mlops.engine.training.launch import train
from airflow_mlops.exceptions import TrainingError, TransientError
from tests.script_trainings import Scripts

pytestmark = pytest.mark.drill

LOOPS = """
say(1)
while True:
    try:
        raise OSError("the reader cannot reach the store")
    except OSError as error:
        print(error, flush=True)
        time.sleep(0.3)
"""
STEADY = """
for epoch in range(1, told["epochs"] + 1):
    time.sleep(params["seconds"] * 2 ** epoch)
    say(epoch)
finish()
"""


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Scripts:
    return Scripts(tmp_path_factory.mktemp("d30"))


def test_fault_guard_on(scripts: Scripts):
    with pytest.raises(TransientError, match=r"made no progress for \d s and was stopped") as ended:
        train(scripts.spec(LOOPS), scripts.workdir("tonight").path, timeout=120, patience=1)
    assert "epoch 1/4" in ended.value.detail
    assert "the reader cannot reach the store" in ended.value.detail
    tomorrow = scripts.spec(STEADY, {"seconds": 0}, seed=2)
    assert train(tomorrow, scripts.workdir("tomorrow").path, timeout=60).examples == 400


@pytest.mark.slow
def test_fault_guard_off(scripts: Scripts):
    """It is "running" for as long as it may: only the timeout ends it, and says nothing of why."""
    with pytest.raises(TrainingError, match="did not end within 8 s"):
        train(scripts.spec(LOOPS), scripts.workdir("off").path, timeout=8, patience=math.inf)


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.1, 0.25])
def test_no_fault(scripts: Scripts, seconds: float):
    """However seldom a training comes to report, as long as it does; unit/test_training_watch.py has the limit."""
    spec = scripts.spec(STEADY, {"seconds": seconds})
    assert train(spec, scripts.workdir(f"steady-{seconds}").path, timeout=120, patience=20).examples == 400
