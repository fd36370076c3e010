"""A training that is a script of somebody's own, told by a file where the data is and where the model goes.

The environment variable ``MLOPS_TRAINING`` names a JSON file:

=============== =====================================================================================
``train``       Parquet file of the training split; ``validation`` and ``test`` likewise
``inputs``      model input → Arrow type, in order; with a transform what it gives, as the files have it
``label``       column of the label; ``problem`` and ``classes`` say what it is, ``weight`` what a row counts
``heads``       column of a further label → its ``problem`` and ``classes``
``seed``        likewise ``epochs``, ``batch_size`` and ``params``: as of the trainer
``precision``   what to compute in; ``memory_limit`` is the MiB that it may take of each GPU, or null
``saved_model`` folder to write the SavedModel to
``progress``    file to append a line of JSON to, such as ``{"epoch": 1, "loss": 0.4}``
``checkpoints`` folder that outlives the try, until the training is done
``tensorboard`` folder for logs of TensorBoard; null when nobody has asked for them
=============== =====================================================================================

It may be written with any framework that exports a SavedModel, and run by another Python.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import platform
import subprocess
import sys
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from airflow_mlops.contracts import Signature, TrainingResult, TrainingSpec
from airflow_mlops.engine.data.files import temporary_sibling
from airflow_mlops.engine.data.snapshots import check_whole
from airflow_mlops.engine.devices.told import told as gpus_told
from airflow_mlops.engine.process import MARK, marked
from airflow_mlops.engine.training import ending
from airflow_mlops.engine.training.adopt import adopt
from airflow_mlops.engine.training.finish import Course, LossGuard, write_result
from airflow_mlops.engine.training.options import options
from airflow_mlops.engine.training.progress import Lines, ProgressReport, begin_lines, read_lines
from airflow_mlops.engine.training.transform import Given, given
from airflow_mlops.engine.training.workdir import Workdir
from airflow_mlops.exceptions import TrainingError

VARIABLE = "MLOPS_TRAINING"
_LOOKS = 2.0
"""Seconds between two looks at what it reports."""

log = logging.getLogger(__name__)


def run_script(spec: TrainingSpec, workdir: Workdir) -> TrainingResult:
    """Run the script of ``spec``, take the SavedModel that it wrote, and write the result, last.

    :raises TrainingError: when it fails, or leaves no SavedModel that takes the snapshot's inputs and answers.
    """
    with given(spec, workdir) as sees:
        signature, course = _run(sees, workdir)
    return write_result(spec, workdir, signature, course)


def _run(sees: Given, workdir: Workdir) -> tuple[Signature, Course]:
    spec = sees.spec
    made = temporary_sibling(workdir.saved_model)
    begin_lines(workdir)
    workdir.checkpoints.mkdir(parents=True, exist_ok=True)
    told, mine = workdir.path / "training.json", gpus_told()
    told.write_text(json.dumps(_told(spec, made, workdir), indent=2))
    assert spec.script is not None
    script = Path(spec.code_path or ".") / spec.script
    command = [spec.python or sys.executable, str(script), *spec.args]
    log.info("Running %s", " ".join(command))
    began, started, mark = datetime.now(UTC), time.monotonic(), os.environ.get(MARK) or uuid.uuid4().hex
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            cwd=script.parent,
            env={**os.environ, VARIABLE: str(told), MARK: mark},
            pass_fds=mine.fds,
        )
    except OSError as error:
        raise TrainingError(
            f"{spec.script} cannot be run.",
            detail=f"{command[0]}: {error.strerror}",
            hint="Name a Python that is there in python=, and a script beside the DAG file in script=.",
        ) from None
    try:
        with ending.saving():  # it was asked as well
            check_whole(spec.snapshot)  # while it starts
            status = _follow(process, spec, workdir)
    finally:
        process.kill()
    if ending.asked():
        ending.end()
    seconds = time.monotonic() - started
    for left in marked(mark):  # it holds the log open, and perhaps a GPU
        log.warning("The script left a process running: %s. It is ended.", left.name())
        left.kill()
    if status:
        raise TrainingError(
            f"{spec.script} ended with status {status}.",
            detail=f"arguments {list(spec.args)}",
            hint="What it printed is in the log above.",
        )
    lines = _checked(workdir)
    history = lines.history
    if not (made / "saved_model.pb").exists():
        there = sorted(path.name for path in made.iterdir()) if made.is_dir() else []
        raise TrainingError(
            f"{spec.script} ended well and wrote no SavedModel.",
            detail=f"{made} {'has ' + ', '.join(there) if there else 'is empty or not there'}",
            hint=f'Write it to the folder that the file of {VARIABLE} names as "saved_model".',
        )
    signature = adopt(sees, made, workdir)
    epochs = max((len(values) for values in history.values()), default=1)
    rows = spec.snapshot.splits["train"].rows
    hardware = ", ".join(mine.names) or platform.machine()
    course = Course(history or {"seconds": [seconds]}, rows * epochs, seconds, hardware, began, lines.times)
    return signature, course


def _follow(process: subprocess.Popen[bytes], spec: TrainingSpec, workdir: Workdir) -> int:
    """Wait for the script, and say how it gets on."""
    progress, rows = ProgressReport(spec, workdir), spec.snapshot.splits["train"].rows
    known: dict[str, float] = {}
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(_LOOKS)
        with contextlib.suppress(TrainingError):  # a line that is just being written
            lines = read_lines(workdir)
            if lines.last != known:
                known = lines.last
                done = max(map(len, lines.history.values()), default=0)
                epoch = int(known.get("epoch", done))
                progress.write(epoch, 0, epoch * rows, known, lines)


def _told(spec: TrainingSpec, made: Path, workdir: Workdir) -> dict[str, Any]:
    snapshot = spec.snapshot
    return {
        **{name: str(Path(snapshot.uri) / split.file) for name, split in snapshot.splits.items()},
        "inputs": snapshot.features,
        "label": snapshot.label,
        "problem": snapshot.problem,
        "classes": list(snapshot.classes),
        "heads": {name: head.model_dump(mode="json") for name, head in snapshot.heads.items()},
        "weight": snapshot.weight,
        "event_time": snapshot.event_time,
        "entity": snapshot.entity,
        "seed": spec.seed,
        "epochs": spec.epochs,
        "batch_size": spec.batch_size,
        "params": spec.params,
        "precision": spec.compute.precision,
        "memory_limit": gpus_told().memory_limit,
        "saved_model": str(made),
        "progress": str(workdir.lines),
        "checkpoints": str(workdir.checkpoints),
        "tensorboard": str(workdir.tensorboard) if options().tensorboard else None,
    }


def _checked(workdir: Workdir) -> Lines:
    """Return the lines that the script wrote.

    :raises TrainingError: when a loss is no number, or explodes, or a line is no JSON.
    """
    lines, guard = read_lines(workdir), LossGuard()
    for name, values in lines.history.items():
        for epoch, value in enumerate(values, 1):
            guard.check({name: value}, epoch)
    return lines
