"""Peak memory of a training set over one month of flights and over twelve: the same, within 1.3 times.

Each size is built in a process of its own, and asked of the kernel (``VmHWM``). The year's flights and features are
made once, below ``--homes``, and again when the example's code changed. Beside it: the seconds, the rows, and the
twelve months read in one piece.

Run: python bench/training_memory.py [--small]      (the first time about ten minutes on two cores, then one)
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from _figures import Figures, options
from _flights import DAGS, HOMES, REPO, SERVICE, ledger_url, made

if TYPE_CHECKING:
    from airflow_mlops.engine.features.computing.code import Code

FIRST, LAST = date(2013, 1, 1), date(2013, 12, 30)
MONTHS = {"1 month": 30, "3 months": 91, "12 months": 363}
SMALL = {"1 day": 1, "3 days": 3}
WHOLE = 10**9
LIMIT = 1.3


def code() -> Code:
    from airflow_mlops.engine.features.computing.code import code_identity

    return code_identity("flight_features:compute", [str(DAGS), str(REPO)])


def build(home: Path, days: int, chunk_rows: int) -> dict[str, Any]:
    """Build the training set of so many days; return what it took."""
    from airflow_mlops.engine.data.partitions import PartitionStore
    from airflow_mlops.engine.features.project.location import Location
    from airflow_mlops.engine.features.training.training_data import build_training_snapshot

    code_of_now, before = code(), peak()
    began = time.perf_counter()
    snapshot = build_training_snapshot(
        Location(REPO, home),
        store=PartitionStore.under(home),
        ledger=None,
        model="flight_delay",
        source_dataset="departures",
        entity="flight_id",
        event_time="sched_dep_utc",
        keys=["carrier", "origin", "dest"],
        service=SERVICE,
        label_dataset="arrivals",
        label="late_15",
        matures_after=timedelta(days=1),
        window=timedelta(days=days),
        validation=timedelta(days=days) / 10,
        test=timedelta(days=days) / 10,
        as_of=datetime.fromisoformat(PartitionStore.under(home).keys("departures")[-1] + "T00:00Z") + timedelta(days=1),
        start=FIRST,
        code=code_of_now,
        chunk_rows=chunk_rows,
    )
    seconds = time.perf_counter() - began
    manifest = (Path(snapshot.uri) / "manifest.json").stat().st_size
    rows = sum(split.rows for split in snapshot.splits.values())
    return {"id": snapshot.id, "rows": rows, "seconds": seconds, "before": before, "peak": peak(), "manifest": manifest}


def peak() -> float:
    """Return the most memory that this process ever had, in MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("the kernel does not say VmHWM")


def in_child(home: Path, days: int, chunk_rows: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--build", str(home), str(days), str(chunk_rows)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def show(name: str, took: dict[str, Any]) -> None:
    print(
        f"{name:24} {took['rows']:>8,} rows  {took['seconds']:6.1f} s  peak {took['peak']:6.0f} MiB "
        f"(before {took['before']:.0f})  manifest {took['manifest'] / 1024:.0f} KiB"
    )


def main() -> None:
    from airflow_mlops.engine.features.governance.apply import ensure_applied
    from airflow_mlops.engine.features.project.location import Location
    from airflow_mlops.engine.features.training.rows import CHUNK_ROWS
    from airflow_mlops.engine.ledger import Ledger

    parser = options(__doc__)
    parser.add_argument("--homes", type=Path, default=HOMES, help="where the flights and their features are kept")
    parser.add_argument("--build", nargs=3, metavar=("HOME", "DAYS", "CHUNK_ROWS"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.build:
        home, days, chunk_rows = given.build
        print(json.dumps(build(Path(home), int(days), int(chunk_rows))))
        return
    figures = Figures(small=given.small)
    spans = SMALL if given.small else MONTHS
    home = made(FIRST, FIRST + timedelta(days=2) if given.small else LAST, given.homes)
    ensure_applied(Location(REPO, home), Ledger(ledger_url(home)))
    shutil.rmtree(home / "snapshots", ignore_errors=True)
    took = {name: in_child(home, days, CHUNK_ROWS) for name, days in spans.items()}
    for name, one in took.items():
        show(name, one)
    shortest, *_, longest = spans
    whole = in_child(home, spans[longest], WHOLE)
    show(f"{longest} in one piece", whole)
    ratio, in_one_piece = (one["peak"] / took[shortest]["peak"] for one in (took[longest], whole))
    figures.hold(f"peak, {longest} / {shortest}", ratio, at_most=LIMIT, note=f"in one piece {in_one_piece:.2f}")
    figures.must("the same snapshot in chunks and in one piece", whole["id"] == took[longest]["id"])
    figures.end()


if __name__ == "__main__":
    main()
