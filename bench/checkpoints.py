"""What it costs that a training can be killed and watched: checkpoints, progress, and going on.

The rows are made up, as in bench/training.py; the model has some million weights in the large setting, so that there is
something to save. It is trained for a minute as users have it. Then it is killed in the middle, and started again.

Run: python bench/checkpoints.py [--small]      (about five minutes on two cores)
"""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from _figures import Figures, options
from airflow_mlops.engine.training.options import Options
from training import write_snapshot

MODEL = """
import keras

def build(train, seed, units):
    inputs = {name: keras.Input((), name=name) for name, values in train.items() if values.dtype == "float32"}
    others = {name: keras.Input((), name=name, dtype=str(values.dtype).replace("object", "string"))
              for name, values in train.items() if name not in inputs}
    hidden = keras.ops.stack(list(inputs.values()), axis=1)
    for _ in "12":
        hidden = keras.layers.Dense(units, activation="relu")(hidden)
    model = keras.Model({**inputs, **others}, keras.layers.Dense(1, activation="sigmoid")(hidden))
    model.compile("adam", "binary_crossentropy")
    return model
"""
TRIES = 3
"""Of going on: what else the machine does makes them slower only, so the fastest counts."""
CHILD = """
import sys, time
from pathlib import Path
from airflow_mlops.engine.training import following
from airflow_mlops.engine.training import runner

made = []
begin = following.Following.on_train_begin

def began(self, logs=None):
    made.append(self)
    begin(self, logs)

following.Following.on_train_begin = began
status = runner.main(Path(sys.argv[1]))
[one] = made
print("COST", one.checkpoints.seconds, one.progress.seconds, one.seconds)
sys.exit(status)
"""


def start(folder: Path, spec: Any, told: Options | None = None) -> subprocess.Popen[str]:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "spec.json").write_text(spec.to_json())
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONHASHSEED": "0"}
    environment |= (told or Options()).as_environment()
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True, env=environment, start_new_session=True,
    )  # fmt: skip


def output_of(process: subprocess.Popen[str]) -> str:
    """Return what it prints until it ends; its standard input stays open, for it ends with that."""
    assert process.stdout is not None
    said = process.stdout.read()
    process.wait()
    return said


class Took(NamedTuple):
    """How long something took: seconds, and seconds of processors."""

    wall: float
    cpu: float


def until_it_goes_on(folder: Path, spec: Any) -> Took:
    began = time.perf_counter()
    again = start(folder, spec)
    assert again.stdout is not None
    for line in again.stdout:
        if re.match("Going on from a checkpoint", line):
            break
    used = psutil.Process(again.pid).cpu_times()
    took = Took(time.perf_counter() - began, used.user + used.system)
    os.killpg(again.pid, signal.SIGKILL)
    again.communicate()
    return took


def importing_keras() -> Took:
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", "import keras"], check=True, stderr=subprocess.DEVNULL)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
    return Took(time.perf_counter() - began, cpu)


def main() -> None:
    from airflow_mlops.contracts import TrainingSpec

    given = options(__doc__).parse_args()
    figures = Figures(small=given.small)
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary)
        (home / "durable_bench.py").write_text(MODEL)
        spec = TrainingSpec(
            model="bench", entrypoint="durable_bench:build", code_path=str(home), seed=1, batch_size=1024,
            snapshot=write_snapshot(home, "flights", 20_000 if given.small else 336_000),
            epochs=3 if given.small else 40, params={"units": 8 if given.small else 1500},
        )  # fmt: skip
        said = output_of(start(home / "whole", spec))
        [cost] = [json.loads(f"[{line[5:].replace(' ', ', ')}]") for line in said.splitlines() if line[:4] == "COST"]
        saving, telling, training = cost
        note = f"{saving:.2f} s and {telling:.2f} s of {training:.1f} s"
        figures.hold("saving checkpoints, share of the training in %", 100 * saving / training, at_most=3, note=note)
        figures.hold("reporting progress, share of the training in %", 100 * telling / training, at_most=1)

        # In the small setting it would be done before a checkpoint is due.
        killed = start(home / "killed", spec, Options(checkpoint_every=0.01) if given.small else None)
        while not list((home / "killed").glob("checkpoints/*.npz")) and killed.poll() is None:
            time.sleep(0.2)
        kept = killed.poll() is None
        if kept:
            os.killpg(killed.pid, signal.SIGKILL)
        killed.communicate()
        if not kept:
            print("the training was done before anything was saved: nothing to go on from")
        else:
            # Turn by turn, for the machine may have other things to do.
            tries = 1 if given.small else TRIES
            pairs = [(until_it_goes_on(home / "killed", spec), importing_keras()) for _ in range(tries)]
            again, imports = (Took(*map(min, zip(*ones, strict=True))) for ones in zip(*pairs, strict=True))
            note = f"{again.wall:.1f} s by the clock"
            figures.hold("CPU seconds of the new process until it goes on", again.cpu, at_most=10, note=note)
            note = f"{imports.wall:.1f} s by the clock, {imports.cpu:.1f} s of CPU"
            figures.hold("how many times as long as to import Keras", again.wall / imports.wall, at_most=2, note=note)
    figures.end()


if __name__ == "__main__":
    main()
