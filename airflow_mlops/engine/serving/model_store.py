"""The model store: ``<base>/<version>/``, the folders a model server reads.

A version appears in one rename, complete and proven, or not at all. That matters more here than elsewhere: a
server loads a folder that has ``saved_model.pb`` but no variables yet, calls it AVAILABLE, drops the version
that worked, and then fails every request.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Literal

from airflow_mlops.contracts import Signature, TensorSpec
from airflow_mlops.engine.data.files import TEMPORARY, sync, temporary_sibling, tree_hash
from airflow_mlops.engine.locks import locked
from airflow_mlops.engine.serving.asking import as_asked
from airflow_mlops.engine.serving.golden import GOLDEN_FILE, Golden
from airflow_mlops.engine.serving.golden_cases import GoldenCase
from airflow_mlops.engine.serving.saved_model import SavedModel
from airflow_mlops.engine.serving.transform import Transform, load_transform
from airflow_mlops.exceptions import DataError, GateError, TransientError

log = logging.getLogger(__name__)

LOCK_FILE = ".publish.lock"
"""Name of the file, beside the versions, that whoever adds or removes one holds."""


SignatureChanges = Literal["refuse", "additive", "any"]
"""Which changes of a signature may be published: none; new inputs beside all that were there; or any."""


def publish(
    source: Path,
    base: Path,
    version: int,
    *,
    serving: int | None = None,
    signature_changes: SignatureChanges = "refuse",
    tolerance: float = 1e-5,
    require_golden: bool = False,
    cases: Sequence[GoldenCase] = (),
    check: Callable[[Path], None] | None = None,
) -> Path:
    """Copy a SavedModel into the store and return its folder there.

    Can be killed at any moment and repeated at any time: what a dead publisher left is swept, and a version
    that is there already with the same content is proven again and left alone.

    :param source: Folder of the SavedModel. Without golden predictions in it nothing proves that it answers as it did
        where it was made.
    :param base: The model's folder in the store.
    :param version: Number to publish it under.
    :param serving: Version in the store whose callers are to be served by this one.
    :param signature_changes: What may be different for them.
    :param tolerance: Largest absolute difference to the golden predictions.
    :param require_golden: Refuse one without golden predictions.
    :param cases: Golden predictions of the model, whatever its version, that it must answer too.
    :param check: Called with the source, to refuse it by an error.
    :raises DataError: when the source is not a SavedModel that loads and answers.
    :raises GateError: when the number is taken by another model, the signature differs, the predictions do, or there
        are none and they are required.
    :raises TransientError: when the store cannot be written.
    """
    published = base / str(version)
    current = None if serving is None or signature_changes == "any" else base / str(serving)

    def prove(folder: Path) -> None:
        _prove(folder, current, signature_changes, tolerance, require_golden=require_golden, cases=cases)

    if not (source / "saved_model.pb").is_file():
        raise DataError(
            "There is no SavedModel to publish.",
            detail=f"{source} has no saved_model.pb",
            hint="Check the task that trained or downloaded it.",
        )
    if check is not None:
        check(source)
    with locked(base / LOCK_FILE):
        _sweep(base)
        if published.exists():
            _check_same_content(source, published)
            prove(published)
            os.utime(published)  # a sweep takes it for new again
            return published
        staged = temporary_sibling(published)
        try:
            _copy(source, staged)
            prove(staged)
            staged.rename(published)
            sync(base)
        finally:
            shutil.rmtree(staged, ignore_errors=True)
    return published


def check_signature(candidate: Signature, current: Signature, allowed: SignatureChanges = "refuse") -> None:
    """Refuse a signature that differs from the one that callers use now.

    A new input is as breaking as a lost one, since the server demands all of them; a second output changes the
    form of every REST answer.

    :param allowed: With ``additive``, inputs may be new: whoever lets them be tells the callers.
    :raises GateError: naming what changed.
    """
    added = candidate.inputs.keys() - current.inputs.keys() if allowed == "additive" else set()
    inputs = {name: spec for name, spec in candidate.inputs.items() if name not in added}
    changes = (
        []
        if allowed == "any"
        else [
            *_changes("input", inputs, current.inputs),
            *_changes("output", candidate.outputs, current.outputs),
        ]
    )
    if changes:
        raise GateError(
            "The candidate's signature is not the one that callers use now.",
            detail="; ".join(changes),
            hint="Restore it in the model's code, or deploy under a new model name and move the callers. Once they can "
            "send what is new, Deploy(signature_changes='additive') lets new inputs through, 'any' everything; so does "
            "the field of that name in the form of <model>.deploy.",
        )


def _changes(kind: str, candidate: dict[str, TensorSpec], current: dict[str, TensorSpec]) -> list[str]:
    return [
        *(f"{kind} {name!r} is gone" for name in sorted(current.keys() - candidate.keys())),
        *(f"{kind} {name!r} is new" for name in sorted(candidate.keys() - current.keys())),
        *(
            f"{kind} {name!r} was {_describe(current[name])} and is {_describe(candidate[name])}"
            for name in sorted(current.keys() & candidate.keys())
            if current[name] != candidate[name]
        ),
    ]


def _describe(spec: TensorSpec) -> str:
    return f"{spec.dtype}{list(spec.shape)}"


def _prove(
    folder: Path,
    current: Path | None,
    allowed: SignatureChanges,
    tolerance: float,
    *,
    require_golden: bool,
    cases: Sequence[GoldenCase],
) -> None:
    """Load a version as the server will, and ask it what it was asked where it was made."""
    transform = load_transform(folder)
    if current is not None:
        _say_other_transform(transform, current)
    with closing(SavedModel(folder)) as model:
        model.check_whole()
        if not model.signatures:
            raise DataError(
                "The SavedModel has no signature, so nobody could ask it anything.",
                detail=f"version {folder.name}",
                hint="Export it with one: model.export(folder), or tf.saved_model.save(..., signatures=...).",
            )
        if current is not None:
            _check_signatures(model.signatures, _signatures(current), allowed)
        golden = Golden.find(folder)
        if golden is not None:
            signature, answer = as_asked(transform, model.signature, model.run)
            golden.check(answer, signature, tolerance)
        elif require_golden:
            raise GateError(
                "The model has no golden predictions, so nothing would show that it answers as it did.",
                detail=f"{folder}: no {GOLDEN_FILE}",
                hint="Register or fetch it with sample requests, samples='requests.json'; or, in a DAG of your own, "
                "publish it with require_golden=False.",
            )
        else:
            log.warning("%s has no golden predictions: nothing shows that it answers as it did.", folder.name)
        for case in cases:
            signature, answer = as_asked(transform, model.signature, model.run)
            case.check(answer, signature)


def _say_other_transform(transform: Transform | None, current: Path) -> None:
    """Warn of callers who transform by themselves: nothing in a signature shows that it has to be done otherwise."""
    before = load_transform(current) if current.is_dir() else None
    if (before and before.identity) != (transform and transform.identity):
        log.warning(
            "This version has %s transform than version %s, which serves: who asks must load that of the version that "
            "answers.",
            "another" if transform and before else "a" if transform else "no",
            current.name,
        )


def _check_signatures(
    candidate: Mapping[str, Signature], current: Mapping[str, Signature], allowed: SignatureChanges
) -> None:
    """Refuse a change of any signature that callers may name."""
    if gone := sorted(current.keys() - candidate.keys()):
        raise GateError(
            f"The candidate lacks a signature that callers use now: {gone[0]!r}.",
            detail=f"it has {', '.join(sorted(candidate)) or 'none'}",
            hint="Export it with the same signatures, or allow it with signature_changes='any'.",
        )
    for name, signature in current.items():
        check_signature(candidate[name], signature, allowed)


def _signatures(folder: Path) -> dict[str, Signature]:
    if not folder.is_dir():
        raise DataError(
            "The version that serves now is not in the model store, so its signature cannot be compared.",
            detail=f"{folder} does not exist",
            hint="Put its folder back, or publish with signature_changes='any'.",
        )
    with closing(SavedModel(folder)) as model:
        return model.signatures


def _check_same_content(source: Path, published: Path) -> None:
    if tree_hash(source) != tree_hash(published):
        raise GateError(
            f"Version {published.name} is taken by another model; a published version never changes.",
            detail=f"{published} differs from {source}",
            hint="Publish under a new version. If the folder was damaged, take the version out of service "
            "and remove it first.",
        )


def _copy(source: Path, staged: Path) -> None:
    try:
        shutil.copytree(source, staged)
        _sync_tree(staged)
    except OSError as error:
        raise TransientError(
            "The model could not be copied into the model store.",
            detail=f"{source} → {staged.parent}: {error}",
            hint="Check the space and the permissions there.",
        ) from error
    if tree_hash(source) != tree_hash(staged):
        raise TransientError(
            "The model changed while it was being copied.",
            detail=str(source),
            hint="Make sure that nothing writes to it any more, then run this task again.",
        )


def _sync_tree(folder: Path) -> None:
    for parent, _, files in os.walk(folder):
        for name in files:
            sync(Path(parent, name))
        sync(Path(parent))


def _sweep(base: Path) -> None:
    """Remove what killed publishers left; whoever holds the lock knows that none of it is in use."""
    for leftover in base.glob(f"{TEMPORARY}*"):
        shutil.rmtree(leftover, ignore_errors=True)
