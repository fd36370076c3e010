"""Follow a training by Keras: check it, say how it gets on, keep it. Importing this module imports TensorFlow."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import keras

from airflow_mlops.contracts import TrainingSpec
from airflow_mlops.engine.training import ending, keras_state
from airflow_mlops.engine.training.checkpoints import Checkpoint, Checkpoints, Position
from airflow_mlops.engine.training.finish import LossGuard
from airflow_mlops.engine.training.options import options
from airflow_mlops.engine.training.progress import Lines, ProgressReport
from airflow_mlops.engine.training.workdir import Workdir

_SAID = 1.0
"""Seconds that are at least between the lines of two epochs in the log."""

log = logging.getLogger(__name__)


class Following(keras.callbacks.Callback):
    """Keras calls it between steps.

    :param rows: Of the training split.
    :param stopping: Early stopping, which is to come before it in the list of callbacks.
    """

    def __init__(
        self, spec: TrainingSpec, workdir: Workdir, rows: int, stopping: keras.callbacks.EarlyStopping
    ) -> None:
        super().__init__()
        self._spec, self._rows, self._stopping = spec, rows, stopping
        told = options()
        self.checkpoints = Checkpoints(
            workdir.checkpoints, spec.hash, every=told.checkpoint_every, epochs=told.checkpoint_epochs
        )
        self._found: Checkpoint | None = None
        self._start = Position()
        self._began = self._epoch_began = time.monotonic()
        self._said = 0.0
        self._guard = LossGuard()
        self.lines = Lines({}, ())
        """Of the epochs that are done."""
        self.started = datetime.now(UTC)
        """When the first try began."""
        self._before = 0.0
        self._workdir = workdir
        self.progress = ProgressReport(spec, workdir)

    @property
    def first_epoch(self) -> int:
        """The epoch to begin with, from 0 on."""
        return self._start.epoch

    @property
    def seconds(self) -> float:
        """How long it has been training, in all tries."""
        return self._before + time.monotonic() - self._began

    def resume(self, model: keras.Model, batches: Iterable[Any]) -> None:
        """Go on from the newest checkpoint, if there is one.

        :param batches: Of the first the model makes the variables that it otherwise makes at the first step.
        """
        found = self.checkpoints.newest()
        if found is None:
            return
        keras_state.build(model, next(iter(batches)))
        if not keras_state.fits(model, found.arrays):
            log.warning("The checkpoint is passed over: the model function has made another model")
            return
        self._found, self._start = found, found.position
        self.lines = Lines(dict(found.state["history"]), tuple(found.state["times"]))
        self.started, self._before = datetime.fromisoformat(found.state["started"]), found.state["seconds"]
        self._guard.first = dict(found.state["first"])
        self.progress = ProgressReport(self._spec, self._workdir, self._done(found.position))
        log.info("Going on from a checkpoint: %s of %d", found.position, self._spec.epochs)

    def passes(self) -> Iterator[tuple[int, int]]:
        """Yield where each pass over the training split begins, when it begins."""
        return iter(lambda: self._start, None)

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Take over what the checkpoint has; early stopping has been made new just before."""
        self._began = time.monotonic()
        if self._found is not None:
            keras_state.set_model(self.model, self._found.arrays)
            keras_state.set_stopping(self._stopping, self._found.state["stopping"], self._found.arrays)
        self.progress.write(self._start.epoch + 1, self._start.step, self._done(self._start), {}, self.lines)

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Start the clock; in the middle of an epoch its metrics go on too."""
        self._epoch_began = time.monotonic()
        if epoch != self._start.epoch:
            self._start = Position(epoch)
        elif self._found is not None and self._start.step:
            keras_state.set_metrics(self.model, self._found.arrays)
        self._found = None

    def on_train_batch_begin(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Look up between steps. Not after them: Keras would fetch the metrics each time, which costs a step."""
        position = Position(self._start.epoch, self._start.step + batch)
        if not batch or position.step * self._spec.batch_size >= self._rows:
            return
        if self.progress.due:
            values = {name: float(value) for name, value in self.model.get_metrics_result().items()}
            self._guard.check(values, position.epoch + 1)
            self.progress.write(position.epoch + 1, position.step, self._done(position), values, self.lines)
        self._save(position)

    def on_test_batch_begin(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Say that it moves."""
        if self.progress.due:
            done = self._done(Position(self._start.epoch + 1))
            self.progress.write(self._start.epoch + 1, 0, done, {}, self.lines)

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Report, check and keep."""
        values = {name: float(value) for name, value in (logs or {}).items()}
        last = epoch + 1 == self._spec.epochs or self.model.stop_training
        said = last or time.monotonic() - self._said >= _SAID
        if said:
            told = ", ".join(f"{name} {value:.4f}" for name, value in values.items())
            seconds = time.monotonic() - self._epoch_began
            log.info("epoch %d/%d: %s (%.1f s)", epoch + 1, self._spec.epochs, told, seconds)
            self._said = time.monotonic()
        self._guard.check(values, epoch + 1)
        for name, value in values.items():
            self.lines.history.setdefault(name, []).append(value)
        self.lines = self.lines._replace(times=(*self.lines.times, datetime.now(UTC).timestamp()))
        position = Position(epoch + 1)
        if last or self.progress.due:
            self.progress.write(epoch + 1, 0, self._done(position), values, self.lines, said=said)
        if not last:
            self._save(position)

    def _done(self, position: Position) -> int:
        """Return how many examples were seen by then."""
        return position.epoch * self._rows + min(self._rows, position.step * self._spec.batch_size)

    def _save(self, position: Position) -> None:
        """Save if it is time, or when asked to end: then this process ends."""
        if not (ending.asked() or self.checkpoints.due(position)):
            return
        state = {
            "history": self.lines.history,
            "times": self.lines.times,
            "started": self.started.isoformat(),
            "seconds": self.seconds,
            "first": self._guard.first,
            "stopping": keras_state.stopping_state(self._stopping),
        }
        saved = self.checkpoints.save(position, keras_state.arrays_of(self.model, self._stopping), state)
        if ending.asked():
            self.progress.write(position.epoch + 1, position.step, self._done(position), {}, self.lines)
            log.info("Asked to end, %s: %s", "and saved" if saved else "and could not save", position)
            ending.end()
