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
    """Start again what dies, and give what was started longer each time. Returns why it is over.

    :param wait: Lets so many seconds pass.
    """
    starts: dict[str, list[float]] = defaultdict(list)
    while stack.is_started:
        for name in stack.dead():
            starts[name] = [then for then in starts[name] if time.monotonic() - then < WITHIN]
            if len(starts[name]) == MOST:
                return f"{name} has ended again, after {MOST} starts: nothing is started again from now on"
        revived: list[str] = []
        # Whoever starts or stops it now does it; a database that does not come up is looked at again.
        with contextlib.suppress(MlopsError):
            revived = stack.revive()
        for name in revived:
            starts[name].append(time.monotonic())
            stack.console.say(f"{name} had ended and is started again")
        wait(LOOK_EVERY * 2 ** max((len(starts[name]) - 1 for name in revived), default=0))
    return "the stack was stopped"


def main(home: Path) -> None:
    """Watch the stack below ``home``."""
    stack = Stack.started(home)
    if stack is not None:
        stack.console.say(watch(stack))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
