"""Peak memory of a training set over one month of flights and over twelve: the same, within 1.3 times.

Each size is built in a process of its own, and asked of the kernel (``VmHWM``). The year's flights and features are
made once, into ``.mlops/bench``, and again when the example's code changed. Beside it: the seconds, the rows, and the
twelve months read in one piece.

Run: python bench/training_memory.py      (the first time about ten minutes on two cores, then one)
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_mlops.engine.features.computing.code import Code

ROOT = Path(__file__).parent.parent
HOME = ROOT / ".mlops" / "bench" / "flights-2013"
REPO, DAGS = ROOT / "feature_repo", ROOT / "dags"
FIRST, LAST = date(2013, 1, 1), date(2013, 12, 30)
MONTHS = {"1 month": 30, "3 months": 91, "12 months": 363}
EVENT_TIMES: dict[Any, str] = {"departures": "sched_dep_utc", "arrivals": "landed_at", "weather": "observed_at"}
TRANSFORM, HISTORY = "flight_features:compute", timedelta(days=8)
WHOLE = 10**9
LIMIT = 1.3


def ledger() -> Any:
    from airflow_mlops.engine.ledger import Ledger

    return Ledger(f"sqlite:///{HOME}/ledger.db")


def code() -> Code:
    from airflow_mlops.engine.features.computing.code import code_identity

    return code_identity(TRANSFORM, [str(DAGS), str(REPO)])


def seal(n: int) -> None:
    """Land and seal a day of every feed."""
    from airflow_mlops.demo.flights import land
    from airflow_mlops.engine.data.partitions import PartitionStore

    day, store = FIRST + timedelta(days=n), PartitionStore.under(HOME)
    for feed, event_time in EVENT_TIMES.items():
        landed = Path(land(HOME / "lake", day, feed)["uri"])
        store.seal(feed, str(day), landed, event_time=event_time, batch_hash=None, suite_hash=None)


def compute(n: int) -> None:
    """Compute the features of a day."""
    from airflow_mlops.engine.data.partitions import PartitionStore
    from airflow_mlops.engine.features.computing.compute import compute_features
    from airflow_mlops.engine.features.governance.apply import ensure_applied
    from airflow_mlops.engine.features.project.location import Location

    compute_features(
        HOME,
        str(FIRST + timedelta(days=n)),
        store=PartitionStore.under(HOME),
        ledger=None,
        repo=ensure_applied(Location(REPO, HOME), ledger()),
        transform=TRANSFORM,
        code_paths=[str(DAGS), str(REPO)],
        datasets=list(EVENT_TIMES),
        history=HISTORY,
        start=FIRST,
    )


def prepare() -> None:
    """Make the year, if it is not there."""
    from airflow_mlops.engine.features.governance.apply import ensure_applied
    from airflow_mlops.engine.features.project.location import Location

    receipt = HOME / "made-by"
    HOME.mkdir(parents=True, exist_ok=True)
    if not receipt.exists() or receipt.read_text() != code().whole:
        shutil.rmtree(HOME)
        HOME.mkdir()
        ensure_applied(Location(REPO, HOME), ledger())
        with ProcessPoolExecutor(2) as workers:
            for step in (seal, compute):
                list(workers.map(step, range((LAST - FIRST).days + 1), chunksize=8))
        receipt.write_text(code().whole)
    ensure_applied(Location(REPO, HOME), ledger())
    shutil.rmtree(HOME / "snapshots", ignore_errors=True)


def build(days: int, chunk_rows: int) -> dict[str, Any]:
    """Build the training set of so many days; return what it took."""
    from airflow_mlops.engine.data.partitions import PartitionStore
    from airflow_mlops.engine.features.project.location import Location
    from airflow_mlops.engine.features.training.training_data import build_training_snapshot

    code_of_now, before = code(), peak()
    began = time.perf_counter()
    snapshot = build_training_snapshot(
        Location(REPO, HOME),
        store=PartitionStore.under(HOME),
        ledger=None,
        model="flight_delay",
        source_dataset="departures",
        entity="flight_id",
        event_time="sched_dep_utc",
        keys=["carrier", "origin", "dest"],
        service="flight_delay_v1",
        label_dataset="arrivals",
        label="late_15",
        matures_after=timedelta(days=1),
        window=timedelta(days=days),
        validation=timedelta(days=days // 10),
        test=timedelta(days=days // 10),
        as_of=datetime(2013, 12, 31, tzinfo=UTC),
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


def in_child(days: int, chunk_rows: int) -> dict[str, Any]:
    command = [sys.executable, __file__, str(days), str(chunk_rows)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def show(name: str, took: dict[str, Any]) -> None:
    print(
        f"{name:24} {took['rows']:>8,} rows  {took['seconds']:6.1f} s  peak {took['peak']:6.0f} MiB "
        f"(before {took['before']:.0f})  manifest {took['manifest'] / 1024:.0f} KiB"
    )


def main() -> int:
    from airflow_mlops.engine.features.training.rows import CHUNK_ROWS

    prepare()
    took = {name: in_child(days, CHUNK_ROWS) for name, days in MONTHS.items()}
    for name, one in took.items():
        show(name, one)
    whole = in_child(MONTHS["12 months"], WHOLE)
    show("12 months in one piece", whole)
    first, last = took["1 month"], took["12 months"]
    ratio = last["peak"] / first["peak"]
    print(
        f"peak, 12 months to 1 month: {ratio:.2f} (at most {LIMIT}); in one piece {whole['peak'] / first['peak']:.2f}"
    )
    same = whole["id"] == last["id"]
    print(f"the same snapshot in chunks and in one piece: {same}")
    return 0 if ratio <= LIMIT and same else 1


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(build(int(sys.argv[1]), int(sys.argv[2]))))
        sys.exit(0)
    sys.exit(main())
