"""D13: the same entity lands in train and test.

An upstream sends rides of the first days once more, days later: the same ride, its label long known. Whoever tests
on what was trained on sees a model that remembers, and calls it good.
"""

from __future__ import annotations

import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from airflow_mlops.contracts import Snapshot, SplitRule, Verdict, VerdictStatus
from airflow_mlops.engine.data import snapshot_writer
from airflow_mlops.engine.data.snapshots import read_split
from airflow_mlops.engine.data.splits import by_entity
from airflow_mlops.engine.evaluation.evaluate import evaluate
from airflow_mlops.engine.evaluation.gates import judge
from airflow_mlops.engine.features.training import rows, training_data
from airflow_mlops.engine.training.inputs import read_inputs, read_targets
from airflow_mlops.exceptions import DataError
from airflow_mlops.problems import problem_named
from tests.rides import DEFINITIONS, MODEL, Rides, rides_of
from tests.rides_serving import golden, in_service, trained

pytestmark = pytest.mark.drill

DAYS = 10
GATES = [{"metric": "auc", "min": 0.65}]
HARD = DEFINITIONS.replace("features=[ride_request, ", "features=[")  # without the kilometres nobody can tell
KEYS = ["zone", "rider"]  # every ride has a rider of its own: there is much to remember, and nothing to learn from it


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Rides:
    return Rides.make(tmp_path_factory.mktemp("rides"), DAYS, HARD)


@pytest.fixture
def own(world, tmp_path) -> Rides:
    return world.copy(tmp_path / "own")


def again(ride: dict[str, Any], days: int) -> dict[str, Any]:
    return {**ride, "called_at": ride["called_at"] + timedelta(days=days)}


def send_again(world: Rides) -> None:
    """The first half of each of the last two days is not their own rides, but those of the first two days.

    All of them would be too good to be true, and a gate would say so.
    """
    for n in (DAYS - 3, DAYS - 2):
        world.seal("rides", n, [again(ride, DAYS - 3) for ride in rides_of(n - DAYS + 3)[:40]] + rides_of(n)[40:])
    world.compute(*range(DAYS - 3, DAYS))


def snapshot_of(world: Rides, **changes: Any) -> Snapshot:
    return world.snapshot(DAYS, keys=KEYS, **changes)


def judged(snapshot: Snapshot, model: Path) -> Verdict:
    return judge(MODEL, GATES, evaluate(snapshot, model))


@pytest.fixture(scope="module")
def champion(world) -> tuple[Snapshot, Path]:
    snapshot = snapshot_of(world)
    return snapshot, trained(world.home, snapshot)


@pytest.fixture(scope="module")
def service(champion, tmp_path_factory):
    with in_service(tmp_path_factory.mktemp("server"), champion[1]) as service:
        yield service


def no_look_at_entities(monkeypatch) -> None:
    monkeypatch.setattr(rows, "_check_entities", lambda *_: None)


def test_fault_guard_on(own, champion, service):
    right = service.answers(golden(champion[1]))
    send_again(own)
    with pytest.raises(DataError, match=r"80 of \d+ rows of 'rides' have a 'ride_id' that is null or not their own"):
        snapshot_of(own)
    assert not list(own.home.glob("snapshots/*"))
    assert service.answers(golden(champion[1])) == right


def test_fault_guard_on_the_second_alone(own, monkeypatch):
    """Whatever lets them through before: what is written is compared side by side."""
    send_again(own)
    no_look_at_entities(monkeypatch)
    with pytest.raises(DataError, match=r"76 rows of the snapshot repeat an entity"):
        snapshot_of(own, chunk_rows=1)
    assert not list(own.home.glob("snapshots/*"))


def test_fault_guard_on_a_value_that_the_split_keeps_together(own, monkeypatch):
    """Split by driver, says the rule; somebody changed what is hashed."""
    monkeypatch.setattr(
        training_data,
        "by_entity",
        lambda table, rule, *bounds: by_entity(table, rule.model_copy(update={"column": "rider"}), *bounds),
    )
    with pytest.raises(DataError, match=r"\d+ values of 'driver' are on two sides of the split"):
        snapshot_of(own, split_rule=SplitRule(kind="entity", column="driver", validation=0.2, test=0.2))


@pytest.mark.slow
def test_fault_guard_off(own, champion, service, monkeypatch):
    """The score says excellent, the gate lets it through, and what callers get is not what the score promised."""
    assert judged(*champion).status == VerdictStatus.FAIL, "nobody is that good at these rides"
    send_again(own)
    no_look_at_entities(monkeypatch)
    monkeypatch.setattr(snapshot_writer, "check_apart", lambda *_: None)
    leaking = snapshot_of(own)
    train, test = (set(read_split(leaking, name)["ride_id"].to_pylist()) for name in ("train", "test"))
    assert len(test & train) == 38
    model = trained(own.home, leaking, epochs=60, params={"learning_rate": 0.02, "dropout": 0.0, "known_from": 1})
    lie = judged(leaking, model)
    assert lie.status == VerdictStatus.PASS
    rides = read_split(champion[0], "test")  # those that really were called on the last day
    requests = {name: values.tolist() for name, values in read_inputs(rides, champion[0].features).items()}
    service.put(model)
    served = np.array(service.answers(requests), dtype=np.float32)
    service.put(champion[1])
    truth = problem_named("binary").score(read_targets(rides, champion[0]), served)["auc"]
    assert lie.checks[0].observed - truth > 0.1


def test_no_fault(own):
    """Two weeks of days, each sealed, landed again and computed again: no ride is ever on two sides."""
    for n in range(DAYS, DAYS + 4):
        for dataset in ("rides", "ends"):
            own.seal(dataset, n)
            own.seal(dataset, n)
        own.compute(n)
        for rule in (SplitRule(), SplitRule(kind="entity", column="rider", validation=0.2, test=0.2)):
            snapshot = own.snapshot(n, keys=KEYS, split_rule=rule)
            sides = [read_split(snapshot, name)["ride_id"].to_pylist() for name in snapshot.splits]
            assert sum(map(len, sides)) == len(set().union(*sides)) > 400
            shutil.rmtree(snapshot.uri)
