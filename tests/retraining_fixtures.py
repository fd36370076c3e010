"""A model that was trained once on three weeks of small days, its ledger, and the days since."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from airflow_mlops.contracts import Deployment, Snapshot, Split
from airflow_mlops.engine.data.lateness import record_snapshot
from airflow_mlops.engine.data.parquet import parquet_files
from airflow_mlops.engine.data.partitions import PartitionStore, batch_hash
from airflow_mlops.engine.data.profiles import profile_files
from airflow_mlops.engine.features.governance.consumers import record_model
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.engine.retraining.registered import Registered, record_registered
from airflow_mlops.engine.retraining.triggers import Watch
from airflow_mlops.engine.serving.deployments import pointer_name

START = date(2026, 1, 5)
TRAINED = 21
ROWS = 200
SERVER = "tf_serving_default"
WATCH = Watch(
    model="m",
    server=SERVER,
    source="orders",
    labels="outcomes",
    inputs=("orders",),
    entity="id",
    label="late",
    problem="binary",
    matures_after=timedelta(days=1),
    service="m_v1",
)


def at(day: int) -> datetime:
    """Return the midnight with which a day begins, counted from the first one."""
    return datetime(START.year, START.month, START.day, tzinfo=UTC) + timedelta(days=day)


@dataclass(frozen=True)
class World:
    """A home, its ledger, and what is sealed there."""

    home: Path
    ledger: Ledger

    @property
    def store(self) -> PartitionStore:
        return PartitionStore.under(self.home, self.ledger)

    def seal(self, day: int, *, dataset: str = "orders", shift: float = 0.0, rows: int = ROWS) -> str:
        """Seal a day with its profile, and return its revision."""
        rng = np.random.default_rng(day)
        table = {
            "at": [at(day) + timedelta(hours=12)] * rows,
            "id": [f"{day}/{n}" for n in range(rows)],
            "km": rng.normal(shift, 1.0, rows),
            "carrier": rng.choice(["AA", "UA", "DL"], rows, p=[0.5, 0.3, 0.2]).tolist(),
            "month": [at(day).isocalendar().week] * rows,
            "late": rng.random(rows) < 0.3,
        }
        key = at(day).date().isoformat()
        folder = self.home / "lake" / dataset / key
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(table), folder / "rows.parquet")
        files = parquet_files(folder)
        hashed = batch_hash(files)
        sealed = self.store.seal(dataset, key, folder, event_time="at", batch_hash=hashed, suite_hash="suite")
        profile = profile_files(files, dataset=dataset, key=key, revision=sealed.revision)
        self.store.write_profile(dataset, key, sealed.revision, profile)
        return sealed.revision

    def seal_days(self, first: int, last: int, **more: float) -> None:
        """Seal days ``[first, last)`` of orders and of their outcomes."""
        for day in range(first, last):
            self.seal(day, **more)  # type: ignore[arg-type]
            self.seal(day, dataset="outcomes")

    def train(self, version: int, last: int = TRAINED, *, metrics: dict[str, float] | None = None) -> Snapshot:
        """Write down what a training on the days up to ``last`` leaves in home and ledger, and let it serve."""
        keys = [at(day).date().isoformat() for day in range(last)]
        pins = {
            name: {key: self.store.get(name, key).revision for key in keys if self.store.current(name, key)}
            for name in ("orders", "outcomes")
        }
        bounds = {"train": (0, last - 4), "validation": (last - 4, last - 2), "test": (last - 2, last)}
        snapshot = Snapshot(
            id=f"snapshot{version}",
            uri=str(self.home / "snapshots" / f"snapshot{version}"),
            model="m",
            partitions=pins,
            feature_service="m_v1",
            features={"km": "double"},
            entity="id",
            event_time="at",
            label="late",
            as_of=at(last + 1),
            label_cut=at(last),
            unlabelled_rows=0,
            splits={
                name: Split(file=f"{name}.parquet", sha256="0", rows=ROWS, positives=1, start=at(start), end=at(end))
                for name, (start, end) in bounds.items()
            },
        )
        folder = Path(snapshot.uri)
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text(snapshot.to_json())
        record_snapshot(self.ledger, snapshot)
        record_model(self.ledger, "m", version, snapshot)
        made = Registered(
            model="m", version=version, spec_hash=f"spec{version}", snapshot=snapshot.id, run=f"m.train run{version}",
            rows=last * ROWS, seconds=120.0, cost=0.5, metrics=metrics or {"auc": 0.75},
        )  # fmt: skip
        record_registered(self.ledger, made)
        self.serve(version)
        return snapshot

    def serve(self, version: int, **more: object) -> None:
        """Let a version serve."""
        state = Deployment(server=SERVER, model="m", stable=version, **more)  # type: ignore[arg-type]
        self.ledger.move(pointer_name(SERVER, "m"), lambda _: state.model_dump(mode="json"))

    def watch(self, **changes: object) -> Watch:
        """Return what is looked at."""
        return replace(WATCH, **changes)  # type: ignore[arg-type]


def trained_world(home: Path) -> World:
    """Return a world of three weeks, a model that was trained on them, and that serves."""
    world = World(home, Ledger(f"sqlite:///{home}/ledger.db"))
    world.seal_days(0, TRAINED + 1)
    world.train(1)
    return world
