"""A home with real flights: landed, sealed, features computed. For tests of what comes after."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

from airflow_mlops.demo.flights import land
from airflow_mlops.engine.data.partitions import PartitionStore
from airflow_mlops.engine.features.computing.compute import compute_features
from airflow_mlops.engine.features.governance.apply import ensure_applied
from airflow_mlops.engine.features.project.location import Location
from airflow_mlops.engine.ledger import Ledger
from tests.conftest import ROOT

REPO = ROOT / "feature_repo"
CODE = str(ROOT / "dags")
FIRST = date(2013, 1, 1)
EVENT_TIMES = {"departures": "sched_dep_utc", "arrivals": "landed_at", "weather": "observed_at"}


def ledger_of(home: Path) -> Ledger:
    return Ledger(f"sqlite:///{home}/ledger.db")


def compute_day(home: Path, key: str, **changes):
    arguments = {
        "store": PartitionStore.under(home),
        "ledger": ledger_of(home),
        "transform": "flight_features:compute",
        "code_paths": [CODE, str(REPO)],
        "datasets": list(EVENT_TIMES),
        "history": timedelta(days=8),
        "start": FIRST,
    }
    if "repo" not in changes:
        changes["repo"] = ensure_applied(Location(REPO, home), ledger_of(home))
    return compute_features(home, key, **{**arguments, **changes})


def seal_days(home: Path, days: int) -> None:
    """Land and seal the first ``days`` days of 2013."""
    for day in (FIRST + timedelta(days=n) for n in range(days)):
        for feed, event_time in EVENT_TIMES.items():
            land(home / "lake", day, feed)
            landed = home / "lake" / feed / str(day)
            PartitionStore.under(home).seal(
                feed, str(day), landed, event_time=event_time, batch_hash=None, suite_hash=None
            )


def make_home(home: Path, days: int) -> Path:
    """Make a home with the features of the first ``days`` days of 2013, offline only."""
    home.mkdir(exist_ok=True)
    seal_days(home, days)
    repo = ensure_applied(Location(REPO, home), ledger_of(home))
    for n in range(days):
        compute_day(home, str(FIRST + timedelta(days=n)), repo=repo)
    return home
