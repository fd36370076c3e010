"""History of the flights in bulk, against the shortest program that does it by hand.

By hand is what the demo once did for itself: a pool of processes that validates, seals and profiles each day of each
feed, then one that computes the features of each day. It judges no day against the days before, judges no computed row,
and goes on nowhere after a kill.

Run: python bench/history.py            (151 days, about six minutes on two cores)
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from datetime import date, timedelta
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

from _figures import Figures, options
from _flights import DAGS, REPO, ledger_url

if TYPE_CHECKING:
    from airflow_mlops.engine.data.partitions import PartitionStore
    from airflow_mlops.engine.ledger import Ledger
    from airflow_mlops.feeds import Partitions
    from airflow_mlops.pipeline import ModelPipeline

DAYS, FEW = 151, 1
CORES = os.cpu_count() or 1


@cache
def _places(home: Path) -> tuple[PartitionStore, Ledger]:
    from airflow_mlops.engine.data.partitions import PartitionStore
    from airflow_mlops.engine.ledger import Ledger

    ledger = Ledger(ledger_url(home))
    return PartitionStore.under(home, ledger), ledger


def by_hand(home: Path, pipeline: ModelPipeline, days: list[date]) -> None:
    """Seal every day, and compute its features, without a thought for what goes wrong."""
    from airflow_mlops.engine.features.governance.apply import ensure_applied
    from airflow_mlops.engine.features.project.location import Location

    keys = [str(day) for day in days]
    fork = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(CORES, fork) as pool:
        list(pool.map(partial(_seal, home, pipeline), keys))
    repo = ensure_applied(Location(REPO, home), _places(home)[1])
    with ProcessPoolExecutor(CORES, fork) as pool:
        list(pool.map(partial(_compute, home, pipeline, repo), keys))


def _seal(home: Path, pipeline: ModelPipeline, key: str) -> None:
    from airflow_mlops.engine.data.arrival import look_for
    from airflow_mlops.engine.data.profiles import profile_files
    from airflow_mlops.engine.data.validation import enforce, load_suite, validate

    store, _ = _places(home)
    for feed in cast("tuple[Partitions, ...]", pipeline.feeds):
        arrival = look_for(home / feed.uri, key)
        assert arrival is not None
        landed = Path(arrival["uri"])
        files = sorted(landed.glob("*.parquet"))
        suite = load_suite(feed.suite, str(DAGS))
        result = validate(files, suite, batch=f"{feed.dataset}/{key}")
        enforce(result)
        sealed = store.seal(
            feed.dataset,
            key,
            landed,
            event_time=feed.event_time,
            batch_hash=result.batch_hash,
            suite_hash=result.suite_hash,
        )
        profile = profile_files(
            files,
            dataset=feed.dataset,
            key=key,
            revision=sealed.revision,
            slices=feed.checks.slices,
            label=feed.checks.label,
            unique=feed.checks.unique,
        )
        store.write_profile(feed.dataset, key, sealed.revision, profile)


def _compute(home: Path, pipeline: ModelPipeline, repo: Any, key: str) -> None:
    from airflow_mlops.durations import parse_duration
    from airflow_mlops.engine.features.computing.compute import compute_features

    store, ledger = _places(home)
    compute_features(
        home,
        key,
        store=store,
        ledger=ledger,
        repo=repo,
        transform=pipeline.features.transform,
        code_paths=[str(DAGS), str(REPO)],
        datasets=[feed.dataset for feed in pipeline.feeds],
        history=parse_duration(pipeline.features.history),
        start={feed.dataset: feed.start for feed in pipeline.feeds},
    )


def in_bulk(home: Path, pipeline: ModelPipeline, days: list[date]) -> None:
    """Do it as ``airflow-mlops history`` does."""
    from airflow_mlops.engine.features.project.location import Location
    from airflow_mlops.engine.history.load import load_history

    store, ledger = _places(home)
    loaded = load_history(
        pipeline,
        days[0],
        days[-1],
        location=Location(REPO, home),
        store=store,
        ledger=ledger,
        code_path=str(DAGS),
        locate=home.joinpath,
        workers=CORES,
    )
    print(loaded)


def seconds(
    work: Callable[[Path, ModelPipeline, list[date]], None], pipeline: ModelPipeline, days: list[date]
) -> float:
    """Return how long it takes in a home of its own, where the days have landed."""
    from airflow_mlops.demo.flights import Feed, land

    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        for day in days:
            for feed in get_args(Feed):
                land(home / "lake", day, feed)
        began = time.perf_counter()
        work(home, pipeline, days)
        return time.perf_counter() - began


def main() -> None:
    """Measure."""
    given = options(__doc__).parse_args()
    figures = Figures(small=given.small)

    from airflow_mlops.demo.history import PIPELINE
    from airflow_mlops.engine.entrypoints import load_object

    pipeline: ModelPipeline = load_object(PIPELINE, str(DAGS))
    count = FEW if given.small else DAYS
    days = [pipeline.source.start + timedelta(days=n) for n in range(count)]
    rows_unjudged = replace(pipeline, features=replace(pipeline.features, view_suites={}, view_checks={}, rows=()))

    if not given.small:
        seconds(in_bulk, pipeline, days[:1])  # what is imported takes seconds, and only once
    hand = seconds(by_hand, pipeline, days)
    same, every = seconds(in_bulk, rows_unjudged, days), seconds(in_bulk, pipeline, days)
    print(f"{count} days: by hand {hand:.0f} s; in bulk {same:.0f} s, with computed rows judged {every:.0f} s")
    print(f"{60 * count / every:.0f} days a minute, {60 * count * len(pipeline.feeds) / every:.0f} partitions a minute")
    figures.hold("in bulk, computed rows unjudged / by hand", same / hand, at_most=1.1)
    figures.hold("in bulk, computed rows judged / by hand", every / hand, at_most=2.5)
    figures.end()


if __name__ == "__main__":
    main()
