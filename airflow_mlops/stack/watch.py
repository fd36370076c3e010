"""``python -m airflow_mlops.stack.watch HOME``: start again what dies of a stack, until the stack is stopped."""

from __future__ import annotations

import contextlib
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from airflow_mlops.exceptions import MlopsError
from airflow_mlops.stack.stack import Stack

LOOK_EVERY = 1.0
"""Seconds between two looks."""
MOST = 5
"""How often one component is started again within ``WITHIN`` seconds."""
WITHIN = 600.0


def watch(stack: Stack, wait: Callable[[float], None] = time.sleep) -> str:
    """Start again what dies, one moment later each time. Returns why it is over.

    :param wait: Lets so many seconds pass.
    """
    deaths: dict[str, list[float]] = defaultdict(list)
    while stack.is_started:
        for name in stack.dead():
            deaths[name] = [*(then for then in deaths[name] if time.monotonic() - then < WITHIN), time.monotonic()]
            if len(deaths[name]) > MOST:
                return f"{name} has ended {len(deaths[name])} times, so nothing is started again from now on"
            stack.console.say(f"{name} has ended")
            wait(LOOK_EVERY * (2 ** (len(deaths[name]) - 1) - 1))
        # Whoever starts or stops it now does it; a database that does not come up is looked at again.
        with contextlib.suppress(MlopsError):
            if revived := stack.revive():
                stack.console.say(f"started again: {', '.join(revived)}")
        wait(LOOK_EVERY)
    return "the stack was stopped"


def main(home: Path) -> None:
    """Watch the stack below ``home``."""
    stack = Stack.started(home)
    if stack is not None:
        stack.console.say(watch(stack))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
