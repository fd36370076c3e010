"""A Keras model: checked against the snapshot, and exported. Importing this module imports TensorFlow."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from airflow_mlops.contracts import Signature, TensorSpec, TrainingSpec
from airflow_mlops.engine.data.files import temporary_sibling
from airflow_mlops.engine.training.batches import TF_TYPES
from airflow_mlops.engine.training.inputs import Columns
from airflow_mlops.engine.training.workdir import Workdir
from airflow_mlops.exceptions import TrainingError
from airflow_mlops.problems import problem_named

CLASS = "class"
"""Name of the output that says which class is the likeliest."""

Specs = Mapping[str, TensorSpec]
"""Model input → what its signature says of it."""


def check_model(spec: TrainingSpec, model: keras.Model, wanted: Specs) -> None:
    """Refuse a model that does not take the snapshot's inputs, or predicts something else.

    :raises TrainingError: saying what it must be like.
    """
    declared = getattr(model, "inputs", None) or []  # a subclassed model declares none
    inputs = {tensor.name: tensor for tensor in keras.tree.flatten(declared)}
    if set(inputs) != set(wanted):
        raise TrainingError(
            "The model's inputs are not the snapshot's features.",
            detail=f"{spec.named}; not in the snapshot: {sorted(set(inputs) - set(wanted))}; "
            f"not in the model: {sorted(set(wanted) - set(inputs))}",
            hint="Build a functional model with one keras.Input(shape=(), name=feature, dtype=...) for each feature.",
        )
    for name, tensor in inputs.items():
        shape, dtype = _shape(wanted[name]), wanted[name].dtype
        if tuple(tensor.shape) != shape or not _takes(tensor.dtype, dtype):
            raise TrainingError(
                f"The model takes {name!r} as {tensor.dtype} of shape {tuple(tensor.shape)}, and the snapshot has "
                f"{dtype} of shape {shape}.",
                detail=f"{spec.named}; its column is of type {spec.snapshot.features[name]}",
                hint=f"Declare it as keras.Input(shape={shape[1:]}, name={name!r}, dtype={dtype!r}).",
            )
    problem = problem_named(spec.snapshot.problem)
    outputs = [tuple(tensor.shape) for tensor in keras.tree.flatten(model.outputs)]
    width = problem.width(spec.snapshot.classes)
    if outputs not in ([[(None,)], [(None, 1)]] if width == 1 else [[(None, width)]]):
        raise TrainingError(
            f"The model must have one output, {width} number{'s' if width > 1 else ''} an example: {problem.output}.",
            detail=f"{spec.named}, output shapes {outputs}; the label is {problem.name}"
            + (f" of the classes {', '.join(spec.snapshot.classes)}" if width > 1 else ""),
            hint=f"End with {problem.ending}.",
        )


def export(
    spec: TrainingSpec, model: keras.Model, wanted: Specs, golden: dict[str, Any], workdir: Workdir
) -> Signature:
    """Write the SavedModel with its golden predictions, and let it appear whole."""
    specs = {name: tf.TensorSpec(_shape(one), TF_TYPES[one.dtype], name) for name, one in wanted.items()}
    problem, classes = problem_named(spec.snapshot.problem), spec.snapshot.classes
    width = problem.width(classes)

    def serve(inputs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        predicted = keras.tree.flatten(model(inputs, training=False))[0]
        answer = tf.cast(tf.reshape(predicted, [-1] if width == 1 else [-1, width]), tf.float32)
        if not classes:
            return {problem.output: answer}
        return {problem.output: answer, CLASS: tf.gather(tf.constant(classes), tf.argmax(answer, axis=1))}

    temporary = temporary_sibling(workdir.saved_model)
    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint("serving_default", serve, input_signature=[specs])
    archive.write_out(str(temporary), verbose=False)
    extra = temporary / "assets.extra"
    extra.mkdir()
    (extra / "golden.json").write_text(json.dumps(golden))
    temporary.rename(workdir.saved_model)
    return Signature(
        inputs=dict(wanted),
        outputs={
            problem.output: TensorSpec(dtype="float32", shape=(-1,) if width == 1 else (-1, width)),
            **({CLASS: TensorSpec(dtype="string", shape=(-1,))} if classes else {}),
        },
    )


def answer(spec: TrainingSpec, model: keras.Model, inputs: Columns) -> dict[str, np.ndarray]:
    """Return what the model answers, in memory."""
    predicted = _predict(model, inputs)
    answers = {problem_named(spec.snapshot.problem).output: predicted}
    if classes := spec.snapshot.classes:
        answers[CLASS] = np.array(classes, dtype=object)[predicted.argmax(axis=1)]
    return answers


def _predict(model: keras.Model, inputs: Columns) -> np.ndarray:
    batch = {name: tf.constant(values) for name, values in inputs.items()}
    if model.distribute_strategy.num_replicas_in_sync == 1:
        predicted = model.predict_on_batch(batch)
    else:  # it would answer once for each replica, and wait for those of other workers
        predicted = model(batch, training=False)
    answers = np.asarray(keras.tree.flatten(predicted)[0], dtype=np.float32)
    return answers.reshape(-1) if answers.shape[1:] in ((), (1,)) else answers


def _shape(spec: TensorSpec) -> tuple[int | None, ...]:
    return tuple(None if size < 0 else size for size in spec.shape)


def _takes(declared: str, given: str) -> bool:
    """Return whether Keras casts what is given to what an input declares, and loses nothing but precision."""
    if "string" in (declared, given):
        return declared == given
    return given != "float32" or declared.startswith(("float", "bfloat"))
