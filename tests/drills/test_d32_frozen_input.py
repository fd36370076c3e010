"""D32: retrained nightly on frozen input (training side): the files are of today, what is in them is of last month.

The same data is the same training: nothing new is made of it, and its record says how old the data is. (That somebody
is told is the monitor's part.)
"""

from __future__ import annotations

import time
from datetime import timedelta

import pytest

from airflow_mlops.contracts import Snapshot, TrainingResult
from airflow_mlops.engine.training.launch import train
from tests.script_trainings import Scripts
from tests.training_fixtures import START, flights, write_snapshot

pytestmark = pytest.mark.drill

NIGHTS = 3
SCRIPT = "say(1); finish()"


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Scripts:
    return Scripts(tmp_path_factory.mktemp("d32"))


def night(scripts: Scripts, snapshot: Snapshot, folder: str = "") -> TrainingResult:
    """Train as the operator does: the training's folder has the name of its spec."""
    spec = scripts.spec(SCRIPT, snapshot=snapshot)
    return train(spec, scripts.workdir(folder or spec.hash[:16]).path, timeout=60)


def data_of(scripts: Scripts, day: int) -> Snapshot:
    """Return the snapshot of what was there on some day."""
    tables = {name: flights(50, seed, START + timedelta(days=day)) for seed, name in enumerate(("train", "test"))}
    return write_snapshot(scripts.folder, {**tables, "validation": tables["test"]}, f"day-{day}")


def test_fault_guard_on(scripts: Scripts):
    frozen = data_of(scripts, 0)
    first, *later = [night(scripts, frozen) for _ in range(NIGHTS)]
    assert later == [first] * (NIGHTS - 1), "no second model of the same data, and none that looks new"
    assert first.newest_event_time == frozen.splits["train"].end - timedelta(minutes=1)
    assert first.ended is not None
    assert first.ended - first.newest_event_time > timedelta(days=1000), "what age the data has is on record"


def test_fault_guard_off(scripts: Scripts):
    """A folder a night: every file is of tonight, and every model the same."""
    frozen = data_of(scripts, 0)
    made = []
    for number in range(2):
        began = time.time()
        made.append(night(scripts, frozen, f"night-{number}"))
        assert scripts.workdir(f"night-{number}").result.stat().st_mtime >= began - 1
    assert made[0].newest_event_time == made[1].newest_event_time
    assert made[0].ended != made[1].ended


def test_no_fault(scripts: Scripts):
    made = [night(scripts, data_of(scripts, day)) for day in range(NIGHTS)]
    assert len({one.spec_hash for one in made}) == NIGHTS
    assert [one.newest_event_time for one in made] == sorted({one.newest_event_time for one in made})
