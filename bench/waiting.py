"""A thousand sensors that wait in one triggerer: how long the event loop is held up, and how late a look is.

The triggers are those of ``PartitionArrivalSensor`` as the templates set it, a look every five seconds, on a folder in
which nothing lands; they run in one event loop, as a triggerer has it. Beside it the same loop with as many of
Airflow's own ``TimeDeltaTrigger``, which only sleep. A sensor that waits so holds no worker: its task is deferred.

A loop comes late when this process works, and when the machine does something else. What of its lateness the process
spent on a CPU is its own, at most; the bound is on that. Of the lateness by the clock, 99 of 100 ticks are held to it.

Run: python bench/waiting.py [--small]
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("AIRFLOW__LOGGING__LOGGING_LEVEL", "ERROR")

from airflow.providers.standard.triggers.temporal import TimeDeltaTrigger
from airflow.triggers.base import BaseTrigger

from _figures import Figures, options
from airflow_mlops.triggers.data import PartitionArrivalTrigger

EVERY = 5.0
_TICK = 0.01


class Counting(PartitionArrivalTrigger):
    """Counts its looks, and is not late for a day that never lands."""

    looks = 0

    def poll(self) -> None:
        """Look, and count it."""
        super().poll()
        Counting.looks += 1


def waiting(home: Path, number: int) -> BaseTrigger:
    """Return the trigger of a sensor that waits for a day of some feed."""
    return Counting(
        feed=str(home / f"feed_{number}"), key="2024-01-01", marker="_SUCCESS", manifest=None, min_rows=0, settle=None,
        late_after=None, since=time.time(), poll_interval=EVERY, deadline=time.time() + 3600,
    )  # fmt: skip


async def drain(trigger: BaseTrigger) -> None:
    async for _ in trigger.run():
        return


class Late(NamedTuple):
    """By how many milliseconds the ticks of a loop came late, in order: by the clock, and by the process's own work."""

    clock: list[float]
    own: list[float]


async def lags(triggers: list[BaseTrigger], seconds: float) -> Late:
    """Run triggers in this loop; return how late each tick of it came, after they all began."""
    tasks = [asyncio.create_task(drain(trigger)) for trigger in triggers]
    await asyncio.sleep(EVERY)
    clock, own, until = [], [], time.perf_counter() + seconds
    while time.perf_counter() < until:
        began, worked = time.perf_counter(), time.process_time()
        await asyncio.sleep(_TICK)
        late = (time.perf_counter() - began - _TICK) * 1000
        clock.append(late)
        own.append(min(late, (time.process_time() - worked) * 1000))
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return Late(sorted(clock), sorted(own))


def main() -> None:
    small = options(__doc__).parse_args().small
    figures = Figures(small=small)
    count, seconds = (50, 1.0) if small else (1000, 20.0)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        for number in range(count):
            (home / f"feed_{number}").mkdir()
        asleep = asyncio.run(lags([TimeDeltaTrigger(timedelta(hours=1)) for _ in range(count)], seconds))
        Counting.looks = 0
        ours = asyncio.run(lags([waiting(home, number) for number in range(count)], seconds))
        looks = Counting.looks / ((seconds + EVERY) / EVERY * count)
    note = f"by the clock at most {ours.clock[-1]:.1f} ms; with triggers that sleep {asleep.clock[-1]:.1f} ms"
    figures.hold(f"milliseconds that {count} sensors hold the loop up", ours.own[-1], at_most=100, note=note)
    most = ours.clock[len(ours.clock) * 99 // 100]
    figures.hold("milliseconds by the clock, 99 of 100 ticks", most, at_most=100)
    figures.hold("looks made / looks due", looks, at_least=0.9)
    figures.end()


if __name__ == "__main__":
    main()
