"""What every bench shares: its small setting, its figures beside the bounds that were promised, its exit status."""

from __future__ import annotations

import argparse
import sys


def options(doc: str | None) -> argparse.ArgumentParser:
    """Return a parser with the option that every bench has: ``--small``."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--small", action="store_true", help="little data, for a test that it runs: a bound that is missed is only said"
    )
    return parser


class Figures:
    """The figures of one bench, printed as they come.

    :param small: Measured on little data, where a bound says nothing: what must agree still must.
    """

    def __init__(self, *, small: bool) -> None:
        self.small = small
        self._missed: list[str] = []
        self._wrong: list[str] = []

    def hold(
        self, what: str, value: float, *, at_least: float | None = None, at_most: float | None = None, note: str = ""
    ) -> None:
        """Print a figure beside its bound, and whether it missed it."""
        bound = f"at least {at_least:g}" if at_most is None else f"at most {at_most:g}"
        kept = (at_least is None or value >= at_least) and (at_most is None or value <= at_most)
        if not kept:
            self._missed.append(f"{what}: {value:.2f}, {bound}")
        print(f"{what}: {value:.2f}  (bound: {bound}{'' if kept else ', MISSED'}){note and f'  {note}'}")

    def must(self, what: str, true: bool) -> None:
        """Print something that must be so, whatever the machine does."""
        if not true:
            self._wrong.append(what)
        print(f"{what}: {'yes' if true else 'NO'}")

    def end(self) -> None:
        """Say what was missed, and exit: with 1 if anything was, in the small setting only if something is wrong."""
        for missed in [*self._wrong, *self._missed]:
            print(f"missed: {missed}")
        if not self._wrong and not self._missed:
            print("every bound is kept")
        sys.exit(1 if self._wrong or (self._missed and not self.small) else 0)
