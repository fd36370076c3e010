"""How often a training is tried again: it counts whether it gets further, not how often it was begun."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, cast

from airflow.sdk import RetryPolicy
from airflow.sdk.definitions.retry_policy import RetryDecision

from airflow_mlops.exceptions import TrainingError

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator, Context

MOST_RETRIES = 100
"""What Airflow is told of a training: it takes a try away for every worker that is lost, however far that was."""

_KEY = "tries"
"""In the task state store, which outlives a worker."""
_EVERY = 30.0
"""Seconds between two writings of how far it is."""


class Tries:
    """Counts a training's tries in a row since one got further than any before, that one too.

    :param context: Of the task. Once that is cleared, it is counted anew.
    """

    def __init__(self, context: Context) -> None:
        self._store, ti = context["task_state_store"], context["ti"]
        self._of, self._number = ti.max_tries, ti.try_number  # the first changes when a task is cleared
        self.furthest = 0
        """Examples that any of them had done."""
        self.row = 0
        """How many there were."""
        self._written = 0.0

    def count(self, examples: int = 0) -> None:
        """Count this one, once.

        :param examples: How many are known to be done, by any.
        """
        known = cast("dict[str, int]", self._store.get(_KEY) or {})
        if known.get("of") != self._of:
            known = {"furthest": 0, "row": 0, "number": 0}
        self.furthest = max(known["furthest"], examples)
        self.row = 1 if examples > known["furthest"] else known["row"] + (known["number"] != self._number)
        self._write()
        self._written = 0.0

    def reached(self, examples: int) -> None:
        """Take how far it is."""
        if examples <= self.furthest:
            return
        before, self.furthest, self.row = self.row, examples, 1
        if before > 1 or time.monotonic() - self._written >= _EVERY:
            self._write()

    def _write(self) -> None:
        told = {"of": self._of, "number": self._number, "furthest": self.furthest, "row": self.row}
        self._store.set(_KEY, cast("Any", told))
        self._written = time.monotonic()


class RetryWhileItGetsFurther(RetryPolicy):
    """Tries a training again as long as it gets further than any try before.

    :param retries: How many in a row may not.
    """

    def __init__(self, retries: int) -> None:
        self.retries = retries

    def begin(self, context: Context, examples: int) -> Tries:
        """Count a try that begins: one whose worker is lost says nothing any more.

        :param examples: How many are known to be done, by tries before.
        :raises TrainingError: when there were enough of them.
        """
        tries = Tries(context)
        tries.count(examples)
        if tries.row > self.retries + 1:
            raise TrainingError(
                f"Its worker was lost {tries.row - 1} times in a row, and it got no further.",
                detail=f"the furthest that any try came was {tries.furthest:,} examples",
                hint="See what became of the workers: a training that takes its worker along mostly lacks memory. "
                "Then clear the task.",
            )
        return tries

    def evaluate(
        self, exception: BaseException, try_number: int, max_tries: int, context: Context | None = None
    ) -> RetryDecision:
        """Count, and decide."""
        if context is None:
            return RetryDecision.default()
        tries = Tries(context)
        tries.count(self.reached(context))
        if tries.row <= self.retries:
            return RetryDecision.default()
        return RetryDecision.fail(f"{tries.row} tries in a row got no further than {tries.furthest:,} examples")

    def reached(self, context: Context) -> int:
        """Return how many examples are done, as far as that was not told while it trained."""
        return 0


def more_retries(task: BaseOperator) -> int:
    """Let Airflow try a training again as often as it takes, if at all. Returns the retries that were wanted."""
    wanted = task.retries or 0
    if wanted:
        task.retries = max(wanted, MOST_RETRIES)
    return wanted
