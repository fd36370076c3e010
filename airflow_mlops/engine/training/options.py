"""How a training runs, of what changes no weights: told to its process by an environment variable."""

from __future__ import annotations

import json
import os
from typing import NamedTuple

OPTIONS = "MLOPS_TRAINING_OPTIONS"


class Options(NamedTuple):
    """What a training's process is told beside its spec.

    :param price: What an hour of its machine costs; 0: nobody said.
    :param spent: Seconds that the tries before took.
    :param gpus: How many it has.
    :param checkpoint_every: Seconds between two checkpoints; None: as seldom as saving takes little of the time.
    :param checkpoint_epochs: Epochs between two of them.
    :param tensorboard: Whether logs for TensorBoard are written.
    """

    price: float = 0.0
    spent: float = 0.0
    gpus: int = 0
    checkpoint_every: float | None = None
    checkpoint_epochs: int | None = None
    tensorboard: bool = False

    def as_environment(self) -> dict[str, str]:
        """Return the environment variable that says it."""
        return {OPTIONS: json.dumps(self._asdict())}


def options() -> Options:
    """Return what this process was told."""
    return Options(**json.loads(os.environ.get(OPTIONS, "{}")))
