"""A retraining storm: twelve triggers in a minute. One training starts, and says whom it answers."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.engine.retraining import decide, looking
from airflow_mlops.engine.retraining.decide import Policy
from airflow_mlops.engine.retraining.looking import admit, look_and_decide
from airflow_mlops.engine.retraining.requests import PRIORITY, Request, ask, requests, settle
from tests.retraining_fixtures import World

pytestmark = pytest.mark.drill

DAY = timedelta(days=1)
TWELVE = [*("asset",) * 5, "new_rows", "drift", "decay", "features", "cron", "asset", "asset"]


@pytest.fixture
def world(home: Path) -> World:
    world = World(home, Ledger(f"sqlite:///{home}/ledger.db"))
    world.seal(0)
    world.train(1)
    return world


def storm(world: World, day: int = 0) -> list[Request]:
    return [
        ask(world.ledger, "m", reason, f"event {n}", key=f"{day}:{n}", who="m.retrain")  # type: ignore[arg-type]
        for n, reason in enumerate(TWELVE)
    ]


def look(world: World, state: str = "running", cooldown: timedelta = DAY):
    running = settle(world.ledger, "m", lambda run: state)
    watch, policy = world.watch(), Policy(cooldown)
    return look_and_decide(
        world.ledger, world.store, world.home, watch=watch, policy=policy, who="m.retrain", running=running
    )


def trainings(world: World) -> int:
    return len({one.run for one in requests(world.ledger, "m", limit=1000) if one.run})


def test_fault_guard_on(world: World):
    """Every bell starts a look; some come while the training runs, and some are lost."""
    storm(world)
    for bell in range(12):
        made = look(world)
        if made.start is not None:
            assert admit(world.ledger, made.start, f"m.train retrain__{made.start.id}", Policy()).start is not None
        assert (made.start is None) == (bell > 0)
    assert trainings(world) == 1
    [leader] = requests(world.ledger, "m", ["started"])
    assert leader.reason == max(TWELVE, key=lambda reason: PRIORITY[reason]) == "cron"
    assert "with 11 more: asset, decay, drift, features, new_rows" in leader.said
    assert len(requests(world.ledger, "m", ["merged"])) == 11
    assert look(world, "success").why == "nothing asks for a training"


def test_fault_guard_off(world: World, monkeypatch: pytest.MonkeyPatch):
    """Each answered on its own, without a cool-down, as a DAG that every event triggers would: twelve trainings."""
    monkeypatch.setattr(decide, "companions", lambda leader, waiting: ())
    monkeypatch.setattr(looking, "companions", lambda leader, waiting: ())
    storm(world)
    for _ in range(20):
        made = look(world, "success", timedelta(0))
        if made.start is not None:
            admit(world.ledger, made.start, f"m.train retrain__{made.start.id}", Policy())
    assert trainings(world) == 12


def test_no_fault_thirty_lone_requests(world: World):
    for day in range(30):
        one = ask(world.ledger, "m", "hand", "by hand", key=f"run:{day}", who="ann")
        assert look(world).start == one
        assert admit(world.ledger, one, f"m.train {day}", Policy(DAY)).start == one
        settle(world.ledger, "m", lambda run: "success")
    assert trainings(world) == 30
