"""D55: rolled back, then three scheduled retrainings finish. They train and register, and do not take the label."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from airflow_mlops.cli import main
from airflow_mlops.contracts import Pin, RegisteredModel, Verdict, VerdictStatus
from airflow_mlops.engine.evaluation.approvals import choose_version, record_verdict
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.engine.retraining.decide import Policy
from airflow_mlops.engine.retraining.looking import admit
from airflow_mlops.engine.retraining.requests import ask, settle
from airflow_mlops.engine.serving.deployments import PinnedError, unpin
from airflow_mlops.engine.serving.golden import Golden
from airflow_mlops.engine.serving.model_store import publish
from airflow_mlops.engine.serving.rollout import Rollout
from tests.retraining_fixtures import SERVER, TRAINED, World
from tests.serving_fixtures import (
    make_saved_model,
    model_named_after,
    put_into_service,
    rollout_of,
    served,
)

pytestmark = pytest.mark.drill

UNTIL = datetime(2099, 1, 31, tzinfo=UTC)
PIN = Pin(version=1, who="ann", reason="answers 1 for every order", at=datetime.now(UTC), until=UNTIL)


@pytest.fixture
def world(home: Path) -> World:
    world = World(home, Ledger(f"sqlite:///{home}/ledger.db"))
    world.seal(0)
    world.train(1)
    return world


def passed(ledger: Ledger, model: str, version: int) -> None:
    """Let a version pass its gates."""
    verdict = Verdict(model=model, status=VerdictStatus.PASS, checks=(), inputs_hash=str(version))
    made = RegisteredModel(model=model, version=str(version), run_id="r", experiment_id="1", source="s")
    record_verdict(ledger, made, verdict, snapshot_id=f"snapshot{version}")


def retrain(world: World, version: int) -> None:
    """Let a run of the schedule be admitted, train on a day more, register and pass its gates."""
    request = ask(world.ledger, "m", "cron", "the schedule", key=f"cron:{version}", who="m.train")
    assert admit(world.ledger, request, f"m.train s{version}", Policy(timedelta(0))).start == request
    serving = world.ledger.pointer(f"deployment:{SERVER}:m")
    assert serving is not None
    world.train(version, TRAINED + version)
    world.ledger.move(f"deployment:{SERVER}:m", lambda _: serving.value)  # a training deploys nothing
    passed(world.ledger, "m", version)
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


# --- on a server ------------------------------------------------------------------------------------------


@pytest.fixture
def rollout(server, tmp_path, request) -> Iterator[Rollout]:
    """Version 2 took over from 1, and was rolled back; three newer ones are in the store and have passed."""
    with rollout_of(server, model_named_after(request), Ledger(f"sqlite:///{tmp_path}/ledger.db")) as rollout:
        for version in range(1, 6):
            publish(make_saved_model(tmp_path / str(version), 0.15 * version), rollout.base, version)
        for version in (1, 2):
            put_into_service(rollout, version)
        rollout.rollback("ann", "answers too high", until=UNTIL)
        for version in (3, 4, 5):
            passed(rollout.ledger, rollout.model, version)
        yield rollout


def answers_like(rollout: Rollout, version: int) -> bool:
    golden = Golden.read(rollout.base / str(version))
    return served(rollout, golden.inputs) == pytest.approx(golden.outputs["probability"], abs=1e-6)


def test_fault_guard_on_the_label_stays_where_it_is_pinned(rollout: Rollout, capsys: pytest.CaptureFixture[str]):
    assert choose_version(rollout.ledger, rollout.model, rollout.server).version is None
    for version in (3, 4, 5):
        with pytest.raises(PinnedError):
            rollout.load(version)
        with pytest.raises(PinnedError):
            rollout.promote(version)
    assert answers_like(rollout, 1)
    asked = ["--server", rollout.server, "--ledger", rollout.ledger.url]
    assert main(["deployments", rollout.model, *asked]) == 0
    assert "pinned by ann until 2099-01-31 00:00 UTC: answers too high" in capsys.readouterr().out


def test_fault_guard_off_the_newest_takes_the_label(rollout: Rollout):
    unpin(rollout.ledger, rollout.server, rollout.model, "ann", "somebody lifted it too soon")
    put_into_service(rollout, choose_version(rollout.ledger, rollout.model, rollout.server).version)
    assert answers_like(rollout, 5)
