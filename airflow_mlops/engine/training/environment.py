"""Which installed software a training depends on: with another, it is another training."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version

# What makes the weights. Reading the data (pyarrow, pandas) does not: the snapshot's bytes are checked.
_PACKAGES = ("airflow-mlops", "keras", "numpy", "tensorflow")

IMAGE = "MLOPS_IMAGE"
"""Environment variable of a training elsewhere: the image that it runs in."""


def environment() -> dict[str, str]:
    """Return package → version of what a result depends on, here; nothing heavy is imported.

    Of Python and of each package, patch releases count too: they have changed results before. Of a training elsewhere
    the image is among them.
    """
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue  # it trains elsewhere, and says there what it had
    if image := os.environ.get(IMAGE):
        found["image"] = image
    return found
