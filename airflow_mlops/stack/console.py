"""What the user sees while a command works: one moving line on a terminal, few plain lines in a log."""

from __future__ import annotations

import shutil
import sys
import time

_QUIET_FOR = 15.0


class Console:
    """Say what goes on. On a terminal the present step is one line that is rewritten; elsewhere a step is
    printed when it changes, and every 15 s while only its detail does.
    """

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._terminal = sys.stdout.isatty()
        self._step = ""
        self._since = 0.0
        self._printed = 0.0

    def say(self, text: str) -> None:
        """Print a line that stays."""
        self._end_step()
        print(f"{self._clock()} {text}", flush=True)

    def step(self, name: str, detail: str = "") -> None:
        """Show what is being done now: ``name`` is the step, ``detail`` may change all the time."""
        now = time.monotonic()
        changed = name != self._step
        if changed:
            self._step, self._since = name, now
        elapsed = f" ({now - self._since:.0f} s)" if now - self._since >= 1 else ""
        line = f"{self._clock()} … {name}{f': {detail}' if detail else ''}{elapsed}"
        if self._terminal:
            print(f"\r\x1b[K{line[: shutil.get_terminal_size().columns - 1]}", end="", flush=True)
        elif changed or now - self._printed > _QUIET_FOR:
            print(line, flush=True)
            self._printed = now

    def text(self, text: str) -> None:
        """Print a block without a clock."""
        self._end_step()
        print(text, flush=True)

    def _end_step(self) -> None:
        if self._terminal and self._step:
            print("\r\x1b[K", end="")
        self._step = ""

    def _clock(self) -> str:
        minutes, seconds = divmod(int(time.monotonic() - self._started), 60)
        return f"[{minutes}:{seconds:02}]"
