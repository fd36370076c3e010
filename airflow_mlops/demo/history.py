"""The months before, in bulk: the engine's own functions, partition by partition, without a scheduler.

Run as a program of its own, because it works on all cores while the stack starts:
``python -m airflow_mlops.demo.history <home> <dags> <feature repo> <ledger url> <first day> <last day>``.
Lines of its output that start with ``history: `` say how far it is.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from datetime import date
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from airflow_mlops.durations import parse_duration
from airflow_mlops.engine.entrypoints import load_object
from airflow_mlops.engine.locks import locked
from airflow_mlops.exceptions import MlopsError
from airflow_mlops.partitioning import DAILY

if TYPE_CHECKING:
    from airflow_mlops.engine.data.partitions import PartitionStore
    from airflow_mlops.engine.ledger import Ledger
    from airflow_mlops.parts import Partitions
    from airflow_mlops.pipeline import ModelPipeline

PIPELINE = "flight_delay:flight_delay"
PROGRESS = "history: "


@dataclass(frozen=True)
class History:
    """What to land, and with which code.

    :param first: First day.
    :param last: Last day.
    """

    home: Path
    dags: Path
    feature_repo: Path
    ledger_url: str
    first: date
    last: date

    @property
    def days(self) -> list[str]:
        """Partition keys, in order."""
        return list(DAILY.keys(*DAILY.span(self.first, self.last)))

    @property
    def code_hash(self) -> str:
        """Identity of the example's code: when it changes, what it made is made again."""
        files = [*sorted(self.dags.rglob("*.py")), *sorted(self.feature_repo.glob("*.py"))]
        return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()

    @property
    def done(self) -> bool:
        """Whether all of it is there, made by this code."""
        wanted = json.dumps(self._receipt())
        return self._receipt_file.exists() and self._receipt_file.read_text() == wanted

    def mark_done(self) -> None:
        """Write down that all of it is there."""
        self._receipt_file.parent.mkdir(parents=True, exist_ok=True)
        self._receipt_file.write_text(json.dumps(self._receipt()))

    @property
    def command(self) -> list[str]:
        """The program that lands it."""
        values = (str(value) for value in asdict(self).values())
        return [sys.executable, "-m", "airflow_mlops.demo.history", *values]

    @property
    def _receipt_file(self) -> Path:
        return self.home / "run" / "history.json"

    def _receipt(self) -> dict[str, str]:
        return {"first": str(self.first), "last": str(self.last), "code": self.code_hash}


def land_history(history: History, say: Callable[[str], None]) -> None:
    """Land, validate, seal and compute the features of every day.

    :param say: Told how far it is.
    :raises MlopsError: whatever the engine refuses.
    """
    from airflow_mlops.engine.features.governance.apply import ensure_applied
    from airflow_mlops.engine.features.project.location import Location
    from airflow_mlops.engine.ledger import Ledger

    pipeline: ModelPipeline = load_object(PIPELINE, str(history.dags))
    # Great Expectations takes seconds to import: once here, and not again in every worker.
    load_object(pipeline.source.suite, str(history.dags))
    with _workers() as workers:
        seal = partial(_seal_day, history, pipeline)
        for n, _ in enumerate(workers.map(seal, history.days), 1):
            say(f"landed, validated and sealed {n} of {len(history.days)} days")
    repo = ensure_applied(Location(history.feature_repo, history.home), Ledger(history.ledger_url))
    with _workers() as workers:
        compute = partial(_compute_day, history, pipeline, repo)
        for n, _ in enumerate(workers.map(compute, history.days), 1):
            say(f"computed the features of {n} of {len(history.days)} days")
    history.mark_done()


def _workers() -> ProcessPoolExecutor:
    """As many processes as cores; forked, so that they have what is imported already."""
    fork = multiprocessing.get_context("fork")
    return ProcessPoolExecutor(os.cpu_count(), mp_context=fork, initializer=_end_with, initargs=(os.getpid(),))


def _end_with(parent: int) -> None:
    """End this worker when its parent is gone; it would wait for work, and hold the lock, for ever."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _seal_day(history: History, pipeline: ModelPipeline, key: str) -> None:
    from airflow_mlops.demo.flights import Feed, land

    lake = history.home / "lake"
    for feed in get_args(Feed):
        land(lake, date.fromisoformat(key), feed)
    for source in pipeline.feeds:
        _seal(history, source, key)


def _seal(history: History, source: Partitions, key: str) -> None:
    from airflow_mlops.engine.data.arrival import look_for
    from airflow_mlops.engine.data.profiles import profile_files
    from airflow_mlops.engine.data.validation import enforce, validate

    arrival = look_for(history.home / source.uri, key)
    if arrival is None:
        raise MlopsError(f"{source.dataset} of {key} did not land.", detail=str(history.home / source.uri))
    landed = Path(arrival["uri"])
    files = sorted(landed.glob("*.parquet"))
    suite = load_object(source.suite, str(history.dags))()
    result = validate(
        files, suite, suite_name=source.suite, batch=f"{source.dataset}/{key}", may_be_empty=source.may_be_empty
    )
    enforce(result)
    store, checks = _store(history), source.checks
    sealed = store.seal(
        source.dataset,
        key,
        landed,
        event_time=source.event_time,
        batch_hash=result.batch_hash,
        suite_hash=result.suite_hash,
        may_be_empty=source.may_be_empty,
    )
    # What the days that go through the scheduler are compared with.
    profile = profile_files(
        files,
        dataset=source.dataset,
        key=key,
        revision=sealed.revision,
        slices=checks.slices,
        label=checks.label,
        unique=checks.unique,
    )
    store.write_profile(source.dataset, key, sealed.revision, profile)


def _store(history: History) -> PartitionStore:
    from airflow_mlops.engine.data.partitions import PartitionStore

    return PartitionStore.under(history.home, _ledger(history.ledger_url))


@cache
def _ledger(url: str) -> Ledger:
    """One for each worker: connecting takes longer than sealing."""
    from airflow_mlops.engine.ledger import Ledger

    return Ledger(url)


def _compute_day(history: History, pipeline: ModelPipeline, repo: object, key: str) -> None:
    from airflow_mlops.engine.features.computing.compute import compute_features

    store = _store(history)
    compute_features(
        history.home,
        key,
        store=store,
        ledger=store.ledger,
        repo=repo,  # type: ignore[arg-type]
        transform=pipeline.features.transform,
        code_paths=[str(history.dags), str(history.feature_repo)],
        datasets=[feed.dataset for feed in pipeline.feeds],
        history=parse_duration(pipeline.features.history),
        start=pipeline.source.start,
        suites=pipeline.features.view_suites,
        checks=pipeline.features.view_checks,
        rows=pipeline.features.rows,
    )


def main(arguments: Sequence[str]) -> int:
    """Run it; the error, if any, is the last thing on standard output."""
    home, dags, feature_repo, ledger_url, first, last = arguments
    history = History(
        Path(home), Path(dags), Path(feature_repo), ledger_url, date.fromisoformat(first), date.fromisoformat(last)
    )
    try:
        # One at a time: of a demo that was killed, this program may still be at work.
        with locked(history.home / "run" / "history.lock"):
            if not history.done:
                land_history(history, lambda text: print(f"{PROGRESS}{text}", flush=True))
    except MlopsError as error:
        print(error, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
