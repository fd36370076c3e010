"""The shop of the guide ``docs/first-pipeline.md``: its files as they are printed, and ninety days of its orders."""

from __future__ import annotations

import csv
import json
import random
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

GUIDE = Path(__file__).parent.parent / "docs" / "first-pipeline.md"
FILES = {
    "dags/shop.py": "shop = ModelPipeline(",
    "dags/shop_model.py": "def build(train, seed)",
    "feature_repo/feature_store.yaml": "project: shop",
    "feature_repo/definitions.py": "shop_v1 = FeatureService(",
    "feature_repo/shop_features.py": "def compute(day, data)",
}
FIRST = datetime(2024, 1, 1, tzinfo=UTC)
DAYS = 90
REASONS = ["broken", "colour", "late", "price", "size", "twice", "wrong"]


def write_shop(folder: Path, *, more: bool = False, days: int = DAYS, orders: int = 40) -> None:
    """Write the guide's files and orders: some customers send much back, and dear things come back often.

    :param more: Whether orders also have a ``refund`` (an amount, of most), a ``reason`` (one of seven) and a
        ``weight``.
    :param days: How many days land.
    :param orders: How many orders a day has.
    """
    blocks = re.findall(r"^```(?:python|yaml)\n(.*?)^```$", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
    for name, has in FILES.items():
        [body] = [block for block in blocks if has in block]
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(body)
    rng = random.Random(3)
    fussy = {f"c{n}": rng.random() for n in range(40)}
    for n in range(days):
        day = FIRST + timedelta(days=n)
        landed = folder / "lake" / "orders" / f"dt={day.date()}"
        landed.mkdir(parents=True)
        with (landed / "orders.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            header = ["order_id", "customer", "ordered_at", "price", "returned", "decided_at"]
            rows.writerow(header + (["refund", "reason", "weight"] if more else []))
            for i in range(orders):
                customer, price = rng.choice(sorted(fussy)), round(rng.uniform(5, 200), 2)
                at = day + timedelta(minutes=30 * i)
                returned = rng.random() < 0.7 * fussy[customer] + price / 800
                decided = at + timedelta(days=rng.uniform(1, 6))
                row = [f"{n}-{i}", customer, at.isoformat(), price, returned, decided.isoformat()]
                if more:
                    refund = round(price * rng.uniform(0.3, 0.9) + rng.gauss(0, 5), 2)
                    reason = REASONS[int(price // 28.6)] if rng.random() < 0.7 else rng.choice(REASONS)
                    row += [refund if i % 10 else "", reason, 1 + i % 3]
                rows.writerow(row)


def connections(folder: Path, ledger_url: str) -> dict[str, str]:
    """Return the environment by which Airflow finds the shop."""
    feast = {"conn_type": "feast", "host": f"{folder}/feature_repo"}
    ledger = {"conn_type": "mlops_ledger", "host": ledger_url}
    return {
        "AIRFLOW__MLOPS__HOME": str(folder / ".mlops"),
        "AIRFLOW_CONN_FEAST_DEFAULT": json.dumps(feast),
        "AIRFLOW_CONN_MLOPS_LEDGER_DEFAULT": json.dumps(ledger),
    }


def guide_commands(*verbs: str) -> list[list[str]]:
    """Return the arguments of the guide's commands that begin with one of these verbs."""
    lines = re.findall(rf"^\$ airflow-mlops ((?:{'|'.join(verbs)}) .*)$", GUIDE.read_text(), re.MULTILINE)
    return [line.split() for line in lines]
