"""A Keras model: checked against the snapshot, and exported. Importing this module imports TensorFlow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from airflow_mlops.contracts import Signature, Snapshot, TensorSpec, TrainingSpec
from airflow_mlops.engine.data.files import temporary_sibling
from airflow_mlops.engine.training.batches import TF_TYPES
from airflow_mlops.engine.training.finish import pack
from airflow_mlops.engine.training.inputs import Columns
from airflow_mlops.engine.training.outputs import CLASS, called, outputs_of
from airflow_mlops.engine.training.transform import Given
from airflow_mlops.engine.training.workdir import Workdir
from airflow_mlops.exceptions import TrainingError, did_you_mean
from airflow_mlops.problems import problem_named

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
            f"The model's inputs are not {spec.wanted}.",
            detail=f"{spec.named}; not among these: {sorted(set(inputs) - set(wanted))}; "
            f"not in the model: {sorted(set(wanted) - set(inputs))}",
            hint="Build a functional model with one keras.Input(shape=(), name=..., dtype=...) for each of them.",
        )
    for name, tensor in inputs.items():
        shape, dtype = _shape(wanted[name]), wanted[name].dtype
        if tuple(tensor.shape) != shape or not _takes(tensor.dtype, dtype):
            raise TrainingError(
                f"The model takes {name!r} as {tensor.dtype} of shape {tuple(tensor.shape)}, and is given "
                f"{dtype} of shape {shape}.",
                detail=f"{spec.named}; its column is of type {spec.snapshot.features[name]}",
                hint=f"Declare it as keras.Input(shape={shape[1:]}, name={name!r}, dtype={dtype!r}).",
            )
    if spec.snapshot.heads:
        _check_names(spec, model)
    for name, tensors in _by_label(spec.snapshot, model.output).items():
        target = spec.snapshot.targets[name]
        problem, outputs = problem_named(target.problem), [tuple(one.shape) for one in keras.tree.flatten(tensors)]
        width = problem.width(target.classes)
        if outputs not in ([[(None,)], [(None, 1)]] if width == 1 else [[(None, width)]]):
            which = f"one output for {name!r}" if spec.snapshot.heads else "one output"
            raise TrainingError(
                f"The model must have {which}, {width} number{'s' if width > 1 else ''} an example: {problem.output}.",
                detail=f"{spec.named}, output shapes {outputs}; the label is {problem.name}"
                + (f" of the classes {', '.join(target.classes)}" if width > 1 else ""),
                hint=f"End with {problem.ending}.",
            )


def _check_names(spec: TrainingSpec, model: keras.Model) -> None:
    """Refuse outputs that are not, by name, the label and its heads."""
    wanted = list(spec.snapshot.targets)
    outputs = model.output if isinstance(model.output, dict) else {}
    if set(outputs) != set(wanted):
        missing = [name for name in wanted if name not in outputs]
        more = [name for name in outputs if name not in wanted]
        said = f"more: {', '.join(more) or 'none'}" if outputs else "they have no names"
        raise TrainingError(
            f"The model's outputs are not the label and its heads.{did_you_mean(more[0], missing) if more else ''}",
            detail=f"{spec.named}; missing: {', '.join(missing) or 'none'}; {said}",
            hint=f"Name each output: keras.Model(inputs, {{{', '.join(f'{name!r}: ...' for name in wanted)}}}).",
        )


def check_losses(spec: TrainingSpec, model: keras.Model) -> None:
    """Refuse a compiled model of which the label or a head has no loss: it would stay as it was at first.

    A model that computes its loss itself is believed.

    :raises TrainingError: naming what has none.
    """
    own = any(getattr(type(model), name) is not getattr(keras.Model, name) for name in ("train_step", "compute_loss"))
    loss = getattr(model, "loss", None)
    if isinstance(loss, list | tuple) and len(loss) == len(keras.tree.flatten(model.output)):
        loss = keras.tree.pack_sequence_as(model.output, loss)
    if own or not spec.snapshot.heads or not isinstance(loss, dict):
        return
    targets = spec.snapshot.targets
    missing = [name for name in targets if loss.get(name) is None]
    if missing:
        more = [name for name in loss if name not in targets]
        raise TrainingError(
            f"The output {missing[0]!r} has no loss, so nothing would be learned of it."
            f"{did_you_mean(more[0], missing) if more else ''}",
            detail=f"{spec.named}; without a loss: {', '.join(missing)}; with one: "
            f"{', '.join(name for name in loss if loss[name] is not None) or 'none'}",
            hint=f"Say compile(loss={{{', '.join(f'{name!r}: ...' for name in targets)}}}), or leave the head out. "
            "loss_weights say what each counts.",
        )


def _by_label(snapshot: Snapshot, said: Any) -> dict[str, Any]:
    """Return label → what a model says of it; a model of one label need not name it."""
    return {name: said[name] for name in snapshot.targets} if snapshot.heads else {snapshot.label: said}


def export(given: Given, model: keras.Model, wanted: Specs, golden: dict[str, Any], workdir: Workdir) -> Signature:
    """Write the SavedModel with its golden predictions, and let it appear whole."""
    specs = {name: tf.TensorSpec(_shape(one), TF_TYPES[one.dtype], name) for name, one in wanted.items()}
    snapshot, outputs = given.spec.snapshot, {}
    for name, target in snapshot.targets.items():
        problem = problem_named(target.problem)
        width = problem.width(target.classes)
        shape = (-1,) if width == 1 else (-1, width)
        outputs[called(snapshot, name, problem.output)] = TensorSpec(dtype="float32", shape=shape)
        if target.classes:
            outputs[called(snapshot, name, CLASS)] = TensorSpec(dtype="string", shape=(-1,))

    def serve(inputs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        answers = {}
        for name, said in _by_label(snapshot, model(inputs, training=False)).items():
            target, output = snapshot.targets[name], outputs_of(snapshot)[name]
            predicted = keras.tree.flatten(said)[0]
            answers[output] = tf.cast(tf.reshape(predicted, outputs[output].shape), tf.float32)
            if target.classes:
                likeliest = tf.gather(tf.constant(target.classes), tf.argmax(answers[output], axis=1))
                answers[called(snapshot, name, CLASS)] = likeliest
        return answers

    temporary = temporary_sibling(workdir.saved_model)
    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint("serving_default", serve, input_signature=[specs])
    archive.write_out(str(temporary), verbose=False)
    pack(temporary, golden, given.shipped)
    temporary.rename(workdir.saved_model)
    return Signature(inputs=dict(wanted), outputs=outputs)


def answer(spec: TrainingSpec, model: keras.Model, inputs: Columns) -> dict[str, np.ndarray]:
    """Return what the model answers, in memory."""
    snapshot, answers = spec.snapshot, {}
    for name, of_label in _by_label(snapshot, _predict(model, inputs)).items():
        predicted = np.asarray(keras.tree.flatten(of_label)[0], dtype=np.float32)
        predicted = predicted.reshape(-1) if predicted.shape[1:] in ((), (1,)) else predicted
        answers[outputs_of(snapshot)[name]] = predicted
        if classes := snapshot.targets[name].classes:
            answers[called(snapshot, name, CLASS)] = np.array(classes, dtype=object)[predicted.argmax(axis=1)]
    return answers


def _predict(model: keras.Model, inputs: Columns) -> Any:
    batch = {name: tf.constant(values) for name, values in inputs.items()}
    if model.distribute_strategy.num_replicas_in_sync == 1:
        return model.predict_on_batch(batch)
    return model(batch, training=False)  # else each replica would answer, and wait for those of other workers


def _shape(spec: TensorSpec) -> tuple[int | None, ...]:
    return tuple(None if size < 0 else size for size in spec.shape)


def _takes(declared: str, given: str) -> bool:
    """Return whether Keras casts what is given to what an input declares, and loses nothing but precision."""
    if "string" in (declared, given):
        return declared == given
    return given != "float32" or declared.startswith(("float", "bfloat"))
