"""Models that were made elsewhere: found in whatever folder holds them, made servable, and given golden predictions.

A version's files are written down when it is seen first, and must be the same ever after.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import airflow_mlops
from airflow_mlops.contracts import Signature
from airflow_mlops.engine.data import storage
from airflow_mlops.engine.data.files import checksums, identity, temporary_sibling
from airflow_mlops.engine.data.shared import fetch
from airflow_mlops.engine.serving.asking import Predict, as_asked
from airflow_mlops.engine.serving.golden import GOLDEN_FILE, Golden, refuse_complex
from airflow_mlops.engine.serving.samples import input_example, read_samples
from airflow_mlops.engine.serving.saved_model import DEFAULT_SIGNATURE, SavedModel
from airflow_mlops.engine.serving.tensors import check_types
from airflow_mlops.engine.serving.transform import load_transform
from airflow_mlops.exceptions import DataError, GateError

if TYPE_CHECKING:
    from airflow_mlops.engine.data.storage import AnyPath
    from airflow_mlops.engine.ledger import Ledger
    from airflow_mlops.engine.registry.registry import Registry

SEEN = "model_seen"
"""Fact of the files of a version that was made elsewhere, at first sight."""

UNPROVEN = (
    "It has no golden predictions: nothing will show that it answers where it is loaded as it does here. Give sample "
    "requests (samples=), or log it with an input example."
)
_KERAS = ("*.keras", "*.h5")
_EXPORT_SECONDS = 600
_LAST_LINES = 3

log = logging.getLogger(__name__)


class Servable(NamedTuple):
    """A SavedModel that loads, its signature, and how many golden rows it carries; 0: nothing is proven."""

    saved_model: Path
    signature: Signature
    golden: int


class Fetched(NamedTuple):
    """Where a version's SavedModel lies, and how many golden rows it carries; 0: nothing is proven."""

    saved_model: Path
    golden: int


def make_servable(source: Path, destination: Path, samples: Path | None = None) -> Servable:
    """Find the model below a folder, and put it, as a SavedModel with golden predictions, whole or not at all.

    :param source: A SavedModel, or a folder with one in it, or with one Keras file, as MLflow's flavors have it.
    :param destination: Replaced.
    :param samples: Sample requests; None takes MLflow's input example or TensorFlow Serving's warm-up records, if they
        are there. A model that carries golden predictions keeps those.
    :raises DataError: when there is no model, or it is not whole, cannot be loaded, has types that cannot be served, or
        does not answer the samples.
    """
    temporary = temporary_sibling(destination)
    try:
        _copy(_find(source), temporary)
        with closing(SavedModel(temporary)) as model:
            model.check_whole()
            signature = _signature(model, temporary)
            check_types(signature)
            refuse_complex({name: spec.dtype for name, spec in signature.outputs.items()})
            transform = load_transform(temporary)
            asked, answer = as_asked(transform, signature, model.run)
            file = samples or input_example(source)
            if samples is not None and DEFAULT_SIGNATURE not in model.signatures:
                raise DataError(
                    f"The sample requests cannot be asked: the model has no signature {DEFAULT_SIGNATURE!r}.",
                    detail=f"it has {', '.join(sorted(model.signatures))}",
                    hint="Leave samples out: it is served without golden predictions. Or export it with that one.",
                )
            if file is not None and not (temporary / GOLDEN_FILE).exists() and DEFAULT_SIGNATURE in model.signatures:
                through = transform.function if transform else ""
                Golden.recorded(read_samples(file, asked), answer, through).write(temporary)
            golden = Golden.find(temporary)
            if golden is not None:
                _check(golden, asked, answer, recorded=file is not None)
        shutil.rmtree(destination, ignore_errors=True)
        temporary.rename(destination)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    if golden is None:
        log.warning(UNPROVEN)
    return Servable(destination, signature, golden.rows if golden else 0)


def brought(source: AnyPath, folder: Path) -> Path:
    """Return a folder of this machine with what lies at a path, here or on object storage.

    :param folder: Where to copy what is not here.
    :raises DataError: when nothing lies there.
    """
    if isinstance(source, Path):
        fetch(source)
        there = source.is_dir()
    else:
        with storage.reaching(source):
            root = source.path.rstrip("/")
            names = [str(found).removeprefix(f"{root}/") for found in storage.fresh(source).find(root)]
            for name in names:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                storage.copy(source / name, folder / name)
        there = bool(names)
    if not there:
        raise DataError(
            "There is no model: nothing lies there.",
            detail=str(source),
            hint="Name the folder that holds saved_model.pb. Did the task that writes it succeed?",
        )
    return source if isinstance(source, Path) else folder


def _find(folder: Path) -> Path:
    """Return the one SavedModel below a folder, or the one Keras file."""
    graphs = sorted(path.parent for path in folder.rglob("saved_model.pb"))
    files = sorted(path for pattern in _KERAS for path in folder.rglob(pattern))
    found = graphs or files
    if len(found) == 1:
        return found[0]
    if found:
        raise DataError(
            f"{len(found)} models are there, and which one is meant is not said.",
            detail=", ".join(str(path.relative_to(folder)) for path in found[:5]),
            hint="Name the folder of the one.",
        )
    there = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    raise DataError(
        "There is no model that TensorFlow Serving can serve.",
        detail=f"{folder} has {', '.join(there[:8]) or 'no files'}; wanted is saved_model.pb or a .keras file",
        hint="Export it as a SavedModel, or log it with mlflow.tensorflow.log_model.",
    )


def _copy(found: Path, folder: Path) -> None:
    """Copy a SavedModel, or export one from a Keras file."""
    if found.is_dir():
        shutil.copytree(found, folder)
        return
    root = str(Path(airflow_mlops.__file__).parent.parent)
    kept = {name: value for name, value in os.environ.items() if not name.lstrip("_").startswith("AIRFLOW")}
    command = [sys.executable, "-P", "-m", "airflow_mlops.engine.registry.keras_export", str(found), str(folder)]
    try:
        done = subprocess.run(
            command,
            check=False,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_EXPORT_SECONDS,
            env=kept | {"PYTHONPATH": root, "TF_CPP_MIN_LOG_LEVEL": "3"},
        )
    except subprocess.TimeoutExpired:
        raise DataError(f"{found.name} was not exported within {_EXPORT_SECONDS} s.", detail=str(found)) from None
    if done.returncode:
        said = [line for line in done.stderr.strip().splitlines() if line.strip()][-_LAST_LINES:]
        raise DataError(
            f"Keras cannot load {found.name}, or not export it as a SavedModel.",
            detail="\n         ".join(said),
            hint="A model with classes of its own needs their code: export it where that is: model.export(folder).",
        )


def fetch_version(
    registry: Registry, ledger: Ledger, model: str, version: int, destination: Path, *, samples: Path | None = None
) -> Fetched:
    """Fetch a version of a registered model, whoever made it, as a SavedModel.

    What arrives must be what arrived when the version was seen first.

    :param destination: Folder of the SavedModel; what is there already and whole stays.
    :raises DataError: when there is no such version, its files are gone, or hold no model.
    :raises GateError: when its files are others than at first sight.
    :raises TransientError: when MLflow does not answer.
    """
    seen = _seen(ledger, model, version)
    if registry.is_ours(model, str(version)):
        registry.download(model, str(version), destination)
        content = identity(checksums(destination))
        _see(ledger, seen, {"model": model, "version": version, "files": content, "content": content})
        return _as_it_is(destination)
    if seen is not None and destination.is_dir() and identity(checksums(destination)) == seen["content"]:
        return _as_it_is(destination)
    temporary = temporary_sibling(destination)
    try:
        fetched = registry.download_files(model, str(version), temporary)
        files = identity(checksums(fetched))
        if seen is not None and seen["files"] != files:
            raise GateError(
                f"The files of version {version} of {model!r} are not those that were there at first.",
                detail=f"seen first {seen['files'][:16]}, now {files[:16]}",
                hint="A version does not change: register what was changed as a new version.",
            )
        made = make_servable(fetched, destination, samples)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    content = identity(checksums(destination))
    _see(ledger, seen, {"model": model, "version": version, "files": files, "content": content})
    return Fetched(destination, made.golden)


def check_seen(ledger: Ledger, model: str, version: int, folder: Path) -> None:
    """Refuse a SavedModel that is not the version that was fetched under this number; of others nothing is known.

    :raises GateError: when its files are others.
    """
    seen = _seen(ledger, model, version)
    if seen is not None and identity(checksums(folder)) != seen["content"]:
        raise GateError(
            f"What is to be published as version {version} of {model!r} is not what the registry has as that.",
            detail=f"{folder} has other files than what was fetched first",
            hint="Fetch the version and publish that; or register this one: it gets a number of its own.",
        )


def _see(ledger: Ledger, seen: dict[str, Any] | None, payload: dict[str, Any]) -> None:
    if seen != payload:
        ledger.record(SEEN, payload["model"], payload, key=str(payload["version"]))


def _as_it_is(folder: Path) -> Fetched:
    golden = Golden.find(folder)
    return Fetched(folder, golden.rows if golden else 0)


def _check(golden: Golden, signature: Signature, answer: Predict, *, recorded: bool) -> None:
    """Ask a model again what it was asked when its golden predictions were made."""
    try:
        golden.check(answer, signature, tolerance=1e-5)
    except GateError as error:
        if not recorded:
            raise
        raise DataError(
            "The model answers the same request differently when asked twice.",
            detail=error.detail,
            hint="Nothing can be compared with what is random: export it for inference, with training=False.",
        ) from None


def _signature(model: SavedModel, folder: Path) -> Signature:
    """Return the signature ``serving_default``, else the first one by name."""
    if not model.signatures:
        raise DataError(
            "The SavedModel has no signature, so nothing can be asked of it.",
            detail=str(folder),
            hint="Export it with one: model.export(folder), or tf.saved_model.save(..., signatures=...).",
        )
    return model.signatures.get(DEFAULT_SIGNATURE) or model.signatures[min(model.signatures)]


def _seen(ledger: Ledger, model: str, version: int) -> dict[str, Any] | None:
    facts = ledger.facts(SEEN, model, key=str(version), limit=1)
    return facts[0].payload if facts else None


def content_of(registry: Registry, ledger: Ledger, model: str, version: int) -> str:
    """Return the hash of the files of a version's SavedModel.

    :raises DataError: when nobody here has seen them yet.
    """
    if registry.is_ours(model, str(version)):
        return registry.content_hash(model, str(version))
    seen = _seen(ledger, model, version)
    if seen is None:
        raise DataError(
            f"What version {version} of {model!r} is made of is not known yet.",
            detail="it was logged by somebody else, and never fetched here",
            hint="Fetch it first, with MLflowFetchModelOperator.",
        )
    return str(seen["content"])
