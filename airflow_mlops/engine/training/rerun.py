"""Train a registered version again, and say whether the same comes out.

A training is a function of its snapshot, its code, its seed, and the versions of what it runs on. All of that is on
record, so it can be repeated; on CPU the weights are then the same to the last bit.
"""

from __future__ import annotations

import io
import logging
import math
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from airflow_mlops.contracts import ModelManifest, Snapshot, TrainingResult, TrainingSpec
from airflow_mlops.engine.data.snapshots import check_whole, load_snapshot
from airflow_mlops.engine.evaluation.evaluate import evaluate
from airflow_mlops.engine.registry.lookup import find_version
from airflow_mlops.engine.registry.manifest import MANIFEST_FILE, UNKNOWN, code_version, lock_hash
from airflow_mlops.engine.registry.registry import Registry
from airflow_mlops.engine.serving.asking import as_asked
from airflow_mlops.engine.serving.golden import Golden
from airflow_mlops.engine.serving.saved_model import SavedModel
from airflow_mlops.engine.serving.transform import load_transform
from airflow_mlops.engine.training.environment import environment
from airflow_mlops.engine.training.launch import TrainingProcess
from airflow_mlops.engine.training.source import code_hash
from airflow_mlops.engine.training.weights import same_weights
from airflow_mlops.exceptions import DataError, GateError, MlopsError
from airflow_mlops.resources import GPU

_GIT_SECONDS = 60
_SHOWN = 12
"""Characters of a hash that tell it from others."""


class Rerun(NamedTuple):
    """What came out of training a version again."""

    model: str
    version: str
    same_weights: bool
    """Whether all variables of both SavedModels are the same to the last bit."""
    largest_difference: float
    """Between golden predictions, absolute."""
    metrics: dict[str, tuple[float, float]]
    """Metric → its value of the version, and of the training made again, on the test split."""
    other: tuple[str, ...]
    """What is not as it was then, in words: versions, installed packages, lock file, commit, image, hardware."""

    @property
    def agrees(self) -> bool:
        """Whether weights, golden predictions and metrics are those of the version."""
        return self.same_weights and not self.largest_difference and not any(map(_differ, self.metrics.values()))

    def check(self) -> None:
        """Refuse what is not the same.

        :raises GateError: saying what differs.
        """
        if not self.agrees:
            raise GateError(
                f"Version {self.version} of {self.model!r} does not come out the same again.",
                detail=str(self),
                hint="Install the versions of then. What draws lots without the seed never comes out the same.",
            )

    def __str__(self) -> str:
        weights = (
            "the weights are the same to the last bit"
            if self.same_weights
            else f"the weights differ, and golden predictions by {self.largest_difference:.3g}"
        )
        scores = ", ".join(
            f"{name} {both[0]:.6g}" + (f" then, {both[1]:.6g} now" if _differ(both) else "")
            for name, both in self.metrics.items()
        )
        return "\n".join(
            [f"{self.model} {self.version}: the snapshot is whole, {weights}.", f"Test split: {scores}.", *self.other]
        )


def rerun(
    registry: Registry,
    home: Path,
    model: str,
    version: str,
    *,
    timeout: float,
    code_path: str | None = None,
    gpu: GPU | None = None,
    log: logging.Logger | Any = None,
    task: str = "",
) -> Rerun:
    """Train a version again, from its own snapshot and its own code, in a folder that is removed afterwards.

    Code that has changed since is taken from git, as of the commit that the version was trained at.

    :param home: Where its snapshot lies.
    :param timeout: Seconds that the training may take.
    :param code_path: Folder of the code; default is where it lay then.
    :param gpu: GPUs to train on.
    :param task: Who takes them, in words, for others who wait for them.
    :raises DataError: when something is missing, naming all of it; or the version was made elsewhere.
    :raises TrainingError: when the training fails.
    :raises TransientError: when MLflow does not answer.
    """
    with tempfile.TemporaryDirectory(prefix="mlops-rerun-") as folder:
        find_version(registry, model, version)
        registered = registry.download(model, version, Path(folder) / "registered")
        spec, manifest = registry.training_spec(model, version), _manifest(registered)
        snapshot, missing = _snapshot(home, spec)
        with _code(spec, manifest, code_path) as code:
            if code is None:
                missing.append(_no_code(spec, manifest))
            if snapshot is None or code is None:
                raise DataError(
                    f"Version {version} of {model!r} cannot be trained again.",
                    detail="; ".join(missing),
                    hint=" ".join(_help(spec, lost=snapshot is None, other=code is None)),
                )
            asked = spec.model_copy(update={"snapshot": snapshot, "code_path": code, "environment": environment()})
            result = TrainingProcess(asked, Path(folder) / "training", log, gpu=gpu, task=task).run(timeout)
            made = Path(result.saved_model)
            measured = evaluate(snapshot, made, registered, version).metrics
            return Rerun(
                model,
                version,
                same_weights(registered, made),
                _difference(registered, made),
                {name: (then, measured["challenger"][name]) for name, then in measured["champion"].items()},
                tuple(_other(asked, spec, manifest, result, code_path or spec.code_path)),
            )


def _differ(both: tuple[float, float]) -> bool:
    then, now = both
    return then != now and not (math.isnan(then) and math.isnan(now))


def _manifest(saved_model: Path) -> ModelManifest:
    return ModelManifest.from_json((saved_model / MANIFEST_FILE).read_bytes())


def _snapshot(home: Path, spec: TrainingSpec) -> tuple[Snapshot | None, list[str]]:
    """Return the snapshot with every byte of it, or what is wrong with it."""
    try:
        snapshot = load_snapshot(home, spec.snapshot.id)
        check_whole(snapshot)
    except DataError as error:
        return None, [f"{error.headline} {error.detail}".rstrip()]
    return snapshot, []


@contextmanager
def _code(spec: TrainingSpec, manifest: ModelManifest, code_path: str | None) -> Iterator[str | None]:
    """Give the folder in which the code is that of then: where it lay, or as git has it; None when neither is."""
    here = code_path or spec.code_path
    if here is None or code_hash(spec, here) == spec.code_hash:
        yield here or "."
        return
    with tempfile.TemporaryDirectory(prefix="mlops-code-") as folder:
        then = _checked_out(here, manifest.code_version, Path(folder))
        yield folder if then and code_hash(spec, folder) == spec.code_hash else None


def _checked_out(code_path: str, commit: str, folder: Path) -> bool:
    """Write a folder as it was at a commit; False when git does not have it."""
    if commit == UNKNOWN:
        return False
    try:
        packed = subprocess.run(
            ["git", "-C", code_path, "archive", "--format=tar", commit, "."],
            capture_output=True,
            check=True,
            timeout=_GIT_SECONDS,
        )
    except (OSError, subprocess.SubprocessError):
        return False
    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return True


def _help(spec: TrainingSpec, *, lost: bool, other: bool) -> Iterator[str]:
    if lost and spec.snapshot.partitions:
        yield f"Make the snapshot again: `airflow-mlops rebuild {spec.snapshot.id}`."
    elif lost:
        yield "Bring back the files of the snapshot: of data of your own it cannot be made again."
    if other:
        yield "Say where the code of then lies, with --code; or commit what is trained."


def _no_code(spec: TrainingSpec, manifest: ModelManifest) -> str:
    if manifest.code_version == UNKNOWN:
        return f"the code of the {spec.named} is another now, and it was in no git repository then"
    dirty = ", which had changes that were not committed" if manifest.code_dirty else ""
    return f"the code of the {spec.named} is neither here nor in commit {manifest.code_version[:12]}{dirty}"


def _other(
    now: TrainingSpec, then: TrainingSpec, manifest: ModelManifest, made: TrainingResult, code_path: str | None
) -> list[str]:
    """Return what is not as it was then, in words; what nobody wrote down then is not compared.

    :param code_path: Folder of the code as it lies here, from which the lock file and the commit are.
    """
    commit, _ = code_version(code_path)
    pairs = {name: (version, now.environment.get(name)) for name, version in then.environment.items()}
    pairs |= {  # of a training elsewhere the image was all that was asked for
        "hardware": (manifest.hardware, made.hardware),
        "image": (manifest.image, made.image or "none"),
        "set of installed packages": (manifest.packages_hash[:_SHOWN], made.packages_hash[:_SHOWN]),
        "uv.lock": ((manifest.lock_hash or "")[:_SHOWN], (lock_hash(code_path) or "none")[:_SHOWN]),
        "commit, with the same code of the training,": (
            manifest.code_version.replace(UNKNOWN, "")[:_SHOWN],
            commit[:_SHOWN],
        ),
    }
    other = [f"Another {name}: {was} then, {here} now." for name, (was, here) in pairs.items() if was and was != here]
    return [*other, *(["Its folder had changes then that were not committed."] if manifest.code_dirty else [])]


def _difference(registered: Path, made: Path) -> float:
    """Return how far the golden predictions of two models lie apart."""
    golden = Golden.read(registered)
    with closing(SavedModel(made)) as model:
        try:
            signature, answer = as_asked(load_transform(made), model.signature, model.run)
            return golden.check(answer, signature, tolerance=float("inf")).max_difference
        except MlopsError:
            return float("inf")
