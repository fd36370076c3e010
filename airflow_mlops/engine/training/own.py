"""A training that was done by somebody's own task: its SavedModel becomes a finished training like any other."""

from __future__ import annotations

import logging
import platform
import shutil
import time
from datetime import UTC, datetime
from pathlib import Path

from airflow_mlops.contracts import TrainingResult, TrainingSpec
from airflow_mlops.engine.data.files import temporary_sibling
from airflow_mlops.engine.data.shared import fetch, send, withdraw
from airflow_mlops.engine.data.snapshots import check_whole
from airflow_mlops.engine.training.adopt import adopt
from airflow_mlops.engine.training.finish import Course, write_result
from airflow_mlops.engine.training.transform import given
from airflow_mlops.engine.training.workdir import Workdir, write_text

log = logging.getLogger(__name__)


def take(spec: TrainingSpec, folder: Path, made: Path) -> TrainingResult:
    """Return the training that a SavedModel is the result of, held against its snapshot; once it is there, as it is.

    :param spec: Names, in its environment, what the SavedModel consists of.
    :param folder: Folder of the training.
    :param made: Folder of the SavedModel. It is copied.
    :raises TrainingError: when it is not whole, takes other inputs than the snapshot's, or does not answer.
    """
    workdir = Workdir(folder)
    fetch(folder)
    done = workdir.finished(spec.hash)
    if done is not None:
        log.info("Already taken: %s", folder)
        return done
    began, started = datetime.now(UTC), time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    withdraw(folder)
    workdir.result.unlink(missing_ok=True)
    write_text(workdir.spec, spec.to_json())
    check_whole(spec.snapshot)
    copied = temporary_sibling(workdir.saved_model)
    shutil.copytree(made, copied)
    with given(spec, workdir) as sees:
        signature = adopt(sees, copied, workdir)
    seconds = time.monotonic() - started
    rows = spec.snapshot.splits["train"].rows
    course = Course({"seconds": [seconds]}, rows, seconds, platform.machine(), began)
    result = write_result(spec, workdir, signature, course)
    send(folder)
    return result
