"""Deciding whether to train, for 500 models at once, from one ledger: no file of data exists, let alone is read.

Each model was trained on 60 days of two feeds and has ten days since, of 30 columns each; it is asked for new rows and
for drift, and its requests are decided. The counts of those days are in the ledger, as they are after the first look at
each day. Prints CPU seconds, which other load on the machine moves less than wall time.

Run: python bench/retraining.py [--small]
"""

from __future__ import annotations

import tempfile
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import insert

from _figures import Figures, options
from airflow_mlops.engine.data.partitions import PartitionStore
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.engine.ledger.models import FactRow, PointerRow
from airflow_mlops.engine.retraining.decide import Policy
from airflow_mlops.engine.retraining.looking import look_and_decide
from airflow_mlops.engine.retraining.requests import requests
from airflow_mlops.engine.retraining.triggers import Watch

MODELS, SMALL_MODELS = 500, 20
TRAINED, SINCE, COLUMNS, BINS = 60, 10, 30, 11
ROWS = 10_000
START = date(2026, 1, 1)
NOW = datetime.now(UTC).isoformat()
SERVER = "tf_serving_default"


def key(day: int) -> str:
    return (START + timedelta(days=day)).isoformat()


def fact(kind: str, subject: str, payload: dict[str, Any], at: str = "") -> dict[str, Any]:
    return {"kind": kind, "subject": subject, "key": at, "at": NOW, "payload": payload}


def facts_of(model: str) -> list[dict[str, Any]]:
    """Return what the ledger has of a model that was trained, and of the days of its feeds."""
    feeds = {name: f"{model}_{name}" for name in ("orders", "outcomes")}
    revisions = {key(day): f"r{day}" for day in range(TRAINED)}
    found = [
        fact(
            "partition", feed, {"revision": f"r{day}", "rows": ROWS, "bytes": 1, "uri": "u", "replaces": None}, key(day)
        )
        for feed in feeds.values()
        for day in range(TRAINED + SINCE)
    ]
    version = {"model": model, "version": 1, "service": "s", "project": "p", "definition": "d", "code": {}}
    version |= {"features": [], "snapshot": f"{model}1", "label_cut": f"{key(TRAINED)}T00:00:00+00:00"}
    found.append(fact("model_features", model, version, "1"))
    found.append(fact("snapshot", model, {"partitions": dict.fromkeys(feeds.values(), revisions)}, f"{model}1"))
    counts = {f"{feeds['orders']}.c{n}": [ROWS // BINS] * BINS for n in range(COLUMNS)}
    bins = {
        name: {"edges": [float(n) for n in range(BINS)], "counts": each, "moves": 0.0} for name, each in counts.items()
    }
    found.append(fact("drift_reference", model, {"columns": bins}, f"{model}1"))
    for day in range(TRAINED, TRAINED + SINCE):
        told = {"snapshot": f"{model}1", "revision": f"r{day}", "counts": counts}
        found.append(fact("drift_counted", f"{model}/{feeds['orders']}", told, key(day)))
    return found


def filled(ledger: Ledger, models: list[str]) -> None:
    with ledger.transaction(write=True) as connection:
        for model in models:
            connection.execute(insert(FactRow), facts_of(model))
            state = {"server": SERVER, "model": model, "stable": 1}
            connection.execute(insert(PointerRow).values(name=f"deployment:{SERVER}:{model}", revision=1, value=state))


def watch_of(model: str) -> Watch:
    return Watch(
        model=model,
        server=SERVER,
        source=f"{model}_orders",
        labels=f"{model}_outcomes",
        inputs=(f"{model}_orders",),
        entity="id",
        label="late",
        problem="binary",
        matures_after=timedelta(days=1),
        service="s",
        new_rows=ROWS * 5,
        drift_psi=0.2,
    )


def seconds(ledger: Ledger, home: Path, models: list[str]) -> tuple[float, int]:
    """Return the CPU seconds of deciding for all of them, and for how many a training starts."""
    store, policy, started = PartitionStore.under(home, ledger), Policy(timedelta(days=1)), 0
    begun = time.process_time()
    for model in models:
        made = look_and_decide(ledger, store, home, watch=watch_of(model), policy=policy, who="bench", running=[])
        started += made.start is not None
    return time.process_time() - begun, started


def main() -> None:
    small = options(__doc__).parse_args().small
    figures, count = Figures(small=small), SMALL_MODELS if small else MODELS
    models = [f"m{number}" for number in range(count)]
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        ledger = Ledger(f"sqlite:///{home}/ledger.db")
        filled(ledger, models)
        first, started = seconds(ledger, home, models)
        again, _ = seconds(ledger, home, models)
        figures.must("a training starts for each", started == count)
        figures.must("asked twice is asked once", all(len(requests(ledger, model)) == 1 for model in models))
        figures.must("no partition lies anywhere", not (home / "partitions").exists())
        print(f"the first look, which writes down a request each and what it found: {first:.2f} s")
        figures.hold(f"deciding for {count} models, CPU seconds", again, at_most=2.0)
    figures.end()


if __name__ == "__main__":
    main()
