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
import os
import platform
import shutil
import time
import traceback
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from airflow_mlops.contracts import Signature, TrainingResult, TrainingSpec
from airflow_mlops.engine.data.files import temporary_sibling
from airflow_mlops.engine.devices.tensorflow import hardware, mirrored, prepare
from airflow_mlops.engine.entrypoints import load_object
from airflow_mlops.engine.training.adopt import adopt
from airflow_mlops.engine.training.data import TrainingData
from airflow_mlops.engine.training.environment import environment
from airflow_mlops.engine.training.finish import Course, check_finite, golden_predictions, write_result
from airflow_mlops.engine.training.inputs import Columns, specs_of
from airflow_mlops.engine.training.keras_model import answer, check_model, export
from airflow_mlops.engine.training.outputs import outputs_of
from airflow_mlops.engine.training.transform import Given, given
from airflow_mlops.engine.training.workdir import Workdir
from airflow_mlops.engine.users_code import TRIED_AGAIN, is_transient
from airflow_mlops.exceptions import MlopsError, TrainingError, TransientError
from airflow_mlops.problems import problem_named

_PATIENCE = 2
_LAST_FRAMES = 3
_STEPS_A_CALL = 16
"""Steps that Keras makes before it looks up: each look costs as much as a small model's step."""
_RETURN = "Return a keras.Model, or the folder of a SavedModel as text or Path."

log = logging.getLogger(__name__)


def fit(spec: TrainingSpec, workdir: Workdir) -> TrainingResult:
    """Train ``spec``, export the SavedModel into ``workdir`` and write its result, last.

    :raises TrainingError: when the user's function fails or returns something unusable, or the loss is not a number.
    :raises TransientError: when what the user's code reaches for does not answer.
    """
    _check_environment(spec)
    gpus = _prepare(spec)
    with given(spec, workdir) as sees:
        data = TrainingData(sees.spec.snapshot)
        log.info("%d rows to train on, %d to validate with", data.train.rows, data.validation.rows)
        started = time.monotonic()
        made = _run(sees.spec, data) if spec.fit else _build_and_fit(sees.spec, data, gpus)
        seconds = time.monotonic() - started if spec.fit else made.seconds
        if isinstance(made.model, Path):
            signature = _taken(sees, made.model, workdir)
        else:
            signature = _exported(sees, made.model, data, workdir)
    history = made.history or {"seconds": [seconds]}
    epochs = max(len(values) for values in history.values())
    return write_result(spec, workdir, signature, Course(history, data.train.rows * epochs, seconds, _hardware()))


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
    _run(spec, TrainingData(spec.snapshot))


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


class _Made(NamedTuple):
    """What the user's code made: a model or a folder, metric → value an epoch, and how long the fitting took."""

    model: keras.Model | Path
    history: Mapping[str, Sequence[float]]
    seconds: float = 0.0


def _build_and_fit(spec: TrainingSpec, data: TrainingData, gpus: list[tf.config.PhysicalDevice]) -> _Made:
    """Let the user's function build the model, and fit it."""
    if not data.in_memory:
        log.info("The model function is given %d rows, drawn by chance", len(next(iter(data.train.columns.values()))))
    with mirrored(spec.compute.replicas, gpus).scope():
        model = _build(spec, data.train.columns)
    if model.steps_per_execution == 1 and spec.compute.replicas == 1:  # of several in one call, Keras's graph fails
        model.steps_per_execution = _STEPS_A_CALL
    started = time.monotonic()
    with _users_code(spec, "Training the model"):
        history = model.fit(
            data.train.tf_dataset(spec.batch_size, shuffle=spec.seed),
            validation_data=data.validation.tf_dataset(spec.batch_size),
            epochs=spec.epochs,
            callbacks=[
                _Progress(spec.epochs),
                keras.callbacks.EarlyStopping(patience=_PATIENCE, restore_best_weights=True),
            ],
            shuffle=False,  # the batches come shuffled
            verbose=0,
        ).history
    return _Made(model, history, time.monotonic() - started)


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
    return model


def _takes(function: Any, name: str) -> bool:
    """Return whether a function names a parameter so."""
    try:
        return name in inspect.signature(function).parameters
    except (TypeError, ValueError):  # a callable that does not say
        return False


def _run(spec: TrainingSpec, data: TrainingData) -> _Made:
    """Let the user's function do all of it, and check what it returns."""
    report = Report()
    with _users_code(spec, "The fit function"):
        made = load_object(spec.fit, spec.code_path)(data, spec, report)
    if isinstance(made, keras.Model):
        check_model(spec, made, specs_of(data.train.columns))
        return _Made(made, report.history)
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
    return _Made(folder, report.history)


class Report:
    """Says how a fit function gets on, in the log and in the record of the training.

    ``report(epoch=1, loss=0.4, val_auc=0.7)``: any numbers by name. A ``loss`` or ``val_loss`` that is not finite ends
    the training.
    """

    def __init__(self) -> None:
        self.history: dict[str, list[float]] = defaultdict(list)
        self._calls = 0

    def __call__(self, **values: Any) -> None:
        """Take the next values: numbers, or tensors of one.

        :raises TrainingError: when one is no number, or a loss is not finite.
        """
        self._calls += 1
        numbers = {name: _number(name, value) for name, value in values.items()}
        epoch = int(numbers.pop("epoch", self._calls))
        log.info("epoch %d: %s", epoch, ", ".join(f"{name} {value:.4f}" for name, value in numbers.items()))
        check_finite(numbers, epoch)
        for name, value in numbers.items():
            self.history[name].append(value)


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
        check_finite(logs or {}, epoch + 1)


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
            detail="\n         ".join(frames[-_LAST_FRAMES:]) or spec.named,
            hint=TRIED_AGAIN
            if passing
            else f"Correct {spec.fit or spec.entrypoint!r}; the whole traceback is in the log above.",
        ) from error


def _hardware() -> str:
    return hardware() or f"{platform.machine()} CPU, {os.cpu_count()} cores"
