"""Late arrivals taint exactly the snapshots that were made of what they replaced."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from airflow_mlops.contracts import Snapshot
from airflow_mlops.engine.data.lateness import (
    LATE,
    SNAPSHOT,
    TAINT,
    mark_late,
    record_snapshot,
    require_model,
    tainted_versions,
    taints,
)
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.exceptions import ConfigError

NOW = datetime(2013, 2, 1, tzinfo=UTC)


@pytest.fixture
def ledger(home) -> Ledger:
    return Ledger(f"sqlite:///{home}/ledger.db")


def snapshot(name: str, model: str = "m", **partitions: dict[str, str]) -> Snapshot:
    return Snapshot(
        id=name,
        uri="",
        model=model,
        partitions=partitions,
        feature_service="s",
        features={},
        entity="id",
        event_time="at",
        label="late",
        as_of=NOW,
        label_cut=NOW - timedelta(days=1),
        unlabelled_rows=0,
        splits={},
    )


def test_only_what_saw_the_old_revision_is_tainted(ledger):
    record_snapshot(ledger, snapshot("saw", a={"2013-01-01": "r1", "2013-01-02": "r1"}, b={"2013-01-01": "r1"}))
    record_snapshot(ledger, snapshot("other model", "n", a={"2013-01-01": "r1"}))
    record_snapshot(ledger, snapshot("other revision", a={"2013-01-01": "r0"}))
    record_snapshot(ledger, snapshot("other day", a={"2013-01-02": "r1"}))
    record_snapshot(ledger, snapshot("other dataset", b={"2013-01-01": "r1"}))
    late = mark_late(ledger, "a", "2013-01-01", "r1", "r2", diff={"added": 3})
    assert late.tainted == (("m", "saw"), ("n", "other model"))
    assert str(late) == "revision r1 became r2; 2 snapshots tainted, of the models: m, n"
    [taint] = taints(ledger, "m")
    assert taint[:6] == ("m", "saw", "a", "2013-01-01", "r1", "r2")
    [fact] = ledger.facts(LATE, "a", key="2013-01-01")
    assert fact.payload == {"old": "r1", "new": "r2", "diff": {"added": 3}}


def test_marking_again_changes_nothing_and_finishes_what_was_cut_off(ledger):
    made = snapshot("s", a={"k": "r1"})
    ledger.record(LATE, "a", {"old": "r1", "new": "r2", "diff": None}, key="k")  # and then the worker died
    ledger.record(SNAPSHOT, "m", made.model_dump(mode="json", include={"partitions"}), key="s")
    first = mark_late(ledger, "a", "k", "r1", "r2")
    assert mark_late(ledger, "a", "k", "r1", "r2") == first
    assert len(ledger.facts(LATE)) == len(ledger.facts(TAINT)) == 1


def test_a_model_of_which_nothing_is_known_is_refused_with_the_nearest(ledger):
    with pytest.raises(ConfigError, match=r"no model 'flight_dealy'(.|\n)*none yet"):
        require_model(ledger, "flight_dealy")
    record_snapshot(ledger, snapshot("s", "flight_delay"))
    ledger.record("verdict", "judged_only", {"version": 1})
    for known in ("flight_delay", "judged_only"):
        require_model(ledger, known)
    with pytest.raises(ConfigError, match=r"Did you mean 'flight_delay'\?(.|\n)*flight_delay, judged_only"):
        require_model(ledger, "flight_dealy")


def test_a_snapshot_is_written_down_once(ledger):
    made = snapshot("s", a={"k": "r1"})
    record_snapshot(ledger, made)
    record_snapshot(ledger, made)
    [fact] = ledger.facts(SNAPSHOT, "m", key="s")
    assert set(fact.payload) == {"partitions", "as_of", "label_cut", "exclusions"}
    assert fact.payload["partitions"] == {"a": {"k": "r1"}}


def test_what_was_replaced_while_the_snapshot_was_built_taints_it_at_once(ledger):
    mark_late(ledger, "a", "k", "r1", "r2")
    record_snapshot(ledger, snapshot("s", a={"k": "r1"}))
    record_snapshot(ledger, snapshot("t", a={"k": "r2"}))
    assert [taint.snapshot for taint in taints(ledger, "m")] == ["s"]


def test_content_that_came_back_does_not_taint_what_is_built_of_it(ledger):
    for old, new in (("r1", "r2"), ("r2", "r1")):
        mark_late(ledger, "a", "k", old, new)
    record_snapshot(ledger, snapshot("s", a={"k": "r1"}))
    assert taints(ledger, "m") == []
    mark_late(ledger, "a", "k", "r1", "r2")
    assert [taint.new for taint in taints(ledger, "m")] == ["r2"]


def test_a_version_is_tainted_with_the_snapshot_that_it_was_trained_on(ledger):
    for name, revision in (("old", "r1"), ("new", "r2")):
        record_snapshot(ledger, snapshot(name, a={"k": revision}))
    for version, name in ((1, "old"), (2, "new"), (3, "old")):
        ledger.record("verdict", "m", {"version": version, "snapshot_id": name})
    ledger.record("verdict", "m", {"version": 0})  # from before verdicts named the snapshot
    assert tainted_versions(ledger, "m") == {}
    mark_late(ledger, "a", "k", "r1", "r2")
    assert sorted(tainted_versions(ledger, "m")) == [1, 3]
