"""How fast a training is: against Keras on NumPy arrays, against batches in memory, and streamed from disk.

The rows are made up, of the width and the types of the flights of a year; the model is small, so that the data counts.
What is compared takes turns in one process, and of each its best epoch counts; of a stream of many rows the one epoch
that there is, against the middle one of those in memory before and after it. Beside it: what a training's process
costs over ``import tensorflow``, and what handing a script its data costs.

Run: python bench/training.py [--small]      (about fifteen minutes on two cores)
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from _figures import Figures, options
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
    from airflow_mlops.contracts import Split
    from airflow_mlops.engine.data.files import sha256
    from airflow_mlops.engine.data.parquet import open_writer

    folder = home / "snapshots" / name
    folder.mkdir(parents=True)
    splits = {}
    for split, size in (("train", count), ("validation", 1000), ("test", 1000)):
        file, written = folder / f"{split}.parquet", 0
        with open_writer(file, rows(1, 0).schema) as writer:
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


class Way:
    """One way to train on a snapshot, in this process: the seconds of each of its epochs but the first of a turn.

    :param name: ``memory`` and ``stream`` are ours. ``batches`` are those of ``memory``, which ``tf.data`` has cached;
        ``keras`` is ``fit`` on NumPy arrays.
    """

    def __init__(self, snapshot: Snapshot, name: str) -> None:
        import keras
        import tensorflow as tf

        from airflow_mlops.engine.training.data import TrainingData
        from airflow_mlops.engine.training.fit import _STEPS_A_CALL

        keras.utils.set_random_seed(1)
        self.rows = snapshot.splits["train"].rows
        self.seconds: list[float] = []
        self.model = model_of(snapshot.features)
        data = TrainingData(snapshot, memory=1 if name == "stream" else 10**12)
        if name == "keras":
            columns, targets, _ = data.train.arrays(data.train.arrow())
            # Keras takes no NumPy array of texts.
            x = {name: tf.constant(values) if values.dtype == object else values for name, values in columns.items()}
            self.given: dict[str, Any] = {"x": x, "y": targets, "batch_size": BATCH}
            return
        batches = data.train.tf_dataset(BATCH, shuffle=1)
        self.given = {"x": batches.cache().prefetch(2) if name == "batches" else batches, "shuffle": False}
        self.model.steps_per_execution = _STEPS_A_CALL

    def turn(self, epochs: int) -> None:
        """Train on, for one epoch that does not count and some that do."""
        import keras

        seconds = self.seconds

        class Clock(keras.callbacks.Callback):
            def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
                self.began = time.perf_counter()

            def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
                if epoch:
                    seconds.append(time.perf_counter() - self.began)

        self.model.fit(**self.given, epochs=epochs + 1, verbose=0, callbacks=[Clock()])

    @property
    def best(self) -> float:
        """Rows a second of its best epoch."""
        return self.rows / min(self.seconds)

    @property
    def middle(self) -> float:
        """Rows a second of its middle epoch."""
        return self.rows / statistics.median(self.seconds)


def in_turns(snapshot: Snapshot, epochs: int) -> dict[str, float]:
    """Return the rows a second of each way."""
    ways = {name: Way(snapshot, name) for name in ("memory", "batches", "stream", "keras")}
    for _ in range(3):
        for way in ways.values():
            way.turn(epochs)
    return {name: way.best for name, way in ways.items()}


def streaming(snapshot: Snapshot) -> dict[str, float]:
    """Return the peak memory in MiB of an epoch that is streamed, and of the next its rows a second."""
    way = Way(snapshot, "stream")
    way.turn(1)
    return {"peak": peak(), "rate": way.best}


def beside(year: Snapshot, many: Snapshot, epochs: int) -> dict[str, float]:
    """Return the rows a second of many rows that are streamed, and of a year's in memory before and after."""
    memory, stream = Way(year, "memory"), Way(many, "stream")
    memory.turn(epochs)
    stream.turn(1)
    memory.turn(epochs)
    return {"memory": memory.middle, "stream": stream.middle}


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


def in_child(function: Callable[..., dict[str, float]], snapshots: list[Snapshot], *epochs: int) -> dict[str, float]:
    """Call one of the functions above in a process of its own."""
    manifests = [f"{snapshot.uri}/manifest.json" for snapshot in snapshots]
    took: dict[str, float] = child("--measure", function.__name__, *manifests, *map(str, epochs))
    print(", ".join(f"{what} {value:,.6g}" for what, value in took.items()))
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


def handing(snapshot: Snapshot) -> dict[str, float]:
    """Return the seconds until a script is started with its data, and those of reading it."""
    from airflow_mlops.contracts import TrainingSpec
    from airflow_mlops.engine.training.script import run_script
    from airflow_mlops.engine.training.workdir import Workdir
    from airflow_mlops.exceptions import TrainingError

    home = Path(snapshot.uri).parent
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
    return {"until it starts": min(waited), "reading": reading}


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--measure", nargs="+", metavar="WHAT", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        function, *others = given.measure
        read = [int(one) if one.isdigit() else Snapshot.from_json(Path(one).read_bytes()) for one in others]
        print(json.dumps(globals()[function](*read)))
        return
    figures = Figures(small=given.small)
    year, big = (SMALL_YEAR, SMALL_BIG) if given.small else (YEAR, BIG)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        flights, many = write_snapshot(home, "year", year), write_snapshot(home, "many", big)
        epochs = 1 if given.small else 8
        rate = in_child(in_turns, [flights], epochs)
        figures.hold("rows a second, ours / Keras on NumPy arrays", rate["memory"] / rate["keras"], at_least=2)
        figures.hold("seconds, ours / the same batches in memory", rate["batches"] / rate["memory"], at_most=1.25)
        note = f"of a short epoch, {rate['memory'] / rate['stream']:.2f}"
        took = in_child(beside, [flights, many], epochs)
        figures.hold(
            f"seconds, {big:,} rows streamed / in memory", took["memory"] / took["stream"], at_most=1.3, note=note
        )
        short, long = in_child(streaming, [flights]), in_child(streaming, [many])
        figures.hold(f"peak memory, {big:,} rows streamed / {year:,}", long["peak"] / short["peak"], at_most=1.3)
        figures.hold("seconds, start of a training - of TensorFlow", start_up(1 if given.small else 5), at_most=1)
        handed = in_child(handing, [flights])
        figures.hold(
            "starting a script with its data / reading it", handed["until it starts"] / handed["reading"], at_most=0.05
        )
    figures.end()


if __name__ == "__main__":
    main()
