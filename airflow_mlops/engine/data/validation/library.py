"""Great Expectations, imported without its telemetry, its chatter, and two libraries that a check seldom needs."""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
import threading
import types
from typing import Any

_RARE = ("altair", "scipy.stats")
"""Great Expectations imports these for drawings in its own Data Docs, and for Kullback-Leibler and
Kolmogorov-Smirnov: a third of its import's CPU time, and 80 MB of memory, in every task."""

_loading = threading.RLock()


class _OnFirstUse(types.ModuleType):
    """A module whose code runs when something of it is asked for.

    ``importlib.util.LazyLoader`` does this only from Python 3.12.3 on: before, importing such a module a second
    time loads it.
    """

    def __getattribute__(self, name: str) -> Any:
        spec = super().__getattribute__("__spec__")
        if name == "__spec__":  # the import system asks for that, and must not count as a use
            return spec
        with _loading:
            if type(self) is _OnFirstUse:
                self.__class__ = types.ModuleType  # type: ignore[assignment]
                spec.loader.exec_module(self)
        return getattr(self, name)


def prepare() -> None:
    """Set the library's import up; call it before the first import of the library or of a module with suites."""
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    # A hundred lines about its own start, and of errors their tracebacks, which quote values: these are told apart
    # and put in words here.
    logging.getLogger("great_expectations").setLevel(logging.CRITICAL)
    with _loading:
        for name in _RARE:
            if "great_expectations" not in sys.modules and name not in sys.modules:
                _defer(name)


def _defer(name: str) -> None:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.loader is None:
        return
    module = importlib.util.module_from_spec(spec)
    module.__class__ = _OnFirstUse
    sys.modules[name] = module
