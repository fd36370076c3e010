"""Rides of some days that have landed, and where a backfill of them works."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from airflow_mlops import FeatureService, Gate, Label, ModelPipeline, Partitions, Trainer
from airflow_mlops.engine.backfill.make import plan_backfill
from airflow_mlops.engine.backfill.plan import Plan
from airflow_mlops.engine.backfill.survey import Site
from airflow_mlops.engine.ledger import Ledger
from tests import rides
from tests.rides import EVENT_TIMES, FIRST, MODEL, SERVICE, Rides

DAYS = 6
LAST = FIRST + timedelta(days=DAYS - 1)
SUITE = """
import great_expectations.expectations as gxe

def suite():
    return [gxe.ExpectTableRowCountToBeBetween(min_value=20, max_value=200)]
"""


def feed(name: str) -> Partitions:
    return Partitions(
        f"lake/{name}", event_time=EVENT_TIMES[name], suite="backfill_suite:suite", start=FIRST, end=LAST,
        arrived="still",
    )  # fmt: skip


PIPELINE = ModelPipeline(
    model=MODEL,
    source=feed("rides"),
    entity="ride_id",
    label=Label("late", source=feed("ends"), matures_after="1d"),
    features=FeatureService(SERVICE, transform=rides.TRANSFORM, suite="backfill_suite:suite", history="2d"),
    train=Trainer("backfill_suite:build", window="60d", validation="1d", test="1d"),
    gates=[Gate("auc", min=0.5)],
)


@pytest.fixture(scope="module")
def landed(tmp_path_factory: pytest.TempPathFactory) -> Rides:
    """A world in which all days have landed, and nothing else has happened."""
    world = Rides(tmp_path_factory.mktemp("landed"))
    for path in (world.home, world.repo, world.dags):
        path.mkdir(parents=True)
    (world.repo / "feature_store.yaml").write_text(rides.SETTINGS)
    (world.repo / "definitions.py").write_text(rides.DEFINITIONS)
    (world.repo / "ride_features.py").write_text(rides.FEATURES)
    (world.repo / "ride_units.py").write_text(rides.UNITS)
    (world.dags / "backfill_suite.py").write_text(SUITE)
    for n in range(DAYS):
        for dataset in EVENT_TIMES:
            rides.land(world.home, dataset, n)
    return world


def copied(landed: Rides, folder: Path) -> Rides:
    """Return a world of one's own."""
    sys.modules.pop("backfill_suite", None)
    for name in ("home", "repo", "dags"):
        shutil.copytree(getattr(landed, name), folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return Rides(folder)


def site_of(world: Rides, ledger: Ledger | None = None, **changes: Any) -> Site:
    ledger, store = ledger or world.ledger, world.store
    store.ledger = ledger
    return Site(
        pipeline=replace(PIPELINE, **changes),
        location=world.location,
        store=store,
        ledger=ledger,
        code_path=str(world.dags),
        locate=world.home.joinpath,
    )


def plan_of(site: Site, first: int = 0, last: int = DAYS - 1, **more: Any) -> Plan:
    """Plan the days from the n-th to the m-th, from 0."""
    day = FIRST + timedelta(days=first), FIRST + timedelta(days=last)
    return plan_backfill(site, *day, **{"who": "ann", **more})


def land_other(world: Rides, dataset: str, n: int) -> None:
    """Let other rows land for a day: one ride of it is gone."""
    day = rides.rides_of(n)[1:]
    about = rides.rides_of(n - 1) + day if dataset == "ends" else day
    rides.land(world.home, dataset, n, about)
