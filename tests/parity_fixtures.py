"""Deliveries of some days: orders sealed, features computed, materialised and served, training and serving alike."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from airflow_mlops.contracts import ParityReport
from airflow_mlops.engine.data.partitions import PartitionStore
from airflow_mlops.engine.features.materialization.materialize import materialize
from airflow_mlops.engine.features.online.reader import OnlineReader
from airflow_mlops.engine.features.parity.check import check_parity, recent_entities
from airflow_mlops.engine.features.project.location import Location
from airflow_mlops.engine.features.project.schema import feature_file
from tests.feast_fixtures import ledger_of
from tests.online_fixtures import DEFINITIONS, SERVICE, delivery

FIRST = date(2024, 3, 1)
SHOPS = [f"s{n}" for n in range(12)]
CITIES = [f"c{n}" for n in range(4)]
_TIME = pa.timestamp("us", tz="UTC")


def midnight(n: int) -> datetime:
    """Return the midnight at which the n-th day starts, from 0."""
    return datetime.combine(FIRST, time(), UTC) + timedelta(days=n)


def seal_orders(home: Path, n: int, rows: int = 80) -> None:
    """Seal a day's orders, some of an item that nobody ever stocked."""
    rng = np.random.default_rng(n)
    at = [midnight(n) + timedelta(minutes=int(m)) for m in np.sort(rng.integers(0, 1440, rows))]
    table = pa.table(
        {
            "order_id": [f"o{n}-{row}" for row in range(rows)],
            "shop": rng.choice(SHOPS, rows).tolist(),
            "item": pa.array(rng.integers(0, 4, rows), pa.int64()),
            "city_from": rng.choice(CITIES, rows).tolist(),
            "city_to": [None if r < 0.1 else CITIES[int(r * 4)] for r in rng.random(rows)],
            "amount": rng.integers(1, 12, rows).astype(float),
            "at": pa.array(at, _TIME),
        }
    )
    folder = home / "lake" / "orders" / str(midnight(n).date())
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, folder / "part.parquet")
    PartitionStore.under(home).seal("orders", folder.name, folder, event_time="at", batch_hash=None, suite_hash=None)


def write_features(home: Path, n: int, *, whole: bool = False) -> None:
    """Write the feature rows of a day; what happened in its last hour is known in the first of the next.

    :param whole: Turnover happens to be whole.
    """
    rng = np.random.default_rng(1000 + n)
    hours = [midnight(n) + timedelta(hours=h) for h in range(24)]
    shops = [(shop, hour) for hour in hours for shop in SHOPS]
    stock = [(shop, item, hour) for hour in hours[::6] for shop in SHOPS for item in range(3)]
    weather = [(city, hour) for hour in hours for city in CITIES]
    views: dict[str, dict[str, Any]] = {
        "sales": {
            "shop": [shop for shop, _ in shops],
            "turnover": [None if rng.random() < 0.1 else round(rng.normal(50, 20), 0 if whole else 9) for _ in shops],
            "visits": pa.array(rng.integers(0, 500, len(shops)), pa.int64()),
            "open": rng.random(len(shops)) < 0.5,
            "kind": rng.choice(["corner", "mall"], len(shops)).tolist(),
            "opened_at": pa.array(
                [midnight(0) - timedelta(days=int(d)) for d in rng.integers(1, 900, len(shops))], _TIME
            ),
            "size": pa.array(rng.random(len(shops)) * 100, pa.float32()),
            "floors": pa.array(rng.integers(1, 4, len(shops)), pa.int32()),
            "event_timestamp": [hour for _, hour in shops],
        },
        "stock": {
            "shop": [row[0] for row in stock],
            "item": pa.array([row[1] for row in stock], pa.int64()),
            "pieces": rng.integers(0, 50, len(stock)).astype(float),
            "event_timestamp": [row[2] for row in stock],
        },
        "weather": {
            "city": [city for city, _ in weather],
            "rain": rng.random(len(weather)),
            "wind": rng.normal(20, 5, len(weather)),
            "event_timestamp": [hour for _, hour in weather],
        },
    }
    for view, columns in views.items():
        known = [moment + timedelta(hours=1) for moment in columns["event_timestamp"]]
        columns |= {
            "event_timestamp": pa.array(columns["event_timestamp"], _TIME),
            "created_timestamp": pa.array(known, _TIME),
        }
        file = feature_file(home, view, str(midnight(n).date()))
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), file)


def deliveries(
    tmp_path: Path, days: int, overrides: Mapping[str, Any] | None = None, definitions: str = DEFINITIONS
) -> Location:
    """Return a project with so many days computed, and nothing online."""
    location = delivery(tmp_path, overrides, definitions)
    for n in range(days):
        seal_orders(location.home, n)
        write_features(location.home, n)
    return location


def bring_online(location: Location, days: int) -> None:
    """Materialise the first so many days."""
    materialize(location, SERVICE, until=midnight(days), ledger=ledger_of(location.home))


def parity(
    location: Location, rows: int = 100, seed: int = 0, until: int | None = None, **options: Any
) -> ParityReport:
    """Check a sample of the newest orders."""
    reader = OnlineReader(location, SERVICE)
    last = None if until is None else midnight(until).date()
    sample = recent_entities(
        reader, PartitionStore.under(location.home), "orders", entity="order_id", rows=rows, seed=seed, until=last
    )
    return check_parity(location, SERVICE, sample, ledger=ledger_of(location.home), seed=seed, **options)
