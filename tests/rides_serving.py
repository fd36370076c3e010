"""Models of rides in service on a real model server, and what callers get from it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from airflow_mlops.contracts import Snapshot, TrainingSpec
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.engine.serving.golden import Golden
from airflow_mlops.engine.serving.model_store import publish
from airflow_mlops.engine.serving.rollout import Rollout
from tests.rides import MODEL
from tests.serving_fixtures import put_into_service, rollout_of, running_server, served
from tests.training_fixtures import make_spec
from tests.warm_trainer import train


class Service:
    """One model of rides behind the label ``stable``."""

    def __init__(self, rollout: Rollout) -> None:
        self.rollout = rollout
        self._numbers = itertools.count(1)

    def put(self, saved_model: Path) -> int:
        """Publish a model as the next version and put it into service, as the deploy DAG does."""
        version = next(self._numbers)
        publish(saved_model, self.rollout.base, version, serving=self.rollout.deployment().stable)
        put_into_service(self.rollout, version)
        return version

    def answers(self, inputs: dict[str, list[Any]]) -> list[float]:
        """Return what callers get."""
        return served(self.rollout, inputs)


@contextmanager
def in_service(folder: Path, saved_model: Path) -> Iterator[Service]:
    """Run a server with a model in service."""
    with (
        running_server(folder) as server,
        rollout_of(server, MODEL, Ledger(f"sqlite:///{folder}/ledger.db")) as rollout,
    ):
        service = Service(rollout)
        service.put(saved_model)
        yield service


def spec_of(snapshot: Snapshot, **changes: Any) -> TrainingSpec:
    return make_spec(snapshot, **{"model": MODEL, "epochs": 8, "batch_size": 32, **changes})


def trained(home: Path, snapshot: Snapshot, **changes: Any) -> Path:
    """Return the SavedModel of a training, in a process of its own; each call trains."""
    spec = spec_of(snapshot, **changes)
    taken = len(list((home / "trainings").glob("*")))
    return Path(train(spec, home / "trainings" / f"{taken}-{spec.hash[:16]}").saved_model)


def golden(saved_model: Path) -> dict[str, list[Any]]:
    """Return the golden requests of a model."""
    return Golden.read(saved_model).inputs
