"""The runbook: exclude a window and lift it, go back to what knows nothing of the bad data, go forward."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

import pytest
from airflow.sdk import DAG, Param
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException, DagRunTriggerException

from airflow_mlops.cli import main
from airflow_mlops.contracts import Deployment
from airflow_mlops.engine.data.exclusions import exclusions
from airflow_mlops.engine.evaluation.approvals import choose_version, record_verdict
from airflow_mlops.engine.halts import halt
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.engine.serving import flapping as flapping_of
from airflow_mlops.engine.serving.deployments import deployment, pin, record
from airflow_mlops.engine.serving.flapping import WITHIN, flapping, roll_through
from airflow_mlops.engine.serving.going_back import version_to_go_back_to
from airflow_mlops.exceptions import ConfigError, DataError, GateError, TransientError
from airflow_mlops.operators.admit import AdmitTrainingOperator
from airflow_mlops.operators.exclusions import ExcludeWindowOperator, LiftExclusionOperator
from airflow_mlops.operators.retraining import CheckServedAgeOperator, DecideTrainingOperator
from airflow_mlops.operators.roll_through import TFServingRollThroughOperator
from airflow_mlops.ui.exclusions import Window, add_exclusion
from tests.retraining_fixtures import SERVER, TRAINED, World, at


class TaskInstance:
    dag_id, run_id = "m.exclude", "manual__1"

    def xcom_push(self, key: str, value: Any) -> None: ...


class Run:
    run_id, triggering_user_name = "manual__1", "ann"


CONTEXT: Any = {"ti": TaskInstance(), "dag_run": Run()}


@pytest.fixture
def world(home: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    url = f"sqlite:///{home}/ledger.db"
    monkeypatch.setenv("AIRFLOW_CONN_MLOPS_LEDGER_DEFAULT", json.dumps({"conn_type": "mlops_ledger", "host": url}))
    monkeypatch.setenv("AIRFLOW__MLOPS__HOME", str(home))
    return World(home, Ledger(url))


def window(begin: int, end: int, **more: str) -> dict[str, Any]:
    days = {"first": str(at(begin).date()), "last": str(at(end).date())}
    return {"model": "m", "dataset": "orders", "reason": "a broken sensor", "confirm": "m", **days, **more}


def excluded(**arguments: Any) -> Any:
    return ExcludeWindowOperator(task_id="exclude", **arguments).execute(CONTEXT)


def test_a_window_is_excluded_in_the_name_of_who_triggers_it_and_lifted_whole(world: World):
    world.seal_days(0, 4)
    made = excluded(**window(1, 2))
    assert made == {
        "model": "m", "dataset": "orders", "start": at(1).isoformat(), "end": at(3).isoformat(), "excluded": True,
        "who": "ann", "reason": "a broken sensor",
    }  # fmt: skip
    [one] = exclusions(world.ledger, "orders")
    assert (one.start, one.end, one.who) == (at(1), at(3), "ann")
    again = excluded(**window(1, 2, reason="once more"))
    assert again["reason"] == "a broken sensor", "twice is once"
    assert len(exclusions(world.ledger, "orders")) == 1
    with pytest.raises(AirflowFailException, match="Nothing of 'orders' is excluded from 2026-01-06 00:00") as refused:
        LiftExclusionOperator(task_id="lift", **window(1, 1)).execute(CONTEXT)
    assert "excluded: 2026-01-06 00:00 to 2026-01-08 00:00 UTC" in str(refused.value)
    assert LiftExclusionOperator(task_id="lift", **window(1, 2)).execute(CONTEXT)["excluded"] is False
    assert exclusions(world.ledger, "orders") == []


def test_what_would_leave_nothing_is_refused(world: World):
    world.seal_days(0, 4)
    with pytest.raises(AirflowFailException, match="Nothing of 'orders' would be left to train on"):
        excluded(**window(0, 3))
    excluded(**window(0, 1))
    with pytest.raises(AirflowFailException, match="Nothing of 'orders' would be left to train on"):
        excluded(**window(2, 3))
    excluded(**window(10, 12))


def test_the_page_of_models_is_refused_it_too(world: World):
    class User:
        def get_name(self) -> str:
            return "ann"

    world.seal_days(0, 4)
    user: Any = User()
    with pytest.raises(ConfigError, match="Nothing of 'orders' would be left to train on"):
        add_exclusion("orders", Window(start=at(0), end=at(4), reason="a strike"), user)
    assert exclusions(world.ledger, "orders") == []
    made = add_exclusion("orders", Window(start=at(0), end=at(1), reason="a strike"), user)
    assert exclusions(world.ledger, "orders") == [made]


def test_days_of_which_nothing_is_sealed_are_said_to_be_such(world: World, capfd: pytest.CaptureFixture[str]):
    world.seal_days(0, 4)
    excluded(**window(10, 12))
    said = "".join(capfd.readouterr())
    assert "No sealed partition lies in it: the 4 that there are go from 2026-01-05 to 2026-01-08." in said
    excluded(**window(0, 1))
    assert "No sealed partition" not in "".join(capfd.readouterr())


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"confirm": "n"}, "not confirmed for 'm'"),
        ({"confirm": "None"}, "not confirmed for 'm'"),
        ({"reason": ""}, "reason is empty"),
        ({"first": "None"}, "first is empty"),
        ({"first": "yesterday"}, "first='yesterday' is not a day"),
        ({"last": "2025-01-01"}, "The window ends before it begins"),
    ],
)
def test_what_is_not_said_clearly_excludes_nothing(world: World, given: dict[str, str], words: str):
    with pytest.raises(AirflowFailException, match=words):
        excluded(**window(1, 2, **given))
    assert exclusions(world.ledger, "orders") == []


def test_a_field_that_the_form_has_not_does_nothing(world: World):
    class Mistyped(Run):
        conf: ClassVar[dict[str, str]] = {"frist": "2026-01-05"}

    context: Any = {"ti": TaskInstance(), "dag_run": Mistyped()}
    with DAG("m.exclude", schedule=None, tags={"mlops", "m"}, params={"first": Param(None)}):
        task = ExcludeWindowOperator(task_id="exclude", **window(1, 2))
    with pytest.raises(AirflowFailException, match=r"no field 'frist'\. Did you mean 'first'"):
        task.execute(context)
    assert exclusions(world.ledger, "orders") == []
    with DAG("mine", schedule=None):
        ExcludeWindowOperator(task_id="exclude", **window(1, 2)).execute(context)
    assert len(exclusions(world.ledger, "orders")) == 1


def test_back_to_what_knows_nothing_of_the_bad_data(world: World):
    world.seal_days(0, TRAINED + 4)
    for version in (1, 2, 3):
        world.train(version, TRAINED + version - 1)
        move(world, "promote", version, good=tuple(range(version - 1, 0, -1)))
    asked = (world.ledger, SERVER, "m")
    bad_since = at(TRAINED + 1).isoformat()
    assert version_to_go_back_to(*asked, None, "", bad_since) == 2, "the newest that knows labels up to that day only"
    assert version_to_go_back_to(*asked, None, "", str(at(TRAINED).date())) == 1
    with pytest.raises(DataError, match="No kept version of 'm' was trained on data before 2026-01-05") as refused:
        version_to_go_back_to(*asked, None, "", "2026-01-05")
    assert "version 3 up to" in refused.value.detail
    with pytest.raises(ConfigError, match="named in one way"):
        version_to_go_back_to(*asked, 1, "", bad_since)


# --- forward ----------------------------------------------------------------------------------------------


def move(world: World, action: str, stable: int, **more: Any) -> None:
    """Let a version serve, as a rollout writes it down."""
    world.serve(stable, **more)
    record(world.ledger, deployment(world.ledger, SERVER, "m")[0], action, "why")


@pytest.fixture
def flapped(world: World) -> World:
    """Version 2 and then 3 were deployed and rolled back; 4 has passed its gates."""
    from airflow_mlops.contracts import RegisteredModel, Verdict, VerdictStatus

    move(world, "promote", 1)
    for bad in (2, 3):
        move(world, "promote", bad)
        move(world, "rollback", 1, rolled_back=tuple(range(2, bad + 1)))
    passed = Verdict(model="m", status=VerdictStatus.PASS, checks=(), inputs_hash="4")
    made = RegisteredModel(model="m", version="4", run_id="r", experiment_id="1", source="s")
    record_verdict(world.ledger, made, passed, snapshot_id="s4")
    return world


def test_rolled_back_twice_nothing_is_deployed_by_itself(flapped: World):
    with pytest.raises(GateError, match="a person must decide") as held:
        choose_version(flapped.ledger, "m", SERVER)
    assert "m was rolled back 2 times within 7 days" in held.value.detail
    assert "trigger m.roll_through" in held.value.hint
    assert choose_version(flapped.ledger, "m", SERVER, 4).version == 4, "a person may, by its number"
    assert flapping(flapped.ledger, SERVER, "m", datetime.now(UTC) + WITHIN) == "", "a week later it is over"


def test_the_commands_say_that_it_waits(flapped: World, capsys: pytest.CaptureFixture[str]):
    place = ["m", "--ledger", flapped.ledger.url, "--home", str(flapped.home)]
    pin(flapped.ledger, SERVER, "m", "bob", "wait")
    for command in (["deployments", *place], ["unpin", *place, "--reason", "quiet again"]):
        assert main(command) == 0
        assert "But nothing is deployed by itself: m was rolled back 2 times" in capsys.readouterr().out
    assert main(["roll-through", *place, "--reason", "the world has changed"]) == 0
    assert "the next one that passes its gates is deployed" in capsys.readouterr().out
    assert choose_version(flapped.ledger, "m", SERVER).version == 4


def test_one_rollback_and_the_same_again_are_no_flapping(world: World):
    for stable, action in ((1, "promote"), (2, "promote"), (1, "rollback"), (1, "rollback")):
        move(world, action, stable)
    assert flapping(world.ledger, SERVER, "m", datetime.now(UTC)) == ""


def test_forward_is_a_choice_with_a_name_and_a_reason(flapped: World):
    pin(flapped.ledger, SERVER, "m", "bob", "wait")
    arguments = {"task_id": "t", "model": "m", "reason": "the world has changed"}
    with pytest.raises(AirflowFailException, match="not confirmed"):
        TFServingRollThroughOperator(**arguments).execute(CONTEXT)
    with pytest.raises(DagRunTriggerException) as started:
        TFServingRollThroughOperator(**arguments, confirm="m").execute(CONTEXT)
    assert started.value.trigger_dag_id == "m.train"
    assert started.value.conf == {"reason": "roll through, by ann: the world has changed"}
    state: Deployment = deployment(flapped.ledger, SERVER, "m")[0]
    assert (state.pin, state.stable, state.rolled_back) == (None, 1, (2, 3))
    [last] = flapped.ledger.facts("deployment", "m", limit=1)
    assert (last.payload["action"], last.payload["why"]) == ("roll through", "ann: the world has changed")
    assert choose_version(flapped.ledger, "m", SERVER).version == 4


def test_nothing_goes_forward_while_it_is_halted(flapped: World):
    halt(flapped.ledger, "m", "ann", "labels are wrong", datetime.now(UTC) + timedelta(hours=1))
    with pytest.raises(GateError, match="cannot go forward while it is halted"):
        roll_through(flapped.ledger, SERVER, "m", "ann", "why")
    with pytest.raises(AirflowSkipException, match="m is halted by ann"):
        TFServingRollThroughOperator(task_id="t", model="m", reason="why", confirm="m").execute(CONTEXT)


# --- the ledger gone for a minute -------------------------------------------------------------------------

WINDOW = {"dataset": "orders", "first": "2026-01-06", "reason": "why", "confirm": "m"}
WATCH = {"matures_after": "1d", "inputs": ["orders"]}
ADMIT = {
    "cut": "2026-01-06T00:00:00+00:00", "source_dataset": "orders", "matures_after": "1d", "start": "2026-01-05",
    "usual_window": "20d", "validation": "2d", "test": "2d",
}  # fmt: skip


@pytest.mark.parametrize(
    ("operator", "arguments"),
    [
        (ExcludeWindowOperator, WINDOW),
        (LiftExclusionOperator, WINDOW),
        (TFServingRollThroughOperator, {"reason": "why", "confirm": "m"}),
        (DecideTrainingOperator, {"watch": WATCH, "cooldown": "1d"}),
        (AdmitTrainingOperator, ADMIT),
        (CheckServedAgeOperator, {"max_age": "3d"}),
    ],
)
def test_without_its_ledger_each_is_tried_again_and_tells_nobody_anything(
    operator: type, arguments: dict[str, Any], home: Path, monkeypatch: pytest.MonkeyPatch
):
    down = {"conn_type": "mlops_ledger", "host": "postgresql://127.0.0.1:1/none"}
    monkeypatch.setenv("AIRFLOW_CONN_MLOPS_LEDGER_DEFAULT", json.dumps(down))
    monkeypatch.setenv("AIRFLOW__MLOPS__HOME", str(home))
    with pytest.raises(TransientError, match="ledger"):
        operator(task_id="t", model="m", **arguments).execute(CONTEXT)


def test_what_was_cut_off_in_the_middle_is_done_once_by_the_next_attempt(
    flapped: World, monkeypatch: pytest.MonkeyPatch
):
    """The pin is lifted, and then the ledger is gone: the retry writes down who did it, and starts the training."""
    pin(flapped.ledger, SERVER, "m", "bob", "wait")
    roll = TFServingRollThroughOperator(task_id="t", model="m", reason="why", confirm="m")

    def gone(*_: Any) -> None:
        raise TransientError("The ledger does not answer.")

    with monkeypatch.context() as cut, pytest.raises(TransientError):
        cut.setattr(flapping_of, "record", gone)
        roll.execute(CONTEXT)
    assert flapping(flapped.ledger, SERVER, "m", datetime.now(UTC))
    with pytest.raises(DagRunTriggerException) as started:
        roll.execute(CONTEXT)
    assert started.value.dag_run_id == "roll_through__manual__1", "the same run, however often it is asked for"
    assert not flapping(flapped.ledger, SERVER, "m", datetime.now(UTC))


def test_a_clock_that_jumped_holds_nothing_up_for_long(world: World, monkeypatch: pytest.MonkeyPatch):
    """It was a year ahead when it was rolled back twice, and when a training started."""
    move(world, "promote", 1)
    for bad in (2, 3):
        move(world, "promote", bad)
        move(world, "rollback", 1)
    ahead = datetime.now(UTC) + timedelta(days=365)
    assert flapping(world.ledger, SERVER, "m", ahead) == "", "what is long over holds nothing"
    roll_through(world.ledger, SERVER, "m", "ann", "go on")
    assert flapping(world.ledger, SERVER, "m", datetime.now(UTC) - timedelta(days=365)) == "", "in whatever order"
