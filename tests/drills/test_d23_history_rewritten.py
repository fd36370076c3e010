"""D23: a backfill rewrites history after a model was trained.

A day of rides is replaced, and the transform corrected; all days of features are computed again. The model's training
set is rebuilt as it was known then, byte for byte, and the model trained on it answers the same.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from airflow_mlops.contracts import Snapshot
from airflow_mlops.engine.data import snapshot_writer
from airflow_mlops.engine.features.computing.files import current_pins
from airflow_mlops.engine.features.project.schema import feature_file
from airflow_mlops.engine.features.training import training_data
from airflow_mlops.exceptions import DataError
from tests.rides import Rides, key_of, rides_of
from tests.rides_serving import golden, in_service, trained

pytestmark = pytest.mark.drill

DAYS = 10
MOVED = 0.01  # mean over the golden requests; without a fault it is 0


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Rides:
    return Rides.make(tmp_path_factory.mktemp("rides"), DAYS)


@pytest.fixture(scope="module")
def model(world) -> tuple[Snapshot, Path]:
    """What the model was trained on, and the model."""
    snapshot = world.snapshot(DAYS)
    return snapshot, trained(world.home, snapshot)


@pytest.fixture(scope="module")
def service(model, tmp_path_factory):
    with in_service(tmp_path_factory.mktemp("server"), model[1]) as service:
        yield service


@pytest.fixture
def own(world, tmp_path) -> Rides:
    return world.copy(tmp_path / "own")


def backfill(world: Rides) -> None:
    """History is rewritten: one day had lost its second half, and minutes were never minutes."""
    world.seal("rides", 4, rides_of(4)[:40])
    world.edit("ride_units.py", "/ 60", "/ 60 + 45")
    world.edit("ride_features.py", "of_zone.mean()", "(1 - of_zone.mean())")
    world.compute(*range(DAYS))


def names_of(snapshot: Snapshot) -> dict[str, str]:
    return {name: split.sha256 for name, split in snapshot.splits.items()}


def test_fault_guard_on(own, model, service):
    snapshot, right = model[0], service.answers(golden(model[1]))
    backfill(own)
    assert own.snapshot(DAYS).id != snapshot.id, "what is built now is another training set"
    again = own.rebuild(snapshot)
    assert names_of(again) == names_of(snapshot)
    assert (again.id, again.feature_code, again.feature_files) == (
        snapshot.id, snapshot.feature_code, snapshot.feature_files
    )  # fmt: skip
    service.put(trained(own.home, again))
    assert service.answers(golden(model[1])) == right

    for file in (own.home / "features" / "zone_delays" / "superseded").glob(f"{key_of(6)}.*"):
        file.unlink()
    shutil.rmtree(again.uri)
    with pytest.raises(
        DataError, match=f"1 of the feature files that were pinned are gone(.|\n)*zone_delays {key_of(6)}"
    ):
        own.rebuild(snapshot)
    assert service.answers(golden(model[1])) == right


@pytest.mark.slow
def test_fault_guard_off(own, model, service, monkeypatch):
    """The rebuild reads what the features are now, and nobody compares: the same name, another model."""
    snapshot, requests = model[0], golden(model[1])
    right = service.answers(requests)
    backfill(own)

    def of_now(home: Path, pins):
        now = current_pins(home, ((view, day) for view, days in pins.items() for day in days))
        return {view: {day: feature_file(home, view, day) for day in days} for view, days in now.items()}

    monkeypatch.setattr(training_data, "pinned_paths", of_now)
    with pytest.raises(DataError, match=rf"{snapshot.id!r} comes out differently(.|\n)*train split"):
        own.rebuild(snapshot)
    monkeypatch.setattr(snapshot_writer, "_check_same", lambda built, expected: None)
    torn = own.rebuild(snapshot)
    service.put(trained(own.home, torn))
    moved = np.abs(np.array(service.answers(requests)) - right)
    service.put(model[1])
    assert moved.mean() > MOVED
    assert service.answers(requests) == right


@pytest.mark.slow
def test_no_fault(own, model):
    """Retries, clears and overlapping backfills keep no copy of anything, and any past training can be run again."""
    for n in range(DAYS):
        for dataset in ("rides", "ends"):
            own.seal(dataset, n)
    for before, after in (("One day.", "A day."), ("A day.", "Any day.")):
        own.compute(*range(DAYS))
        own.edit("ride_features.py", before, after)
    assert not list(own.home.glob("features/*/superseded"))
    assert own.rebuild(model[0]).id == model[0].id
    for as_of in range(6, DAYS):
        snapshot = own.snapshot(as_of)
        shutil.rmtree(snapshot.uri)
        assert own.rebuild(snapshot) == snapshot
