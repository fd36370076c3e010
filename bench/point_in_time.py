"""How fast features are joined point in time: all flights of 2013 that landed x all stored views of the service.

    .venv/bin/python bench/point_in_time.py [--homes FOLDER] [--memory-gb 8] [--small]

What was known at the prediction time is respected by all: this package's offline store; Feast's DuckDB store as
shipped, with ``filter_by_created_timestamp=True``; and ``join_asof`` of Polars by hand. Their answers are compared
value by value. Feast's default store (dask) is stopped when it needs more than ``--memory-gb``; of one view and every
tenth row, for which that is enough, the rows that it loses are counted. Each runs in a fresh process that has imported
and opened everything before the clock starts; files are read within the time. CPU seconds tell more than wall seconds
on a busy machine.

The year is landed and its features are computed once, below ``--homes``. That, and dask, take minutes each.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

from _figures import Figures, options
from _flights import HOMES, REPO, SERVICE, ledger_url, made

FIRST, SMALL_LAST, LAST = date(2013, 1, 1), date(2013, 1, 3), date(2013, 12, 30)
DASK_VIEW = "aircraft_last_leg"
SHARE = 10


# --- the data ---------------------------------------------------------------------------------------------


def entities(home: Path) -> Any:
    """Return a row a flight that landed: keys, and when its delay is predicted."""
    import pyarrow.compute as pc

    from airflow_mlops.demo.flights import read_feed
    from airflow_mlops.engine.data.partitions import PartitionStore

    last = date.fromisoformat(PartitionStore.under(home).keys("departures")[-1])
    departures, arrivals = (read_feed(feed, FIRST, last) for feed in ("departures", "arrivals"))
    rows = departures.filter(pc.is_in(departures["flight_id"], value_set=arrivals["flight_id"].combine_chunks()))
    named = {"sched_dep_utc": "event_timestamp"}
    columns = ["flight_id", "carrier", "origin", "dest", "route", "tailnum", "sched_dep_utc"]
    return rows.select(columns).rename_columns([named.get(name, name) for name in columns]).to_pandas()


def views(home: Path) -> dict[str, tuple[list[str], list[str], float]]:
    """Return keys, features and seconds to live of the stored views of the service."""
    from airflow_mlops.engine.features.governance.apply import ensure_applied
    from airflow_mlops.engine.features.project.location import Location
    from airflow_mlops.engine.ledger import Ledger

    repo = ensure_applied(Location(REPO, home), Ledger(ledger_url(home)))
    found = {}
    for name in repo.service(SERVICE).views:
        view = repo.views[name]
        found[name] = (list(view.keys), list(repo.reads(SERVICE)[name]), float(view.ttl_seconds or 0))
    return found


# --- the candidates: each imports and opens, then returns what is timed ------------------------------------


def ours(home: Path, wanted: list[str]) -> Callable[[], Any]:
    return _feast(home, "airflow_mlops.engine.features.offline.asof.AsofOfflineStore", wanted)


def duckdb(home: Path, wanted: list[str]) -> Callable[[], Any]:
    return _feast(home, "duckdb", wanted)


def dask(home: Path, wanted: list[str]) -> Callable[[], Any]:
    return _feast(home, "dask", wanted)


def _feast(home: Path, kind: str, wanted: list[str]) -> Callable[[], Any]:
    from feast import FeatureStore, RepoConfig

    config = RepoConfig(
        project="flight_delay",
        provider="local",
        registry={"registry_type": "sql", "path": f"sqlite:///{home}/feast/registry.db"},
        online_store={"type": "sqlite", "path": str(home / "feast" / "online.db")},
        offline_store={"type": kind},
        entity_key_serialization_version=3,
    )
    store, rows = FeatureStore(config=config), entities(home)
    if wanted == [DASK_VIEW]:
        rows = rows.iloc[::SHARE]
    asked = [
        f"{view}:{feature}" for view, (_, features, _) in views(home).items() for feature in features if view in wanted
    ]
    known = {} if kind == "dask" else {"filter_by_created_timestamp": True}  # which dask does not have
    return lambda: store.get_historical_features(rows, asked, **known).to_arrow()


def polars(home: Path, wanted: list[str]) -> Callable[[], Any]:
    import polars as pl

    rows = entities(home)
    asked = {view: found for view, found in views(home).items() if view in wanted}

    def run() -> Any:
        answer = pl.from_pandas(rows).with_row_index("row").sort("event_timestamp")
        for view, (keys, features, lives) in asked.items():
            known = (
                pl.scan_parquet(f"{home}/features/{view}/*.parquet")
                .select(
                    *keys,
                    *features,
                    "created_timestamp",
                    pl.col("event_timestamp").alias("event"),
                    pl.max_horizontal("event_timestamp", "created_timestamp").alias("known"),
                )
                .sort("known", "event", "created_timestamp")
                .filter(pl.col("event") == pl.col("event").cum_max().over(keys))
                .drop("created_timestamp")
                .collect()
            )
            answer = answer.join_asof(
                known, left_on="event_timestamp", right_on="known", by=keys, check_sortedness=False
            )
            alive = pl.col("event") + pl.duration(seconds=lives) >= pl.col("event_timestamp")
            answer = answer.with_columns(pl.when(alive).then(pl.col(name)).alias(name) for name in features)
            answer = answer.drop("event", "known")
        return answer.sort("row").drop("row").to_arrow()

    return run


CANDIDATES = {"ours": ours, "duckdb": duckdb, "polars": polars, "dask": dask}


def measure(candidate: str, home: Path, wanted: list[str], answer: Path) -> None:
    """Run one candidate in this process, write what it answers, and print what it took, as JSON."""
    import pyarrow.parquet as pq

    run = CANDIDATES[candidate](home, wanted)
    cpu, wall = time.process_time(), time.perf_counter()
    joined = run()
    seconds = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    if candidate != "dask":
        pq.write_table(joined.sort_by("flight_id"), answer)
    print(json.dumps({**seconds, "rows": joined.num_rows, "memory": resident(os.getpid(), "VmHWM")}))


def resident(process: int, line: str) -> int:
    """Return the resident memory of a process, in bytes; nothing once it has ended."""
    try:
        status = Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return 0
    return next((int(text.split()[1]) * 1024 for text in status if text.startswith(line)), 0)


# --- the table --------------------------------------------------------------------------------------------


def taken(candidate: str, home: Path, wanted: list[str], answer: Path, limit: int) -> dict[str, Any] | None:
    """Return what a candidate took, None when it was stopped because it needed more memory than the limit."""
    command = [sys.executable, sys.argv[0], "--home", str(home), "--measure", candidate, ",".join(wanted), str(answer)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as child:
        while child.poll() is None:
            if resident(child.pid, "VmRSS") > limit:
                child.kill()
                return None
            time.sleep(0.05)
        output = child.stdout.read() if child.stdout else ""
    if child.returncode:
        raise SystemExit(f"{candidate} failed with {child.returncode}: run {' '.join(command)}")
    return dict(json.loads(output.splitlines()[-1]))


def finished(candidate: str, home: Path, wanted: list[str], answer: Path) -> dict[str, Any]:
    """Return what a candidate took that no limit stops."""
    found = taken(candidate, home, wanted, answer, sys.maxsize)
    assert found is not None
    return found


def report(figures: Figures, home: Path, limit: int) -> None:
    asked = views(home)
    every = list(asked)
    features = sum(len(names) for _, names, _ in asked.values())
    with tempfile.TemporaryDirectory(prefix="bench-point-in-time-") as folder:
        answers = {name: Path(folder) / f"{name}.parquet" for name in CANDIDATES}
        found = {name: finished(name, home, every, answers[name]) for name in ("ours", "polars", "duckdb")}
        repeated = () if figures.small else ("ours", "polars")
        again = [finished(name, home, every, answers[name]) for name in repeated]
        same = {name: same_values(answers["ours"], answers[name]) for name in ("polars", "duckdb")}
    for name, second in zip(repeated, again, strict=True):
        found[name] = min(found[name], second, key=lambda row: row["cpu"])
    rows = found["ours"]["rows"]
    print(f"{rows:,} entity rows, {len(every)} views, {features} features, load {os.getloadavg()[0]:.1f}\n")
    print(f"{'':24} {'wall s':>8} {'CPU s':>8} {'peak MB':>9} {'rows out':>10}")
    for name, row in found.items():
        print(f"{name:24} {row['wall']:8.2f} {row['cpu']:8.2f} {row['memory'] / 1e6:9.0f} {row['rows']:10,}")
    print()
    for name, equal in same.items():
        figures.must(f"the answers of {name} are ours", equal)
    for name, goal in (("duckdb", 4), ("polars", 0.4)):
        wall, cpu = (found[name][clock] / found["ours"][clock] for clock in ("wall", "cpu"))
        figures.hold(f"CPU, {name} / ours", cpu, at_least=goal, note=f"wall {wall:.2f}")
    for wanted in [] if figures.small else [every, [DASK_VIEW]]:
        told = taken("dask", home, wanted, Path(), limit)
        asking, what = rows, f"dask, {len(wanted)} views"
        if wanted == [DASK_VIEW]:
            asking, what = -(-rows // SHARE), f"dask, {DASK_VIEW} alone, every {SHARE}th row"
        if told is None:
            print(f"{what}: stopped at {limit / 1e9:.0f} GB")
        else:
            lost = f"{asking - told['rows']:,} of {asking:,} rows lost"
            print(f"{what}: {told['cpu']:.1f} CPU s, {told['memory'] / 1e9:.1f} GB, {lost}")


def same_values(one: Path, other: Path) -> bool:
    """Whether two answers agree in every value, whatever the order of their columns and the width of their types."""
    import pandas as pd

    left, right = (pd.read_parquet(file) for file in (one, other))
    try:
        pd.testing.assert_frame_equal(left, right[left.columns], check_dtype=False)
    except AssertionError as error:
        print(error)
        return False
    return True


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--homes", type=Path, default=HOMES, help="where the flights and their features are kept")
    parser.add_argument("--memory-gb", type=float, default=8, help="when dask is stopped")
    parser.add_argument("--home", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--measure", nargs=3, metavar=("CANDIDATE", "VIEWS", "ANSWER"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        candidate, wanted, answer = given.measure
        measure(candidate, given.home, wanted.split(","), Path(answer))
        return
    figures = Figures(small=given.small)
    report(figures, made(FIRST, SMALL_LAST if given.small else LAST, given.homes), int(given.memory_gb * 1e9))
    figures.end()


if __name__ == "__main__":
    main()
