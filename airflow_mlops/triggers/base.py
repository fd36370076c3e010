"""Base of the triggers: poll without blocking the event loop, until a wall-clock deadline."""

from __future__ import annotations

import asyncio
import time
from abc import abstractmethod
from collections.abc import AsyncIterator, Mapping
from random import uniform
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_mlops.exceptions import MlopsError


class PollTrigger(BaseTrigger):
    """Call :meth:`poll` at once, then every ``poll_interval`` seconds, and emit exactly one terminal event.

    The event is ``{"status": "success", "result": ...}``, ``{"status": "timeout", "seen": ...}`` or
    ``{"status": "error", "headline": ..., "detail": ..., "hint": ..., "retryable": ...}``.

    Subclasses take plain, JSON-able keyword arguments and hand every one of them to this constructor, which
    serializes exactly what it was given.

    :param poll_interval: Seconds between polls.
    :param deadline: Wall-clock time (seconds since the epoch) at which to give up. It survives a restart of
        the triggerer, which a duration would not.
    """

    def __init__(self, *, poll_interval: float, deadline: float, **arguments: Any) -> None:
        super().__init__()
        self.poll_interval = poll_interval
        self.deadline = deadline
        self._arguments = arguments
        self.seen = ""

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and every constructor argument."""
        path = f"{type(self).__module__}.{type(self).__qualname__}"
        return path, {"poll_interval": self.poll_interval, "deadline": self.deadline, **self._arguments}

    async def prepare(self) -> None:
        """Look up connections before the first poll; the default needs none."""

    @abstractmethod
    def poll(self) -> Mapping[str, object] | None:
        """Look once, in a thread. Return the JSON-able result when the wait is over, else None.

        What it saw instead may be put into :attr:`seen`, in words: the message of the timeout says it.
        """

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Poll until there is a result, an error or the deadline."""
        yield TriggerEvent(await self._outcome())

    async def _outcome(self) -> dict[str, Any]:
        try:
            await self.prepare()
            pause = uniform(0, self.poll_interval)  # those that began together, at midnight, do not go on together
            while True:
                result = await asyncio.to_thread(self.poll)
                if result is not None:
                    return {"status": "success", "result": result}
                remaining = self.deadline - time.time()
                if remaining <= 0:
                    return {"status": "timeout", "seen": self.seen}
                await asyncio.sleep(min(pause, remaining))
                pause = self.poll_interval
        except MlopsError as error:
            return {
                "status": "error",
                "headline": error.headline,
                "detail": error.detail,
                "hint": error.hint,
                "retryable": error.retryable,
            }
