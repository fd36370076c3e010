"""The folder of one training: what lies where, and when it counts as done."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from airflow_mlops.contracts import TrainingResult, TrainingSpec
from airflow_mlops.engine.data.files import replacing, sha256


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
    def evaluation(self) -> Path:
        """How good it is: :class:`~airflow_mlops.contracts.Evaluation`."""
        return self.path / "evaluation.json"

    def finished(self, spec_hash: str) -> TrainingResult | None:
        """Return the result of this very spec if it is there, with every byte of its SavedModel."""
        try:
            result = TrainingResult.from_json(self.result.read_bytes())
            checksums = json.loads(self.checksums.read_bytes())
            intact = all(sha256(self.saved_model / name) == digest for name, digest in checksums.items())
        except (FileNotFoundError, ValidationError, ValueError):
            return None
        return result if intact and result.spec_hash == spec_hash else None


def write_text(path: Path, text: str) -> None:
    """Write a small file so that it is there whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text)


def read_spec(workdir: Path) -> TrainingSpec:
    """Return the spec of the training in ``workdir``."""
    return TrainingSpec.from_json(Workdir(workdir).spec.read_bytes())


def checksums(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file under ``folder``, by relative path."""
    return {str(path.relative_to(folder)): sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()}
