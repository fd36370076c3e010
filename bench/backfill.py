"""A backfill of many partitions: how long it takes to plan it, and to decide what is left of it after a kill.

One feed of so many days, all landed and nine in ten sealed, and the features of each: every state of each is looked up,
and every footer of the features read. Some days changed since, and a model saw them.

Run: python bench/backfill.py [--small]
"""

from __future__ import annotations

import os
import tempfile
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from _figures import Figures, options

if TYPE_CHECKING:
    from airflow_mlops.engine.backfill.plan import Plan
    from airflow_mlops.engine.backfill.survey import Site

DAYS, FEW = 10_000, 200
FIRST, HISTORY = date(1998, 1, 1), 7
SETTINGS = "project: bench\nprovider: local\nregistry: registry.db\nonline_store: {type: sqlite, path: online.db}\n"


def key_of(n: int) -> str:
    """Return the key of the n-th day, from 0."""
    return str(FIRST + timedelta(days=n))


def site_in(folder: Path, days: int) -> Site:
    """Return where a backfill of so many days works; nothing has landed yet."""
    from airflow_mlops import FeatureService, Gate, Label, ModelPipeline, Partitions, Trainer
    from airflow_mlops.engine.backfill.survey import Site
    from airflow_mlops.engine.data.partitions import PartitionStore
    from airflow_mlops.engine.features.governance.consumers import pointer_of
    from airflow_mlops.engine.features.project.location import Location
    from airflow_mlops.engine.features.project.schema import FeatureRepo, ServiceSchema, ViewSchema
    from airflow_mlops.engine.ledger import Ledger

    home, repo = folder / "home", folder / "repo"
    home.mkdir()
    repo.mkdir()
    (repo / "feature_store.yaml").write_text(SETTINGS)
    (repo / "bench_features.py").write_text("def compute(day, data):\n    return {}\n")
    (repo / "bench_suite.py").write_text("def suite():\n    return []\n")
    ledger = Ledger(f"sqlite:///{home}/ledger.db")
    view = ViewSchema(keys={"id": "string"}, features={"x": "double"}, ttl_seconds=None)
    service = ServiceSchema(views=("days",), features={"x": "double"})
    applied = FeatureRepo(project="bench", hash="h", views={"days": view}, services={"bench_v1": service})
    ledger.swap(pointer_of("bench"), applied.model_dump(), None)
    pipeline = ModelPipeline(
        model="bench",
        source=Partitions(
            "lake/days",
            event_time="at",
            suite="bench_suite:suite",
            start=FIRST,
            end=FIRST + timedelta(days=days - 1),
            arrived="still",
        ),
        entity="id",
        label=Label("label", known_at="known_at", matures_after="1d"),
        features=FeatureService(
            "bench_v1", transform="bench_features:compute", suite="bench_suite:suite", history=f"{HISTORY}d"
        ),
        train=Trainer("bench_suite:build", window="60d"),
        gates=[Gate("auc", min=0.5)],
    )
    store = PartitionStore.under(home, ledger)
    return Site(pipeline, Location(repo, home), store, ledger, str(repo), home.joinpath)


def fill(site: Site, days: int) -> None:
    """Let all days land, be sealed but for every tenth, and have features; as the files would lie after years."""
    from airflow_mlops.contracts import Partition, PartitionFile, Receipt
    from airflow_mlops.engine.features.computing.provenance import Inputs

    home, code = site.location.home, site.code.of("days")
    row = pa.table({"id": ["a"], "x": [1.0]})
    rows = pa.BufferOutputStream()
    pq.write_table(row, rows)
    contents = rows.getvalue().to_pybytes()
    features = home / "features" / "days"
    features.mkdir(parents=True)
    sealed = [n for n in range(days) if n % 10]
    for n in range(days):
        landed = home / "lake" / "days" / key_of(n)
        landed.mkdir(parents=True)
        (landed / "rows.parquet").write_bytes(contents)
        if n % 10 == 0:
            continue
        at = datetime.fromisoformat(key_of(n)).replace(tzinfo=UTC)
        written = datetime.fromtimestamp((landed / "rows.parquet").stat().st_mtime, UTC)
        partition = Partition(
            dataset="days",
            key=key_of(n),
            revision=f"{n:016x}",
            uri="",
            rows=1000,
            bytes=len(contents),
            files=(PartitionFile(name="rows.parquet", sha256="0" * 64, bytes=len(contents), rows=1000),),
            columns={f"column_{i}": "double" for i in range(20)},
            event_time="at",
            min_event_time=at,
            max_event_time=at,
            receipt=Receipt(uri=str(landed), sha256="0" * 64, files=1, bytes=len(contents), written_at=written),
            suite_hash="s",
        )
        folder = home / "partitions" / "days" / key_of(n)
        folder.mkdir(parents=True)
        (folder / "current.json").write_text(partition.to_json())
        if n % 100 == 1:  # other bytes have landed since
            (landed / "rows.parquet").write_bytes(contents + b" ")
        read = {"days": {key_of(i): f"{i:016x}" for i in range(max(0, n - HISTORY), n + 1) if i % 10}}
        inputs = Inputs(at - timedelta(days=HISTORY), at + timedelta(days=1), read, {"days": []}, code)
        pq.write_table(inputs.written_into(row), features / f"{key_of(n)}.parquet")
    made_of = {key_of(n): f"{n:016x}" for n in sealed[-200:]}
    for snapshot in range(50):
        site.ledger.record("snapshot", "bench", {"partitions": {"days": made_of}}, key=f"snapshot_{snapshot}")


def record_steps(site: Site, plan: Plan, done: int) -> None:
    """Write down that the first steps of a plan are done."""
    from sqlalchemy import create_engine, insert

    from airflow_mlops.engine.backfill.run import STEP
    from airflow_mlops.engine.ledger.models import FactRow

    now = datetime.now(UTC).isoformat()
    rows = [
        {"kind": STEP, "subject": plan.id, "key": step.name, "at": now, "payload": {"seconds": 0.1, "refused": ""}}
        for step in plan.work[:done]
    ]
    with create_engine(site.ledger.url).begin() as connection:
        connection.execute(insert(FactRow), rows)


def main() -> None:
    """Measure."""
    given = options(__doc__).parse_args()
    figures, days = Figures(small=given.small), FEW if given.small else DAYS
    from airflow_mlops.engine.backfill.make import plan_backfill
    from airflow_mlops.engine.backfill.plan import find
    from airflow_mlops.engine.backfill.run import remaining

    with tempfile.TemporaryDirectory() as folder:
        site = site_in(Path(folder), days)
        fill(site, days)
        os.sync()
        took = []
        for order in ("oldest", "newest"):
            began = time.perf_counter()
            plan = plan_backfill(
                site,
                FIRST,
                FIRST + timedelta(days=days - 1),
                who="bench",
                order=order,
            )
            took.append(time.perf_counter() - began)
        print(*plan.lines(), sep="\n")
        print(f"{len(plan.steps)} partitions and features, of which {len(plan.work)} are to be worked on")
        record_steps(site, plan, len(plan.work) * 9 // 10)
        began = time.perf_counter()
        left = remaining(site.ledger, find(site.ledger, plan.id))
        resumed = time.perf_counter() - began
        figures.must("what is left after a kill", len(left) == len(plan.work) - len(plan.work) * 9 // 10)
    figures.hold(f"seconds to plan {days} partitions and their features", min(took), at_most=5)
    figures.hold("seconds to decide what is left", resumed, at_most=1)
    figures.end()


if __name__ == "__main__":
    main()
