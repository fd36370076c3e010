"""A model in service and its next version, which reads its features from an online store of its own: for D20, D21."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from airflow.sdk import DAG
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value

from airflow_mlops.engine.data.partitions import PartitionStore
from airflow_mlops.engine.features.online.reader import OnlineReader
from airflow_mlops.engine.features.parity.check import recent_entities
from airflow_mlops.engine.features.parity.offline import offline_values
from airflow_mlops.engine.features.project.location import Location
from airflow_mlops.engine.features.project.schema import describe
from airflow_mlops.engine.features.project.store import open_store
from airflow_mlops.engine.serving.model_store import publish
from airflow_mlops.engine.serving.rollout import Rollout
from airflow_mlops.operators.feast import FeastCheckParityOperator
from tests.feast_fixtures import ledger_of
from tests.online_fixtures import SERVICE
from tests.parity_fixtures import CITIES, SHOPS, bring_online, deliveries, midnight
from tests.serving_fixtures import make_saved_model, put_into_service, rollout_of, running_server, served, settle

DAYS = 3
LAST_ROW = midnight(DAYS) - timedelta(hours=1)
MODEL = "delivery"
INPUTS = {"turnover": "float32", "rain": "float32", "wind": "float32"}
KEYS = {"sales": ("shop", SHOPS), "weather": ("city", CITIES)}


class World:
    """Version 1 in service; version 2 published and loaded beside it, with features of its own."""

    def __init__(self, location: Location, rollout: Rollout) -> None:
        self.location, self.rollout = location, rollout
        self.reader = OnlineReader(location, SERVICE)
        _, self._asked = self.requests()
        self._answers = served(rollout, self._asked)

    def as_before(self) -> bool:
        """Whether callers who ask the same get the same as when the world was made."""
        return served(self.rollout, self._asked) == self._answers

    def online(self, view: str, feature: str) -> dict[str, Any]:
        """Return what the online store has of a feature, by key."""
        stored = next(one for one in self.reader.plan.stored if one.table.name == view and feature in one.decoders)
        at = list(stored.decoders).index(feature)
        key, known = KEYS[view]
        rows = self.reader.read_view(stored.name, [{key: one} for one in known])
        return {one: values[at] for one, (_, values) in zip(known, rows, strict=True)}

    def write(self, view: str, rows: Mapping[str, Mapping[str, Value]]) -> None:
        """Put values online as a writer would that goes past materialisation, such as a stream."""
        store = open_store(self.location)
        key, _ = KEYS[view]
        data = [
            (EntityKey(join_keys=[key], entity_values=[Value(string_val=one)]), dict(values), LAST_ROW, None)
            for one, values in rows.items()
        ]
        store._get_provider().online_write_batch(store.config, store.get_feature_view(view), data, None)

    def check(self, seed: int = 0) -> dict[str, Any]:
        """Run the task that stands before the promotion."""
        with DAG("d", schedule=None):
            task = FeastCheckParityOperator(
                task_id="check_parity",
                model=MODEL,
                version=2,
                service=SERVICE,
                source_dataset="orders",
                entity="order_id",
                sample_rows=100,
                seed=seed,
            )
        return task.execute({"ti": _Links()})

    def requests(self) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
        """Return the inputs of the same orders: as they are served, and as training reads them."""
        store = PartitionStore.under(self.location.home)
        sample = recent_entities(self.reader, store, "orders", entity="order_id", rows=100)
        moment = midnight(DAYS) - timedelta(seconds=1)
        answers = self.reader.read(sample.rows, as_of=moment)
        moments = dict.fromkeys((view.name for view in self.reader.plan.stored), moment)
        trained = offline_values(self.reader, describe(self.reader.store), sample.rows, moments, as_known=False)
        whole = [row for row, answer in enumerate(answers) if all(answer[name] is not None for name in INPUTS)]
        assert len(whole) > 40
        return (
            {name: [answers[row][name] for row in whole] for name in INPUTS},
            {name: [trained[name][row] for row in whole] for name in INPUTS},
        )

    def promote(self) -> None:
        """Let version 2 answer callers."""
        self.rollout.promote(2)
        assert self.rollout.deployment().stable == 2

    def moved(self) -> np.ndarray:
        """Return how far the answers that callers get are from those for the features of training."""
        online, offline = self.requests()
        return np.abs(np.array(served(self.rollout, online)) - np.array(served(self.rollout, offline)))


class _Links:
    def xcom_push(self, key: str, value: object) -> None:
        """Take the link that the task pushes."""


@contextmanager
def world(folder: Path, patch: pytest.MonkeyPatch) -> Iterator[World]:
    """Run a model server with version 1 in service, and version 2 loaded and verified."""
    location = deliveries(folder, DAYS)
    bring_online(location, DAYS)
    patch.setenv("AIRFLOW__MLOPS__HOME", str(location.home))
    patch.setenv("AIRFLOW_CONN_FEAST_DEFAULT", json.dumps({"conn_type": "feast", "host": str(location.repo)}))
    ledger = {"conn_type": "mlops_ledger", "host": f"sqlite:///{location.home}/ledger.db"}
    patch.setenv("AIRFLOW_CONN_MLOPS_LEDGER_DEFAULT", json.dumps(ledger))
    with running_server(folder / "server") as server, rollout_of(server, MODEL, ledger_of(location.home)) as rollout:
        for version, weight in ((1, 0.02), (2, 0.03)):
            publish(make_saved_model(folder / f"v{version}", weight, INPUTS), rollout.base, version)
        put_into_service(rollout, 1)
        rollout.load(2)
        assert settle(rollout, 2).state == "AVAILABLE"
        rollout.verify(2)  # its golden predictions are right: it is not the model that is wrong
        yield World(location, rollout)


def spread(values: Mapping[str, float | None]) -> tuple[float, float]:
    """Return mean and standard deviation of what is there."""
    there = [value for value in values.values() if value is not None]
    return statistics.fmean(there), statistics.stdev(there)
