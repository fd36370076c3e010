"""A million rows predicted and sealed, against a loop by hand over the same Arrow batches with the same SavedModel.

The model has 12 inputs (3 of them strings) and a 64-64-1 network. The loop reads the Parquet file of the partition,
makes arrays of its batches, asks the model and writes entity, time and answer to one Parquet file. Ours does that in
shards, stamps every row, checks the partition's files before and seals what came out after. Wall seconds, the median
ratio of a pair. Through the embedded server, in a process of its own, the ratio has no bound: it is what the way over
gRPC costs.

Run: python bench/batch_prediction.py [--small]
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from _figures import Figures, options
from airflow_mlops.engine.data.partitions import PartitionStore
from airflow_mlops.engine.prediction.batch import predict_partition
from airflow_mlops.engine.prediction.plan import BATCH_ROWS, Plan
from airflow_mlops.engine.prediction.rows import rows_of_partition
from airflow_mlops.engine.prediction.scorers import InProcess, Scorer, ThroughServer
from airflow_mlops.engine.serving.client import ServingClient
from airflow_mlops.engine.serving.saved_model import SavedModel
from airflow_mlops.engine.training.inputs import read_inputs
from airflow_mlops.exceptions import MlopsError

NUMBERS = [f"x{index}" for index in range(9)]
STRINGS = ["carrier", "origin", "dest"]
FEATURES = {**dict.fromkeys(NUMBERS, "double"), **dict.fromkeys(STRINGS, "string")}
ROWS, SMALL_ROWS = 1_000_000, 20_000
ROUNDS, SMALL_ROUNDS = 5, 1
KEY = "2024-01-01"
BEGIN = datetime(2024, 1, 1, tzinfo=UTC)

MAKE = f"""
import sys, tensorflow as tf
m = tf.Module()
m.w = [tf.Variable(tf.random.stateless_normal(s, [1, 2]) * 0.1) for s in ((12, 64), (64, 64), (64, 1))]
def f(**x):
    h = tf.stack([tf.cast(tf.strings.length(x[n]), tf.float32) for n in {STRINGS}] + [x[n] for n in {NUMBERS}], 1)
    h = tf.nn.relu(tf.nn.relu(h @ m.w[0]) @ m.w[1]) @ m.w[2]
    return {{"probability": tf.sigmoid(h)[:, 0]}}
m.f = tf.function(f, autograph=False)
specs = {{n: tf.TensorSpec([None], tf.string, name=n) for n in {STRINGS}}}
specs |= {{n: tf.TensorSpec([None], tf.float32, name=n) for n in {NUMBERS}}}
tf.saved_model.save(m, sys.argv[1], signatures={{"serving_default": m.f.get_concrete_function(**specs)}})
"""


def main() -> None:
    given = options(__doc__).parse_args()
    figures = Figures(small=given.small)
    rows, rounds = (SMALL_ROWS, SMALL_ROUNDS) if given.small else (ROWS, ROUNDS)
    with tempfile.TemporaryDirectory() as folder:
        home, model = Path(folder) / "home", Path(folder) / "store" / "m" / "1"
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
        subprocess.run([sys.executable, "-c", MAKE, str(model)], check=True, env=environment, capture_output=True)
        store = sealed(home, rows)
        with InProcess(model, model="m") as scorer, SavedModel(model) as loaded:
            by_hand, ours = [], []
            for _ in range(rounds):
                by_hand.append(timed(lambda: loop(store, loaded, Path(folder) / "by_hand.parquet")))
                ours.append(timed(lambda: predict(home, store, scorer)))
        agree(figures, store, Path(folder) / "by_hand.parquet")
        print(f"rows: {rows}, by hand {min(by_hand):.2f} s, in process {min(ours):.2f} s")
        print(f"most memory of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")
        ratio = statistics.median(one / other for one, other in zip(ours, by_hand, strict=True))
        figures.hold("in process / by hand, wall", ratio, at_most=1.3)
        with served(model.parent) as client:
            through = timed(lambda: predict(home, store, ThroughServer(client, model="m", version=1)))
        agree(figures, store, Path(folder) / "by_hand.parquet")
        print(f"through the embedded server {through:.2f} s: {through / min(by_hand):.2f} of by hand (no bound)")
    figures.end()


def sealed(home: Path, rows: int) -> PartitionStore:
    """Seal a day of made-up rows."""
    rng = np.random.default_rng(7)
    columns = {
        "id": pa.array(np.arange(rows)).cast(pa.string()),
        "at": pa.array(int(BEGIN.timestamp() * 1e6) + np.sort(rng.integers(0, 86_400_000_000, rows))).cast(
            pa.timestamp("us", "UTC")
        ),
        **{name: pa.array(rng.normal(size=rows)) for name in NUMBERS},
        **{name: pa.array(np.array(["AA", "B6", "DELTA", "UA"])[rng.integers(0, 4, rows)]) for name in STRINGS},
    }
    landed = home / "landed"
    landed.mkdir(parents=True)
    pq.write_table(pa.table(columns), landed / "rows.parquet")
    store = PartitionStore.under(home)
    store.seal("rows", KEY, landed, event_time="at", batch_hash=None, suite_hash=None)
    return store


def loop(store: PartitionStore, model: SavedModel, target: Path) -> None:
    """Predict as one would by hand."""
    partition = store.get("rows", KEY)
    schema = pa.schema([("id", pa.string()), ("at", pa.timestamp("us", "UTC")), ("probability", pa.float32())])
    with (
        pq.ParquetFile(Path(partition.uri) / partition.files[0].name) as parquet,
        pq.ParquetWriter(target, schema) as writer,
    ):
        for batch in parquet.iter_batches(BATCH_ROWS):
            table = pa.Table.from_batches([batch])
            answer = model.run(read_inputs(table, FEATURES))["probability"]
            writer.write_table(pa.Table.from_arrays([table["id"], table["at"], pa.array(answer)], schema=schema))


def predict(home: Path, store: PartitionStore, scorer: Scorer) -> None:
    with rows_of_partition(store, "rows", KEY) as rows:
        predict_partition(
            Plan(rows, scorer, "id", "at"), home=home, store=store, ledger=None, dataset="m.predictions", key=KEY
        )


def agree(figures: Figures, store: PartitionStore, by_hand: Path) -> None:
    ours = store.read([store.get("m.predictions", KEY)], ["id", "probability"])
    theirs = pq.read_table(by_hand, columns=["id", "probability"])
    same = np.allclose(ours["probability"].to_numpy(), theirs["probability"].to_numpy(), rtol=0, atol=1e-6)
    figures.must("the same numbers as by hand", bool(same and ours["id"].equals(theirs["id"])))


@contextmanager
def served(base: Path) -> Iterator[ServingClient]:
    """Run the embedded server with the model, in a process of its own."""
    from serving import free_ports

    port, rest_port = free_ports(2)
    command = [sys.executable, "-m", "airflow_mlops.engine.serving.server.main", f"--port={port}"]
    command += [f"--rest_api_port={rest_port}", "--model_name=m", f"--model_base_path={base}"]
    server = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        with ServingClient("127.0.0.1", port, timeout=60) as client:
            while not is_available(client):
                time.sleep(0.05)
            yield client
    finally:
        server.kill()
        server.wait()


def is_available(client: ServingClient) -> bool:
    try:
        return client.status("m")[1].state == "AVAILABLE"
    except (MlopsError, KeyError):
        return False


def timed(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
