"""The end of every training: golden predictions, and the record that says it is done. It needs no TensorFlow."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import resource
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import pyarrow.compute as pc
import pyarrow.parquet as pq

from airflow_mlops.contracts import Signature, TrainingResult, TrainingSpec
from airflow_mlops.engine.data.files import checksums
from airflow_mlops.engine.entrypoints import load_object
from airflow_mlops.engine.serving.golden import GOLDEN_FILE, listed, refuse_complex
from airflow_mlops.engine.serving.transform import TRANSFORM
from airflow_mlops.engine.training.data import TrainingData
from airflow_mlops.engine.training.environment import environment, image, packages_hash
from airflow_mlops.engine.training.golden import as_columns, golden_inputs
from airflow_mlops.engine.training.inputs import Columns
from airflow_mlops.engine.training.options import Options, options
from airflow_mlops.engine.training.outputs import CLASS, called
from airflow_mlops.engine.training.workdir import Workdir, write_text
from airflow_mlops.engine.users_code import users_code
from airflow_mlops.exceptions import TrainingError
from airflow_mlops.problems import problem_named

_GOLDEN = "It is given the test split's inputs, name → array, and returns rows of the same names: def golden(test)."

_EXPLODED = 1000
_SMALL = 1e-3
"""A first loss below it counts as this: from next to nothing, a thousandfold is little."""

_TIE = 1e-6
"""So close together two probabilities are equally likely."""

Answer = Callable[[Columns], Mapping[str, np.ndarray]]
"""What a model answers to inputs: output → one item a row."""

log = logging.getLogger(__name__)


class Course(NamedTuple):
    """How a training went: metric → value an epoch, examples seen, how long it took in seconds, and when it began."""

    history: Mapping[str, Sequence[float]]
    examples: int
    seconds: float
    hardware: str
    started: datetime
    times: Sequence[float] = ()


def resources(told: Options) -> dict[str, float]:
    """Return what this process and those that it waited for took: seconds, bytes, and the cost if there is a price.

    :param told: Says how long the tries before took: the seconds, and the cost, are those of all.
    """
    own, others = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    process = psutil.Process()
    wall = time.time() - process.create_time() + told.spent
    taken = {
        "cpu_seconds": round(sum(one.ru_utime + one.ru_stime for one in (own, others)), 2),
        "peak_memory_bytes": max(own.ru_maxrss, others.ru_maxrss) * 1024,
        "wall_seconds": round(wall, 2),
    }
    with contextlib.suppress(psutil.Error, AttributeError):  # a container may not say
        taken["bytes_read"] = process.io_counters().read_chars
    if told.gpus:
        taken["gpu_seconds"] = round(wall * told.gpus, 2)
    if told.price:
        taken["cost"] = round(told.price * wall / 3600, 6)
    return taken


class LossGuard:
    """Refuses to go on with a loss that is not a finite number, or a multiple of what it was at first."""

    def __init__(self) -> None:
        self.first: dict[str, float] = {}
        """Loss → what it was at first."""

    def check(self, values: Mapping[str, float], epoch: int) -> None:
        """Look at the losses among some metrics.

        :param values: Metric → value.
        :param epoch: Of which it is, from 1 on.
        :raises TrainingError: naming the loss.
        """
        for name in ("loss", "val_loss"):
            if (loss := values.get(name)) is None:
                continue
            if not math.isfinite(loss):
                raise TrainingError(
                    f"The training's {name} is not a finite number after epoch {epoch}.",
                    detail=", ".join(f"{name} {value:.4f}" for name, value in values.items()),
                    hint="Handle missing values (NaN) in the model, normalise its inputs, or lower the learning rate.",
                )
            first = self.first.setdefault(name, loss)
            if first > 0 and loss > _EXPLODED * max(first, _SMALL):
                raise TrainingError(
                    f"The training's {name} explodes: {loss:.4g} after epoch {epoch}, and {first:.4g} at first.",
                    detail=f"more than {_EXPLODED} times as much",
                    hint="Lower the learning rate, normalise the inputs, or clip gradients: Adam(clipnorm=1.0).",
                )


def golden_predictions(
    spec: TrainingSpec, answer: Answer, outputs: Mapping[str, str], data: TrainingData
) -> dict[str, Any]:
    """Return some predictions of a model: whatever serves it later must repeat them. They name its transform.

    :param answer: What it answers to features: its transform, if it has one, lies between.
    :param outputs: Label → the output that predicts it.
    :param data: Of the features.
    :raises TrainingError: when none of them is a number, one cannot be a prediction of the problem type, or
        a class is said that is not the likeliest.
    :raises DataError: when an output has complex numbers.
    """
    like = data.train.columns
    if spec.golden is None:
        inputs = as_columns(golden_inputs(data.train.profile(), like, spec.seed), like)
        try:
            answer({name: values[-1:] for name, values in inputs.items()})
        except Exception as error:
            said = (str(error).strip().splitlines() or [""])[0]
            log.warning("The model cannot answer a text that it never saw: %s: %s", type(error).__name__, said)
            inputs = {name: values[:-1] for name, values in inputs.items()}
    else:
        with users_code(TrainingError, f"The golden function {spec.golden!r}", hint=_GOLDEN):
            rows = load_object(spec.golden, spec.code_path)(data.test.columns)
        inputs = as_columns(rows, like)
    answers = answer(inputs)
    refuse_complex({name: np.asarray(values).dtype.name for name, values in answers.items()})
    predicted = {label: _predicted(spec, label, output, answers[output]) for label, output in outputs.items()}
    answered = np.logical_and.reduce([np.isfinite(one).reshape(len(one), -1).all(axis=1) for one in predicted.values()])
    if not answered.any():
        raise TrainingError(
            f"The model answers no number to any of {len(answered)} golden inputs.",
            detail=f"{spec.named}, inputs {', '.join(inputs)}",
            hint="Handle missing values and unusual numbers in the model; or name rows that it answers and that may "
            "leave the data with Trainer(golden='module:function').",
        )
    if not answered.all():
        log.warning("The model answers no number to %d of %d golden inputs", (~answered).sum(), len(answered))
    for label, values in predicted.items():
        problem = problem_named(spec.snapshot.targets[label].problem)
        if wrong := problem.mistake(values[answered]):
            raise TrainingError(
                f"What the model predicts of {label!r} cannot be a {problem.name} prediction: {wrong}.",
                detail=f"{spec.named}; of the golden inputs the first is answered {values[answered][0].tolist()}",
                hint=f"End with {problem.ending}.",
            )
        if (said := called(spec.snapshot, label, CLASS)) in answers:
            _check_class(spec, label, said, np.asarray(answers[said])[answered], values[answered])
    golden = {
        "inputs": {name: listed(values[answered]) for name, values in inputs.items()},
        "outputs": {name: listed(np.asarray(values)[answered]) for name, values in answers.items()},
    }
    return golden | ({"transform": spec.transform} if spec.transform else {})


def _check_class(spec: TrainingSpec, label: str, output: str, said: np.ndarray, chances: np.ndarray) -> None:
    """Refuse an output that names another class than the likeliest one, of a label of classes.

    :param said: Classes as texts, or as whole numbers: these may be places of classes as well as their names.
    :param chances: Of the same rows, one number a class.
    """
    classes = spec.snapshot.targets[label].classes
    if not classes:
        return
    if said.size != len(chances):
        raise TrainingError(
            f"The model must give one class an example: {output}.",
            detail=f"{spec.named} gives {list(said.shape[1:])}",
            hint="Name the likeliest class of each row; or leave this output out.",
        )
    texts = [one.decode(errors="replace") if isinstance(one, bytes) else str(one) for one in said.reshape(-1).tolist()]
    likely = chances >= chances.max(axis=1, keepdims=True) - _TIE
    names = [classes, [str(place) for place in range(len(classes))]] if said.dtype.kind in "iu" else [classes]
    right = [
        np.array([text in known and row[known.index(text)] for text, row in zip(texts, likely, strict=True)])
        for known in names
    ]
    if any(one.all() for one in right):
        return
    wrong = int(np.argmin(right[0]))
    raise TrainingError(
        f"The model's output {output!r} is not the likeliest class by its probabilities.",
        detail=f"{spec.named}; a golden input is answered {texts[wrong]!r}, and "
        f"{classes[int(chances[wrong].argmax())]!r} is the likeliest of {', '.join(classes)}",
        hint=f"The classes are in this order: tf.gather({list(classes)}, tf.argmax(probabilities, axis=1)). "
        "Or leave this output out.",
    )


def pack(saved_model: Path, golden: Mapping[str, Any], transform: Path | None) -> None:
    """Put what goes with a SavedModel into it.

    :param golden: Its golden predictions.
    :param transform: Folder of its transform; None: it has none.
    """
    (saved_model / GOLDEN_FILE).parent.mkdir(exist_ok=True)
    (saved_model / GOLDEN_FILE).write_text(json.dumps(golden))
    shutil.rmtree(saved_model / TRANSFORM, ignore_errors=True)
    if transform is not None:
        shutil.copytree(transform, saved_model / TRANSFORM)


def _predicted(spec: TrainingSpec, label: str, output: str, values: np.ndarray) -> np.ndarray:
    """Return the predictions of a label, which have as many numbers as its problem type says."""
    if values.shape[1:] == (1,):  # kept as the model answers it, and judged as the number that it is
        values = values[:, 0]
    target = spec.snapshot.targets[label]
    problem = problem_named(target.problem)
    width = problem.width(target.classes)
    if values.shape[1:] != (() if width == 1 else (width,)):
        raise TrainingError(
            f"The model must give {width} number{'s' if width > 1 else ''} an example: {output}.",
            detail=f"{spec.named} gives {list(values.shape[1:])}; the label {label!r} is {problem.name}"
            + (f" of the classes {', '.join(target.classes)}" if width > 1 else ""),
            hint=f"End with {problem.ending}.",
        )
    return values


def write_result(spec: TrainingSpec, workdir: Workdir, signature: Signature, course: Course) -> TrainingResult:
    """Write what came out of a training, last: then it is done."""
    snapshot = spec.snapshot
    trained = Path(snapshot.uri) / snapshot.splits["train"].file
    times = pc.min_max(pq.read_table(trained, columns=[snapshot.event_time])[0])
    result = TrainingResult(
        spec_hash=spec.hash,
        snapshot_id=snapshot.id,
        saved_model=str(workdir.saved_model),
        signature=signature,
        history={name: [float(value) for value in values] for name, values in course.history.items()},
        examples=course.examples,
        seconds=round(course.seconds, 3),
        examples_per_second=round(course.examples / course.seconds, 1),
        oldest_event_time=times["min"].as_py(),
        newest_event_time=times["max"].as_py(),
        hardware=course.hardware,
        versions=environment() | {"pyarrow": version("pyarrow")},
        started=course.started,
        ended=datetime.now(UTC),
        times=tuple(course.times),
        resources=resources(options()),
        packages_hash=packages_hash(),
        image=image(),
    )
    write_text(workdir.checksums, json.dumps(checksums(workdir.saved_model), indent=2))
    write_text(workdir.result, result.to_json())
    return result
