"""Retention: what is old or replaced goes, what a snapshot needs stays, and what went says so."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from airflow_mlops.contracts import Partition, Profile
from airflow_mlops.engine.data import retention, storage
from airflow_mlops.engine.data.partitions import PartitionStore
from airflow_mlops.engine.data.retention import sweep_partitions
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.exceptions import ConfigError, DataError
from tests.data_fixtures import DAY, KEY, landed, spoil

NOW = datetime(2013, 1, 20, tzinfo=UTC)
WEEK, YEAR = timedelta(days=7), timedelta(days=365)


@pytest.fixture
def ledger(home) -> Ledger:
    return Ledger(f"sqlite:///{home / 'ledger.db'}")


@pytest.fixture
def store(home, ledger) -> PartitionStore:
    return PartitionStore.under(home, ledger)


def seal(store: PartitionStore, folder: Path, key: str = KEY) -> Partition:
    return store.seal("departures", key, folder, event_time="sched_dep_utc", batch_hash=None, suite_hash=None)


def seal_another(store: PartitionStore, folder: Path) -> Partition:
    """Seal the same day, one row shorter."""
    return seal(store, spoil(folder, lambda frame: frame.iloc[1:]))


def snapshot(ledger: Ledger, identity: str, *partitions: Partition) -> None:
    """Record a training set as the snapshot builder does."""
    needs = {"departures": {partition.key: partition.revision for partition in partitions}}
    ledger.record("snapshot", "flight_delay", {"partitions": needs}, key=identity)


def names(home: Path) -> set[str]:
    folder = home / "partitions" / "departures"
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_nothing_is_due(home, store, ledger):
    seal(store, landed(home / "lake"))
    before = names(home)
    report = sweep_partitions(store, ledger, "departures", WEEK, now=NOW)
    assert (report.removed, report.kept) == ((), ())
    assert names(home) == before
    assert ledger.facts("retention") == []
    assert sweep_partitions(store, ledger, "weather", WEEK, now=NOW).removed == ()


def test_what_was_replaced_goes_and_says_so(home, store, ledger):
    folder = landed(home / "lake")
    old, new = seal(store, folder), seal_another(store, folder)
    profile = Profile(dataset="departures", revisions={KEY: old.revision}, rows=9, columns={})
    store.write_profile("departures", KEY, old.revision, profile)
    [swept] = sweep_partitions(store, ledger, "departures", YEAR, now=NOW).removed
    assert (swept.revision, swept.reason, swept.bytes, swept.needed_by) == (old.revision, "superseded", old.bytes, ())
    assert store.revisions("departures", KEY) == [new]
    assert store.get("departures", KEY) == new
    assert not [name for name in names(home) if old.revision in name]
    for read in (lambda: store.get("departures", KEY, old.revision), lambda: store.read([old])):
        with pytest.raises(DataError) as missing:
            read()
        assert missing.value.headline == f"Revision {old.revision} of partition {KEY} of 'departures' is missing."
        assert "removed by retention on 2013-01-20 00:00 UTC; no snapshot needed it" in missing.value.detail
        assert str(folder) in missing.value.hint
    [fact] = ledger.facts("retention", "departures", key=KEY)
    assert (fact.payload["revision"], fact.payload["reason"]) == (old.revision, "superseded")
    assert sweep_partitions(store, ledger, "departures", YEAR, now=NOW).removed == ()


def test_a_day_goes_when_it_ended_too_long_ago(home, store, ledger):
    kept_day = DAY - timedelta(days=3)
    for day in (DAY - timedelta(days=4), kept_day):
        seal(store, landed(home / "lake", day=day), str(day))
    report = sweep_partitions(store, ledger, "departures", WEEK, now=NOW)
    assert [(swept.key, swept.reason) for swept in report.removed] == [("2013-01-11", "old")]
    assert store.keys("departures") == [str(kept_day)]
    assert [partition.key for partition in store.list("departures", None, None)] == [str(kept_day)]
    with pytest.raises(DataError, match="There is no partition 2013-01-11") as missing:
        store.get("departures", "2013-01-11")
    assert "removed by retention on 2013-01-20" in missing.value.detail


def test_what_a_snapshot_needs_stays_unless_forced(home, store, ledger):
    folder = landed(home / "lake")
    old, new = seal(store, folder), seal_another(store, folder)
    snapshot(ledger, "s1", old)
    snapshot(ledger, "s2", old)
    report = sweep_partitions(store, ledger, "departures", YEAR, now=NOW)
    assert report.removed == ()
    [kept] = report.kept
    assert (kept.revision, kept.needed_by) == (old.revision, ("flight_delay/s1", "flight_delay/s2"))
    assert store.get("departures", KEY, old.revision) == old

    report = sweep_partitions(store, ledger, "departures", timedelta(days=1), now=NOW, force=True)
    assert {swept.revision for swept in report.removed} == {old.revision, new.revision}
    with pytest.raises(DataError) as missing:
        store.get("departures", KEY, old.revision)
    assert "needed by snapshot flight_delay/s1, flight_delay/s2" in missing.value.detail
    facts = {fact.payload["revision"]: fact.payload["needed_by"] for fact in ledger.facts("retention")}
    assert facts == {old.revision: ["flight_delay/s1", "flight_delay/s2"], new.revision: []}
    assert names(home) == {f"{KEY}/decided.json", f"{KEY}/removed.json"}


def test_the_same_bytes_bring_a_removed_revision_back(home, store, ledger):
    folder = landed(home / "lake")
    sealed = seal(store, folder)
    sweep_partitions(store, ledger, "departures", timedelta(days=1), now=NOW)
    assert store.keys("departures") == []
    assert seal(store, folder) == sealed
    assert store.get("departures", KEY, sealed.revision) == store.get("departures", KEY) == sealed


def test_a_revision_that_never_counted_may_be_a_writers_who_is_not_done(home, store, ledger):
    folder = landed(home / "lake")
    seal(store, folder)
    unfinished = PartitionStore.under(home / "elsewhere")
    waiting = seal_another(unfinished, folder)
    target = home / "partitions" / "departures" / KEY / waiting.revision
    Path(waiting.uri).rename(target)
    assert sweep_partitions(store, ledger, "departures", YEAR, now=NOW).removed == ()
    assert target.exists()
    assert len(sweep_partitions(store, ledger, "departures", timedelta(days=1), now=NOW).removed) == 2


@pytest.mark.parametrize("removals", [0, 1, 2, 3])
def test_a_sweep_that_is_killed_has_said_what_goes_and_the_next_one_finishes(
    removals, home, store, ledger, monkeypatch
):
    """Killed before the removal of current.json, the profile, and the revision; and not at all."""
    sealed = seal(store, landed(home / "lake"))
    snapshot(ledger, "s1", sealed)
    done = []
    remove = storage.remove

    def dying(path: Path, **more: str) -> None:
        if len(done) == removals:
            raise KeyboardInterrupt
        done.append(remove(path, **more))

    def sweep() -> None:
        sweep_partitions(store, ledger, "departures", timedelta(days=1), now=NOW, force=True)

    with monkeypatch.context() as patch:
        patch.setattr(retention.storage, "remove", dying)
        if removals < 3:
            with pytest.raises(KeyboardInterrupt):
                sweep()
        else:
            sweep()
    if removals < 3:  # it is still whole, and found by its name
        assert store.get("departures", KEY, sealed.revision) == sealed
    else:
        with pytest.raises(DataError, match="is missing") as missing:
            store.get("departures", KEY, sealed.revision)
        assert "needed by snapshot flight_delay/s1" in missing.value.detail
    sweep()
    assert names(home) == {f"{KEY}/decided.json", f"{KEY}/removed.json"}


def test_a_folder_that_is_no_day_is_left_alone(home, store, ledger):
    seal(store, landed(home / "lake"))
    (home / "partitions" / "departures" / "junk").mkdir()
    report = sweep_partitions(store, ledger, "departures", timedelta(days=1), now=NOW)
    assert [swept.key for swept in report.removed] == [KEY]
    assert (home / "partitions" / "departures" / "junk").is_dir()
    with pytest.raises(ConfigError, match="cannot be the name of a dataset"):
        sweep_partitions(store, ledger, "../departures", WEEK, now=NOW)


@pytest.mark.parametrize("contents", ["{", "[]", '{"abc": {"revision": "abc"}}'])
def test_a_broken_list_of_what_went_is_said_to_be_one(contents, home, store):
    seal(store, landed(home / "lake"))
    (home / "partitions" / "departures" / KEY / "removed.json").write_text(contents)
    with pytest.raises(DataError, match="list of what retention removed cannot be read") as refused:
        store.get("departures", KEY, "0123")
    assert "removed.json" in refused.value.detail
