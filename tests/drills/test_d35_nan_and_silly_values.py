"""D35: the loss is no number, or explodes; a configuration has a silly value. Nothing of it is ever registered."""

from __future__ import annotations

import math
from datetime import date

import pytest

from airflow_mlops import GPU, Trainer
from airflow_mlops.engine.training.finish import LossGuard
from airflow_mlops.engine.training.script import run_script
from airflow_mlops.engine.training.workdir import Workdir, finished_training
from airflow_mlops.exceptions import ConfigError, DataError, TrainingError
from tests.script_trainings import Scripts

pytestmark = pytest.mark.drill

LOSSES = "for epoch, loss in enumerate(params['losses'], 1):\n    say(epoch, loss)\nfinish()"
FAULTS = {"NaN": ([0.7, math.nan], "not a finite number"), "explodes": ([0.7, 0.6, 800.0], "explodes: 800 after")}


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Scripts:
    return Scripts(tmp_path_factory.mktemp("d35"))


def run(scripts: Scripts, name: str, losses: list[float]) -> Workdir:
    workdir = scripts.workdir(name)
    workdir.path.mkdir(parents=True)
    spec = scripts.spec(LOSSES, {"losses": losses})
    workdir.spec.write_text(spec.to_json())
    run_script(spec, workdir)
    return workdir


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_guard_on(scripts: Scripts, fault: str):
    losses, says = FAULTS[fault]
    with pytest.raises(TrainingError, match=says):
        run(scripts, fault, losses)
    with pytest.raises(DataError, match="no finished training"):  # what is registered is read by this
        finished_training(scripts.workdir(fault).path)


@pytest.mark.parametrize(
    "silly",
    [
        {"epochs": 0},
        {"batch_size": 0},
        {"window": "14d"},
        {"timeout": "0s"},
        {"epochs": "ten"},
        {"seed": -1},
        {"seed": 2**32},  # NumPy takes none so large
        {"params": {"since": date(2013, 1, 1)}},
        {"params": {"rate": float("nan")}},
        {"resources": GPU(1, workers=2)},
        {"launcher": "kubernets"},
    ],
    ids=str,
)
def test_fault_guard_on_silly_values_are_refused_at_parse_time(silly: dict[str, object]):
    with pytest.raises(ConfigError):
        Trainer(**{"entrypoint": "code:build", "window": "60d", **silly})


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_guard_off(scripts: Scripts, monkeypatch: pytest.MonkeyPatch, fault: str):
    """It would be a training like any other, to be evaluated, registered and served."""
    monkeypatch.setattr(LossGuard, "check", lambda *_: None)
    _, result = finished_training(run(scripts, f"{fault}-off", FAULTS[fault][0]).path)
    assert result.history["loss"][-1] != 0.7


def test_no_fault(scripts: Scripts):
    for number, losses in enumerate(([0.7, 0.5, 0.6], [0.0, 0.9], [-3.0, -900.0], [1e-9, 0.5])):
        _, result = finished_training(run(scripts, f"fine-{number}", losses).path)
        assert result.history["loss"] == losses
