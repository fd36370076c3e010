"""Refuse to train a model on far fewer rows than it was trained on last time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from airflow_mlops.contracts import Snapshot, TrainingResult, TrainingSpec
from airflow_mlops.engine.data import storage
from airflow_mlops.engine.data.shared import origin
from airflow_mlops.exceptions import TrainingError

_LONG_AGO = datetime.min.replace(tzinfo=UTC)


def check_rows(home: Path, snapshot: Snapshot, min_rows_share: float) -> None:
    """Hold the rows of the training split against those of the model's last training on other data.

    A first training has nothing to be compared with. Data that is newer than the snapshot's does not count: an old
    window that is trained on again is not compared with what has come since.

    :param home: Folder with the trainings.
    :param min_rows_share: Smallest share of the rows of last time that is trained on.
    :raises TrainingError: when there are fewer, with both numbers.
    :raises TransientError: when the storage does not answer.
    """
    last = max(_before(home, snapshot), key=lambda one: one[1].ended or _LONG_AGO, default=None)
    if last is None:
        return
    then, now = last[0].snapshot.splits["train"].rows, snapshot.splits["train"].rows
    if now < min_rows_share * then:
        raise TrainingError(
            f"There are {now:,} rows to train {snapshot.model!r} on, and last time there were {then:,}.",
            detail=f"that is {now / then:.0%} of them, and min_rows_share is {min_rows_share:g}; snapshot "
            f"{snapshot.id!r}, last time {last[0].snapshot.id!r}",
            hint="See what is missing: days, excluded windows, labels that found no row. Where fewer are right, train "
            f"once with min_rows_share={now / then * 0.99:.2g}: what is trained then is compared with next time.",
        )


def _before(home: Path, snapshot: Snapshot) -> Iterator[tuple[TrainingSpec, TrainingResult]]:
    """Yield the finished trainings of the model on other data that is not newer."""
    folder = origin(home / "trainings")
    with storage.reaching(folder):
        names = storage.subfolders(folder)
        specs, results = (
            storage.read_if_there([folder / name / file for name in names]) for file in ("spec.json", "result.json")
        )
    for told, made in zip(specs, results, strict=True):
        if told is None or made is None:
            continue
        with contextlib.suppress(ValidationError):  # another release wrote it
            spec = TrainingSpec.from_json(told)
            other = spec.snapshot.model == snapshot.model and spec.snapshot.id != snapshot.id
            if other and spec.snapshot.label_cut <= snapshot.label_cut:
                yield spec, TrainingResult.from_json(made)
