"""Take a SavedModel that somebody else's code wrote: held against the snapshot, asked its golden questions, packed."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

from airflow_mlops.contracts import Signature, TrainingSpec
from airflow_mlops.engine.serving.saved_model import SavedModel
from airflow_mlops.engine.training.data import TrainingData
from airflow_mlops.engine.training.finish import golden_predictions, pack
from airflow_mlops.engine.training.outputs import outputs_of
from airflow_mlops.engine.training.transform import Given
from airflow_mlops.engine.training.workdir import Workdir
from airflow_mlops.exceptions import DataError, TrainingError, did_you_mean


def adopt(given: Given, made: Path, workdir: Workdir) -> Signature:
    """Let a SavedModel be the training's, with its golden predictions in it.

    :param given: What it was trained on.
    :param made: A folder of that name beside the training's own, which becomes it by a rename.
    :raises TrainingError: when it is not whole, takes other inputs than the snapshot's, or does not answer.
    """
    spec, features = given.spec, given.features
    try:
        with contextlib.closing(SavedModel(made)) as model:
            signature = model.signature
            outputs = _check_signature(spec, signature)
            if given.transform is None:
                # Of these inputs only: others may be of types that no model takes.
                inputs = {name: features.features[name] for name in signature.inputs}
                features = features.model_copy(update={"features": inputs})
            answer = given.asked(model.run, signature.inputs)
            golden = golden_predictions(spec, answer, outputs, TrainingData(features))
    except DataError as error:
        raise TrainingError(
            f"The SavedModel of {spec.named} cannot be used: {error.headline}",
            detail=error.detail,
            hint=error.hint or "Write it whole, with a signature serving_default.",
        ) from None
    pack(made, golden, given.shipped)
    shutil.rmtree(workdir.saved_model, ignore_errors=True)
    made.rename(workdir.saved_model)
    return signature


def _check_signature(spec: TrainingSpec, signature: Signature) -> dict[str, str]:
    """Return label → the output that predicts it, of a model that takes the snapshot's inputs."""
    features = spec.snapshot.features
    if unknown := [name for name in signature.inputs if name not in features]:
        raise TrainingError(
            f"The model takes an input {unknown[0]!r} that is none of {spec.wanted}."
            f"{did_you_mean(unknown[0], features)}",
            detail=f"its serving_default has: {', '.join(signature.inputs)}; there are: {', '.join(features)}",
            hint="Name its inputs as these columns, one value a row: tf.TensorSpec([None], ..., name).",
        )
    wanted, there = outputs_of(spec.snapshot), list(signature.outputs)
    if len(wanted) == len(there) == 1:
        return dict.fromkeys(wanted, there[0])
    for label, output in wanted.items():
        if output not in there:
            raise TrainingError(
                f"The model has no output {output!r}, which is to predict {label!r}.{did_you_mean(output, there)}",
                detail=f"outputs of its serving_default: {', '.join(there)}",
                hint=f"Name its outputs {', '.join(map(repr, wanted.values()))}.",
            )
    return wanted
