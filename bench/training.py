"""How fast a training is: against Keras on NumPy arrays, against batches in memory, and streamed from disk.

The rows are made up, of the width and the types of the flights of a year; the model is small, so that the data counts.
Each is a process of its own, and takes the best of several epochs. Beside it: what a training's process costs over
``import tensorflow``, and what handing a script its data costs.

Run: python bench/training.py [--small]      (about fifteen minutes on two cores)
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from _figures import Figures, options

if TYPE_CHECKING:
    from airflow_mlops.contracts import Snapshot

NUMBERS, WHOLE, TEXTS = 20, 4, 3
YEAR, BIG = 336_000, 30_000_000
SMALL_YEAR, SMALL_BIG = 4_000, 60_000
CARRIERS = np.array(["AA", "B6", "DL", "EV", "UA", "US", "WN"])
START = datetime(2013, 1, 1, tzinfo=UTC)
BATCH = 1024
ROW_GROUP = 16_384
"""Of the snapshots of this package."""


def rows(count: int, seed: int) -> pa.Table:
    rng = np.random.default_rng(seed)
    columns: dict[str, Any] = {"row": np.arange(count)}
    columns["at"] = pa.array(np.full(count, int(START.timestamp()) * 10**6), pa.timestamp("us", "UTC"))
    columns |= {f"n{i}": rng.normal(size=count) for i in range(NUMBERS)}
    columns |= {f"w{i}": rng.integers(0, 24, count) for i in range(WHOLE)}
    columns |= {f"t{i}": CARRIERS[rng.integers(0, len(CARRIERS), count)] for i in range(TEXTS)}
    columns["late"] = rng.random(count) < 1 / (1 + np.exp(-columns["n0"]))
    return pa.table(columns)


def write_snapshot(home: Path, name: str, count: int) -> Snapshot:
    """Write splits as the snapshot writer does, a part of the rows in memory at a time."""
    from airflow_mlops.contracts import Snapshot, Split
    from airflow_mlops.engine.data.files import sha256

    folder = home / "snapshots" / name
    folder.mkdir(parents=True)
    splits = {}
    for split, size in (("train", count), ("validation", 1000), ("test", 1000)):
        file, written = folder / f"{split}.parquet", 0
        with pq.ParquetWriter(file, rows(1, 0).schema) as writer:
            while written < size:
                part = rows(min(ROW_GROUP * 8, size - written), written)
                writer.write_table(part, row_group_size=ROW_GROUP)
                written += part.num_rows
        splits[split] = Split(
            file=file.name, sha256=sha256(file), rows=size, positives=1, start=START, end=START + timedelta(days=1)
        )
    schema = rows(1, 0).schema
    snapshot = Snapshot(
        id=name, uri=str(folder), model="bench", partitions={}, feature_service="", entity="row", event_time="at",
        features={one.name: str(one.type) for one in schema if one.name not in ("row", "at", "late")}, label="late",
        as_of=START, label_cut=START, unlabelled_rows=0, splits=splits,
    )  # fmt: skip
    (folder / "manifest.json").write_text(snapshot.to_json())
    return snapshot


def model_of(features: dict[str, str]) -> Any:
    import keras

    kinds = {"string": "string", "int64": "int64"}
    inputs = {name: keras.Input((), name=name, dtype=kinds.get(kind, "float32")) for name, kind in features.items()}
    texts = [name for name, kind in features.items() if kind == "string"]
    parts = [
        keras.layers.Embedding(8, 4)(keras.layers.StringLookup(vocabulary=CARRIERS.tolist())(inputs[name]))
        for name in texts
    ]
    numbers = [keras.ops.cast(one, "float32") for name, one in inputs.items() if name not in texts]
    parts.append(keras.ops.stack(numbers, axis=1))
    hidden = keras.layers.Concatenate()(parts)
    for units in (64, 32):
        hidden = keras.layers.Dense(units, activation="relu")(hidden)
    model = keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid")(hidden))
    model.compile("adam", "binary_crossentropy")
    return model


def measure(snapshot_file: Path, way: str, epochs: int) -> dict[str, float]:
    """Train in this process in one way; return the rows a second of the best epoch, and the peak memory in MiB."""
    import keras
    import tensorflow as tf

    from airflow_mlops.contracts import Snapshot
    from airflow_mlops.engine.training.data import TrainingData
    from airflow_mlops.engine.training.fit import _STEPS_A_CALL

    keras.utils.set_random_seed(1)
    snapshot = Snapshot.from_json(snapshot_file.read_bytes())
    data = TrainingData(snapshot, memory=1 if way == "streamed" else 10**12)
    model = model_of(snapshot.features)
    given: dict[str, Any] = {}
    if way == "keras":
        columns, targets, _ = data.train.arrays(data.train.arrow())
        # Keras takes no NumPy array of texts.
        x = {name: tf.constant(values) if values.dtype == object else values for name, values in columns.items()}
        given = {"x": x, "y": targets, "batch_size": BATCH}
    elif way == "tensors":
        columns, targets, _ = data.train.arrays(data.train.arrow())
        assert not isinstance(targets, dict)
        whole = len(targets) - len(targets) % BATCH
        parts = ({name: values[:whole] for name, values in columns.items()}, targets[:whole, None])
        cut = tf.nest.map_structure(lambda one: tf.constant(one.reshape(-1, BATCH, *one.shape[1:])), parts)
        given = {"x": tf.data.Dataset.from_tensor_slices(cut).prefetch(tf.data.AUTOTUNE), "shuffle": False}
    else:
        given = {"x": data.train.tf_dataset(BATCH, shuffle=1), "shuffle": False}
    if way != "keras":
        model.steps_per_execution = _STEPS_A_CALL
    model.fit(**given, epochs=1, verbose=0)
    before, seconds = peak(), []
    for _ in range(epochs):
        began = time.perf_counter()
        model.fit(**given, epochs=1, verbose=0)
        seconds.append(time.perf_counter() - began)
    return {"rate": snapshot.splits["train"].rows / min(seconds), "peak": peak(), "after_an_epoch": before}


def peak() -> float:
    """Return the most memory that this process ever had, in MiB."""
    text = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("VmHWM:")) / 1024


def child(*arguments: str) -> Any:
    """Return what this file prints last with some arguments, in a process group of its own: a script ends its group."""
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, __file__, *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment, start_new_session=True)
    return json.loads(done.stdout.splitlines()[-1])


def in_child(snapshot: Snapshot, ways: list[str], epochs: int) -> list[dict[str, float]]:
    """Measure some ways, one after the other in one process."""
    took: list[dict[str, float]] = child("--measure", f"{snapshot.uri}/manifest.json", str(epochs), *ways)
    rows = snapshot.splits["train"].rows
    for way, one in zip(ways, took, strict=True):
        print(f"{way:10} {rows:>11,} rows  {one['rate']:>9,.0f} rows/s  peak {one['peak']:.0f} MiB")
    return took


def start_up(repeats: int) -> float:
    """Return the seconds that the runner's imports take over those of TensorFlow alone, at best."""

    def seconds(code: str) -> float:
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True, stderr=subprocess.DEVNULL)
        return time.perf_counter() - began

    ours = "import airflow_mlops.engine.training.runner, airflow_mlops.engine.training.fit"
    pairs = [(seconds(ours), seconds("import tensorflow")) for _ in range(repeats)]
    return min(one for one, _ in pairs) - min(other for _, other in pairs)


def handing(snapshot_file: Path) -> float:
    """Return what a script waits for until it is started with its data, as a share of reading it."""
    from airflow_mlops.contracts import Snapshot, TrainingSpec
    from airflow_mlops.engine.training.script import run_script
    from airflow_mlops.engine.training.workdir import Workdir
    from airflow_mlops.exceptions import TrainingError

    snapshot, home = Snapshot.from_json(snapshot_file.read_bytes()), snapshot_file.parent.parent
    began = time.perf_counter()
    for split in snapshot.splits.values():
        pq.read_table(Path(snapshot.uri) / split.file)
    reading = time.perf_counter() - began
    (home / "t").mkdir()
    (home / "began.sh").write_text('#!/bin/sh\ndate +%s.%N > "$(dirname "$MLOPS_TRAINING")/began"\n')
    (home / "began.sh").chmod(0o755)
    spec = TrainingSpec(
        model="m", script="began.sh", python="/bin/sh", code_path=str(home), snapshot=snapshot, seed=1, epochs=1,
        batch_size=1,
    )  # fmt: skip
    waited = []
    for _ in range(5):
        asked = time.time()
        with contextlib.suppress(TrainingError):  # it writes no model, which is said
            run_script(spec, Workdir(home / "t"))
        waited.append(float((home / "t" / "began").read_text()) - asked)
    print(f"reading {reading:.3f} s, a script is started {min(waited):.4f} s after it was asked for", file=sys.stderr)
    return min(waited) / reading


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--measure", nargs="+", metavar="MANIFEST EPOCHS WAY", help=argparse.SUPPRESS)
    parser.add_argument("--hand", metavar="MANIFEST", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.hand:
        print(json.dumps(handing(given.hand)))
        return
    if given.measure:
        manifest, epochs, *ways = given.measure
        print(json.dumps([measure(Path(manifest), way, int(epochs)) for way in ways]))
        return
    figures = Figures(small=given.small)
    year, big = (SMALL_YEAR, SMALL_BIG) if given.small else (YEAR, BIG)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        flights = write_snapshot(home, "year", year)
        ways = ["kept", "keras", "tensors", "streamed"]
        if given.small:
            kept, keras, tensors, streamed = in_child(flights, ways, 1)
        else:
            kept, keras, tensors, streamed = (in_child(flights, [way], 3)[0] for way in ways)
        figures.hold("rows a second, ours / Keras on NumPy arrays", kept["rate"] / keras["rate"], at_least=2)
        figures.hold("seconds, ours / batches that are tensors", tensors["rate"] / kept["rate"], at_most=1.25)
        figures.hold("seconds, streamed / in memory", kept["rate"] / streamed["rate"], at_most=1.3)
        [long] = in_child(write_snapshot(home, "long", big), ["streamed"], 1)
        ratio, note = long["peak"] / streamed["peak"], f"{long['rate']:,.0f} rows/s"
        figures.hold(f"peak memory, {big:,} rows streamed / {year:,}", ratio, at_most=1.3, note=note)
        figures.hold("seconds, many rows streamed / in memory", kept["rate"] / long["rate"], at_most=1.3)
        figures.hold("seconds, start of a training - of TensorFlow", start_up(1 if given.small else 5), at_most=1)
        figures.hold(
            "starting a script with its data / reading it",
            child("--hand", f"{flights.uri}/manifest.json"),
            at_most=0.05,
        )
    figures.end()


if __name__ == "__main__":
    main()
