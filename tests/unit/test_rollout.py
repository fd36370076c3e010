"""Rollouts on a real server: each step leads where it should, again and again, and a failure changes nothing."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from airflow_mlops.contracts import Deployment
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.engine.serving.client import ServingClient
from airflow_mlops.engine.serving.config import ServerConfig
from airflow_mlops.engine.serving.golden import Golden
from airflow_mlops.engine.serving.model_store import publish
from airflow_mlops.engine.serving.rollout import Rollout
from airflow_mlops.exceptions import ConfigError, GateError, TransientError
from tests.serving_fixtures import (
    RunningServer,
    free_port,
    make_saved_model,
    model_named_after,
    put_into_service,
    rollout_of,
    running_server,
    served,
    settle,
)


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[int, Path]:
    """Four models by the version they are published under."""
    folder = tmp_path_factory.mktemp("models")
    return {version: make_saved_model(folder / str(version), 0.2 * version) for version in (1, 2, 3, 4)}


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[RunningServer]:
    with running_server(tmp_path_factory.mktemp("server")) as server:
        yield server


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


def test_the_version_before_the_previous_retires_only_when_the_label_has_moved(rollout):
    put_into_service(rollout, 1)
    put_into_service(rollout, 2)
    rollout.load(3)
    assert settle(rollout, 3).state == "AVAILABLE"
    assert rollout.deployment().loaded == (1, 2, 3)
    rollout.promote(3)
    assert rollout.deployment().loaded == (2, 3)
    assert configured(rollout) == ((2, 3), {"stable": 3})


def test_every_step_can_be_repeated(rollout):
    put_into_service(rollout, 1)
    put_into_service(rollout, 2)
    before, facts = rollout.deployment(), actions(rollout)
    put_into_service(rollout, 2)
    assert rollout.deployment() == before
    assert actions(rollout) == facts
    assert serves(rollout, 2)


def test_rollback_once_and_not_back_again(rollout):
    put_into_service(rollout, 1)
    put_into_service(rollout, 2)
    rollout.rollback("night shift, run 1")
    assert serves(rollout, 1)
    rollout.rollback("night shift, run 1")  # a retry of the same task
    assert serves(rollout, 1)
    assert rollout.deployment() == desired(
        rollout, stable=1, previous=2, loaded=(1, 2), rolled_back=2, reason="night shift, run 1"
    )
    with pytest.raises(GateError, match=r"Version 2 of .* was itself rolled back(.|\n)*by its number"):
        rollout.rollback("day shift, run 2")
    assert serves(rollout, 1)
    put_into_service(rollout, 2)  # somebody wants it after all
    assert serves(rollout, 2)
    rollout.rollback("run 3")
    assert serves(rollout, 1)


def test_a_retried_rollback_goes_back_once_even_if_a_candidate_came_in_between(rollout):
    put_into_service(rollout, 1)
    put_into_service(rollout, 2)
    rollout.rollback("run 1")
    rollout.load(3)
    rollout.rollback("run 1")
    assert serves(rollout, 1)


def test_no_rollback_without_a_previous_version(rollout):
    with pytest.raises(GateError, match=r"no previous version(.|\n)*stable: none"):
        rollout.rollback("run 1")
    put_into_service(rollout, 1)
    with pytest.raises(GateError, match=r"no previous version(.|\n)*stable: 1"):
        rollout.rollback("run 1")
    assert serves(rollout, 1)


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
        for step in (lambda: cut_off.load(3), lambda: cut_off.promote(3), lambda: cut_off.rollback("run 1")):
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
    decided = desired(rollout, stable=stable, previous=previous, loaded=(1, 2), reason="run 1")
    name = f"deployment:tf_serving_default:{rollout.model}"
    assert rollout.ledger.swap(name, decided.model_dump(mode="json"), rollout.ledger.pointer(name))
    assert not serves(rollout, stable)
    assert (rollout.promote(2) if step == "promote" else rollout.rollback("run 1")) == decided
    assert serves(rollout, stable)


def test_models_that_share_a_server_do_not_unload_each_other(server, ledger, models):
    with ExitStack() as stack, ThreadPoolExecutor(3) as pool:
        rollouts = [stack.enter_context(rollout_of(server, f"shared_{i}", ledger)) for i in range(3)]
        for i, rollout in enumerate(rollouts):
            publish(models[i + 1], rollout.base, i + 1)
        list(pool.map(put_into_service, rollouts, (1, 2, 3)))
        assert [serves(rollout, i + 1) for i, rollout in enumerate(rollouts)] == [True] * 3
