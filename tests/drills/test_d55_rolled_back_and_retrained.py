"""D55: rolled back, then three scheduled retrainings finish. They train and register, and do not take the label."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from airflow_mlops.contracts import Pin, RegisteredModel, Verdict, VerdictStatus
from airflow_mlops.engine.evaluation.approvals import choose_version, record_verdict
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.engine.retraining.decide import Policy
from airflow_mlops.engine.retraining.looking import admit
from airflow_mlops.engine.retraining.requests import ask, settle
from tests.retraining_fixtures import SERVER, TRAINED, World

pytestmark = pytest.mark.drill

UNTIL = datetime(2099, 1, 31, tzinfo=UTC)
PIN = Pin(version=1, who="ann", reason="answers 1 for every order", at=datetime.now(UTC), until=UNTIL)


@pytest.fixture
def world(home: Path) -> World:
    world = World(home, Ledger(f"sqlite:///{home}/ledger.db"))
    world.seal(0)
    world.train(1)
    return world


def retrain(world: World, version: int) -> None:
    """Let a run of the schedule be admitted, train on a day more, register and pass its gates."""
    request = ask(world.ledger, "m", "cron", "the schedule", key=f"cron:{version}", who="m.train")
    assert admit(world.ledger, request, f"m.train s{version}", Policy(timedelta(0))).start == request
    serving = world.ledger.pointer(f"deployment:{SERVER}:m")
    assert serving is not None
    world.train(version, TRAINED + version)
    world.ledger.move(f"deployment:{SERVER}:m", lambda _: serving.value)  # a training deploys nothing
    passed = Verdict(model="m", status=VerdictStatus.PASS, checks=(), inputs_hash=str(version))
    made = RegisteredModel(model="m", version=str(version), run_id="r", experiment_id="1", source="s")
    record_verdict(world.ledger, made, passed, snapshot_id=f"snapshot{version}")
    assert settle(world.ledger, "m", lambda run: "success") == []


def test_fault_guard_on(world: World):
    world.serve(1, pin=PIN)
    for version in (2, 3, 4):
        retrain(world, version)
        held = choose_version(world.ledger, "m", SERVER)
        assert held.version is None
        assert "version 1 is pinned by ann until 2099-01-31 00:00 UTC: answers 1 for every order" in held.why


def test_fault_guard_off(world: World):
    """Rolled back without a pin, the next retraining brings the bad data back."""
    retrain(world, 2)
    assert choose_version(world.ledger, "m", SERVER).version == 2


def test_no_fault_a_fortnight_of_retrainings(world: World):
    for version in range(2, 16):
        retrain(world, version)
        assert choose_version(world.ledger, "m", SERVER).version == version
        world.serve(version)
