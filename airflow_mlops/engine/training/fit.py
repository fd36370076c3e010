"""Train and export, inside the child process. Importing this module imports TensorFlow."""

from __future__ import annotations

import contextlib
import inspect
import json
import logging
import math
import os
import platform
import time
import traceback
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import pyarrow as pa
import tensorflow as tf

from airflow_mlops.contracts import Signature, TensorSpec, TrainingResult, TrainingSpec
from airflow_mlops.engine.data.files import temporary_sibling
from airflow_mlops.engine.entrypoints import load_object
from airflow_mlops.engine.training.environment import environment
from airflow_mlops.engine.training.finish import Course, golden_predictions, rows_of, write_result
from airflow_mlops.engine.training.inputs import Columns, read_inputs, read_targets, read_weights
from airflow_mlops.engine.training.workdir import Workdir
from airflow_mlops.engine.users_code import TRIED_AGAIN, is_transient
from airflow_mlops.exceptions import MlopsError, TrainingError, TransientError
from airflow_mlops.problems import problem_named

CLASS = "class"
"""Name of the output that says which class is the likeliest."""
_PATIENCE = 2
_LAST_FRAMES = 3
_TF_TYPES = {"object": tf.string, "float32": tf.float32, "int64": tf.int64, "bool": tf.bool}

log = logging.getLogger(__name__)


def fit(spec: TrainingSpec, workdir: Workdir) -> TrainingResult:
    """Train ``spec``, export the SavedModel into ``workdir`` and write its result, last.

    :raises TrainingError: when the user's model function fails or returns something unusable, or the loss is
        not a number.
    :raises TransientError: when what the user's code reaches for does not answer.
    """
    _check_environment(spec)
    keras.utils.set_random_seed(spec.seed)
    tf.config.experimental.enable_op_determinism()
    table = rows_of(spec, "train")
    train, validation = _Split.of(spec, table), _Split.of(spec, rows_of(spec, "validation"))
    test = _Split.of(spec, rows_of(spec, "test"))
    log.info("%d rows to train on, %d to validate with", len(train.targets), len(validation.targets))

    model = _build(spec, train.inputs)
    started = time.monotonic()
    with _users_code(spec, "Training the model"):
        history = model.fit(
            _batches(train, spec.batch_size, seed=spec.seed),
            validation_data=_batches(validation, spec.batch_size),
            epochs=spec.epochs,
            callbacks=[
                _Progress(spec.epochs),
                keras.callbacks.EarlyStopping(patience=_PATIENCE, restore_best_weights=True),
            ],
            shuffle=False,  # the batches come shuffled
            verbose=0,
        ).history
    seconds = time.monotonic() - started
    examples = len(train.targets) * len(history["loss"])

    golden = golden_predictions(
        spec, partial(_answer, spec, model), problem_named(spec.snapshot.problem).output,
        table=table, train=train.inputs, test=test.inputs,
    )  # fmt: skip
    signature = _export(spec, model, train.inputs, golden, workdir)
    return write_result(spec, workdir, table, signature, Course(history, examples, seconds, _hardware()))


def _check_environment(spec: TrainingSpec) -> None:
    """Refuse to train under the name of another environment."""
    here = environment()
    other = {name: wanted for name, wanted in spec.environment.items() if here.get(name) != wanted}
    if other:
        raise TrainingError(
            "The training runs with other versions than it was asked for.",
            detail="; ".join(f"{name}: asked {wanted}, here {here.get(name)}" for name, wanted in other.items()),
            hint="Install the same versions where trainings are made and where they run, or clear the task that asks: "
            "with these versions it is another training.",
        )


class _Split(NamedTuple):
    """A split in memory."""

    inputs: Columns
    targets: np.ndarray
    weights: np.ndarray | None

    @classmethod
    def of(cls, spec: TrainingSpec, table: pa.Table) -> _Split:
        snapshot = spec.snapshot
        return cls(read_inputs(table, snapshot.features), read_targets(table, snapshot), read_weights(table, snapshot))


def _build(spec: TrainingSpec, train: Columns) -> keras.Model:
    """Call the user's model function and check what it returns."""
    with _users_code(spec, "The model function"):
        build = load_object(spec.entrypoint, spec.code_path)
        classes = {"classes": list(spec.snapshot.classes)} if _takes(build, "classes") else {}
        model = build(train, seed=spec.seed, **classes, **spec.params)
    if not isinstance(model, keras.Model):
        raise TrainingError(
            f"The model function did not return a Keras model but {type(model).__name__}.",
            detail=f"entrypoint {spec.entrypoint!r}",
            hint="Return a compiled keras.Model.",
        )
    declared = getattr(model, "inputs", None) or []  # a subclassed model declares none
    inputs = {tensor.name: tuple(tensor.shape) for tensor in keras.tree.flatten(declared)}
    if set(inputs) != set(train) or any(shape != (None,) for shape in inputs.values()):
        raise TrainingError(
            "The model's inputs are not the snapshot's features.",
            detail=f"not in the snapshot: {sorted(set(inputs) - set(train))}; "
            f"not in the model: {sorted(set(train) - set(inputs))}; "
            f"not one value an example: {sorted(name for name, shape in inputs.items() if shape != (None,))}",
            hint="Build a functional model with one keras.Input(shape=(), name=feature, dtype=...) for each feature.",
        )
    problem = problem_named(spec.snapshot.problem)
    outputs = [tuple(tensor.shape) for tensor in keras.tree.flatten(model.outputs)]
    width = problem.width(spec.snapshot.classes)
    if outputs not in ([[(None,)], [(None, 1)]] if width == 1 else [[(None, width)]]):
        raise TrainingError(
            f"The model must have one output, {width} number{'s' if width > 1 else ''} an example: {problem.output}.",
            detail=f"entrypoint {spec.entrypoint!r}, output shapes {outputs}; the label is {problem.name}"
            + (f" of the classes {', '.join(spec.snapshot.classes)}" if width > 1 else ""),
            hint=f"End with {problem.ending}.",
        )
    if not model.compiled:
        raise TrainingError(
            "The model function returned a model that is not compiled.",
            detail=f"entrypoint {spec.entrypoint!r}",
            hint=f"Call model.compile(optimizer=..., loss=..., metrics=[...]) in it: usual are {problem.ending}.",
        )
    return model


def _takes(function: Any, name: str) -> bool:
    """Return whether a function names a parameter so."""
    try:
        return name in inspect.signature(function).parameters
    except (TypeError, ValueError):  # a callable that does not say
        return False


def _batches(split: _Split, batch_size: int, *, seed: int | None = None) -> tf.data.Dataset:
    """Return whole batches sliced from memory.

    With a seed the rows are shuffled once and the batches anew every epoch, which is several times faster than
    shuffling rows every epoch, and the same in every process.
    """
    rows = len(split.targets)
    order = slice(None) if seed is None else np.random.default_rng(seed).permutation(rows)
    # A column for each row, as a layer of one unit gives; places of classes are plain numbers.
    targets = split.targets if split.targets.dtype == np.int64 else split.targets[:, None]
    columns: tuple[Any, ...] = (
        {name: tf.constant(values[order]) for name, values in split.inputs.items()},
        tf.constant(targets[order]),
    )
    if split.weights is not None:
        columns += (tf.constant(split.weights[order]),)
    starts = tf.data.Dataset.range(0, rows, batch_size)
    if seed is not None:
        starts = starts.shuffle(starts.cardinality(), seed=seed, reshuffle_each_iteration=True)

    def batch(start: tf.Tensor) -> Any:
        return tf.nest.map_structure(lambda values: values[start : start + batch_size], columns)

    return starts.map(batch, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).prefetch(tf.data.AUTOTUNE)


class _Progress(keras.callbacks.Callback):
    """Say how each epoch went, and end the training when the loss is not a number."""

    def __init__(self, epochs: int) -> None:
        super().__init__()
        self._epochs = epochs
        self._started = 0.0

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Start the clock."""
        self._started = time.monotonic()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Report, and check."""
        values = ", ".join(f"{name} {value:.4f}" for name, value in (logs or {}).items())
        log.info("epoch %d/%d: %s (%.1f s)", epoch + 1, self._epochs, values, time.monotonic() - self._started)
        broken = [name for name in ("loss", "val_loss") if not math.isfinite((logs or {}).get(name, 0.0))]
        if broken:
            raise TrainingError(
                f"The training's {broken[0]} is not a finite number after epoch {epoch + 1}.",
                detail=values,
                hint="Handle missing values (NaN) in the model, normalise its inputs, or lower the learning rate.",
            )


def _export(
    spec: TrainingSpec, model: keras.Model, train: Columns, golden: dict[str, Any], workdir: Workdir
) -> Signature:
    """Write the SavedModel with its golden predictions, and let it appear whole."""
    specs = {name: tf.TensorSpec([None], _TF_TYPES[values.dtype.name], name) for name, values in train.items()}

    problem, classes = problem_named(spec.snapshot.problem), spec.snapshot.classes
    width = problem.width(classes)

    def serve(inputs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        predicted = keras.tree.flatten(model(inputs, training=False))[0]
        answer = tf.cast(tf.reshape(predicted, [-1] if width == 1 else [-1, width]), tf.float32)
        if not classes:
            return {problem.output: answer}
        return {problem.output: answer, CLASS: tf.gather(tf.constant(classes), tf.argmax(answer, axis=1))}

    temporary = temporary_sibling(workdir.saved_model)
    with _users_code(spec, "Exporting the model"):
        archive = keras.export.ExportArchive()
        archive.track(model)
        archive.add_endpoint("serving_default", serve, input_signature=[specs])
        archive.write_out(str(temporary), verbose=False)
    extra = temporary / "assets.extra"
    extra.mkdir()
    (extra / "golden.json").write_text(json.dumps(golden))
    temporary.rename(workdir.saved_model)
    return Signature(
        inputs={name: TensorSpec(dtype=spec.dtype.name, shape=(-1,)) for name, spec in specs.items()},
        outputs={
            problem.output: TensorSpec(dtype="float32", shape=(-1,) if width == 1 else (-1, width)),
            **({CLASS: TensorSpec(dtype="string", shape=(-1,))} if classes else {}),
        },
    )


def _answer(spec: TrainingSpec, model: keras.Model, inputs: Columns) -> dict[str, np.ndarray]:
    """Return what the model answers, in memory."""
    with _users_code(spec, "Predicting the golden inputs"):
        predicted = _predict(model, inputs)
    answers = {problem_named(spec.snapshot.problem).output: predicted}
    if classes := spec.snapshot.classes:
        answers[CLASS] = np.array(classes, dtype=object)[predicted.argmax(axis=1)]
    return answers


def _predict(model: keras.Model, inputs: Columns) -> np.ndarray:
    predicted = model.predict_on_batch({name: tf.constant(values) for name, values in inputs.items()})
    answers = np.asarray(keras.tree.flatten(predicted)[0], dtype=np.float32)
    return answers.reshape(-1) if answers.shape[1:] in ((), (1,)) else answers


@contextlib.contextmanager
def _users_code(spec: TrainingSpec, what: str) -> Iterator[None]:
    """Turn whatever the user's code raises into an error that shows where."""
    try:
        yield
    except MlopsError:
        raise
    except Exception as error:
        log.info("%s", traceback.format_exc().rstrip())
        frames = [
            f"{Path(frame.filename).name}:{frame.lineno} in {frame.name}: {frame.line}"
            for frame in traceback.extract_tb(error.__traceback__)
            if spec.code_path and Path(frame.filename).is_relative_to(spec.code_path)
        ]
        message = (str(error).strip().splitlines() or [""])[0]
        passing = is_transient(error)
        raise (TransientError if passing else TrainingError)(
            f"{what} raised {type(error).__name__}: {message}",
            detail="\n         ".join(frames[-_LAST_FRAMES:]) or f"entrypoint {spec.entrypoint!r}",
            hint=TRIED_AGAIN if passing else f"Correct {spec.entrypoint!r}; the whole traceback is in the log above.",
        ) from error


def _hardware() -> str:
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        return ", ".join(tf.config.experimental.get_device_details(gpu).get("device_name", "GPU") for gpu in gpus)
    return f"{platform.machine()} CPU, {os.cpu_count()} cores"
