"""Which installed software a training depends on: with another, it is another training."""

from __future__ import annotations

import contextlib
import os
import platform
from importlib.metadata import PackageNotFoundError, distributions, version

from airflow_mlops.contracts import content_hash

# What makes the weights. Reading the data (pyarrow, pandas) does not: the snapshot's bytes are checked.
_PACKAGES = ("airflow-mlops", "keras", "numpy", "tensorflow")
IMAGE = "MLOPS_IMAGE"
"""Environment variable with the container image that this process runs in, best by its digest."""


def environment() -> dict[str, str]:
    """Return package → version of what a result depends on, here; nothing heavy is imported.

    Of Python and of each package, patch releases count too: they have changed results before. The container image is
    not among them: a training elsewhere is asked for in an image by name, and one here goes on in the next image.
    """
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue  # it trains elsewhere, and says there what it had
    return found


def packages_hash() -> str:
    """Return the identity of all packages that are installed here, by name and version."""
    found = set()
    for one in distributions():
        with contextlib.suppress(FileNotFoundError):  # one that is installed by halves must not end a training
            found.add(f"{one.name}=={one.version}")
    return content_hash(sorted(found))


def image() -> str:
    """Return the container image that this process runs in; empty when nobody says."""
    return os.environ.get(IMAGE, "")
