"""How often a training is tried again: it counts whether it gets further, not how often it was begun."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, cast

from airflow_mlops.exceptions import TrainingError, TransientError

if TYPE_CHECKING:
    from airflow.sdk import Context

MOST_RETRIES = 100
"""What Airflow is told of a training: it takes a try away for every worker that is lost, however far that was."""

_KEY = "tries"
"""In the task state store, which outlives a worker."""
_EVERY = 30.0
"""Seconds between two writings of how far it is."""


class Tries:
    """Counts a training's tries in a row since one got further than any before, that one too.

    :param context: Of the task. Once that is cleared, it is counted anew.
    :param training: Which training it is; another one is counted anew.
    :param retries: How many may follow in a row; None: it is not counted.
    """

    def __init__(self, context: Context, training: str, retries: int | None) -> None:
        self._store = context.get("task_state_store") if retries is not None else None
        self._of = f"{training}:{context['ti'].max_tries}" if self._store is not None else ""  # clearing changes it
        self._retries = retries or 0
        self._furthest, self._tries, self._written = 0, 0, 0.0

    @property
    def over(self) -> bool:
        """Whether none may follow."""
        return self._store is not None and self._tries > self._retries

    @property
    def words(self) -> str:
        """How many there were."""
        return f"{self._tries} tries in a row got no further than {self._furthest:,} examples"

    def count(self, examples: int) -> None:
        """Count one more.

        :param examples: How many are known to be done, by any.
        """
        if self._store is None:
            return
        known = cast("dict[str, Any]", self._store.get(_KEY) or {})
        if known.get("of") != self._of:
            known = {"furthest": 0, "tries": 0}
        self._furthest, self._tries = max(known["furthest"], examples), known["tries"] + 1
        if examples > known["furthest"]:
            self._tries = 1
        self._write()
        self._written = 0.0

    def begin(self, examples: int) -> None:
        """Count one that begins: whose worker is lost says nothing any more.

        :raises TrainingError: when there were enough of them.
        """
        self.count(examples)
        if self._store is not None and self._tries > self._retries + 1:
            raise TrainingError(
                f"Its worker was lost {self._tries - 1} times in a row, and it got no further.",
                detail=f"the furthest that any try came was {self._furthest:,} examples",
                hint="See what became of the workers: a training that takes its worker along mostly lacks memory. "
                "Then clear the task.",
            )

    def reached(self, examples: int) -> None:
        """Take how far it is."""
        if self._store is None or examples <= self._furthest:
            return
        before, self._furthest, self._tries = self._tries, examples, 1
        if before > 1 or time.monotonic() - self._written >= _EVERY:
            self._write()

    def last_words(self, error: TransientError) -> TransientError | TrainingError:
        """Return an error as it is to end this try: one that is not tried again when there were enough of them."""
        if not self.over:
            return error
        return TrainingError(error.headline, detail=f"{error.detail}; {self.words}", hint=error.hint)

    def _write(self) -> None:
        assert self._store is not None
        self._store.set(_KEY, {"of": self._of, "furthest": self._furthest, "tries": self._tries})
        self._written = time.monotonic()
