"""Where a model comes from, as far as it can be found out: code, lock file, data, seed, hardware."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from airflow_mlops.contracts import ModelManifest, TrainingResult, TrainingSpec
from airflow_mlops.engine.data.files import sha256
from airflow_mlops.engine.data.shared import publishing
from airflow_mlops.engine.serving.transform import load_transform
from airflow_mlops.exceptions import ConfigError

MANIFEST_FILE = Path("assets.extra") / "manifest.json"
UNKNOWN = "unknown"
_GIT_TIMEOUT = 10


def pack_manifest(
    spec: TrainingSpec,
    result: TrainingResult,
    *,
    parent_version: str | None,
    triggered_by: str,
    trigger: str = "",
    special: Mapping[str, Any] = MappingProxyType({}),
) -> ModelManifest:
    """Write the model's manifest into its SavedModel and return it.

    A manifest of the same training that is there already stays: registering twice changes no byte of a model.

    :param parent_version: Champion when this was trained.
    :param triggered_by: The run that asked for it.
    :param trigger: What asked for the training, in words.
    :param special: What of it was other than usual.
    :raises ConfigError: when the training is an experiment.
    """
    if spec.experimental:
        raise ConfigError(
            "This training is an experiment, and is not registered.",
            detail=str(Path(result.saved_model).parent),
            hint=f"Change the pipeline as the experiment did, and start {spec.model}.train.",
        )
    path = Path(result.saved_model) / MANIFEST_FILE
    try:
        packed = ModelManifest.from_json(path.read_bytes())
        if packed.spec_hash == result.spec_hash:
            return packed
    except (FileNotFoundError, ValidationError):
        pass  # the usual case: it is written below
    sha, dirty = code_version(spec.code_path)
    manifest = ModelManifest(
        model=spec.model,
        snapshot_id=result.snapshot_id,
        spec_hash=result.spec_hash,
        seed=spec.seed,
        feature_service=spec.snapshot.feature_service,
        feature_project=spec.snapshot.feature_project,
        feature_definition=spec.snapshot.feature_definition,
        feature_code=spec.snapshot.feature_code,
        signature=result.signature,
        code_version=sha,
        code_dirty=dirty,
        lock_hash=lock_hash(spec.code_path),
        hardware=result.hardware,
        versions=result.versions,
        packages_hash=result.packages_hash,
        image=result.image,
        classes=spec.snapshot.classes,
        heads=spec.snapshot.heads,
        transform=spec.transform,
        parent_version=parent_version,
        triggered_by=triggered_by,
        trigger=trigger,
        special=dict(special),
    )
    for file, text in (
        (path.with_name("README.md"), _readme(manifest, spec, Path(result.saved_model))),
        (path, manifest.to_json()),
    ):
        with publishing(file) as made:
            made.write_text(text)
    return manifest


def _readme(manifest: ModelManifest, spec: TrainingSpec, saved_model: Path) -> str:
    """Return what a caller has to know, in words."""
    types = {name: one.dtype for name, one in manifest.signature.inputs.items()}
    if transform := load_transform(saved_model) if spec.transform else None:
        types = {name: one["dtype"] for name, one in transform.inputs.items()}
    inputs = "\n".join(f"| `{name}` | {kind} |" for name, kind in types.items())
    outputs = ", ".join(f"`{name}` ({one.dtype})" for name, one in manifest.signature.outputs.items())
    return _README.format(
        model=manifest.model,
        labels=", ".join(f"`{label}`" for label in spec.snapshot.targets),
        service=manifest.feature_service,
        inputs=inputs,
        outputs=outputs,
        transformed=_TRANSFORMED.format(function=transform.function) if transform else "",
    )


_README = """# {model}

Predicts {labels}. It reads the Feast feature service `{service}`.

A request has all of these inputs; a missing number is NaN, a missing text is "".

| input | type |
|---|---|
{inputs}
{transformed}
It answers {outputs}.

`airflow-mlops ask {model}` says which keys and request fields a caller needs, and with them gives the whole input and a
`curl` line. In Python: `OnlineReader(location, "{service}").inputs(rows, signature)`.
"""
_TRANSFORMED = """
**They go through a transform before the model server is asked**: `{function}`, in `assets.extra/transform/`. In
Python: `airflow_mlops.engine.serving.transform.load_transform(folder)(columns)`; without this package, that folder is a
place to import from.
"""


def code_version(code_path: str | None) -> tuple[str, bool]:
    """Return the git commit of the code path and whether anything in it differs from that commit.

    ``("unknown", False)`` outside git, or without git.
    """
    sha = _git(code_path, "rev-parse", "HEAD")
    if sha is None:
        return UNKNOWN, False
    return sha, bool(_git(code_path, "status", "--porcelain", "--", "."))


def lock_hash(code_path: str | None) -> str | None:
    """Return the SHA-256 of the nearest ``uv.lock`` at or above the code path, if there is one."""
    if code_path is None:
        return None
    folder = Path(code_path).absolute()
    for candidate in (folder, *folder.parents):
        if (candidate / "uv.lock").is_file():
            return sha256(candidate / "uv.lock")
    return None


def _git(code_path: str | None, *arguments: str) -> str | None:
    if code_path is None:
        return None
    try:
        answer = subprocess.run(
            ["git", "-C", code_path, *arguments],
            capture_output=True,
            check=True,
            text=True,
            timeout=_GIT_TIMEOUT,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()
