"""What a training has cost in all its tries, and when that is enough."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Iterator

from airflow_mlops.engine.training.workdir import Workdir, write_text
from airflow_mlops.exceptions import ConfigError, TrainingError

_WRITTEN = 30.0
"""Seconds between two writings: as much is forgotten of a try whose machine is lost."""


class Spending:
    """Counts the seconds of a training's process, beside its checkpoints, so that the next try counts on.

    :param price: Of an hour of this machine; 0: nobody said.
    :param max_cost: What all tries together may cost; None: there is no limit.
    :raises ConfigError: when there is a limit and no price.
    """

    def __init__(self, workdir: Workdir, price: float = 0.0, max_cost: float | None = None) -> None:
        if max_cost is not None and not price:
            raise ConfigError(
                f"max_cost={max_cost:g} limits nothing: nobody has said what an hour of this worker costs.",
                detail="option [mlops] price_per_hour is not set here",
                hint="Set it on the workers that train, AIRFLOW__MLOPS__PRICE_PER_HOUR=2.5; or leave max_cost out.",
            )
        self._workdir, self._price, self._limit = workdir, price, max_cost
        self._began: float | None = None
        self._written = 0.0
        self.before = 0.0
        """Seconds of the tries before."""

    @property
    def seconds(self) -> float:
        """How long its processes have run."""
        return self.before + (0.0 if self._began is None else time.monotonic() - self._began)

    @property
    def left(self) -> float:
        """How many seconds more are within the limit; without one, forever."""
        return math.inf if self._limit is None else self._limit / self._price * 3600 - self.seconds

    @contextlib.contextmanager
    def counting(self) -> Iterator[None]:
        """Count while the block runs.

        :raises TrainingError: when the tries before have cost all that there is.
        """
        try:
            self.before = float(json.loads(self._workdir.spent.read_bytes())["seconds"])
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            self.before = 0.0
        if self.left <= 0:
            raise self.over()
        self._began = self._written = time.monotonic()
        try:
            yield
        finally:
            self.keep()
            self.before, self._began = self.seconds, None

    def mind(self) -> None:
        """Keep the count now and then; called every few seconds while it runs."""
        if time.monotonic() - self._written >= _WRITTEN:
            self.keep()

    def keep(self) -> None:
        """Write down how long it took so far."""
        self._written = time.monotonic()
        if self._price or self._workdir.keeps:  # else the next try begins anew, and nobody pays
            with contextlib.suppress(OSError):  # a full disk ends no training
                write_text(self._workdir.spent, json.dumps({"seconds": round(self.seconds, 3)}))

    def warning(self, seconds_left: float) -> str:
        """Return that it will pass its limit, in words; empty when it will not.

        :param seconds_left: How long the training still takes.
        """
        if self._limit is None or seconds_left <= self.left:
            return ""
        return (
            f"This training will pass its price limit: it would cost {self._cost(self.seconds + seconds_left)} in all, "
            f"and max_cost is {self._limit:g}. It is stopped then, and what it has done is kept."
        )

    def over(self) -> TrainingError:
        """Return the error that the limit is reached."""
        return TrainingError(
            f"The training has reached its price limit of {self._limit:g} and was stopped.",
            detail=f"all its tries took {self.seconds / 3600:.2f} h at {self._price:g} an hour, which is "
            f"{self._cost(self.seconds)}; training {self._workdir.path}",
            hint="What it has saved is kept: raise max_cost and clear the task, and it goes on from there. Or train on "
            "less: a shorter window, fewer epochs.",
        )

    def _cost(self, seconds: float) -> str:
        return f"{seconds / 3600 * self._price:.4g}"
