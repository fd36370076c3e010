"""How a training gets on: in the log now and then, and in ``progress.json`` every few seconds; without TensorFlow."""

from __future__ import annotations

import itertools
import json
import logging
import time
from collections import defaultdict, deque
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq

from airflow_mlops.contracts import Snapshot, TrainingProgress, TrainingSpec
from airflow_mlops.engine.data.files import temporary_sibling
from airflow_mlops.engine.training.workdir import Workdir
from airflow_mlops.exceptions import TrainingError

_WRITTEN = 2.0
"""Seconds between two writings of the file."""
_SAID = 15.0
"""Seconds between two lines in the log."""
_MEASURED = 60.0
"""Seconds over which the speed is taken."""

_AT = "at"

log = logging.getLogger(__name__)


class Lines(NamedTuple):
    """What was reported of the epochs that are done: metric → values, when, and all of the last."""

    history: dict[str, list[float]]
    times: tuple[float, ...]
    last: dict[str, float] = {}


class ProgressReport:
    """Says how far a training is, no more often than anyone reads it.

    :param done: Examples that an earlier try had seen.
    """

    def __init__(self, spec: TrainingSpec, workdir: Workdir, done: int = 0) -> None:
        self._spec, self._file = spec, workdir.progress
        self._rows = spec.snapshot.splits["train"].rows
        self._oldest, self._newest = event_times(spec.snapshot)
        now = time.monotonic()
        self._seen = deque([(now, done)])
        self._written, self._said, self._unwritten = 0.0, now, False
        self.seconds = 0.0
        """What all reporting took."""

    @property
    def due(self) -> bool:
        """Whether the file is old enough to be written again."""
        return time.monotonic() - self._written >= _WRITTEN

    def write(
        self, epoch: int, step: int, done: int, metrics: Mapping[str, float], lines: Lines, *, said: bool = False
    ) -> None:
        """Write how far it is.

        :param epoch: That is being made, or was made, from 1 on.
        :param step: Batches of it that are done.
        :param done: Examples seen, in all epochs.
        :param metrics: As they are now.
        :param lines: Of the epochs that are done.
        :param said: The log has it already.
        """
        now = time.monotonic()
        self._seen.append((now, done))
        while len(self._seen) > 2 and now - self._seen[0][0] > _MEASURED:
            self._seen.popleft()
        then, before = self._seen[0]
        rate = (done - before) / max(now - then, 1e-9)
        left = max(0, self._rows * self._spec.epochs - done)
        progress = TrainingProgress(
            at=datetime.now(UTC),
            spec_hash=self._spec.hash,
            epoch=epoch,
            epochs=self._spec.epochs,
            step=step,
            examples=done,
            examples_left=left,
            examples_per_second=round(rate, 1),
            seconds_left=round(left / rate, 1) if rate > 0 else None,
            oldest_event_time=self._oldest,
            newest_event_time=self._newest,
            metrics=dict(metrics),
            history=lines.history,
            times=lines.times,
        )
        self._replace(progress.to_json())
        if said:
            self._said = now
        elif now - self._said >= _SAID:
            log.info("%s", progress)
            self._said = now
        self._written = time.monotonic()
        self.seconds += self._written - now

    def _replace(self, text: str) -> None:
        """Write the file whole or not at all. A disk that takes no more ends no training."""
        temporary = temporary_sibling(self._file)  # not forced to disk, which takes longer than all the rest
        try:
            temporary.write_text(text)
            temporary.replace(self._file)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            if not self._unwritten:
                log.warning("How far it is cannot be written, and the training goes on: %s", error.strerror or error)
            self._unwritten = True


def begin_lines(workdir: Workdir) -> None:
    """Mark that a try begins in what a fit function or a script reports; without checkpoints all begins anew."""
    if not workdir.keeps:
        workdir.lines.unlink(missing_ok=True)
    elif workdir.lines.exists():
        with workdir.lines.open("a") as file:
            file.write("\n\n")


def add_line(workdir: Workdir, epoch: int, values: Mapping[str, float]) -> None:
    """Report an epoch, or whatever a fit function counts as one."""
    workdir.checkpoints.mkdir(parents=True, exist_ok=True)
    with workdir.lines.open("a") as file:
        file.write(json.dumps({"epoch": epoch, _AT: time.time(), **values}) + "\n")


def read_lines(workdir: Workdir) -> Lines:
    """Return what was reported, without what an earlier try did and a later one did again.

    :raises TrainingError: when a line of the last try cannot be read.
    """
    text = workdir.lines.read_text() if workdir.lines.exists() else ""
    *before, last = (part.splitlines() for part in text.split("\n\n"))
    told: list[dict[str, float]] = []
    for lines in before:
        told = _merged(told, [values for line in lines if (values := _values(line)) is not None])
    now = []
    for number, line in enumerate(lines := [line for line in last if line.strip()], 1):
        if (values := _values(line)) is None:
            raise TrainingError(
                f"Line {number} of the script's progress cannot be read.",
                detail=f"{lines[number - 1][:80]!r}",
                hint='Write a line of JSON with numbers only: {"epoch": 1, "loss": 0.4}.',
            )
        now.append(values)
    told = _merged(told, now)
    history: dict[str, list[float]] = defaultdict(list)
    for values in told:
        for name, value in values.items():
            if name not in ("epoch", _AT):
                history[name].append(value)
    times = tuple(values[_AT] for values in told if _AT in values)
    newest = {name: value for name, value in (told or [{}])[-1].items() if name != _AT}
    return Lines(dict(history), times if len(times) == len(told) else (), newest)


def _values(line: str) -> dict[str, float] | None:
    try:
        return {str(name): float(value) for name, value in json.loads(line).items()}
    except (ValueError, TypeError, AttributeError):
        return None


def _merged(before: list[dict[str, float]], after: list[dict[str, float]]) -> list[dict[str, float]]:
    if not after:
        return before
    first = after[0].get("epoch", 1)
    return [*itertools.takewhile(lambda values: values.get("epoch", 0) < first, before), *after]


def event_times(snapshot: Snapshot) -> tuple[datetime | None, datetime | None]:
    """Return the oldest and the newest event time that is trained on, as the Parquet file's statistics have them."""
    with pq.ParquetFile(Path(snapshot.uri) / snapshot.splits["train"].file) as file:
        place = file.schema_arrow.get_field_index(snapshot.event_time)
        groups = [file.metadata.row_group(group).column(place).statistics for group in range(file.num_row_groups)]
    known = [one for one in groups if one is not None and one.has_min_max]
    return min((one.min for one in known), default=None), max((one.max for one in known), default=None)
