"""How fast a partition is validated: 25 expectations on the flights, tiled to three million rows.

    .venv/bin/python bench/validation.py [--rows 3000000] [--small]

Four candidates check the same rules: this package, Great Expectations by its own means (pandas, its defaults), and
by hand in DuckDB and in Polars. Each runs in a fresh process, so that peak memory is its own; imports and the
library's start are left out of time and memory. CPU seconds tell more than wall seconds when the machine is busy.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from _figures import Figures, options

CARRIERS = ["9E", "AA", "AS", "B6", "DL", "EV", "F9", "FL", "HA", "MQ", "OO", "UA", "US", "VX", "WN", "YV"]
AIRPORTS = ["EWR", "JFK", "LGA"]
COLUMNS = [
    *("flight_id", "carrier", "tailnum", "origin", "dest", "distance", "sched_dep_utc", "sched_arr_utc"),
    *("sched_minutes", "sched_hour", "weekday", "month", "cancelled", "dep_utc", "dep_delay", "known_at"),
]
SMALL_ROWS = 30_000
FEWEST_A_DAY = 600
WIDE = [[-60, 0], [-10, 10], [10, 120]]


def expectations() -> list[Any]:
    """Return the rules as a suite; ``duckdb`` and ``polars`` below are the same by hand."""
    import great_expectations.expectations as gxe
    from great_expectations.expectations.row_conditions import Column

    return [
        gxe.ExpectTableRowCountToBeBetween(min_value=500),
        gxe.ExpectColumnValuesToNotBeNull(column="flight_id"),
        gxe.ExpectColumnValuesToBeUnique(column="flight_id"),
        gxe.ExpectColumnValuesToBeInSet(column="carrier", value_set=CARRIERS),
        gxe.ExpectColumnDistinctValuesToEqualSet(column="origin", value_set=AIRPORTS),
        gxe.ExpectColumnValuesToBeBetween(column="distance", min_value=1, max_value=5500),
        gxe.ExpectColumnValuesToBeBetween(column="sched_minutes", min_value=20, max_value=900),
        gxe.ExpectColumnValuesToBeBetween(column="dep_delay", min_value=-60, max_value=1500),
        gxe.ExpectColumnValuesToBeInSet(
            column="cancelled", value_set=[True], row_condition=Column("dep_delay").is_null()
        ),
        gxe.ExpectColumnMeanToBeBetween(column="cancelled", max_value=0.8),
        gxe.ExpectColumnMeanToBeBetween(column="cancelled", max_value=0.02, severity="warning"),  # fails
        gxe.ExpectColumnValuesToNotBeNull(column="known_at"),
        gxe.ExpectColumnPairValuesToBeEqual(
            column_A="known_at", column_B="dep_utc", ignore_row_if="either_value_is_missing"
        ),
        gxe.ExpectColumnValuesToNotBeNull(column="tailnum", mostly=0.95),
        gxe.ExpectColumnValuesToBeBetween(column="sched_hour", min_value=0, max_value=23),
        gxe.ExpectColumnValuesToBeBetween(column="month", min_value=1, max_value=11),  # fails
        gxe.ExpectColumnValuesToBeInSet(column="weekday", value_set=list(range(8))),
        gxe.ExpectColumnValueLengthsToEqual(column="dest", value=3),
        gxe.ExpectColumnUniqueValueCountToBeBetween(column="dest", min_value=50, max_value=200),
        gxe.ExpectColumnMedianToBeBetween(column="distance", min_value=300, max_value=1500),
        gxe.ExpectColumnQuantileValuesToBeBetween(
            column="dep_delay", quantile_ranges={"quantiles": [0.1, 0.5, 0.9], "value_ranges": WIDE}
        ),
        gxe.ExpectColumnStdevToBeBetween(column="dep_delay", min_value=5, max_value=100),
        gxe.ExpectColumnMaxToBeBetween(column="distance", max_value=5500),
        gxe.ExpectColumnMinToBeBetween(column="dep_delay", min_value=-60),
        gxe.ExpectColumnPairValuesAToBeGreaterThanB(column_A="sched_arr_utc", column_B="sched_dep_utc"),
    ]


# --- the candidates: each imports, then yields what is timed -----------------------------------------------


def ours(file: Path) -> Any:
    from airflow_mlops.engine.data.validation import library, validate

    library.prepare()
    import duckdb_engine  # noqa: F401

    suite = expectations()

    def run() -> list[bool]:
        result = validate([file], suite, suite_name="bench", batch="bench")
        return [outcome.success for outcome in result.outcomes]

    return run


def plain(file: Path) -> Any:
    import great_expectations as gx
    import pandas as pd

    suite = gx.ExpectationSuite("bench", expectations())
    order = [_key(expectation.configuration) for expectation in suite.expectations]

    def run() -> list[bool]:
        context = gx.get_context(mode="ephemeral")
        asset = context.data_sources.add_pandas("pandas").add_dataframe_asset("batch")
        batch = asset.add_batch_definition_whole_dataframe("all").get_batch({"dataframe": pd.read_parquet(file)})
        found = {_key(result.expectation_config): bool(result.success) for result in batch.validate(suite).results}
        return [found[key] for key in order]

    return run


def duckdb(file: Path) -> Any:
    import duckdb as library

    carriers, airports = (str(tuple(names)) for names in (CARRIERS, AIRPORTS))

    def run() -> list[bool]:
        row = (
            library.connect()
            .execute(f"""
            SELECT count(*) >= 500, count(flight_id) = count(*), count(DISTINCT flight_id) = count(flight_id),
                count(*) FILTER (carrier NOT IN {carriers}) = 0,
                count(DISTINCT origin) = 3 AND count(*) FILTER (origin NOT IN {airports}) = 0,
                count(*) FILTER (distance NOT BETWEEN 1 AND 5500) = 0,
                count(*) FILTER (sched_minutes NOT BETWEEN 20 AND 900) = 0,
                count(*) FILTER (dep_delay NOT BETWEEN -60 AND 1500) = 0,
                count(*) FILTER (dep_delay IS NULL AND NOT cancelled) = 0,
                avg(cancelled::INT) <= 0.8, avg(cancelled::INT) <= 0.02, count(known_at) = count(*),
                count(*) FILTER (known_at <> dep_utc) = 0, count(tailnum) >= 0.95 * count(*),
                count(*) FILTER (sched_hour NOT BETWEEN 0 AND 23) = 0, count(*) FILTER (month NOT BETWEEN 1 AND 11) = 0,
                count(*) FILTER (weekday NOT BETWEEN 0 AND 7) = 0, count(*) FILTER (length(dest) <> 3) = 0,
                count(DISTINCT dest) BETWEEN 50 AND 200, median(distance) BETWEEN 300 AND 1500,
                quantile_disc(dep_delay, [0.1, 0.5, 0.9]), stddev(dep_delay) BETWEEN 5 AND 100,
                max(distance) <= 5500, min(dep_delay) >= -60, count(*) FILTER (sched_arr_utc <= sched_dep_utc) = 0
            FROM read_parquet('{file}')""")
            .fetchone()
        )
        assert row is not None
        return [_within(value) if isinstance(value, list) else bool(value) for value in row]

    return run


def polars(file: Path) -> Any:
    import polars as pl

    c = pl.col

    def run() -> list[bool]:
        quantiles = [c("dep_delay").quantile(q) for q in (0.1, 0.5, 0.9)]
        checks = [
            pl.len() >= 500,
            c("flight_id").null_count() == 0,
            c("flight_id").n_unique() == pl.len(),
            c("carrier").is_in(CARRIERS).all(),
            (c("origin").n_unique() == 3) & c("origin").is_in(AIRPORTS).all(),
            c("distance").is_between(1, 5500).all(),
            c("sched_minutes").is_between(20, 900).all(),
            c("dep_delay").is_between(-60, 1500).all(),
            (c("dep_delay").is_not_null() | c("cancelled")).all(),
            c("cancelled").mean() <= 0.8,
            c("cancelled").mean() <= 0.02,
            c("known_at").null_count() == 0,
            (c("known_at") == c("dep_utc")).all(),
            c("tailnum").count() >= 0.95 * pl.len(),
            c("sched_hour").is_between(0, 23).all(),
            c("month").is_between(1, 11).all(),
            c("weekday").is_between(0, 7).all(),
            (c("dest").str.len_chars() == 3).all(),
            c("dest").n_unique().is_between(50, 200),
            c("distance").median().is_between(300, 1500),
            pl.all_horizontal(*(q.is_between(low, high) for q, (low, high) in zip(quantiles, WIDE, strict=True))),
            c("dep_delay").std().is_between(5, 100),
            c("distance").max() <= 5500,
            c("dep_delay").min() >= -60,
            (c("sched_arr_utc") > c("sched_dep_utc")).all(),
        ]
        named = [check.alias(str(n)) for n, check in enumerate(checks)]
        return list(pl.scan_parquet(file).select(named).collect().row(0))

    return run


CANDIDATES = {"ours": ours, "plain": plain, "duckdb": duckdb, "polars": polars}


def _key(configuration: Any) -> str:
    asked = configuration.to_json_dict()
    kwargs = {name: value for name, value in asked["kwargs"].items() if name != "batch_id"}
    return json.dumps([asked["type"], kwargs], sort_keys=True)


def _within(values: list[float]) -> bool:
    return all(low <= value <= high for value, (low, high) in zip(values, WIDE, strict=True))


def measure(candidate: str, file: Path) -> None:
    """Run one candidate in this process and print what it took, as JSON."""
    import pyarrow.parquet as pq

    run = CANDIDATES[candidate](file)
    before, cpu, wall = peak_memory(), time.process_time(), time.perf_counter()
    verdicts = run()
    taken = {
        "wall": time.perf_counter() - wall,
        "cpu": time.process_time() - cpu,
        "memory": peak_memory() - before,
        "rows": pq.read_metadata(file).num_rows,
        "verdicts": verdicts,
    }
    print(json.dumps(taken))


def peak_memory() -> int:
    """Return the most memory that this process has had, in bytes.

    Not ``getrusage``: that begins with the memory of the process which started this one.
    """
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


# --- the data, and the table of ratios --------------------------------------------------------------------


def tile(folder: Path, rows: int) -> Path:
    """Write the year's departures, or as many of its days as suffice, again and again under other ids."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from airflow_mlops.demo.flights import FIRST_DAY, land

    file = folder / f"{rows}.parquet"
    days = [
        pq.read_table(land(folder / "lake", FIRST_DAY + timedelta(days=n), "departures")["uri"])
        for n in range(min(365, 1 + rows // FEWEST_A_DAY))
    ]
    year = pa.concat_tables(days).replace_schema_metadata()
    with pq.ParquetWriter(file, year.schema) as writer:
        for n in range(-(-rows // year.num_rows)):
            ids = pc.binary_join_element_wise(year["flight_id"], str(n), "-")
            part = year.set_column(0, "flight_id", ids)
            writer.write_table(part.slice(0, rows - n * year.num_rows))
    return file


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--rows", type=int, default=3_000_000)
    parser.add_argument("--measure", nargs=2, metavar=("CANDIDATE", "FILE"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        measure(given.measure[0], Path(given.measure[1]))
        return
    rows = SMALL_ROWS if given.small else given.rows
    figures = Figures(small=given.small)
    with tempfile.TemporaryDirectory(prefix="bench-validation-") as folder:
        report(figures, tile(Path(folder), rows), tile(Path(folder), rows // 10))
    figures.end()


def report(figures: Figures, large: Path, small: Path) -> None:
    import pyarrow.parquet as pq

    arrow = pq.read_table(large, columns=COLUMNS).nbytes
    found = {name: taken(name, large) for name in CANDIDATES}
    tenth = taken("ours", small)
    load = os.getloadavg()[0]
    print(
        f"{found['ours']['rows']:,} rows, {len(expectations())} expectations, {os.cpu_count()} cores, load {load:.1f}"
    )
    print(f"columns used: {arrow / 1e6:.0f} MB in Arrow\n")
    print(f"{'':12} {'wall s':>8} {'CPU s':>8} {'memory MB':>10}")
    for name, row in {**found, "ours, tenth": tenth}.items():
        print(f"{name:12} {row['wall']:8.2f} {row['cpu']:8.2f} {row['memory'] / 1e6:10.0f}")
    print()
    for name, verdicts in ((name, row["verdicts"]) for name, row in found.items()):
        figures.must(
            f"the verdicts of {name} are those of plain Great Expectations", verdicts == found["plain"]["verdicts"]
        )
    mine = found["ours"]
    for name, goal in (("plain", 10), ("duckdb", 0.5), ("polars", 0.5)):
        ratio = {clock: found[name][clock] / mine[clock] for clock in ("wall", "cpu")}
        figures.hold(f"CPU, {name} / ours", ratio["cpu"], at_least=goal, note=f"wall {ratio['wall']:.2f}")
    figures.hold("memory / Arrow size of the columns used", mine["memory"] / arrow, at_most=1.5)
    figures.hold("CPU of ten times the rows / of the rows", mine["cpu"] / tenth["cpu"], at_most=10)


def taken(candidate: str, file: Path) -> dict[str, Any]:
    command = [sys.executable, __file__, "--measure", candidate, str(file)]
    environment = {**os.environ, "GX_ANALYTICS_ENABLED": "false"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


if __name__ == "__main__":
    main()
