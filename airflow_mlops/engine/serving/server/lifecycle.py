"""The life of one version, and the rule that says what happens next: the availability-preserving policy."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Literal, NamedTuple

from airflow_mlops.engine.serving.codes import Code
from airflow_mlops.engine.serving.saved_model import SavedModel
from airflow_mlops.engine.serving.server.errors import ServingError, from_mlops
from airflow_mlops.exceptions import MlopsError

_log = logging.getLogger(__name__)


class State(IntEnum):
    """States of a version, with the numbers they have in the API."""

    START = 10
    LOADING = 20
    AVAILABLE = 30
    UNLOADING = 40
    END = 50


@dataclass(eq=False)
class Version:
    """One version of one model: where it is in its life, and whether it is still wanted (``aspired``)."""

    model: str
    number: int
    path: Path
    state: State = State.START
    error: ServingError | None = None
    aspired: bool = True
    loaded: SavedModel | None = None
    unwanted: threading.Event = field(default_factory=threading.Event)

    def __str__(self) -> str:
        return f"{{name: {self.model} version: {self.number}}}"


class Action(NamedTuple):
    """The next thing to do with one version."""

    kind: Literal["load", "unload"]
    version: Version


def next_action(versions: Iterable[Version]) -> Action | None:
    """Return what to do next among the versions of one model, or None.

    A version that is no longer wanted is unloaded once a wanted one is available, or none is wanted at all: so
    requests without a version number always find one, and memory must hold both for a while.
    """
    versions = list(versions)
    wanted = [version for version in versions if version.aspired]
    leftover = [version for version in versions if not version.aspired and version.state == State.AVAILABLE]
    served = any(version.state == State.AVAILABLE for version in wanted)
    if leftover and (not wanted or served or len(leftover) > 1):
        return Action("unload", min(leftover, key=lambda version: version.number))
    new = [version for version in wanted if version.state == State.START]
    return Action("load", max(new, key=lambda version: version.number)) if new else None


class LoadOptions(NamedTuple):
    """How versions are loaded: retries after the first failure, seconds between them, tags, threads."""

    retries: int = 5
    retry_interval: float = 60.0
    tags: tuple[str, ...] = ("serve",)
    threads: int = 0


def load(version: Version, options: LoadOptions) -> SavedModel | ServingError:
    """Load a version, trying again as configured; return what went wrong at the last try otherwise.

    Tries end early when the version is not wanted any more.
    """
    failure = ServingError(Code.CANCELLED, "Loading was cancelled: the version is not wanted any more.")
    for attempt in range(options.retries + 1):
        if attempt:
            version.unwanted.wait(max(options.retry_interval, 0))
        if version.unwanted.is_set():
            _log.info("Loading servable: %s was cancelled.", version)
            break
        if attempt:
            _log.info("Retrying of Loading servable: %s retry: %d", version, attempt)
        try:
            return SavedModel(version.path, tags=options.tags, threads=options.threads)
        except MlopsError as error:
            failure = from_mlops(error)
            _log.error("Loading servable: %s failed: %s", version, failure)
        except Exception as error:
            # Whatever it is, it must end in a state that can be seen, not in a version that loads for ever.
            failure = ServingError(Code.INTERNAL, f"{type(error).__name__}: {error}")
            _log.exception("Loading servable: %s failed", version)
    return failure
