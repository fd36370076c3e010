"""The MLflow run of a training that is under way: opened when it begins, with every epoch as it ends.

Training does not depend on MLflow. What does not arrive is tried again with the next progress, and at the latest when
the model is registered: the same values at the same moments, which MLflow then has once.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow_mlops.contracts import TrainingProgress, TrainingSpec
from airflow_mlops.engine.registry.connection import talking_to
from airflow_mlops.engine.registry.records import epoch_batches, milliseconds, usage_batches
from airflow_mlops.exceptions import MlopsError

if TYPE_CHECKING:
    from airflow_mlops.engine.registry.registry import Registry, TrainingRun

_AGAIN = 60.0
"""Seconds until MLflow is asked again when it did not answer."""
_MOST_SAMPLES = 1000
"""Of what was used meanwhile, the newest that are kept."""


class LiveRun:
    """A training's run in MLflow, while it trains.

    :param connect: Returns the registry; called in the thread that follows the training.
    :param tags: More tags, such as the Airflow run.
    :param opened: Is told of the run once it is there.
    """

    def __init__(
        self,
        connect: Callable[[], Registry],
        spec: TrainingSpec,
        tags: Mapping[str, str],
        opened: Callable[[TrainingRun], None],
        log: logging.Logger | Any,
    ) -> None:
        self._connect, self._spec, self._tags, self._opened, self._log = connect, spec, tags, opened, log
        self._started = datetime.now(UTC)
        self._registry: Registry | None = None
        self._run: TrainingRun | None = None
        self._logged, self._asked, self._failed = 0, 0.0, False
        self._usage: deque[tuple[datetime, Mapping[str, float]]] = deque(maxlen=_MOST_SAMPLES)

    def open(self) -> None:
        """Let the run be there, before anything is known of the training."""
        self._try(self._opened_run)

    def follow(self, progress: TrainingProgress) -> None:
        """Log the epochs that have ended since, and what is used of the machine."""
        if progress.usage:
            self._usage.append((datetime.now(UTC), progress.usage))

        def log_news(registry: Registry) -> None:
            run = self._opened_run(registry)
            for batch in usage_batches(list(self._usage), run.started):
                registry.client.log_batch(run.run_id, metrics=batch)
            self._usage.clear()
            for batch in epoch_batches(progress.history, progress.times, run.started, since=self._logged):
                registry.client.log_batch(run.run_id, metrics=batch)
            self._logged = max(map(len, progress.history.values()), default=0)

        if not self._failed or time.monotonic() - self._asked >= _AGAIN:
            self._try(log_news)

    def end(self, status: str, ended: datetime | None = None) -> None:
        """Say how it ended, if the run is there.

        :param status: ``FINISHED``, or ``KILLED`` for one that the next try goes on with.
        """
        if (run := self._run) is not None:
            self._try(lambda registry: registry.client.set_terminated(run.run_id, status, milliseconds(ended)))

    def fail(self, error: MlopsError) -> None:
        """Record that the training failed, and why."""
        self._try(lambda registry: registry.log_failure(self._opened_run(registry), error))

    def _opened_run(self, registry: Registry) -> TrainingRun:
        if self._run is None:
            self._run = registry.open_run(self._spec, self._tags, started=self._started)
            registry.client.update_run(self._run.run_id, "RUNNING")  # another try may have ended it
            self._opened(self._run)
        return self._run

    def _try(self, action: Callable[[Registry], object]) -> None:
        """Let nothing that goes wrong with MLflow reach the training."""
        self._asked = time.monotonic()
        try:
            if self._registry is None:
                self._registry = self._connect()
            with talking_to(self._registry.tracking_uri):
                action(self._registry)
        except MlopsError as problem:
            if not self._failed:
                self._log.warning("MLflow has not got all of it yet, and the training goes on: %s", problem)
            self._failed = True
        else:
            self._failed = False
