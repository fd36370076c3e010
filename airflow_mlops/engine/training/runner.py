"""The child process of a training: ``python -m airflow_mlops.engine.training.runner <workdir> [<worker>]``.

It reads ``spec.json``, trains, and leaves either ``result.json`` or ``error.json``. It lives only as long as
its parent holds the other end of its standard input. Of several workers, it is the first, and starts the others.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from airflow_mlops.contracts import TrainingSpec
from airflow_mlops.engine.devices.peers import with_peers
from airflow_mlops.engine.entrypoints import check_named, check_script
from airflow_mlops.engine.process import die_with_parent
from airflow_mlops.engine.training import ending
from airflow_mlops.engine.training.data import TrainingData
from airflow_mlops.engine.training.workdir import Workdir, read_spec, write_text
from airflow_mlops.exceptions import MlopsError, TransientError

_PORT_TAKEN = "Could not start gRPC server"
"""What TensorFlow says when somebody took the port since: the next attempt takes another."""


def main(workdir: Path, worker: int = 0) -> int:
    """Train what ``workdir`` asks for. Returns the exit status."""
    die_with_parent()
    ending.listen()
    logging.basicConfig(stream=sys.stdout, format="%(message)s", level=logging.INFO)
    # TensorFlow's own chatter on stderr would show as errors in the task's log.
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    try:
        spec = read_spec(workdir)
        _check_named(spec)
        if spec.script:
            from airflow_mlops.engine.training.script import run_script

            run_script(spec, Workdir(workdir))
        else:
            _fit(spec, Workdir(workdir), worker)
    except MlopsError as error:
        _write(workdir, error)
        return 1
    return 0


def _check_named(spec: TrainingSpec) -> None:
    """Refuse a function, or a script, that is not there before TensorFlow is imported."""
    named = {
        "model function": spec.entrypoint,
        "fit function": spec.fit,
        "golden function": spec.golden,
        "transform": spec.transform,
    }
    for what, name in named.items():
        if name:
            check_named(name, what, spec.code_path)
    if spec.script:
        check_script(spec.script, spec.code_path)


def _fit(spec: TrainingSpec, workdir: Workdir, worker: int) -> None:
    """Train, alone or as one of several workers. TensorFlow is imported once it is said which GPUs are this one's."""
    if worker:
        from airflow_mlops.engine.training.fit import join

        join(spec)
        threading.Event().wait()  # the others may still need this one; the first ends it

    def lost(number: int, status: int) -> None:
        if not workdir.error.exists():
            words = f"Worker {number} of the training ended with status {status}."
            _write(workdir.path, TransientError(words, detail=spec.named, hint="Its output is in the log above."))
        os._exit(1)

    command = [sys.executable, "-P", "-m", __spec__.name, str(workdir.path)]
    with with_peers(spec.compute, command, lost):
        with ThreadPoolExecutor(max_workers=1) as beside:
            reading = beside.submit(_read, spec)
            from airflow_mlops.engine.training.fit import fit

        fit(spec, workdir, reading.result())


def _read(spec: TrainingSpec) -> TrainingData | None:
    """Read what is trained on: TensorFlow takes seconds to import, and that one core only.

    Returns None where the rows go through a transform first.
    """
    if spec.transform:
        return None
    data = TrainingData(spec.snapshot)
    if spec.entrypoint:
        _ = data.train.columns  # are kept, for the model function
    return data


def _write(workdir: Path, error: MlopsError) -> None:
    retryable = error.retryable or _PORT_TAKEN in error.headline
    words = {"headline": error.headline, "detail": error.detail, "hint": error.hint, "retryable": retryable}
    write_text(Workdir(workdir).error, json.dumps(words, indent=2))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), *map(int, sys.argv[2:])))
