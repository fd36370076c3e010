"""What a training keeps of itself on the way, so that the next try goes on where this one was ended.

A checkpoint is one file of arrays and of a few plain values. It is written aside and renamed, its parts have checksums,
and it names the spec that it belongs to: one that is torn, or of another training, is passed over, and the log says
so. The last two are kept.
"""

from __future__ import annotations

import json
import logging
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from airflow_mlops.engine.data.files import replacing, sweep

_KEPT = 2
_OFTEN = 10.0
"""Seconds that are at least between two checkpoints."""
_SHARE = 0.02
"""Of a training's time, the most that saving takes."""
_STATE = "state"
_SUFFIX = ".npz"

log = logging.getLogger(__name__)


class Position(NamedTuple):
    """How far a training is: epochs that are done, and batches of the next one."""

    epoch: int = 0
    step: int = 0

    def __str__(self) -> str:
        return f"epoch {self.epoch + 1}" + (f", step {self.step}" if self.step else "")


class Checkpoint(NamedTuple):
    """One that was found: arrays by name, and plain values."""

    position: Position
    arrays: Mapping[str, np.ndarray]
    state: Mapping[str, Any]


class Checkpoints:
    """The checkpoints of one training.

    :param folder: Where they lie; made when the first is saved.
    :param spec_hash: Of the training's spec.
    :param every: Seconds between two of them.
    :param epochs: Epochs between two of them. Without either, as seldom as saving takes little of the time.
    """

    def __init__(self, folder: Path, spec_hash: str, every: float | None = None, epochs: int | None = None) -> None:
        self.folder, self._spec_hash, self._every, self._epochs = folder, spec_hash, every, epochs
        self._cost, self._saved = 0.0, time.monotonic()
        self.seconds = 0.0
        """What all saving took."""

    def due(self, position: Position) -> bool:
        """Whether it is time for the next: when asked to be, or so that saving takes a fiftieth of the time at most."""
        if self._epochs is not None and not position.step and not position.epoch % self._epochs:
            return True
        if self._epochs is not None and self._every is None:
            return False
        return time.monotonic() - self._saved >= (self._every or max(_OFTEN, self._cost / _SHARE))

    def save(self, position: Position, arrays: Mapping[str, np.ndarray], state: Mapping[str, Any]) -> bool:
        """Write a checkpoint and let go of those before the last two. Return whether it is there.

        A disk that takes no more ends no training: the log says so, and an older one stays.
        """
        started = time.monotonic()
        told = {"spec_hash": self._spec_hash, "position": position, **state}
        try:
            file = self.folder / f"{position.epoch:08}-{position.step:010}{_SUFFIX}"
            with replacing(file) as temporary, temporary.open("wb") as made:
                np.savez(made, allow_pickle=False, **{_STATE: np.array(json.dumps(told)), **arrays})
            for old in self._files()[_KEPT:]:
                old.unlink(missing_ok=True)
        except OSError as error:
            log.warning("No checkpoint can be saved, and the training goes on without: %s", error.strerror or error)
            return False
        finally:
            self._saved = time.monotonic()
            self._cost = self._saved - started
            self.seconds += self._cost
        return True

    def newest(self) -> Checkpoint | None:
        """Return the newest checkpoint that is whole and of this training."""
        sweep(self.folder)
        for file in self._files():
            try:
                with np.load(file, allow_pickle=False) as loaded:
                    arrays = {name: loaded[name] for name in loaded.files}
                state = json.loads(str(arrays.pop(_STATE)))
                position, spec_hash = Position(*state.pop("position")), state.pop("spec_hash")
            except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
                log.warning("Checkpoint %s is passed over: it is not whole (%s)", file.name, error)
                continue
            if spec_hash == self._spec_hash:
                return Checkpoint(position, arrays, state)
            log.warning("Checkpoint %s is passed over: another model, data or seed made it", file.name)
        return None

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob(f"[!.]*{_SUFFIX}"), reverse=True)
