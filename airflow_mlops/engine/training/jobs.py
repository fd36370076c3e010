"""What a training elsewhere is given, and what it says, in the home that both sides reach.

``jobs/<id>/`` has ``spec.json`` and ``code.zip`` and never changes; ``<id>`` begins the spec's hash. ``progress/<id>/``
has ``progress.json`` while it trains, and ``error.json`` when it has failed.
"""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from airflow_mlops.contracts import TrainingProgress, TrainingSpec
from airflow_mlops.engine.data.files import temporary_sibling
from airflow_mlops.engine.data.shared import discard, fetch, is_shared, origin, send
from airflow_mlops.engine.training.source import script_files, source_files
from airflow_mlops.engine.training.workdir import Workdir, write_text
from airflow_mlops.exceptions import ConfigError, DataError, MlopsError, TrainingError, TransientError

_LONGEST_NAME = 63
"""Of a pod's name, and of a training job's of SageMaker."""
_ID = 16


@dataclass(frozen=True)
class Job:
    """A training elsewhere, by its id in a shared home."""

    home: Path
    id: str

    @property
    def folder(self) -> Path:
        """What it is given."""
        return self.home / "jobs" / self.id

    @property
    def code(self) -> Path:
        """The user's code."""
        return self.folder / "code.zip"

    @property
    def workdir(self) -> Workdir:
        """Where its result is."""
        return Workdir(self.home / "trainings" / self.id)

    @property
    def progress_file(self) -> Path:
        """How far it is."""
        return self.home / "progress" / self.id / "progress.json"

    @property
    def error_file(self) -> Path:
        """Why it failed."""
        return self.home / "progress" / self.id / "error.json"

    def spec(self) -> TrainingSpec:
        """Return what is to be trained, with paths of this machine.

        :raises DataError: when it was never published.
        """
        fetch(self.folder)
        try:
            spec = TrainingSpec.from_json((self.folder / "spec.json").read_bytes())
        except FileNotFoundError:
            raise DataError(
                f"There is no training {self.id} to do.",
                detail=f"{origin(self.folder)} is not there",
                hint="Clear the task that prepares it. Does the job see the same bucket as the workers?",
            ) from None
        snapshot = spec.snapshot.model_copy(update={"uri": str(self.home / "snapshots" / spec.snapshot.id)})
        return spec.model_copy(update={"snapshot": snapshot})

    def unpack(self, folder: Path) -> None:
        """Lay the user's code into a folder."""
        with zipfile.ZipFile(self.code) as packed:
            packed.extractall(folder)

    def say_progress(self, progress: TrainingProgress) -> None:
        """Let others see how far it is."""
        write_text(self.progress_file, progress.to_json())
        send(self.progress_file)

    def progress(self) -> TrainingProgress | None:
        """Return how far it is, as it said last."""
        fetch(self.progress_file)
        try:
            return TrainingProgress.from_json(self.progress_file.read_bytes())
        except (FileNotFoundError, ValidationError):
            return None

    def say_error(self, error: MlopsError) -> None:
        """Let others see why it failed."""
        words = {"headline": error.headline, "detail": error.detail, "hint": error.hint, "retryable": error.retryable}
        write_text(self.error_file, json.dumps(words, indent=2))
        send(self.error_file)

    def error(self) -> MlopsError | None:
        """Return why it failed, as it said itself; None when it did not."""
        fetch(self.error_file)
        try:
            words: dict[str, str] = json.loads(self.error_file.read_bytes())
        except FileNotFoundError:
            return None
        return (TransientError if words.pop("retryable") else TrainingError)(**words)

    def forget_error(self) -> None:
        """Begin anew."""
        discard(self.error_file)
        self.error_file.unlink(missing_ok=True)


def publish(home: Path, spec: TrainingSpec) -> Job:
    """Let a shared home have a training to do, and its code; return it.

    :raises ConfigError: when the home is of one machine.
    """
    if not is_shared(home):
        raise ConfigError(
            "A training elsewhere needs a home that it can reach.",
            detail=f"home is {home}, a folder of this machine",
            hint="Put it in a bucket: AIRFLOW__MLOPS__HOME=s3://aws_default@bucket/prefix. Or train with "
            'launcher="local".',
        )
    job = Job(home, spec.hash[:_ID])
    job.forget_error()
    fetch(job.folder)
    if not (job.folder / "spec.json").is_file():
        made = temporary_sibling(job.folder)
        made.mkdir()
        _pack(code_files(spec), made / job.code.name)
        (made / "spec.json").write_text(spec.to_json())
        send(made, job.folder)
        shutil.rmtree(made)
        fetch(job.folder)
    return job


def code_files(spec: TrainingSpec) -> dict[str, Path]:
    """Return the files beside the DAG file that a training runs, by their paths below its folder.

    What is installed is not among them: it is to be in the image.
    """
    named = [name for name in (spec.fit or spec.entrypoint, spec.golden, spec.transform) if name]
    found = [source_files(name, spec.code_path) for name in named]
    if spec.script:
        found.append(script_files(spec.script, spec.code_path))
    beside = Path(spec.code_path or ".")
    return {name: path for some in found for name, path in some.items() if path.is_relative_to(beside)}


def job_name(job: Job, spec: TrainingSpec) -> str:
    """Return a name for it that every cluster takes, the same for the same training.

    >>> job_name(Job(Path("/home"), "0123456789abcdef"), spec)
    'flight-delay-0123456789abcdef'
    """
    model = re.sub(r"[^a-z0-9]+", "-", spec.model.lower()).strip("-")
    return f"{model[: _LONGEST_NAME - _ID - 1].rstrip('-')}-{job.id}"


def _pack(files: Mapping[str, Path], target: Path) -> None:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, path in sorted(files.items()):
            packed.writestr(zipfile.ZipInfo(name), path.read_bytes())
