"""Rollouts on a real server: each step leads where it should, again and again, and a failure changes nothing."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

from airflow_mlops.contracts import Deployment
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.engine.serving.client import ServingClient
from airflow_mlops.engine.serving.config import ServerConfig
from airflow_mlops.engine.serving.deployments import (
    PinnedError,
    ask_for,
    kept_versions,
    pin,
    unpin,
)
from airflow_mlops.engine.serving.going_back import version_to_go_back_to
from airflow_mlops.engine.serving.golden import GOLDEN_FILE, Golden
from airflow_mlops.engine.serving.model_store import publish
from airflow_mlops.engine.serving.rollout import Rollout
from airflow_mlops.exceptions import ConfigError, DataError, GateError, TransientError
from tests.serving_fixtures import (
    RefusedError,
    free_port,
    make_saved_model,
    model_named_after,
    put_into_service,
    rollout_of,
    served,
    settle,
)


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[int, Path]:
    """Four models by the version they are published under."""
    folder = tmp_path_factory.mktemp("models")
    return {version: make_saved_model(folder / str(version), 0.2 * version) for version in (1, 2, 3, 4)}


@pytest.fixture(scope="module")
def ledger(tmp_path_factory) -> Ledger:
    return Ledger(f"sqlite:///{tmp_path_factory.mktemp('ledger')}/ledger.db")


@pytest.fixture
def rollout(server, ledger, models, request) -> Iterator[Rollout]:
    """A model of its own for each test, all on one server, with its versions already in the store."""
    with rollout_of(server, model_named_after(request), ledger) as rollout:
        for version, source in models.items():
            shutil.copytree(source, rollout.base / str(version))
        yield rollout


def golden(rollout: Rollout, version: int) -> Golden:
    return Golden.read(rollout.base / str(version))


def serves(rollout: Rollout, version: int) -> bool:
    """Is it this version's answers that callers get?"""
    expected = golden(rollout, version)
    return served(rollout, expected.inputs) == pytest.approx(expected.outputs["probability"], abs=1e-6)


def configured(rollout: Rollout) -> tuple[tuple[int, ...], dict[str, int]] | None:
    model = ServerConfig.read(rollout.config_file).model(rollout.model)
    return None if model is None else (model.versions, dict(model.labels))


def actions(rollout: Rollout) -> list[str]:
    return [fact.payload["action"] for fact in reversed(rollout.ledger.facts("deployment", rollout.model))]


def desired(rollout: Rollout, **values: object) -> Deployment:
    return Deployment(server="tf_serving_default", model=rollout.model, **values)


# --- the way up and back ----------------------------------------------------------------------------------


def test_first_version(rollout):
    assert rollout.deployment() == desired(rollout)
    put_into_service(rollout, 1)
    assert serves(rollout, 1)
    assert rollout.deployment() == desired(rollout, stable=1, loaded=(1,), reason="promoted version 1")
    assert configured(rollout) == ((1,), {"stable": 1})
    assert actions(rollout) == ["load", "promote"]


def test_next_version_loads_beside_the_one_that_serves(rollout):
    put_into_service(rollout, 1)
    rollout.load(2)
    assert settle(rollout, 2).state == "AVAILABLE"
    assert serves(rollout, 1)
    rollout.promote(2)
    assert serves(rollout, 2)
    assert rollout.deployment().previous == 1
    assert configured(rollout) == ((1, 2), {"stable": 2})


def test_the_last_good_version_stays_loaded_and_older_ones_retire_when_the_label_has_moved(rollout):
    put_into_service(rollout, 1)
    put_into_service(rollout, 2)
    rollout.load(3)
    assert settle(rollout, 3).state == "AVAILABLE"
    assert rollout.deployment().loaded == (1, 2, 3)
    rollout.promote(3)
    assert rollout.deployment().loaded == (2, 3)
    assert rollout.deployment().good == (2, 1)
    assert configured(rollout) == ((2, 3), {"stable": 3})


def test_only_so_many_can_be_gone_back_to_as_were_asked_for(rollout):
    for version in (1, 2, 3, 4):
        rollout.load(version)
        settle(rollout, version)
        rollout.promote(version, keep=2)
    assert rollout.deployment().good == (3, 2)
    assert set(kept_versions(rollout.ledger, rollout.model)) == {4, 3, 2}


def test_every_step_can_be_repeated(rollout):
    put_into_service(rollout, 1)
    put_into_service(rollout, 2)
    before, facts = rollout.deployment(), actions(rollout)
    put_into_service(rollout, 2)
    assert rollout.deployment() == before
    assert actions(rollout) == facts
    assert serves(rollout, 2)


def back(rollout: Rollout, request: str, **how: object) -> Deployment:
    return rollout.rollback("ann", "incident 12", request=request, **how)


def test_a_rollback_pins_and_what_it_took_out_stays_out(rollout):
    put_into_service(rollout, 1)
    put_into_service(rollout, 2)
    back(rollout, "night shift, run 1")
    assert serves(rollout, 1)
    back(rollout, "night shift, run 1")  # a retry of the same task
    assert serves(rollout, 1)
    state = rollout.deployment()
    assert (state.stable, state.previous, state.loaded, state.good, state.rolled_back) == (1, 2, (1, 2), (), (2,))
    assert state.pin is not None
    assert str(state.pin) == "version 1 is pinned by ann until it is lifted: incident 12"
    with pytest.raises(GateError, match=r"no earlier version(.|\n)*rolled back: 2"):
        back(rollout, "day shift, run 2")
    with pytest.raises(GateError, match=r"cannot replace what is pinned(.|\n)*by ann"):
        put_into_service(rollout, 3)
    assert serves(rollout, 1)
    unpin(rollout.ledger, rollout.server, rollout.model, "bob", "repaired")
    with pytest.raises(GateError, match=r"Version 2 of .* was rolled back"):
        put_into_service(rollout, 2)  # a task of an old run that was cleared
    ask_for(rollout.ledger, rollout.server, rollout.model, 2, "it was not its fault")
    put_into_service(rollout, 2)  # somebody wants it after all
    assert serves(rollout, 2)
    assert (rollout.deployment().rolled_back, rollout.deployment().asked) == ((), ())
    back(rollout, "run 3")
    assert serves(rollout, 1)


def test_after_two_bad_deployments_the_last_good_version_answers_again(rollout):
    for version in (1, 2, 3):
        put_into_service(rollout, version)
    back(rollout, "run 1")
    assert serves(rollout, 2)
    back(rollout, "run 2")
    assert serves(rollout, 1)
    state = rollout.deployment()
    assert state.rolled_back == (2, 3)
    assert state.pin is not None
    assert state.pin.version == 1


def test_back_to_any_version_that_is_kept_by_its_number(rollout):
    """It was unloaded long ago, and proves itself before callers get it."""
    for version in (1, 2, 3, 4):
        put_into_service(rollout, version)
    assert 1 not in rollout.deployment().loaded
    back(rollout, "run 1", to=1)
    assert serves(rollout, 1)
    assert (rollout.deployment().good, rollout.deployment().rolled_back) == ((), (2, 3, 4)), "they came after it"
    with pytest.raises(GateError, match=r"Version 9 of .* never served(.|\n)*1, 2, 3, 4"):
        back(rollout, "run 2", to=9)
    shutil.rmtree(rollout.base / "2")
    with pytest.raises(GateError, match=r"Version 2 of .* is not kept any more(.|\n)*1, 3, 4"):
        back(rollout, "run 3", to=2)
    assert serves(rollout, 1)


def test_the_same_rollback_again_only_makes_sure(rollout):
    """As of somebody at a keyboard, whose command was cut off or whose registry was down."""
    for version in (1, 2, 3):
        put_into_service(rollout, version)
    applied = Rollout._apply
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Rollout, "_apply", lambda self, state: interrupt() if state.stable == 2 else applied(self, state))
        rollout.rollback("ann", "3 is bad")
    assert serves(rollout, 3), "the ledger has decided, and the server does not know"
    for _ in range(2):
        assert rollout.rollback("ann", "3 is bad").stable == 2
        assert serves(rollout, 2)
    until = datetime.now(UTC) + timedelta(days=1)
    again = rollout.rollback("ann", "3 is bad", until=until)
    assert (again.stable, again.pin.until) == (2, until), "another end of its pin is no further step back"
    assert rollout.rollback("ann", "3 is bad", 1).stable == 1, "another version is another rollback"


def interrupt() -> None:
    raise KeyboardInterrupt


def test_a_rollback_never_lands_on_what_was_jumped_over(rollout):
    for version in (1, 2, 3, 4):
        put_into_service(rollout, version)
    rollout.rollback("ann", "3 and 4 are bad", to=2)
    assert rollout.rollback("ann", "2 is bad too").stable == 1
    assert rollout.deployment().rolled_back == (2, 3, 4)


def test_what_serves_cannot_be_gone_back_to(rollout):
    put_into_service(rollout, 1)
    put_into_service(rollout, 2)
    with pytest.raises(GateError, match=r"Version 2 of .* serves already"):
        rollout.rollback("ann", "bad", to=2)


def test_what_never_served_cannot_be_gone_back_to(rollout):
    put_into_service(rollout, 1)
    shutil.copytree(rollout.base / "2", rollout.base / "77")
    with pytest.raises(GateError, match=r"Version 77 of .* never served"):
        rollout.rollback("ann", "bad", to=77)
    assert rollout.deployment().rolled_back == ()


def test_a_pin_keeps_candidates_out(rollout):
    put_into_service(rollout, 1)
    put_into_service(rollout, 2)
    rollout.load(3)
    settle(rollout, 3)
    back(rollout, "run 1")
    assert 3 not in rollout.deployment().loaded
    with pytest.raises(PinnedError, match=r"cannot replace what is pinned"):
        rollout.load(3)


def test_a_version_that_was_damaged_meanwhile_is_not_gone_back_to(rollout):
    for version in (1, 2, 3, 4):
        put_into_service(rollout, version)
    shutil.copy(rollout.base / "3" / "assets.extra" / "golden.json", rollout.base / "1" / "assets.extra")
    with pytest.raises(GateError, match=r"not fit to serve(.|\n)*Version 4 keeps serving"):
        back(rollout, "run 1", to=1)
    assert serves(rollout, 4)
    assert rollout.deployment().pin is None


def test_back_to_what_served_at_a_moment(rollout):
    put_into_service(rollout, 1)
    put_into_service(rollout, 2)
    moment = rollout.ledger.facts("deployment", rollout.model, limit=1)[0].at
    put_into_service(rollout, 3)
    served_then = partial(version_to_go_back_to, rollout.ledger, rollout.server, rollout.model)
    assert served_then(None, moment.isoformat()) == 2
    assert served_then(None, str(moment.date())) == 3, "a day: what served at its end"
    with pytest.raises(DataError, match=r"No version of .* served"):
        served_then(None, "2026-01-31")
    with pytest.raises(ConfigError, match="named in one way"):
        served_then(1, "2026-01-31")


def test_a_pin_needs_a_name_a_reason_and_a_future(rollout):
    ours = (rollout.ledger, rollout.server, rollout.model)
    with pytest.raises(GateError, match="nothing to pin"):
        pin(*ours, "ann", "why")
    put_into_service(rollout, 1)
    for who, reason in (("", "why"), ("ann", " ")):
        with pytest.raises(ConfigError, match="Somebody must answer for this"):
            pin(*ours, who, reason)
    with pytest.raises(ConfigError, match="would have run out"):
        pin(*ours, "ann", "why", datetime.now(UTC) - timedelta(hours=1))
    rollout.load(2)
    assert settle(rollout, 2).state == "AVAILABLE"
    pin(*ours, "ann", "why", datetime.now(UTC) + timedelta(seconds=1))
    while (held := rollout.deployment().pin) is not None and held.holds(datetime.now(UTC)):
        time.sleep(0.05)
    rollout.promote(2)
    assert serves(rollout, 2)
    assert actions(rollout) == ["load", "promote", "load", "pin", "promote"]


def test_a_retried_rollback_goes_back_once_even_if_a_candidate_came_in_between(rollout):
    for version in (1, 2, 3):
        put_into_service(rollout, version)
    back(rollout, "run 1")
    unpin(rollout.ledger, rollout.server, rollout.model, "bob", "repaired")
    rollout.load(4)
    back(rollout, "run 1")
    assert serves(rollout, 2)


def test_no_rollback_without_an_earlier_version(rollout):
    with pytest.raises(GateError, match=r"no earlier version(.|\n)*stable: none"):
        back(rollout, "run 1")
    put_into_service(rollout, 1)
    with pytest.raises(GateError, match=r"no earlier version(.|\n)*stable: 1"):
        back(rollout, "run 1")
    assert serves(rollout, 1)


def test_where_no_version_is_good_none_answers(rollout, server):
    """Callers are told that there is none; the next version that passes is deployed, and one can be brought back."""
    with pytest.raises(DataError, match="was ever deployed"):
        rollout.withdraw("ann", "all of them are bad")
    for version in (1, 2):
        put_into_service(rollout, version)
    pin(rollout.ledger, rollout.server, rollout.model, "bob", "the fair")
    with pytest.raises(ConfigError, match="Somebody must answer for this"):
        rollout.withdraw("ann", " ")
    state = rollout.withdraw("ann", "all of them are bad", request="run 1")
    assert (state.stable, state.loaded, state.pin, state.rolled_back, state.good) == (None, (), None, (2,), (1,))
    assert configured(rollout) is None
    with pytest.raises(RefusedError, match="Unrecognized servable version label: stable"):
        served(rollout, golden(rollout, 2).inputs)
    assert actions(rollout)[-1] == "withdraw"
    assert rollout.withdraw("ann", "all of them are bad", request="run 2") == state, "there is nothing left to take"
    put_into_service(rollout, 3)
    rollout.withdraw("ann", "all of them are bad", request="run 1")
    assert serves(rollout, 3), "the run that withdrew once changes nothing when it is cleared"
    rollout.withdraw("ann", "this one too")
    rollout.rollback("ann", "it was the least bad", to=1)
    assert serves(rollout, 1)


def test_a_deployment_of_the_release_before_is_read(ledger):
    old = {"server": "s", "model": "m", "stable": 3, "previous": 2, "loaded": [2, 3], "rolled_back": None, "reason": ""}
    assert Deployment.model_validate(old).good == (2,)
    assert Deployment.model_validate({**old, "rolled_back": 2}).rolled_back == (2,)
    assert Deployment.model_validate({**old, "rolled_back": 2}).good == ()


# --- versions that fail -----------------------------------------------------------------------------------


def truncate(rollout: Rollout, version: int) -> Path:
    [data] = (rollout.base / str(version) / "variables").glob("variables.data-*")
    data.write_bytes(b"")
    return data


def test_a_version_that_does_not_load_is_taken_out_again_with_the_servers_words(rollout, models):
    put_into_service(rollout, 1)
    put_into_service(rollout, 2)
    before = configured(rollout)
    data = truncate(rollout, 3)
    rollout.load(3)
    state = settle(rollout, 3)
    assert state.state == "END"
    error = rollout.reject(3, state.error)
    assert state.error in str(error)
    assert "Version 2 keeps serving" in str(error)
    assert configured(rollout) == before
    assert serves(rollout, 2)

    # The server never looks at it again by itself. Out of the config and back in: it does.
    shutil.copy(models[3] / "variables" / data.name, data)
    rollout.load(3)
    assert settle(rollout, 3).state == "AVAILABLE"


def test_a_first_version_that_does_not_load(rollout):
    truncate(rollout, 1)
    with pytest.raises(GateError, match="Nothing serves yet"):
        rollout.load(1)
        raise rollout.reject(1, settle(rollout, 1).error)
    assert configured(rollout) is None
    put_into_service(rollout, 2)
    assert serves(rollout, 2)


def test_a_version_that_answers_differently_is_taken_out_again(rollout):
    put_into_service(rollout, 1)
    shutil.copy(rollout.base / "3" / "assets.extra" / "golden.json", rollout.base / "2" / "assets.extra")
    rollout.load(2)
    assert settle(rollout, 2).state == "AVAILABLE"
    with pytest.raises(GateError, match=r"not fit to serve(.|\n)*does not answer what it answered"):
        rollout.verify(2)
    assert configured(rollout) == ((1,), {"stable": 1})
    assert serves(rollout, 1)


def test_a_version_in_service_that_fails_its_check_goes_on_serving(rollout):
    """Taking it out would leave callers with nothing; going back is a decision of its own."""
    put_into_service(rollout, 1)
    shutil.copy(rollout.base / "3" / "assets.extra" / "golden.json", rollout.base / "1" / "assets.extra")
    with pytest.raises(GateError, match="not fit to serve"):
        rollout.verify(1)
    assert configured(rollout) == ((1,), {"stable": 1})


@pytest.mark.parametrize("version", [2, 9], ids=["published", "unknown"])
def test_what_is_not_loaded_is_not_promoted(rollout, version):
    put_into_service(rollout, 1)
    with pytest.raises(GateError, match="not AVAILABLE"):
        rollout.promote(version)
    assert serves(rollout, 1)


# --- outages, rivals, crashes -----------------------------------------------------------------------------


def test_server_down_changes_nothing(rollout, server):
    put_into_service(rollout, 1)
    put_into_service(rollout, 2)
    before, text = rollout.deployment(), server.config_file.read_text()
    with ServingClient("127.0.0.1", free_port(), timeout=2) as nobody:
        cut_off = replace(rollout, client=nobody)
        for step in (lambda: cut_off.load(3), lambda: cut_off.promote(3), lambda: back(cut_off, "run 1")):
            with pytest.raises(TransientError, match="does not answer"):
                step()
    assert rollout.deployment() == before
    assert server.config_file.read_text() == text
    assert serves(rollout, 2)


def test_a_refused_configuration_is_taken_back(rollout, server, ledger, models):
    """Somebody pointed another model's label into the void: the server refuses the whole file."""
    put_into_service(rollout, 1)
    with rollout_of(server, "careless", ledger) as careless:
        publish(models[2], careless.base, 2)
        put_into_service(careless, 2)
        good = ServerConfig.read(server.config_file)
        bad = good.with_model(replace(good.model("careless"), labels={"stable": 99}))
        bad.write(server.config_file)
        with pytest.raises(ConfigError, match="refused the configuration"):
            rollout.load(2)
        assert rollout.deployment().loaded == (1,)
        assert actions(rollout) == ["load", "promote", "load", "undo load"]
        assert ServerConfig.read(server.config_file) == bad
        assert serves(rollout, 1)
        assert serves(careless, 2)
        good.write(server.config_file)
        put_into_service(rollout, 2)
        assert serves(rollout, 2)


class Contended(Ledger):
    """Somebody else always moves the pointer first."""

    def swap(self, name, value, expected):
        super().swap(name, {**value, "reason": "a rival"}, expected)
        return super().swap(name, value, expected)


def test_of_two_rivals_one_wins_and_the_other_touches_nothing(rollout, server):
    put_into_service(rollout, 1)
    text = server.config_file.read_text()
    with pytest.raises(TransientError, match="changed by somebody else"):
        replace(rollout, ledger=Contended(rollout.ledger.url)).load(2)
    assert server.config_file.read_text() == text


@pytest.mark.parametrize("step", ["promote", "rollback"])
def test_killed_between_the_decision_and_the_server(rollout, step):
    put_into_service(rollout, 1)
    rollout.load(2)
    settle(rollout, 2)
    if step == "rollback":
        rollout.promote(2)
    stable, previous = (2, 1) if step == "promote" else (1, 2)
    reason = "run 1: incident 12"
    decided = desired(rollout, stable=stable, previous=previous, loaded=(1, 2), reason=reason)
    name = f"deployment:tf_serving_default:{rollout.model}"
    assert rollout.ledger.swap(name, decided.model_dump(mode="json"), rollout.ledger.pointer(name))
    assert not serves(rollout, stable)
    assert (rollout.promote(2) if step == "promote" else back(rollout, "run 1")) == decided
    assert serves(rollout, stable)


def test_models_that_share_a_server_do_not_unload_each_other(server, ledger, models):
    with ExitStack() as stack, ThreadPoolExecutor(3) as pool:
        rollouts = [stack.enter_context(rollout_of(server, f"shared_{i}", ledger)) for i in range(3)]
        for i, rollout in enumerate(rollouts):
            publish(models[i + 1], rollout.base, i + 1)
        list(pool.map(put_into_service, rollouts, (1, 2, 3)))
        assert [serves(rollout, i + 1) for i, rollout in enumerate(rollouts)] == [True] * 3


# --- what happens later -----------------------------------------------------------------------------------


def test_who_goes_back_is_held_to_the_tolerance_that_it_was_deployed_with(rollout):
    for version in (1, 2, 3):
        file = rollout.base / str(version) / GOLDEN_FILE
        told = json.loads(file.read_text())
        told["outputs"] = {name: [value + 2e-4 for value in values] for name, values in told["outputs"].items()}
        file.write_text(json.dumps(told))
        rollout.load(version)
        settle(rollout, version)
        if version < 3:
            rollout.verify(version, tolerance=1e-3)
        rollout.promote(version)
    assert back(rollout, "run 1").stable == 2
    assert back(rollout, "run 2", to=1).stable == 1
    with pytest.raises(GateError, match="is not fit to serve"):
        back(rollout, "run 3", to=3)  # nobody said another tolerance


def test_a_run_that_rolled_back_once_changes_nothing_when_it_is_cleared_weeks_later(rollout):
    for version in (1, 2, 3):
        put_into_service(rollout, version)
    assert back(rollout, "run 1").stable == 2
    unpin(rollout.ledger, rollout.server, rollout.model, "ann", "mended")
    put_into_service(rollout, 4)
    before = rollout.deployment()
    assert back(rollout, "run 1") == before
    assert serves(rollout, 4)


def not_following(rollout: Rollout, label_at: int) -> Rollout:
    """The same rollout, on a server whose label does not move."""

    class Elsewhere:
        def __getattr__(self, name: str) -> object:
            return getattr(rollout.client, name)

        def signatures(self, model: str, version: int | None = None, label: str | None = None) -> object:
            return (label_at, {}) if label else rollout.client.signatures(model, version)

    return replace(rollout, client=Elsewhere())


def test_a_version_whose_promotion_was_undone_never_served(rollout):
    put_into_service(rollout, 1)
    rollout.load(2)
    settle(rollout, 2)
    with pytest.raises(GateError, match="did not move"):
        not_following(rollout, 1).promote(2)
    assert actions(rollout)[-2:] == ["promote", "undo promote"]
    with pytest.raises(GateError, match=r"Version 2 of .* never served(.|\n)*versions that did: 1"):
        back(rollout, "run 1", to=2)
    assert serves(rollout, 1)


def test_a_rollback_that_was_undone_is_done_by_the_retry_of_its_run(rollout):
    put_into_service(rollout, 1)
    put_into_service(rollout, 2)
    with pytest.raises(GateError, match="did not move"):
        back(not_following(rollout, 2), "run 1")
    assert actions(rollout)[-2:] == ["rollback", "undo rollback"]
    assert serves(rollout, 2)
    assert back(rollout, "run 1").stable == 1
    assert serves(rollout, 1)


def test_a_version_that_is_not_kept_is_said_so_before_anything_is_asked_of_it(rollout):
    put_into_service(rollout, 1)
    put_into_service(rollout, 2)
    shutil.rmtree(rollout.base / "1")

    def check(version: int) -> None:
        raise AssertionError(f"asked of {version}")

    with pytest.raises(GateError, match=r"Version 1 of .* is not kept any more(.|\n)*has 2"):
        back(rollout, "run 1", check=check)
