"""Profiling 1,000 columns x 300,000 rows in one pass, and a year of flights merged from its daily profiles.

Each measurement runs in a process of its own, so that its peak memory is its own. Printed with it, from the same run:

* the same statistics by ``pandas``: ``read_parquet``, ``describe(include="all")`` and ``nunique()``, on 100 of the
  columns, because all of them as a frame do not fit a laptop; ours on the same 100 columns;
* against merging 365 stored daily profiles: profiling the year's files again.

Run: python bench/profiles.py [--columns 1000] [--rows 300000] [--small]
"""

from __future__ import annotations

import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from _figures import Figures, options
from airflow_mlops.contracts import Profile
from airflow_mlops.demo.flights import FIRST_DAY, LAST_DAY, land
from airflow_mlops.engine.data.profiles import merge, profile_files

ROW_GROUP = 50_000
SHARE = 10


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--columns", type=int, default=1000)
    parser.add_argument("--rows", type=int, default=300_000)
    given = parser.parse_args()
    figures = Figures(small=given.small)
    with tempfile.TemporaryDirectory(prefix="bench-profiles-") as folder:
        wide(figures, Path(folder), *((50, 20_000) if given.small else (given.columns, given.rows)))
        year(figures, Path(folder), 20 if given.small else (LAST_DAY - FIRST_DAY).days + 1)
    figures.end()


# --- many columns -----------------------------------------------------------------------------------------


def wide(figures: Figures, folder: Path, columns: int, rows: int) -> None:
    whole, part = folder / "whole.parquet", folder / "part.parquet"
    in_child(lambda: write(whole, columns, rows))
    in_child(lambda: write(part, columns // SHARE, rows))
    print(f"{rows:,} rows; columns: 6 of 10 float, 2 int, 2 text; one row group per {ROW_GROUP:,} rows")
    all_seconds = report(f"ours, {columns} columns in one pass", lambda: profile(whole), whole)
    ours = report(f"ours, {columns // SHARE} columns", lambda: profile(part), part)
    pandas = report(f"pandas describe + nunique, {columns // SHARE} columns", lambda: describe(part), part)
    figures.hold(f"CPU, ours / pandas, {columns // SHARE} columns", ours / pandas, at_most=1)
    figures.hold(f"CPU of {SHARE} times the columns / of the columns", all_seconds / ours, at_most=1.2 * SHARE)


def write(file: Path, columns: int, rows: int) -> None:
    """Write floats of a few scales, small and large whole numbers, codes, and texts with 10,000 values."""
    random = np.random.default_rng(0)
    makers: list[Callable[[int], pa.Array]] = [
        *[lambda n: pa.array(np.round(random.normal(100, 15, n), 2))] * 3,
        *[lambda n: pa.array(random.lognormal(size=n), mask=random.random(n) < 0.05)] * 3,
        lambda n: pa.array(random.integers(0, 24, n)),
        lambda n: pa.array(random.integers(0, 10**9, n)),
        lambda n: pa.array([f"code-{code}" for code in range(20)]).take(pa.array(random.integers(0, 20, n))),
        lambda n: pa.array([f"id-{number:06}" for number in range(10_000)]).take(
            pa.array(random.integers(0, 10_000, n))
        ),
    ]
    writer: pq.ParquetWriter | None = None
    for start in range(0, rows, ROW_GROUP):
        n = min(ROW_GROUP, rows - start)
        batch = pa.table({f"c{column:04}": makers[column % len(makers)](n) for column in range(columns)})
        writer = writer or pq.ParquetWriter(file, batch.schema)
        writer.write_table(batch)
    if writer:
        writer.close()


def profile(file: Path) -> None:
    profile_files([file], dataset="wide", key="2013-01-01", revision="0")


def describe(file: Path) -> None:
    frame = pd.read_parquet(file)
    frame.describe(include="all")
    frame.nunique()


# --- a year of flights ------------------------------------------------------------------------------------


def year(figures: Figures, folder: Path, count: int) -> None:
    days = [FIRST_DAY + timedelta(days=day) for day in range(count)]
    files = [Path(land(folder, day, "departures")["uri"]) / "departures.parquet" for day in days]
    started = time.process_time()
    profiles = [flights([file], file.parent.name) for file in files]
    a_day = (time.process_time() - started) / len(days)
    stored = [file.with_suffix(".profile.json") for file in files]
    for file, found in zip(stored, profiles, strict=True):
        file.write_text(found.to_json())
    size = sum(file.stat().st_size for file in stored) / len(stored)
    print(f"\nflights: {len(days)} days, {sum(found.rows for found in profiles):,} rows")
    print(f"  one day: {len(profiles[0].columns)} columns, {a_day * 1000:.0f} ms CPU, {size / 1000:.0f} kB of JSON")
    merged = report("reading and merging the daily profiles", lambda: read_and_merge(stored))
    again = report("profiling the year's files again", lambda: flights(files, "2013"))
    figures.hold("CPU, merging the daily profiles / profiling again", merged / again, at_most=0.2)


def flights(files: list[Path], key: str) -> Profile:
    return profile_files(
        files,
        dataset="departures",
        key=key,
        revision="0",
        slices=("carrier", "origin"),
        label="cancelled",
        unique=("flight_id",),
    )


def read_and_merge(stored: list[Path]) -> None:
    merge(Profile.from_json(file.read_bytes()) for file in stored)


# --- measuring --------------------------------------------------------------------------------------------


def report(title: str, work: Callable[[], object], data: Path | None = None) -> float:
    """Print wall and CPU seconds of ``work`` and its peak memory above the start; return the CPU seconds."""
    wall, cpu, memory = in_child(work)
    size = f", file {data.stat().st_size / 2**20:,.0f} MiB" if data else ""
    print(f"  {title}: {wall:.2f} s, {cpu:.2f} s CPU, peak memory +{memory / 2**20:,.0f} MiB{size}")
    return cpu


def in_child(work: Callable[[], object]) -> tuple[float, float, int]:
    """Run ``work`` in a forked process; return wall seconds, CPU seconds and bytes of memory it added at its peak."""
    receiver, sender = multiprocessing.Pipe(duplex=False)

    def measured() -> None:
        before, cpu, wall = peak(), time.process_time(), time.perf_counter()
        work()
        sender.send((time.perf_counter() - wall, time.process_time() - cpu, peak() - before))

    child = multiprocessing.get_context("fork").Process(target=measured)
    child.start()
    sender.close()
    wall, cpu, memory = receiver.recv()
    child.join()
    return wall, cpu, memory


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
