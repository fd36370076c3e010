"""A small world of its own to train on: taxi rides by day, which end on time or not, and a feature repository.

View ``zone_delays`` (by ``zone``, hourly) says how late the rides of the last day in a zone ended; view ``last_ride``
(by ``driver``, a row a ride that ended) how long it took; on demand come the kilometres and the hour of the ride that
is asked for. Some rides have no driver, some never end.
"""

from __future__ import annotations

import random
import shutil
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from airflow_mlops.contracts import Snapshot
from airflow_mlops.engine.data.partitions import PartitionStore
from airflow_mlops.engine.features.computing.code import Code, code_identity
from airflow_mlops.engine.features.computing.compute import compute_features
from airflow_mlops.engine.features.governance.apply import ensure_applied
from airflow_mlops.engine.features.project.location import Location
from airflow_mlops.engine.features.training.training_data import build_training_snapshot, rebuild_snapshot
from airflow_mlops.engine.ledger import Ledger

FIRST = date(2024, 3, 1)
MODEL, SERVICE, TRANSFORM = "ride_delay", "rides_v1", "ride_features:compute"
EVENT_TIMES = {"rides": "called_at", "ends": "ended_at"}
A_DAY = 80
"""Rides a day."""

SETTINGS = """
project: rides
provider: local
registry:
  registry_type: sql
  path: sqlite:///${MLOPS_HOME}/feast/registry.db
offline_store:
  type: airflow_mlops.engine.features.offline.asof.AsofOfflineStore
online_store:
  type: sqlite
  path: ${MLOPS_HOME}/feast/online.db
entity_key_serialization_version: 3
"""

DEFINITIONS = """
import os
from datetime import timedelta

from feast import Entity, FeatureService, FeatureView, Field, FileSource, RequestSource, ValueType
from feast.data_format import ParquetFormat
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64, Int64, String, UnixTimestamp

TAGS = {"owner": "rides@example.com", "allowed_use": "*"}


def source(view):
    return FileSource(
        name=view + "_rows", path=os.environ["MLOPS_HOME"] + "/features/" + view + "/*.parquet",
        file_format=ParquetFormat(), timestamp_field="event_timestamp",
        created_timestamp_column="created_timestamp",
    )


zone = Entity(name="zone", join_keys=["zone"], value_type=ValueType.STRING, tags=TAGS)
driver = Entity(name="driver", join_keys=["driver"], value_type=ValueType.STRING, tags=TAGS)
zone_delays = FeatureView(
    name="zone_delays", entities=[zone], ttl=timedelta(days=1), source=source("zone_delays"), tags=TAGS,
    schema=[Field(name="zone_rides", dtype=Float64), Field(name="zone_late_rate", dtype=Float64)],
)
last_ride = FeatureView(
    name="last_ride", entities=[driver], ttl=timedelta(days=2), source=source("last_ride"), tags=TAGS,
    schema=[Field(name="last_minutes", dtype=Float64), Field(name="last_ended_at", dtype=UnixTimestamp)],
)
asked = RequestSource(
    name="asked", schema=[Field(name="called_at", dtype=UnixTimestamp), Field(name="km", dtype=Float64)]
)


@on_demand_feature_view(
    sources=[asked, last_ride[["last_ended_at"]]], mode="python", tags=TAGS,
    schema=[Field(name="km_asked", dtype=Float64), Field(name="hour", dtype=Int64),
            Field(name="idle_minutes", dtype=Float64)],
)
def ride_request(inputs):
    pairs = zip(inputs["called_at"], inputs["last_ended_at"])
    return {
        "km_asked": list(inputs["km"]),
        "hour": [at.hour for at in inputs["called_at"]],
        "idle_minutes": [None if ended is None else (at - ended).total_seconds() / 60 for at, ended in pairs],
    }


rides_v1 = FeatureService(name="rides_v1", features=[ride_request, zone_delays, last_ride[["last_minutes"]]], tags=TAGS)
"""

FEATURES = '''
"""What rides are predicted from."""
import pandas as pd

import ride_units


def compute(day, data):
    """One day."""
    start = pd.Timestamp(day, tz="UTC").as_unit("us")
    rides, ends = data["rides"], data["ends"].dropna(subset=["late"])
    ended = ends.merge(rides, on="ride_id")
    hours = []
    for stamp in pd.date_range(start, periods=24, freq="h", unit="us"):
        seen = ended[(ended["ended_at"] <= stamp) & (ended["ended_at"] > stamp - pd.Timedelta("1D"))]
        of_zone = seen.groupby("zone")["late"]
        hours.append(pd.DataFrame({
            "zone_rides": of_zone.size().astype(float), "zone_late_rate": of_zone.mean().astype(float),
        }).reset_index().assign(event_timestamp=stamp, created_timestamp=stamp))
    today = ended[ended["ended_at"].between(start, start + pd.Timedelta("1D"), inclusive="left")]
    today = today[today["driver"].notna()].drop_duplicates(["driver", "ended_at"])
    last = pd.DataFrame({
        "driver": today["driver"],
        "last_minutes": ride_units.minutes(today["ended_at"] - today["called_at"]),
        "last_ended_at": today["ended_at"],
        "event_timestamp": today["ended_at"],
        "created_timestamp": today["ended_at"],
    })
    return {"zone_delays": pd.concat(hours), "last_ride": last}
'''

UNITS = """
def minutes(span):
    return span.dt.total_seconds() / 60
"""


def midnight(n: int) -> datetime:
    """Return the start of the n-th day, from 0."""
    return datetime.combine(FIRST, time(), UTC) + timedelta(days=n)


def key_of(n: int) -> str:
    """Return the key of the n-th day, from 0."""
    return str(midnight(n).date())


def rides_of(n: int) -> list[dict[str, Any]]:
    """Return the rides called on a day: when, where, by whom, how far, how long they take, and whether that is late."""
    rng = random.Random(n)
    rides = []
    for i in range(A_DAY):
        late = rng.random() < 0.35
        called_at = midnight(n) + timedelta(minutes=i * 17 + rng.randrange(10))
        rides.append(
            {
                "ride_id": f"{n:02}-{i:03}",
                "called_at": called_at,
                "zone": rng.choice("abc"),
                "driver": None if i % 10 == 9 else f"D{rng.randrange(12):02}",
                "rider": f"R{n:02}{i:03}",
                "km": round(rng.uniform(1, 20) + 9 * late, 1),
                "ended_at": called_at + timedelta(minutes=rng.randrange(10, 40) + 30 * late),
                "late": None if i % 20 == 19 else late,
            }
        )
    return rides


def land(home: Path, dataset: str, n: int, rides: list[dict[str, Any]] | None = None) -> Path:
    """Land a day of a dataset: rides by when they were called, ends by when they ended."""
    names = {
        "rides": ("ride_id", "called_at", "zone", "driver", "rider", "km"),
        "ends": ("ride_id", "ended_at", "late"),
    }
    about = [one for day in (n - 1, n) for one in rides_of(day)] if rides is None else rides
    begin, end = midnight(n), midnight(n + 1)
    rows = [{name: one[name] for name in names[dataset]} for one in about if begin <= one[EVENT_TIMES[dataset]] < end]
    kinds = {
        "called_at": pa.timestamp("us", "UTC"), "ended_at": pa.timestamp("us", "UTC"), "km": pa.float64(),
        "late": pa.bool_(),
    }  # fmt: skip
    schema = pa.schema([(name, kinds.get(name, pa.string())) for name in names[dataset]])
    folder = home / "lake" / dataset / key_of(n)
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema), folder / "rows.parquet")
    return folder


class Rides:
    """A home with rides, and the repository that says what is computed from them."""

    def __init__(self, folder: Path) -> None:
        self.home, self.repo, self.dags = folder / "home", folder / "repo", folder / "dags"

    @classmethod
    def make(cls, folder: Path, days: int, definitions: str = DEFINITIONS) -> Rides:
        """Make a world with the features of so many days."""
        world = cls(folder)
        for path in (world.home, world.repo, world.dags):
            path.mkdir(parents=True)
        (world.repo / "feature_store.yaml").write_text(SETTINGS)
        (world.repo / "definitions.py").write_text(definitions)
        (world.repo / "ride_features.py").write_text(FEATURES)
        (world.repo / "ride_units.py").write_text(UNITS)
        for n in range(days):
            for dataset in EVENT_TIMES:
                world.seal(dataset, n)
        world.compute(*range(days))
        return world

    def copy(self, folder: Path) -> Rides:
        """Copy the sealed days, their features and the repository."""
        for name in ("home", "repo", "dags"):
            ignored = shutil.ignore_patterns("feast", "ledger.db*", "snapshots", "__pycache__")
            shutil.copytree(getattr(self, name), folder / name, ignore=ignored)
        world = Rides(folder)
        ensure_applied(world.location, world.ledger)
        return world

    @property
    def location(self) -> Location:
        return Location(self.repo, self.home)

    @property
    def store(self) -> PartitionStore:
        return PartitionStore.under(self.home)

    @property
    def ledger(self) -> Ledger:
        return Ledger(f"sqlite:///{self.home}/ledger.db")

    @property
    def code(self) -> Code:
        return code_identity(TRANSFORM, [str(self.dags), str(self.repo)])

    def edit(self, file: str, old: str, new: str) -> None:
        """Change what a file of the repository says."""
        path = self.repo / file
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    def seal(self, dataset: str, n: int, rides: list[dict[str, Any]] | None = None) -> None:
        """Let a day land, and seal it."""
        landed = land(self.home, dataset, n, rides)
        self.store.seal(
            dataset, key_of(n), landed, event_time=EVENT_TIMES[dataset], batch_hash=None, suite_hash=None
        )  # fmt: skip

    def compute(self, *days: int, **changes: Any) -> None:
        """Compute the features of some days."""
        arguments = {
            "store": self.store,
            "ledger": self.ledger,
            "repo": ensure_applied(self.location, self.ledger),
            "transform": TRANSFORM,
            "code_paths": [str(self.dags), str(self.repo)],
            "datasets": list(EVENT_TIMES),
            "history": timedelta(days=2),
            "start": FIRST,
        }
        for n in days:
            compute_features(self.home, key_of(n), **{**arguments, **changes})

    def snapshot(self, as_of: int | datetime, **changes: Any) -> Snapshot:
        """Freeze what is known at the start of a day, or at a moment."""
        arguments = {
            "store": self.store,
            "ledger": self.ledger,
            "model": MODEL,
            "source_dataset": "rides",
            "entity": "ride_id",
            "event_time": "called_at",
            "keys": ["zone"],
            "service": SERVICE,
            "label_dataset": "ends",
            "label": "late",
            "matures_after": timedelta(days=1),
            "window": timedelta(days=60),
            "validation": timedelta(days=1),
            "test": timedelta(days=1),
            "as_of": as_of if isinstance(as_of, datetime) else midnight(as_of),
            "start": FIRST,
            "code": self.code,
        }
        return build_training_snapshot(self.location, **{**arguments, **changes})

    def rebuild(self, snapshot: Snapshot) -> Snapshot:
        """Build a snapshot again from what it pinned."""
        return rebuild_snapshot(
            self.location, snapshot, store=self.store, source_dataset="rides", label_dataset="ends"
        )  # fmt: skip
