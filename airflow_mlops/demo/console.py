"""What the user sees while the demo works: one moving line on a terminal, few plain lines in a log."""

from __future__ import annotations

import shutil
import sys
import time

_QUIET_FOR = 15.0


class Console:
    """Say what goes on. On a terminal the present step is one line that is rewritten; elsewhere a step is
    printed when it changes, and every 15 s at most while only its numbers move.
    """

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._terminal = sys.stdout.isatty()
        self._step = ""
        self._printed = 0.0

    def say(self, text: str) -> None:
        """Print a line that stays."""
        self._clear()
        print(f"{self._clock()} {text}", flush=True)
        self._step = ""

    def step(self, name: str, detail: str = "") -> None:
        """Show what is being done now: ``name`` is the step, ``detail`` may change all the time."""
        line = f"{self._clock()} {name}{f': {detail}' if detail else ''}"
        if self._terminal:
            width = shutil.get_terminal_size().columns - 1
            print(f"\r\x1b[K{line[:width]}", end="", flush=True)
        elif name != self._step or time.monotonic() - self._printed > _QUIET_FOR:
            print(line, flush=True)
            self._printed = time.monotonic()
        self._step = name

    def text(self, text: str) -> None:
        """Print a block without a clock."""
        self._clear()
        print(text, flush=True)
        self._step = ""

    def _clear(self) -> None:
        if self._terminal and self._step:
            print("\r\x1b[K", end="")

    def _clock(self) -> str:
        minutes, seconds = divmod(int(time.monotonic() - self._started), 60)
        return f"[{minutes}:{seconds:02}]"
