"""Small hand-made snapshots of flights, for tests of training, evaluation and the registry."""

from __future__ import annotations

import atexit
import functools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from airflow_mlops.contracts import Snapshot, Split, TrainingSpec
from airflow_mlops.engine.data.files import sha256
from airflow_mlops.engine.training.launch import train
from airflow_mlops.engine.training.workdir import Workdir

DAGS = Path(__file__).parent.parent / "dags"

FEATURES = {
    "carrier": "string",
    "origin": "string",
    "dest": "string",
    "distance_miles": "double",
    "sched_minutes": "double",
    "sched_hour": "int64",
    "weekday": "int64",
    "month": "int64",
    "aircraft_idle_minutes": "double",
    "origin_departures_1h": "double",
    "origin_dep_delay_mean_1h": "double",
    "origin_dep_late_rate_1h": "double",
    "origin_cancelled_rate_24h": "double",
    "carrier_arr_delay_mean_24h": "double",
    "carrier_arr_late_rate_24h": "double",
    "route_arr_delay_mean_7d": "double",
    "route_arr_late_rate_7d": "double",
    "route_landings_7d": "double",
    "aircraft_arr_delay": "double",
    "aircraft_landed_in": "string",
    "weather_temp": "double",
    "weather_wind_speed": "double",
}
"""Some of the example's, by their types."""
PLANTED = "planted-with-"
"""How a text begins that one row alone has."""
START = datetime(2013, 1, 1, tzinfo=UTC)


def flights(rows: int, seed: int, start: datetime, carriers: str = "AA B6 DL EV UA") -> pa.Table:
    """Return made-up flights whose delay depends on the hour, the carrier and the delays before."""
    rng = np.random.default_rng(seed)
    columns: dict[str, Any] = {"flight_id": [f"{start:%m%d}-{i}" for i in range(rows)]}
    columns["sched_dep_utc"] = pa.array(
        [start + timedelta(seconds=60 * i) for i in range(rows)], pa.timestamp("us", "UTC")
    )
    names = carriers.split()
    carrier = rng.integers(0, len(names), rows)
    columns["carrier"] = [names[i] for i in carrier]
    columns["origin"] = rng.choice(["EWR", "JFK", "LGA"], rows).tolist()
    columns["dest"] = rng.choice(["ATL", "BOS", "LAX", "ORD", "SFO"], rows).tolist()
    hour = rng.integers(5, 23, rows)
    for name, kind in FEATURES.items():
        if name in columns:
            continue
        if kind == "string":
            texts = rng.choice(np.array(["ATL", "ORD", None], dtype=object), rows).tolist()
            columns[name] = [f"{PLANTED}{seed}-{i}" if i % 50 == 0 else text for i, text in enumerate(texts)]
        elif kind == "int64":
            columns[name] = hour if name == "sched_hour" else rng.integers(1, 7, rows)
        else:
            values = rng.normal(10.0, 5.0, rows)
            values[rng.random(rows) < 0.05] = np.nan
            columns[name] = pa.array(values, from_pandas=True)
    late = np.nan_to_num(columns["origin_dep_delay_mean_1h"].to_numpy(zero_copy_only=False), nan=10.0)
    score = 0.15 * (late - 10) + 0.2 * (hour - 14) + 0.4 * (carrier - 2) - 1.0
    columns["late_15"] = rng.random(rows) < 1 / (1 + np.exp(-score))
    return pa.table({name: columns[name] for name in ("flight_id", "sched_dep_utc", *FEATURES, "late_15")})


def write_snapshot(home: Path, tables: dict[str, pa.Table], snapshot_id: str = "snap1") -> Snapshot:
    """Write the splits and their manifest as the data engine does."""
    folder = home / "snapshots" / snapshot_id
    folder.mkdir(parents=True, exist_ok=True)
    splits = {}
    for name, table in tables.items():
        path = folder / f"{name}.parquet"
        pq.write_table(table, path)
        times = table["sched_dep_utc"].to_pylist() or [START]
        splits[name] = Split(
            file=path.name,
            sha256=sha256(path),
            rows=table.num_rows,
            positives=sum(table["late_15"].to_pylist()),
            start=min(times),
            end=max(times) + timedelta(minutes=1),
        )
    snapshot = Snapshot(
        id=snapshot_id,
        uri=str(folder),
        model="flight_delay",
        partitions={"departures": {"2013-01-01": "r1"}},
        feature_service="flight_delay_v1",
        features={name: str(tables["train"].schema.field(name).type) for name in FEATURES},
        entity="flight_id",
        event_time="sched_dep_utc",
        label="late_15",
        as_of=START + timedelta(days=60),
        label_cut=START + timedelta(days=59),
        unlabelled_rows=0,
        splits=splits,
    )
    (folder / "manifest.json").write_text(snapshot.to_json())
    return snapshot


def make_snapshot(home: Path, rows: int = 4000, snapshot_id: str = "snap1") -> Snapshot:
    """Return a snapshot of ``rows`` to train on and a fifth of it each to validate and test with."""
    tables = {
        "train": flights(rows, 1, START),
        "validation": flights(rows // 5, 2, START + timedelta(days=20)),
        "test": flights(rows // 5, 3, START + timedelta(days=40)),
    }
    return write_snapshot(home, tables, snapshot_id)


def make_spec(snapshot: Snapshot, **changes: Any) -> TrainingSpec:
    """Return a short training of the example's model."""
    spec = {
        "model": "flight_delay",
        "entrypoint": "flights.model:build",
        "code_path": str(DAGS),
        "snapshot": snapshot,
        "seed": 7,
        "epochs": 2,
        "batch_size": 512,
    }
    return TrainingSpec(**(spec | changes))


@functools.cache
def trained() -> Workdir:
    """Return a finished training of the example's model, made once a test session."""
    home = Path(tempfile.mkdtemp(prefix="trained-"))
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    workdir = Workdir(home / "trainings" / "t1")
    train(make_spec(make_snapshot(home)), workdir.path, timeout=300)
    return workdir


def copy_of(workdir: Workdir, target: Path) -> Workdir:
    """Return a copy that a test may change."""
    shutil.copytree(workdir.path, target)
    return Workdir(target)


def golden_of(saved_model: Path) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return the golden inputs as raw columns, and the probabilities that belong to them."""
    golden = json.loads((saved_model / "assets.extra" / "golden.json").read_text())
    types = {"string": object, "double": np.float32, "int64": np.int64}
    inputs = {name: np.array(values, dtype=types[FEATURES[name]]) for name, values in golden["inputs"].items()}
    return inputs, np.array(golden["outputs"]["probability"])


@functools.cache
def mlflow_folder(name: str = "") -> Path:
    """Return where an MLflow server of this test session keeps its database, its artifacts and its log."""
    return Path(tempfile.mkdtemp(prefix="mlflow-"))


@functools.cache
def mlflow_server(name: str = "") -> str:
    """Return the URI of a real MLflow server, started once a test session; of another one by another name."""
    folder = mlflow_folder(name) if name else mlflow_folder()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
    command += ["--artifacts-destination", f"{folder}/artifacts"]
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(command, env=environment, cwd=folder, stdout=log, stderr=log, start_new_session=True)

    def stop() -> None:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
        shutil.rmtree(folder, ignore_errors=True)

    atexit.register(stop)
    deadline = time.monotonic() + 120
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1).read()
            return f"http://127.0.0.1:{port}"
        except OSError:
            alive = server.poll() is None and time.monotonic() < deadline
            assert alive, (folder / "log").read_text()
            time.sleep(0.2)
