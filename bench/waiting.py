"""A thousand sensors that wait in one triggerer: how long the event loop is held up, and how late a look is.

The triggers are those of ``PartitionArrivalSensor`` as the templates set it, a look every five seconds, on a folder in
which nothing lands; they run in one event loop, as a triggerer has it. Beside it the same loop with as many of
Airflow's own ``TimeDeltaTrigger``, which only sleep. A sensor that waits so holds no worker: its task is deferred.

Run: python bench/waiting.py [--small]
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from datetime import timedelta
from pathlib import Path

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


async def lags(triggers: list[BaseTrigger], seconds: float) -> list[float]:
    """Run triggers in this loop; return by how many milliseconds each tick of it came late, after they all began."""
    tasks = [asyncio.create_task(drain(trigger)) for trigger in triggers]
    await asyncio.sleep(EVERY)
    late, until = [], time.perf_counter() + seconds
    while time.perf_counter() < until:
        began = time.perf_counter()
        await asyncio.sleep(_TICK)
        late.append((time.perf_counter() - began - _TICK) * 1000)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return sorted(late)


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
    note = f"99 of 100 under {ours[len(ours) * 99 // 100]:.1f} ms; asleep at most {asleep[-1]:.1f} ms"
    figures.hold(f"milliseconds that the loop is held up, {count} sensors", ours[-1], at_most=100, note=note)
    figures.hold("looks made / looks due", looks, at_least=0.9)
    figures.end()


if __name__ == "__main__":
    main()
