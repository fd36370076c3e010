"""What became of the version that a run of the training made: it serves, not yet, or never."""

from __future__ import annotations

import pytest

from airflow_mlops.contracts import Pin
from airflow_mlops.engine.retraining.registered import Registered, record_registered, record_saved, registered
from airflow_mlops.engine.retraining.requests import ask, finish, start
from airflow_mlops.engine.retraining.served import serving_version
from airflow_mlops.exceptions import GateError, TrainingError
from tests.retraining_fixtures import SERVER, World, trained_world

RUN = "m.train rollout__1"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Version 1 serves; run 1 of the rollout made version 2."""
    world = trained_world(tmp_path_factory.mktemp("home"))
    record_registered(world.ledger, Registered(model="m", version=2, spec_hash="2", snapshot="s", run=RUN))
    return world


@pytest.fixture
def world(made: World) -> World:
    made.serve(1)
    return made


def served(world: World, run: str = RUN, state: str | None = None) -> int | None:
    return serving_version(world.ledger, SERVER, "m", run, state)


def test_it_is_waited_for_until_it_serves(world: World):
    assert served(world, state="running") is None
    assert served(world, state="success") is None
    world.serve(2)
    assert served(world) == 2
    world.serve(3, good=(2,))
    assert served(world) == 2, "it has served well, and another one has taken over"


def test_a_run_that_failed_is_said_at_once(world: World):
    with pytest.raises(TrainingError, match="The training of 'm' failed"):
        served(world, "m.train other", "failed")


def test_a_run_that_trained_nothing_says_why(world: World):
    request = ask(world.ledger, "m", "hand", "", key="other", who="me")
    start(world.ledger, request, "m.train other")
    finish(world.ledger, request, "skipped", "the model is halted")
    assert served(world, "m.train other", "running") is None
    with pytest.raises(TrainingError, match="Nothing was trained of 'm'") as error:
        served(world, "m.train other", "success")
    assert "the model is halted" in error.value.detail


def test_the_very_same_training_counts_as_the_version_that_it_once_made(world: World):
    before = registered(world.ledger, "m", 1)
    assert before is not None
    record_saved(world.ledger, before, "m.train again")
    assert served(world, "m.train again", "success") == 1


def test_what_can_never_serve_is_said(world: World):
    world.serve(1, rolled_back=(2,))
    with pytest.raises(GateError, match="was rolled back"):
        served(world)
    world.serve(1, pin=Pin(version=1, who="me", reason="a launch", at="2026-01-01T00:00:00+00:00"))
    with pytest.raises(GateError, match="while another one is pinned"):
        served(world)
    world.serve(1)
    world.ledger.record("verdict", "m", {"version": 2, "status": "FAIL"})
    with pytest.raises(GateError, match="did not pass its gates: FAIL"):
        served(world)
