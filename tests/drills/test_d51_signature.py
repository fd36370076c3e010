"""D51: the candidate's signature drops or renames an input.

It is a fine model: it loads, and answers its own golden predictions. Only its callers break.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.engine.serving.golden import Golden
from airflow_mlops.engine.serving.model_store import publish
from airflow_mlops.engine.serving.rollout import Rollout
from airflow_mlops.exceptions import GateError
from tests.serving_fixtures import (
    INPUTS,
    RefusedError,
    make_saved_model,
    model_named_after,
    put_into_service,
    rollout_of,
    served,
)

pytestmark = pytest.mark.drill

DROPPED = {name: kind for name, kind in INPUTS.items() if name != "hour"}
RENAMED = {**DROPPED, "sched_hour": "int64"}
FAULTS = pytest.mark.parametrize(
    ("inputs", "words"),
    [
        pytest.param(DROPPED, "input 'hour' is gone", id="dropped"),
        pytest.param(RENAMED, "input 'hour' is gone; input 'sched_hour' is new", id="renamed"),
    ],
)


@pytest.fixture
def champion(tmp_path) -> Path:
    return make_saved_model(tmp_path / "champion", 0.4)


@pytest.fixture
def rollout(server, tmp_path, champion, request) -> Iterator[Rollout]:
    """A champion in service, as version 1."""
    with rollout_of(server, model_named_after(request), Ledger(f"sqlite:///{tmp_path}/ledger.db")) as rollout:
        publish(champion, rollout.base, 1)
        put_into_service(rollout, 1)
        yield rollout


def answers_like(rollout: Rollout, model: Path, callers: Path) -> bool:
    """Do the callers of one model get the answers that another gave at training time?"""
    golden = Golden.read(model)
    return served(rollout, Golden.read(callers).inputs) == pytest.approx(golden.outputs["probability"], abs=1e-6)


@FAULTS
def test_fault_guard_on(inputs, words, rollout, champion, tmp_path):
    candidate = make_saved_model(tmp_path / "candidate", 0.8, inputs)
    with pytest.raises(GateError, match=words):
        publish(candidate, rollout.base, 2, serving=rollout.deployment().stable)
    assert not (rollout.base / "2").exists()
    assert answers_like(rollout, champion, callers=champion)


@FAULTS
def test_fault_guard_off(inputs, words, rollout, champion, tmp_path):
    candidate = make_saved_model(tmp_path / "candidate", 0.8, inputs)
    publish(candidate, rollout.base, 2)
    put_into_service(rollout, 2)  # its own golden predictions are right
    with pytest.raises(RefusedError, match="hour"):
        served(rollout, Golden.read(champion).inputs)


@pytest.mark.slow
def test_no_fault(rollout, champion, tmp_path):
    """A fortnight of daily retrainings with an unchanged signature: none is refused, callers never notice."""
    for version in range(2, 16):
        candidate = make_saved_model(tmp_path / str(version), 0.05 * version)
        publish(candidate, rollout.base, version, serving=rollout.deployment().stable)
        put_into_service(rollout, version)
        assert answers_like(rollout, candidate, callers=champion)
