"""What a child process is told about its GPUs, by an environment variable. Nothing beyond Python is imported."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import NamedTuple

TOLD = "MLOPS_GPUS"


class Told(NamedTuple):
    """The GPUs of this process.

    :param names: What they are; none on the CPU.
    :param fds: Open files that hold them: whatever is started and uses the GPUs inherits these.
    :param or_cpu: Whether the CPU does as well.
    :param memory_limit: MiB of each that may be taken; None: as much as is needed.
    """

    names: Sequence[str] = ()
    fds: Sequence[int] = ()
    or_cpu: bool = False
    memory_limit: int | None = None


def told() -> Told:
    """Return what this process was told."""
    return Told(**json.loads(os.environ.get(TOLD, "{}")))
