"""D74: the mitigation feeds the fault: rolled back, deployed again, rolled back. The second time it waits for a person.

Every version that is trained on the bad days passes its gates, as its test split is of these days too.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from airflow_mlops.engine.evaluation import approvals
from airflow_mlops.engine.evaluation.approvals import choose_version
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.engine.serving.deployments import unpin
from airflow_mlops.engine.serving.flapping import roll_through
from airflow_mlops.engine.serving.golden import Golden
from airflow_mlops.engine.serving.model_store import publish
from airflow_mlops.engine.serving.rollout import Rollout
from airflow_mlops.exceptions import GateError
from tests.drills.test_d55_rolled_back_and_retrained import passed
from tests.serving_fixtures import (
    make_saved_model,
    model_named_after,
    put_into_service,
    rollout_of,
    served,
)

pytestmark = pytest.mark.drill

GOOD, BAD = 0.2, 0.9


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {name: make_saved_model(folder / name, mean) for name, mean in {"good": GOOD, "bad": BAD}.items()}


@pytest.fixture
def rollout(server, tmp_path, models, request) -> Iterator[Rollout]:
    with rollout_of(server, model_named_after(request), Ledger(f"sqlite:///{tmp_path}/ledger.db")) as rollout:
        retrain(rollout, models["good"], 1)
        deploy(rollout)
        yield rollout


def retrain(rollout: Rollout, model: Path, version: int) -> None:
    """Train a version that passes its gates, and is in the store."""
    publish(model, rollout.base, version)
    passed(rollout.ledger, rollout.model, version)


def deploy(rollout: Rollout) -> str:
    """Deploy by itself what the ledger says, and return why nothing was."""
    try:
        choice = choose_version(rollout.ledger, rollout.model, rollout.server)
    except GateError as error:  # the task fails, and the notifiers are called
        return error.detail
    if choice.version is not None:
        put_into_service(rollout, choice.version)
    return choice.why


def mitigate(rollout: Rollout, version: int) -> None:
    """Roll back, and lift the pin once the alarm is quiet, as a runbook of only these two steps does."""
    rollout.rollback("pager", f"version {version} answers too high")
    unpin(rollout.ledger, rollout.server, rollout.model, "pager", "quiet again")


def answers_like(rollout: Rollout, model: Path) -> bool:
    golden = Golden.read(model)
    return served(rollout, golden.inputs) == pytest.approx(golden.outputs["probability"], abs=1e-6)


def flap(rollout: Rollout, models: dict[str, Path], versions: range) -> list[str]:
    """Each night a version of the bad days; return why it was not deployed."""
    why = []
    for version in versions:
        retrain(rollout, models["bad"], version)
        why.append(deploy(rollout))
        if answers_like(rollout, models["bad"]):
            mitigate(rollout, version)
    return why


def test_fault_guard_on(rollout: Rollout, models: dict[str, Path]):
    why = flap(rollout, models, range(2, 7))
    assert why[:2] == ["", ""]
    assert all("was rolled back 2 times within 7 days" in one for one in why[2:])
    assert answers_like(rollout, models["good"])


def test_fault_guard_off(rollout: Rollout, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch):
    """Every night callers get the bad answers until somebody wakes up."""
    monkeypatch.setattr(approvals, "flapping", lambda *_: "")
    assert flap(rollout, models, range(2, 5)) == ["", "", ""]
    retrain(rollout, models["bad"], 5)
    deploy(rollout)
    assert answers_like(rollout, models["bad"])


def test_to_roll_through_is_a_choice(rollout: Rollout, models: dict[str, Path]):
    """Once the bad days are excluded, somebody goes forward by name; what was rolled back stays out."""
    flap(rollout, models, range(2, 5))
    roll_through(rollout.ledger, rollout.server, rollout.model, "ann", "the bad days are excluded")
    retrain(rollout, models["good"], 5)
    assert deploy(rollout) == ""
    assert rollout.deployment().stable == 5
    assert rollout.deployment().rolled_back == (2, 3)


def test_no_fault(rollout: Rollout, models: dict[str, Path]):
    """A week of deployments with one rollback in it: nothing waits."""
    for version in range(2, 9):
        retrain(rollout, models["good"], version)
        assert deploy(rollout) == ""
        if version == 4:
            mitigate(rollout, version)
    assert rollout.deployment().stable == 8
