"""Importing Feast, and what imports Feast, without what makes it slow."""

from __future__ import annotations

import importlib
import threading

_importing = threading.Lock()


def import_uninstrumented(module: str) -> None:
    """Import a module without letting typeguard instrument the classes of what it imports.

    Feast decorates its classes with ``typeguard.typechecked``, which compiles each anew: 3 of the 5 CPU seconds of
    its import, in every task.

    :raises ImportError: when it is not installed.
    """
    with _importing:
        try:
            import typeguard
        except ImportError:
            importlib.import_module(module)
            return
        original = typeguard.typechecked
        typeguard.typechecked = lambda target: target
        try:
            importlib.import_module(module)
        finally:
            typeguard.typechecked = original
