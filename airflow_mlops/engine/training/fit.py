"""Train and export, inside the child process. Importing this module imports TensorFlow.

Either a function of the user's builds the model and Keras fits it, or another one does all of it (``fit``)::

    def fit(data, spec, report):
        model, batches = ..., data.train.tf_dataset(spec.batch_size, shuffle=spec.seed)
        for epoch in range(spec.epochs):
            for inputs, labels in batches:
                ...
            report(epoch=epoch + 1, loss=0.4)
        return model
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import math
import os
import platform
import shutil
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from airflow_mlops.contracts import Signature, TrainingResult, TrainingSpec
from airflow_mlops.engine.data.files import temporary_sibling
from airflow_mlops.engine.devices.tensorflow import hardware, mirrored, prepare
from airflow_mlops.engine.entrypoints import load_object
from airflow_mlops.engine.training import ending
from airflow_mlops.engine.training.adopt import adopt
from airflow_mlops.engine.training.data import TrainingData
from airflow_mlops.engine.training.environment import environment, image
from airflow_mlops.engine.training.finish import Course, LossGuard, golden_predictions, write_result
from airflow_mlops.engine.training.following import Following
from airflow_mlops.engine.training.inputs import Columns, specs_of
from airflow_mlops.engine.training.keras_model import answer, check_losses, check_model, export
from airflow_mlops.engine.training.options import options
from airflow_mlops.engine.training.outputs import outputs_of
from airflow_mlops.engine.training.progress import Lines, ProgressReport, add_line, begin_lines, read_lines
from airflow_mlops.engine.training.tensorboard import EpochScalars
from airflow_mlops.engine.training.transform import Given, given
from airflow_mlops.engine.training.workdir import Workdir
from airflow_mlops.engine.users_code import TRIED_AGAIN, is_transient
from airflow_mlops.exceptions import MlopsError, TrainingError, TransientError
from airflow_mlops.problems import problem_named

_PATIENCE = 2
_LAST_FRAMES = 3
_SAID = 1.0
"""Seconds that are at least between two reports in the log."""
_STEPS_A_CALL = 16
"""Steps that Keras makes before it looks up: each look costs as much as a small model's step."""
_RETURN = "Return a keras.Model, or the folder of a SavedModel as text or Path."

log = logging.getLogger(__name__)


def fit(spec: TrainingSpec, workdir: Workdir, data: TrainingData | None = None) -> TrainingResult:
    """Train ``spec``, export the SavedModel into ``workdir`` and write its result, last.

    :param data: What the model sees, if that was read already.
    :raises TrainingError: when the user's function fails or returns something unusable, or the loss is not a number.
    :raises TransientError: when what the user's code reaches for does not answer.
    """
    _check_environment(spec)
    gpus = _prepare(spec)
    with given(spec, workdir) as sees:
        data = data or TrainingData(sees.spec.snapshot)
        log.info("%d rows to train on, %d to validate with", data.train.rows, data.validation.rows)
        made = _run(sees.spec, data, workdir) if spec.fit else _build_and_fit(sees.spec, data, workdir, gpus)
        if isinstance(made.model, Path):
            signature = _taken(sees, made.model, workdir)
        else:
            signature = _exported(sees, made.model, data, workdir)
    history = made.lines.history or {"seconds": [made.seconds]}
    epochs = max(len(values) for values in history.values())
    course = Course(history, data.train.rows * epochs, made.seconds, _hardware(), made.started, made.lines.times)
    return write_result(spec, workdir, signature, course)


def _prepare(spec: TrainingSpec) -> list[tf.config.PhysicalDevice]:
    """Make the devices ready, and what is random repeatable. Returns the GPUs."""
    gpus = prepare(spec.compute)
    keras.utils.set_random_seed(spec.seed)
    if not gpus:  # there it costs speed, and some operations refuse
        tf.config.experimental.enable_op_determinism()
    return gpus


def join(spec: TrainingSpec) -> None:
    """Train as one of several workers whose first one, by :func:`fit`, keeps what comes out.

    :raises TrainingError: when the user's function fails.
    """
    _check_environment(spec)
    _prepare(spec)
    with tempfile.TemporaryDirectory() as folder:  # what it reports is kept by the first one
        _run(spec, TrainingData(spec.snapshot), Workdir(Path(folder)))


def _check_environment(spec: TrainingSpec) -> None:
    """Refuse to train under the name of another environment."""
    here = environment() | {"image": image()}
    other = {name: wanted for name, wanted in spec.environment.items() if here.get(name) != wanted}
    if other:
        raise TrainingError(
            "The training runs with other versions than it was asked for.",
            detail="; ".join(f"{name}: asked {wanted}, here {here.get(name)}" for name, wanted in other.items()),
            hint="Install the same versions where trainings are made and where they run, or clear the task that asks: "
            "with these versions it is another training.",
        )


class _Made(NamedTuple):
    """What the user's code made, a model or a folder; when it began, and how many seconds it took."""

    model: keras.Model | Path
    lines: Lines
    started: datetime
    seconds: float


def _build_and_fit(
    spec: TrainingSpec, data: TrainingData, workdir: Workdir, gpus: list[tf.config.PhysicalDevice]
) -> _Made:
    """Let the user's function build the model, and fit it."""
    if not data.in_memory:
        log.info("The model function is given %d rows, drawn by chance", len(next(iter(data.train.columns.values()))))
    with mirrored(spec.compute.replicas, gpus).scope():
        model = _build(spec, data.train.columns)
    if model.steps_per_execution == 1 and spec.compute.replicas == 1:  # of several in one call, Keras's graph fails
        model.steps_per_execution = _STEPS_A_CALL
    stopping = keras.callbacks.EarlyStopping(patience=_PATIENCE, restore_best_weights=True)
    following = Following(spec, workdir, data.train.rows, stopping)
    logs = [EpochScalars(workdir.tensorboard)] if options().tensorboard else []
    validation = data.validation.tf_dataset(spec.batch_size)
    with _users_code(spec, "Training the model"), ending.saving(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Your input ran out of data")  # the first pass, which began in the middle
        following.resume(model, validation)
        batches = data.train.batches(spec.batch_size, spec.seed, following.passes())
        steps = math.ceil(data.train.rows / spec.batch_size)
        # Of a whole pass, for Keras takes it for that of all epochs: the first may begin in the middle.
        batches.cardinality = lambda: tf.constant(steps, tf.int64)
        model.fit(
            batches,
            validation_data=validation,
            initial_epoch=following.first_epoch,
            epochs=spec.epochs,
            callbacks=[stopping, *logs, following],  # in this order: what is saved has been logged
            shuffle=False,  # the batches come shuffled
            verbose=0,
        )
    return _Made(model, following.lines, following.started, following.seconds)


def _build(spec: TrainingSpec, train: Columns) -> keras.Model:
    """Call the user's model function and check what it returns."""
    with _users_code(spec, "The model function"):
        build = load_object(spec.entrypoint, spec.code_path)
        known: dict[str, Any] = {"classes": list(spec.snapshot.classes)}
        if spec.snapshot.heads:
            known["heads"] = dict(spec.snapshot.heads)
        told = {name: value for name, value in known.items() if _takes(build, name)}
        model = build(train, seed=spec.seed, **(told | spec.params))
    if not isinstance(model, keras.Model):
        raise TrainingError(
            f"The model function did not return a Keras model but {_said(model)}.",
            detail=spec.named,
            hint="Return a compiled keras.Model.",
        )
    check_model(spec, model, specs_of(train))
    if not model.compiled:
        raise TrainingError(
            "The model function returned a model that is not compiled.",
            detail=spec.named,
            hint="Call model.compile(optimizer=..., loss=..., metrics=[...]) in it: usual are "
            f"{'; '.join(problem_named(one.problem).ending for one in spec.snapshot.targets.values())}.",
        )
    check_losses(spec, model)
    return model


def _takes(function: Any, name: str) -> bool:
    """Return whether a function names a parameter so."""
    try:
        return name in inspect.signature(function).parameters
    except (TypeError, ValueError):  # a callable that does not say
        return False


def _run(spec: TrainingSpec, data: TrainingData, workdir: Workdir) -> _Made:
    """Let the user's function do all of it, and check what it returns."""
    report, started, began = Report(spec, workdir), datetime.now(UTC), time.monotonic()
    with _users_code(spec, "The fit function"):
        made = load_object(spec.fit, spec.code_path)(data, spec, report)
    if isinstance(made, keras.Model):
        check_model(spec, made, specs_of(data.train.columns))
        return _Made(made, read_lines(workdir), started, time.monotonic() - began)
    if not isinstance(made, str | Path):
        more = ": its training is over, and the model is in .model" if isinstance(made, keras.callbacks.History) else ""
        raise TrainingError(
            f"The fit function returned {_said(made)}, and no model{more}.", detail=spec.named, hint=_RETURN
        )
    folder = Path(made)
    if not (folder / "saved_model.pb").is_file():
        raise TrainingError(
            "The fit function returned a folder in which there is no SavedModel.",
            detail=f"{spec.named}: {folder} {'has no saved_model.pb' if folder.is_dir() else 'is no folder'}",
            hint=_RETURN,
        )
    return _Made(folder, read_lines(workdir), started, time.monotonic() - began)


class Report:
    """Says how a fit function gets on, in the log and in the record of the training.

    ``report(epoch=1, loss=0.4, val_auc=0.7)``: any numbers by name. A ``loss`` or ``val_loss`` that is not finite, or
    a thousandfold of the first, ends the training.
    """

    def __init__(self, spec: TrainingSpec, workdir: Workdir) -> None:
        begin_lines(workdir)
        self._spec, self._workdir = spec, workdir
        self._calls, self._said = 0, 0.0
        self._guard = LossGuard()
        self._progress = ProgressReport(spec, workdir)

    @property
    def checkpoints(self) -> Path:
        """A folder that outlives the try, until the training is done: what is saved in it, the next try finds there."""
        self._workdir.checkpoints.mkdir(parents=True, exist_ok=True)
        return self._workdir.checkpoints

    @property
    def tensorboard(self) -> Path | None:
        """The folder for logs of TensorBoard, which go with the model to MLflow; None: nobody has asked for them."""
        return self._workdir.tensorboard if options().tensorboard else None

    def __call__(self, **values: Any) -> None:
        """Take the next values: numbers, or tensors of one.

        :raises TrainingError: when one is no number, or a loss is not finite.
        """
        self._calls += 1
        numbers = {name: _number(name, value) for name, value in values.items()}
        epoch = int(numbers.pop("epoch", self._calls))
        said = time.monotonic() - self._said >= _SAID
        if said:
            log.info("epoch %d: %s", epoch, ", ".join(f"{name} {value:.4f}" for name, value in numbers.items()))
            self._said = time.monotonic()
        self._guard.check(numbers, epoch)
        add_line(self._workdir, epoch, numbers)
        if self._progress.due:
            done = epoch * self._spec.snapshot.splits["train"].rows
            self._progress.write(epoch, 0, done, numbers, read_lines(self._workdir), said=said)


def _number(name: str, value: Any) -> float:
    try:
        return float(np.asarray(value).item())
    except (TypeError, ValueError):
        raise TrainingError(
            f"report({name}=...) was given no number but {_said(value)}.",
            hint="Give one number for each name: report(epoch=1, loss=0.4). Of many, their mean.",
        ) from None


def _said(value: Any) -> str:
    return "nothing" if value is None else type(value).__name__


def _taken(sees: Given, folder: Path, workdir: Workdir) -> Signature:
    """Take a copy of the SavedModel that the user's function wrote."""
    made = temporary_sibling(workdir.saved_model)
    shutil.copytree(folder, made)
    return adopt(sees, made, workdir)


def _exported(sees: Given, model: keras.Model, data: TrainingData, workdir: Workdir) -> Signature:
    spec, wanted = sees.spec, specs_of(data.train.columns)

    def answers(inputs: Columns) -> dict[str, np.ndarray]:
        with _users_code(spec, "Predicting the golden inputs"):
            return answer(spec, model, inputs)

    features = data if sees.transform is None else TrainingData(sees.features)
    golden = golden_predictions(spec, sees.asked(answers, wanted), outputs_of(spec.snapshot), features)
    with _users_code(spec, "Exporting the model"):
        return export(sees, model, wanted, golden, workdir)


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
        if isinstance(error, MemoryError | tf.errors.ResourceExhaustedError):
            raise TransientError(
                f"{what} ran out of memory, of the {'GPU' if tf.config.list_physical_devices('GPU') else 'machine'}.",
                detail="\n         ".join([message, *frames[-_LAST_FRAMES:]]),
                hint="Lower batch_size, make the model smaller, or give it more memory. Others may have taken it.",
            ) from error
        passing = is_transient(error)
        raise (TransientError if passing else TrainingError)(
            f"{what} raised {type(error).__name__}: {message}",
            detail="\n         ".join(frames[-_LAST_FRAMES:]) or spec.named,
            hint=TRIED_AGAIN
            if passing
            else f"Correct {spec.fit or spec.entrypoint!r}; the whole traceback is in the log above.",
        ) from error


def _hardware() -> str:
    return hardware() or f"{platform.machine()} CPU, {os.cpu_count()} cores"
