"""D04: late data arrives for three old partitions.

Only the days of features that read them are computed again, and only the models that saw them are tainted.
"""

from __future__ import annotations

import shutil
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from airflow_mlops.contracts import Snapshot
from airflow_mlops.engine.backfill.make import plan_backfill
from airflow_mlops.engine.backfill.plan import Plan
from airflow_mlops.engine.backfill.survey import Site
from airflow_mlops.engine.data.lateness import mark_late, taints
from airflow_mlops.engine.data.partitions import PartitionStore
from airflow_mlops.engine.data.snapshots import read_split
from airflow_mlops.engine.features.computing import provenance
from airflow_mlops.engine.features.computing.provenance import stale_days
from airflow_mlops.engine.features.governance.apply import ensure_applied
from airflow_mlops.engine.features.project.location import Location
from airflow_mlops.engine.features.training.training_data import build_training_snapshot
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.exceptions import DataError
from flight_delay import flight_delay
from tests.data_fixtures import landed, spoil
from tests.feast_fixtures import CODE, EVENT_TIMES, FIRST, REPO, compute_day, ledger_of, make_home

pytestmark = pytest.mark.drill

DAYS, LATE = 23, ("2013-01-02", "2013-01-09", "2013-01-10")
VIEWS = (
    "origin_traffic",
    "carrier_delays",
    "route_delays",
    "destination_delays",
    "aircraft_last_leg",
    "origin_weather",
)
HISTORY, MODEL = 8, "flight_delay"


@pytest.fixture(scope="module")
def flights(tmp_path_factory) -> Path:
    """Three weeks; of three days, the landings after 20:00 UTC had not come when they were sealed."""
    home = tmp_path_factory.mktemp("late") / "home"
    make_home(home, DAYS)
    for key in LATE:
        seal(home, key, late=False)
    for n in range(1, DAYS + 1):
        compute_day(home, f"2013-01-{n:02}")
    return home


@pytest.fixture
def own(flights, home) -> Path:
    shutil.rmtree(home)
    shutil.copytree(flights, home, ignore=shutil.ignore_patterns("snapshots", "ledger.db*"))
    return home


def seal(home: Path, key: str, *, late: bool = True) -> tuple[str, str]:
    """Seal a day of landings, with or without its late ones, as the features DAG does; return both revisions."""
    store, folder = PartitionStore.under(home), landed(home / "lake", "arrivals", date.fromisoformat(key))
    if not late:
        spoil(folder, lambda frame: frame[frame["landed_at"].dt.hour < 20])
    before = store.get("arrivals", key).revision
    sealed = store.seal(
        "arrivals", key, folder, event_time=EVENT_TIMES["arrivals"], batch_hash=None, suite_hash=None
    ).revision
    if sealed != before:
        mark_late(ledger_of(home), "arrivals", key, before, sealed)
    return before, sealed


def train_set(home: Path, first: int, last: int) -> Snapshot:
    """Build what a model trains on: predictions of the days ``first`` to ``last`` of January."""
    return build_training_snapshot(
        Location(REPO, home),
        store=PartitionStore.under(home),
        ledger=ledger_of(home),
        model=MODEL,
        source_dataset="departures",
        entity="flight_id",
        event_time="sched_dep_utc",
        keys=["carrier", "origin", "dest"],
        service="flight_delay_v1",
        label_dataset="arrivals",
        label="late_15",
        matures_after=timedelta(days=1),
        window=timedelta(days=last - first + 1),
        validation=timedelta(hours=6),
        test=timedelta(hours=6),
        as_of=datetime(2013, 1, last + 2, tzinfo=UTC),
        start=FIRST,
    )


def tainted(ledger: Ledger, snapshot: Snapshot) -> set[str]:
    """Return the days of which a snapshot saw what was replaced."""
    return {taint.key for taint in taints(ledger, MODEL) if taint.snapshot == snapshot.id}


def stale(home: Path) -> list[str]:
    return stale_days(home, PartitionStore.under(home), VIEWS, FIRST, date(2013, 1, DAYS), ledger=ledger_of(home))


def planned(home: Path) -> Plan:
    """Return what a backfill of all days would do."""
    ledger = ledger_of(home)
    ensure_applied(Location(REPO, home), ledger)
    site = Site(flight_delay, Location(REPO, home), PartitionStore.under(home, ledger), ledger, CODE, home.joinpath)
    return plan_backfill(site, FIRST, date(2013, 1, DAYS), who="ann")


def feature_files(home: Path) -> dict[str, dict[str, bytes]]:
    """Day → view → what its file holds."""
    files = sorted((home / "features").glob("*/*.parquet"))
    return {file.stem: {f.parent.name: f.read_bytes() for f in files if f.stem == file.stem} for file in files}


def reading(key: str) -> list[str]:
    """Return the days whose features read the partition of a day."""
    day = date.fromisoformat(key)
    return [str(day + timedelta(days=n)) for n in range(HISTORY + 1) if day + timedelta(days=n) <= date(2013, 1, DAYS)]


def test_fault_guard_on(own):
    ledger = ledger_of(own)
    saw_one, saw_two = train_set(own, 1, 5), train_set(own, 5, 12)
    saw_by_its_history, saw_none = train_set(own, 17, 18), train_set(own, 21, 21)
    before = feature_files(own)
    for key in LATE:
        landed(own / "lake", "arrivals", date.fromisoformat(key))
    plan = planned(own)
    revisions = {key: seal(own, key) for key in LATE}
    due = sorted({day for key in LATE for day in reading(key)})
    assert due == [f"2013-01-{n:02}" for n in range(2, 19)]
    assert stale(own) == due
    assert [step.name for step in plan.work] == [f"arrivals {key}" for key in LATE] + [f"features {day}" for day in due]
    assert {name for seen in plan.seen for name in seen.snapshots} == {
        one.id for one in (saw_one, saw_two, saw_by_its_history)
    }

    assert tainted(ledger, saw_one) == {"2013-01-02"}
    assert tainted(ledger, saw_two) == set(LATE)  # the first by way of the history of its features
    # Likewise: features of the 15th and 16th can still be seen.
    assert tainted(ledger, saw_by_its_history) == {"2013-01-09", "2013-01-10"}
    assert tainted(ledger, saw_none) == set()
    assert {(taint.old, taint.new) for taint in taints(ledger, MODEL)} == set(revisions.values())

    with pytest.raises(
        DataError, match=r"features of 5 days were computed from other data(.|\n)*01-02, (.|\n)*features DAG"
    ):
        train_set(own, 1, 6)
    for day in due:
        compute_day(own, day)
    after = feature_files(own)
    assert stale(own) == []
    assert {day for day in after if after[day] != before[day]} == set(due)
    again = train_set(own, 1, 5)
    assert again.id != saw_one.id
    assert tainted(ledger, again) == set()
    assert len({saw_two.id, saw_by_its_history.id, saw_none.id}) == 3


@pytest.mark.slow
def test_fault_guard_off(own, monkeypatch):
    """Nobody compares: labels with the late landings, features without them, in one training set."""
    honest = own.parent / "honest"
    shutil.copytree(own, honest)
    for home in (own, honest):
        seal(home, "2013-01-09")
    for day in stale(honest):
        compute_day(honest, day)
    good = read_split(train_set(honest, 3, 12), "validation").to_pandas().set_index("flight_id")
    monkeypatch.setattr(provenance, "compare", lambda *_: [])
    torn = read_split(train_set(own, 3, 12), "validation").to_pandas().set_index("flight_id")
    assert torn["late_15"].equals(good["late_15"])
    assert torn["route_landings_7d"].mean() < good["route_landings_7d"].mean()


@pytest.mark.slow
def test_no_fault(own):
    """Retries, clears and overlapping backfills seal the same bytes, and compute the same features, again."""
    ledger = ledger_of(own)
    snapshot, before = train_set(own, 3, 12), feature_files(own)
    for n in range(1, DAYS + 1):
        key = f"2013-01-{n:02}"
        old, new = seal(own, key, late=key not in LATE)
        assert old == new
    assert stale(own) == []
    for n in range(1, DAYS + 1):
        compute_day(own, f"2013-01-{n:02}")
    assert feature_files(own) == before
    assert train_set(own, 3, 12) == snapshot
    assert taints(ledger, MODEL) == []
    assert ledger.facts("late_arrival") == []
