"""How much the tests try: a little in ``make test``, all of it in ``make thorough``, which sets ``THOROUGH``."""

from __future__ import annotations

import os

THOROUGH = bool(os.environ.get("THOROUGH"))


def examples(most: int) -> int:
    """Return how many examples a property test draws: all of them, or a fifth."""
    return most if THOROUGH else most // 5
