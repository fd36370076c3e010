"""Trainings that are scripts: real processes that are there in a second or two, because nobody imports TensorFlow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from airflow_mlops.contracts import Snapshot, TrainingSpec
from airflow_mlops.engine.training.workdir import Workdir
from tests.saved_models import make_saved_model
from tests.training_fixtures import make_snapshot

INPUTS = {"distance_miles": "float32", "sched_minutes": "float32"}
PREAMBLE = """
import json, os, shutil, signal, sys, time
from pathlib import Path

told = json.load(open(os.environ["MLOPS_TRAINING"]))
params, kept = told["params"], Path(told["checkpoints"], "epoch")
first = int(kept.read_text()) if kept.exists() else 0


def say(epoch, loss=0.5):
    with open(told["progress"], "a") as progress:
        progress.write(json.dumps({"epoch": epoch, "loss": loss}) + "\\n")


def keep(epoch):
    kept.with_name(".aside").write_text(str(epoch))
    kept.with_name(".aside").rename(kept)


def finish():
    shutil.copytree(params["saved_model"], told["saved_model"])

"""


class Scripts:
    """Specs of scripts in a folder, on a small snapshot below it.

    A script finds ``told``, ``params`` and the epoch that the try before had kept, ``first``. It may ``say`` and
    ``keep`` an epoch, and ``finish`` with a SavedModel.
    """

    def __init__(self, folder: Path, snapshot: Snapshot | None = None) -> None:
        self.folder = folder
        self.snapshot = snapshot or make_snapshot(folder, rows=100)
        self.model = make_saved_model(folder / "made", 0.5, INPUTS)

    def spec(self, text: str, params: dict[str, Any] | None = None, **changes: Any) -> TrainingSpec:
        """Return the spec of a script with such a text after the preamble."""
        code = self.folder / "code"
        code.mkdir(exist_ok=True)
        (code / "train.py").write_text(PREAMBLE + text)
        spec = {
            "model": "flight_delay", "script": "train.py", "code_path": str(code), "seed": 1, "epochs": 4,
            "batch_size": 10, "snapshot": self.snapshot, "params": {"saved_model": str(self.model), **(params or {})},
        }  # fmt: skip
        return TrainingSpec(**(spec | changes))

    def workdir(self, name: str) -> Workdir:
        """Return a training's folder, as it lies in a home."""
        return Workdir(self.folder / "trainings" / name)
