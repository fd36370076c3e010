"""One partition's share of the work that needs no partition before: what was kept of it, or done now."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from airflow_mlops.durations import parse_duration
from airflow_mlops.engine.data.partitions import PartitionStore
from airflow_mlops.engine.data.shared import fetch
from airflow_mlops.engine.features.computing.code import code_identity, import_folders
from airflow_mlops.engine.features.computing.compute import Draft, compute_rows
from airflow_mlops.engine.history.ahead import Ahead, Answer, as_of_now
from airflow_mlops.engine.history.pace import FEATURES
from airflow_mlops.engine.history.sealing import Prepared, prepare
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.exceptions import DataError

if TYPE_CHECKING:
    from airflow_mlops.engine.data.storage import AnyPath
    from airflow_mlops.engine.features.computing.code import Code
    from airflow_mlops.engine.features.project.location import Location
    from airflow_mlops.feeds import Feed
    from airflow_mlops.pipeline import ModelPipeline

_Job = TypeVar("_Job")


def keep(ahead: Ahead, dataset: str, key: str, work: Callable[[_Job], Answer], job: _Job) -> bool:
    """Work something out and keep it, unless it is kept; return whether it is."""
    if ahead.take(dataset, key) is None:
        began = time.monotonic()
        said = work(job).said
        if said is None or isinstance(said, DataError):
            return False
        ahead.keep(dataset, key, said, time.monotonic() - began)
    return True


def prepared(job: tuple[Feed, str], *, ahead: Ahead | None, **how: Any) -> Answer:
    """Return a partition of a feed staged and validated: what was kept of it, or just now."""
    feed, key = job
    if ahead is not None and (kept := ahead.take(feed.dataset, key)) is not None:
        if isinstance(kept.said, Prepared) and "://" not in kept.said.landed:
            fetch(Path(kept.said.landed))  # another machine staged it
        return kept
    try:
        return Answer(prepare(feed, key, **how))
    except DataError as error:
        return Answer(error)


def computed(
    key: str,
    *,
    pipeline: ModelPipeline,
    location: Location,
    root: AnyPath,
    ledger_url: str,
    code_path: str,
    repo: Any,
    ahead: Ahead | None,
) -> Answer:
    """Return the features of a partition: those that were kept while they are true, or computed just now."""
    ledger, features = _ledger(ledger_url), pipeline.features
    store = PartitionStore(root, ledger)
    kept = None if ahead is None else ahead.take(FEATURES, key)
    if kept is not None and isinstance(kept.said, Draft):
        code = code_of(pipeline, code_path, location)
        if draft := as_of_now(kept.said, store=store, ledger=ledger, code=code):
            return Answer(draft, kept.seconds)
    try:
        rows = compute_rows(
            key,
            store=store,
            ledger=ledger,
            repo=repo,
            transform=features.transform,
            code_paths=import_folders(code_path, location),
            datasets=[feed.dataset for feed in pipeline.feeds],
            history=parse_duration(features.history),
            start={feed.dataset: feed.start for feed in pipeline.feeds},
            partitioning=pipeline.source.partitioning,
            late=pipeline.late,
            ahead=pipeline.ahead,
            suites=features.view_suites,
        )
    except DataError as error:
        return Answer(error)
    return Answer(rows)


def code_of(pipeline: ModelPipeline, code_path: str, location: Location) -> Code:
    """Return the identity of the code that computes a pipeline's features."""
    return code_identity(pipeline.features.transform, import_folders(code_path, location), pipeline.late)


@cache
def _ledger(url: str) -> Ledger:
    """One for each worker: connecting takes longer than sealing."""
    return Ledger(url)
