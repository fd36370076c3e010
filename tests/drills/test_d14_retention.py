"""D14: retention deleted part of the data; an old training is run again.

It says exactly what is missing, and when it went; it never makes something else under the same name.
"""

from __future__ import annotations

import shutil
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from airflow_mlops.contracts import Snapshot
from airflow_mlops.engine.data.partitions import PartitionStore
from airflow_mlops.engine.data.retention import sweep_partitions
from airflow_mlops.engine.data.snapshots import load_snapshot
from airflow_mlops.engine.features.computing.files import superseded_file
from airflow_mlops.engine.features.project.location import Location
from airflow_mlops.engine.features.training import training_data
from airflow_mlops.engine.features.training.training_data import build_training_snapshot, rebuild_snapshot
from airflow_mlops.exceptions import DataError
from tests.data_fixtures import landed, spoil
from tests.feast_fixtures import EVENT_TIMES, FIRST, REPO, compute_day, ledger_of, make_home

pytestmark = pytest.mark.drill

NOW = datetime(2013, 1, 14, 6, tzinfo=UTC)
DAYS, GONE = 12, ("2013-01-03", "2013-01-04")


@pytest.fixture(scope="module")
def flights(tmp_path_factory) -> Path:
    return make_home(tmp_path_factory.mktemp("retention") / "home", DAYS)


@pytest.fixture
def own(flights, home) -> Path:
    shutil.rmtree(home)
    shutil.copytree(flights, home)
    return home


def build(home: Path, as_of: int = 9) -> Snapshot:
    """Build what a training on the morning of a day of January trains on: from the third day on."""
    return build_training_snapshot(
        Location(REPO, home),
        store=PartitionStore.under(home),
        ledger=ledger_of(home),
        model="flight_delay",
        source_dataset="departures",
        entity="flight_id",
        event_time="sched_dep_utc",
        keys=["carrier", "origin", "dest"],
        service="flight_delay_v1",
        label_dataset="arrivals",
        label="late_15",
        matures_after=timedelta(days=1),
        window=timedelta(days=as_of - 4),
        validation=timedelta(days=1),
        test=timedelta(days=1),
        as_of=datetime(2013, 1, as_of, tzinfo=UTC),
        start=FIRST,
    )


def again(home: Path, snapshot: Snapshot) -> Snapshot:
    """Lose the snapshot's files, and run the old training's first step on what it pinned."""
    shutil.rmtree(snapshot.uri, ignore_errors=True)
    return rebuild_snapshot(
        Location(REPO, home),
        snapshot,
        store=PartitionStore.under(home),
        source_dataset="departures",
        label_dataset="arrivals",
    )


def sweep(home: Path, dataset: str, *, force: bool) -> list[str]:
    """Remove the days that ended more than nine days before now."""
    store, keep = PartitionStore.under(home), timedelta(days=9)
    report = sweep_partitions(store, ledger_of(home), dataset, keep, now=NOW, force=force)
    return [swept.key for swept in report.removed]


def test_fault_guard_on(own):
    snapshot = build(own)
    assert sweep(own, "departures", force=True) == ["2013-01-01", "2013-01-02", *GONE]
    with pytest.raises(
        DataError, match=f"2 of the partitions that snapshot {snapshot.id!r} was built from are gone"
    ) as e:
        again(own, snapshot)
    for key in GONE:
        assert f"departures {key} {snapshot.partitions['departures'][key]}" in e.value.detail
    assert e.value.detail.count("removed by retention on 2013-01-14") == 2
    assert e.value.detail.count(f"needed by snapshot flight_delay/{snapshot.id}") == 2
    assert "01-05" not in e.value.detail
    assert not Path(snapshot.uri).exists()
    with pytest.raises(DataError, match=r"2 of 5 partitions of 'departures' are not sealed; the first is 2013-01-03"):
        build(own)  # nor does the ordinary way make do with less

    store = PartitionStore.under(own)
    for key in GONE:
        folder = landed(own / "lake", "departures", date.fromisoformat(key))
        store.seal("departures", key, folder, event_time="sched_dep_utc", batch_hash=None, suite_hash=None)
    assert again(own, snapshot) == snapshot, "the same bytes, from the upstream"


def test_fault_guard_on_a_revision_was_superseded_and_swept(own):
    """The day is there, in other words: that is not what was asked for."""
    snapshot, store = build(own), PartitionStore.under(own)
    folder = spoil(landed(own / "lake", "arrivals", date(2013, 1, 5)), lambda frame: frame.iloc[:-9])
    store.seal("arrivals", "2013-01-05", folder, event_time=EVENT_TIMES["arrivals"], batch_hash=None, suite_hash=None)
    assert again(own, snapshot) == snapshot, "the old revision is still there"
    shutil.rmtree(own / "partitions" / "arrivals" / "2013-01-05" / snapshot.partitions["arrivals"]["2013-01-05"])
    with pytest.raises(DataError, match=r"1 of the partitions(.|\n)*arrivals 2013-01-05(.|\n)*never sealed here"):
        again(own, snapshot)


def test_fault_guard_on_the_features_of_then_were_removed(own):
    """They were computed again from other data since; the files of then are what was asked for."""
    snapshot, store = build(own), PartitionStore.under(own)
    folder = spoil(landed(own / "lake", "arrivals", date(2013, 1, 7)), lambda frame: frame.iloc[:-9])
    store.seal("arrivals", "2013-01-07", folder, event_time=EVENT_TIMES["arrivals"], batch_hash=None, suite_hash=None)
    compute_day(own, "2013-01-07")
    assert again(own, snapshot) == snapshot
    revision = snapshot.feature_files["carrier_delays"]["2013-01-07"]
    superseded_file(own, "carrier_delays", "2013-01-07", revision).unlink()
    with pytest.raises(DataError, match=rf"1 of the feature files(.|\n)*carrier_delays 2013-01-07 {revision}"):
        again(own, snapshot)


def test_fault_guard_off(own, monkeypatch):
    """Take what there is: the same moment, the same words, and fewer rows."""
    snapshot = build(own)
    sweep(own, "departures", force=True)
    monkeypatch.setattr(training_data, "every_partition", lambda found, _, cut, span, *rest: [
        one for one in found if one.key in set(cut.keys(*span))
    ])  # fmt: skip
    less = build(own)
    assert less.as_of == snapshot.as_of
    assert less.splits["train"].rows < 0.5 * snapshot.splits["train"].rows
    assert less.splits["test"].sha256 == snapshot.splits["test"].sha256


@pytest.mark.slow
def test_no_fault(own):
    """Retention runs every day and keeps what a model needs: any training of the past can be run again."""
    snapshots = [build(own, as_of) for as_of in range(8, 13)]
    removed = {key for dataset in EVENT_TIMES for key in sweep(own, dataset, force=False)}
    assert not removed & {key for one in snapshots for keys in one.partitions.values() for key in keys}
    for snapshot in snapshots:
        assert again(own, snapshot) == snapshot == load_snapshot(own, snapshot.id)
