"""D02: the table is relabelled after the gate ran.

On the inputs that it pinned, the gate says again what it said. On the table as it is now it says something else, and
which days were replaced, how many labels turned and which gates with them.
"""

from __future__ import annotations

import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from airflow_mlops.contracts import RegisteredModel, Snapshot, Verdict, VerdictStatus
from airflow_mlops.engine.evaluation.approvals import choose_version, record_verdict
from airflow_mlops.engine.evaluation.evaluate import evaluate
from airflow_mlops.engine.evaluation.gates import judge
from airflow_mlops.engine.evaluation.rejudge import rejudge
from airflow_mlops.exceptions import DataError, GateError
from tests.rides import MODEL, Rides, key_of, rides_of
from tests.rides_serving import golden, in_service, trained

pytestmark = pytest.mark.drill

DAYS = 10
GATES = [{"metric": "auc", "min": 0.6}, {"metric": "auc", "vs": "baseline", "min_gain": 0.05}]


class Judged(NamedTuple):
    """A model, what it was judged on, and the verdict."""

    snapshot: Snapshot
    saved_model: Path
    verdict: Verdict


def judged(world: Rides, snapshot: Snapshot) -> Judged:
    model = trained(world.home, snapshot, epochs=30)
    return Judged(snapshot, model, judge(MODEL, GATES, evaluate(snapshot, model)))


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Rides:
    return Rides.make(tmp_path_factory.mktemp("rides"), DAYS)


def snapshot_of(world: Rides) -> Snapshot:
    return world.snapshot(DAYS, test=timedelta(days=3))


@pytest.fixture(scope="module")
def model(world) -> Judged:
    return judged(world, snapshot_of(world))


@pytest.fixture(scope="module")
def service(model, tmp_path_factory):
    with in_service(tmp_path_factory.mktemp("server"), model.saved_model) as service:
        yield service


@pytest.fixture
def own(world, model, tmp_path) -> Rides:
    """The world after the gate ran: its snapshot is there, and its verdict in the ledger."""
    own = world.copy(tmp_path / "own")
    assert snapshot_of(own) == model.snapshot.model_copy(
        update={"uri": str(own.home / "snapshots" / model.snapshot.id)}
    )
    record(own, 1, model)
    return own


def record(world: Rides, version: int, judged: Judged) -> None:
    registered = RegisteredModel(model=MODEL, version=str(version), run_id="r", experiment_id="0", source="s")
    record_verdict(world.ledger, registered, judged.verdict, snapshot_id=judged.snapshot.id)


def turned(rides: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**one, "late": None if one["late"] is None else not one["late"]} for one in rides]


def relabel(world: Rides) -> None:
    """Somebody turns all labels round, in place, and the features are computed from them."""
    for n in range(DAYS):
        world.seal("ends", n, turned([one for day in (n - 1, n) for one in rides_of(day)]))
    world.compute(*range(DAYS))


def test_fault_guard_on(own, model, service):
    right = service.answers(golden(model.saved_model))
    assert model.verdict.status == VerdictStatus.PASS
    before = own.store.get("ends", key_of(8)).revision
    relabel(own)

    shutil.rmtree(own.home / "snapshots")
    pinned = rejudge(
        model.verdict, GATES, was=model.snapshot, now=own.rebuild(model.snapshot), challenger=model.saved_model
    )
    assert pinned.repeats
    assert pinned.verdict == model.verdict

    live = rejudge(
        model.verdict, GATES, was=model.snapshot, now=snapshot_of(own), challenger=model.saved_model
    )  # fmt: skip
    assert not live.repeats
    assert live.verdict.status == VerdictStatus.FAIL
    why = "\n".join(live.reasons)
    after = own.store.get("ends", key_of(8)).revision
    assert "partitions of 'ends' were replaced: " in why
    assert f"{key_of(3)} (" in why
    assert before != after
    test_rows = model.snapshot.splits["test"].rows
    assert f"{test_rows} of {test_rows} labels of the test split are others" in why
    assert "auc min: passed, now fails (" in why
    assert "partitions of 'rides'" not in why

    # A model of the relabelled table passes there, and on what was pinned it does not: it is not approved.
    other = judged(own, snapshot_of(own))
    assert other.verdict.status == VerdictStatus.PASS
    on_pinned = rejudge(
        other.verdict, GATES, was=other.snapshot, now=own.rebuild(model.snapshot), challenger=other.saved_model
    )
    assert on_pinned.verdict.status == VerdictStatus.FAIL
    record(own, 2, other._replace(verdict=on_pinned.verdict))
    assert choose_version(own.ledger, MODEL, "server").version == 1
    with pytest.raises(GateError, match="Version 2 of 'ride_delay' is not approved"):
        choose_version(own.ledger, MODEL, "server", 2)
    assert service.answers(golden(model.saved_model)) == right


def test_fault_guard_on_what_was_pinned_is_gone(own, model):
    """Without the revision of then there is no verdict, rather than another one under the same name."""
    relabel(own)
    shutil.rmtree(own.home / "snapshots")
    for one in own.store.revisions("ends", key_of(8)):
        if one.revision == model.snapshot.partitions["ends"][key_of(8)]:
            shutil.rmtree(one.uri)
    with pytest.raises(DataError, match=rf"1 of the partitions(.|\n)*ends {key_of(8)}"):
        own.rebuild(model.snapshot)


@pytest.mark.slow
def test_fault_guard_off(own, model, service):
    """The gate looks at the table, whatever it says: callers get the opposite of what they got."""
    requests = golden(model.saved_model)
    right = np.array(service.answers(requests))
    relabel(own)
    now = snapshot_of(own)
    assert judge(MODEL, GATES, evaluate(now, model.saved_model)).status == VerdictStatus.FAIL
    other = judged(own, now)
    record(own, 2, other)
    assert choose_version(own.ledger, MODEL, "server").version == 2
    service.put(other.saved_model)
    wrong = np.array(service.answers(requests))
    service.put(model.saved_model)
    assert np.corrcoef(right, wrong)[0, 1] < -0.5
    assert abs(wrong.mean() - right.mean()) > 0.1


@pytest.mark.slow
def test_no_fault(own, model):
    """Days are sealed and computed again, labels of later days arrive, and every rerun repeats the verdict."""
    for n in range(DAYS):
        own.seal("ends", n)
    own.compute(*range(DAYS))
    for day in range(DAYS, DAYS + 3):
        for dataset in ("rides", "ends"):
            own.seal(dataset, day)
        own.compute(day)
        again = rejudge(
            model.verdict, GATES, was=model.snapshot, now=snapshot_of(own), challenger=model.saved_model
        )  # fmt: skip
        assert again.repeats
        assert again.verdict == model.verdict
