"""The folder of one training: what lies where, and when it counts as done."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from airflow_mlops.contracts import Evaluation, TrainingResult, TrainingSpec, content_hash
from airflow_mlops.engine.data.files import replacing, sha256
from airflow_mlops.engine.data.shared import fetch, is_shared, publishing
from airflow_mlops.exceptions import DataError

_CHECKPOINT = re.compile(r"\d{8}-\d{10}\.npz")
TENSORBOARD = "tensorboard"
"""Folder of a finished training with its logs for TensorBoard, if it was asked for them."""


@dataclass(frozen=True)
class Workdir:
    """Names inside a training's folder. ``result.json`` comes last: without it nothing else counts."""

    path: Path

    @property
    def spec(self) -> Path:
        """What was asked for: :class:`~airflow_mlops.contracts.TrainingSpec`."""
        return self.path / "spec.json"

    @property
    def saved_model(self) -> Path:
        """The exported SavedModel."""
        return self.path / "saved_model"

    @property
    def checksums(self) -> Path:
        """File of the SavedModel → its SHA-256."""
        return self.path / "saved_model.sha256.json"

    @property
    def result(self) -> Path:
        """What came out: :class:`~airflow_mlops.contracts.TrainingResult`."""
        return self.path / "result.json"

    @property
    def error(self) -> Path:
        """Why nothing came out: headline, detail, hint."""
        return self.path / "error.json"

    @property
    def progress(self) -> Path:
        """How far it is: :class:`~airflow_mlops.contracts.TrainingProgress`."""
        return self.path / "progress.json"

    @property
    def checkpoints(self) -> Path:
        """What the next try goes on from. In a home beside the trainings: those are shared only when they are done."""
        home = self.path.parent.parent
        in_home = self.path.parent.name == "trainings"
        return home / "checkpoints" / self.path.name if in_home else self.path / "checkpoints"

    def is_whole(self, path: Path) -> bool:
        """Whether a file was renamed into place, as the checkpoints of a model function are: it stays as it is."""
        return path.parent == self.checkpoints and _CHECKPOINT.fullmatch(path.name) is not None

    @property
    def lines(self) -> Path:
        """What a fit function or a script reported, a line of JSON each; an empty line where a try began."""
        return self.checkpoints / "progress.jsonl"

    @property
    def spent(self) -> Path:
        """How long its tries took so far: see :class:`~airflow_mlops.engine.training.spending.Spending`."""
        return self.checkpoints / "spent.json"

    @property
    def tensorboard(self) -> Path:
        """Logs for TensorBoard, while it trains."""
        return self.checkpoints / TENSORBOARD

    @property
    def keeps(self) -> bool:
        """Whether there is anything that a try can go on from."""
        there = self.checkpoints.iterdir() if self.checkpoints.is_dir() else ()
        aside = (self.lines, self.spent, self.tensorboard)
        return any(path not in aside and path.name[0] != "." for path in there)

    def finished(self, spec_hash: str) -> TrainingResult | None:
        """Return the result of this very spec if it is there, with every byte of its SavedModel."""
        try:
            result = TrainingResult.from_json(self.result.read_bytes())
            checksums = json.loads(self.checksums.read_bytes())
            intact = all(sha256(self.saved_model / name) == digest for name, digest in checksums.items())
        except (FileNotFoundError, ValidationError, ValueError):
            return None
        if not intact or result.spec_hash != spec_hash:
            return None
        return result.model_copy(update={"saved_model": str(self.saved_model)})

    def keep(self, evaluation: Evaluation) -> Path:
        """Write an evaluation under a name of its own: what was judged by it stays what it was."""
        text = evaluation.to_json()
        path = self.path / f"evaluation-{content_hash(text)[:16]}.json"
        with publishing(path) as made:
            made.write_text(text)
        return path


def finished_training(workdir: Path) -> tuple[TrainingSpec, TrainingResult]:
    """Return the spec and the result of a finished training.

    :raises DataError: when it is not there, or not whole.
    """
    fetch(workdir)
    try:
        spec = read_spec(workdir)
        result = Workdir(workdir).finished(spec.hash)
    except (FileNotFoundError, ValidationError):
        result = None
    if result is None:
        raise DataError(
            "There is no finished training to work with.",
            detail=f"{workdir}: no result, or its SavedModel is not as it was written",
            hint="Run the training task again; it trains anew only what is not whole.",
        )
    return spec, result


def read_evaluation(path: Path) -> Evaluation:
    """Return a kept evaluation.

    :raises DataError: when it is not there.
    """
    fetch(path)
    try:
        return Evaluation.from_json(path.read_bytes())
    except (FileNotFoundError, ValidationError) as error:
        raise DataError(
            "There is no evaluation to work with.",
            detail=f"{path}: {type(error).__name__}",
            hint="Run the evaluation task again.",
        ) from None


def evaluated_training(evaluation: Path) -> str:
    """Return of what a kept evaluation is: the hash of the training's spec, or of the files of a SavedModel."""
    folder = evaluation.parent
    return read_spec(folder).hash if Workdir(folder).spec.exists() else folder.name


def write_text(path: Path, text: str) -> None:
    """Write a small file so that it is there whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text)


def read_spec(workdir: Path) -> TrainingSpec:
    """Return the spec of the training in ``workdir``.

    In a shared home its snapshot lies beside it, whatever the machine that trained it calls that.
    """
    spec = TrainingSpec.from_json(Workdir(workdir).spec.read_bytes())
    if not is_shared(workdir):
        return spec
    snapshot = spec.snapshot.model_copy(update={"uri": str(workdir.parent.parent / "snapshots" / spec.snapshot.id)})
    return spec.model_copy(update={"snapshot": snapshot})
