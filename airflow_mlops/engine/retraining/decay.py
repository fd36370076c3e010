"""Decay: the serving version on labels that have matured since, by what it predicted of each partition in time.

Predictions are those of ``<model>.batch_predict``. Each partition is held against its labels once; what was found is
in the ledger.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.engine.data.partitions import FACT as PARTITION
from airflow_mlops.engine.data.partitions import PartitionStore
from airflow_mlops.engine.data.snapshots import find_snapshot
from airflow_mlops.engine.ledger import Fact, Ledger, as_json
from airflow_mlops.engine.retraining.registered import Registered, registered
from airflow_mlops.exceptions import DataError
from airflow_mlops.problems import as_label, problem_named, problem_of

if TYPE_CHECKING:
    from airflow_mlops.engine.retraining.triggers import Watch
    from airflow_mlops.problems.base import Problem

MATURED, PREDICTION = "matured", "prediction"
ENOUGH_ROWS = 500
"""Fewer labelled rows than this say nothing of a metric."""

_PARTITIONS = 14
"""How many of the last matured partitions count."""

_PLACE = "mlops_place"


@dataclass(frozen=True)
class _Sight:
    """Where one version's predictions are held against their labels."""

    ledger: Ledger
    store: PartitionStore
    home: Path
    watch: Watch
    made: Registered

    @property
    def dataset(self) -> str:
        return f"{self.watch.model}.predictions"


def measure_decay(  # noqa: PLR0917
    ledger: Ledger, store: PartitionStore, home: Path, watch: Watch, version: int, metric: str
) -> tuple[float | None, str]:
    """Return by how much a version is worse on matured labels than when it was judged, and that in words.

    The metric is the mean over the last partitions whose labels have matured, by rows. Rows of a class that the version
    never saw are left out, and said. None: it cannot be said.
    """
    then = registered(ledger, watch.model, version)
    if then is None or metric not in then.metrics:
        return None, f"{metric} of version {version} was not written down when it was trained"
    sight = _Sight(ledger, store, home, watch, then)
    mine = [fact for fact in ledger.facts(PREDICTION, sight.dataset) if str(fact.payload["version"]) == str(version)]
    sealed = [fact.key for fact in ledger.facts(PARTITION, watch.labels)]
    if not mine or not sealed:
        return None, f"no partition was predicted by version {version}: {watch.model}.batch_predict does that"
    known = store.partitioning(watch.labels).interval(max(sealed))[1] - watch.matures_after
    latest: dict[str, Fact] = {}
    for fact in mine:
        if store.partitioning(sight.dataset).interval(fact.key)[1] <= known:
            latest.setdefault(fact.key, fact)
    try:
        held = [_held(sight, latest[key]) for key in sorted(latest, reverse=True)[:_PARTITIONS]]
    except DataError as error:
        return None, f"{error.headline} {error.detail}".strip()
    new = sum(one.get("new_classes", 0) for one in held)
    held = [one for one in held if one["metrics"].get(metric) is not None]  # of one class only there is no AUC
    rows = sum(one["rows"] for one in held)
    if rows < ENOUGH_ROWS:
        return None, f"{rows} predictions of version {version} have a matured label, {ENOUGH_ROWS} are needed"
    found = sum(one["metrics"][metric] * one["rows"] for one in held) / rows
    less_is_better = problem_named(held[0]["problem"]).metrics[metric].less_is_better
    worse = found - then.metrics[metric] if less_is_better else then.metrics[metric] - found
    words = f"{metric} of version {version} is {found:.4f} on {rows:,} matured labels, was {then.metrics[metric]:.4f}"
    return worse, f"{words}; {new:,} more are of classes that it never saw" if new else words


def _held(sight: _Sight, fact: Fact) -> dict[str, Any]:
    """Return the metrics of a partition of predictions, found once."""
    ledger, store, watch, dataset = sight.ledger, sight.store, sight.watch, sight.dataset
    revision, key = fact.payload["revision"], f"{dataset}/{fact.key}/{fact.payload['revision']}"
    known = ledger.facts(MATURED, watch.model, key=key, limit=1)
    if known:
        return known[0].payload
    start, end = store.partitioning(dataset).interval(fact.key)
    labels = _labels(store, watch, start, end)
    problem = problem_of(labels.schema.field(watch.label).type, watch.problem)
    classes = find_snapshot(sight.home, sight.made.snapshot).classes if problem.name == "multiclass" else ()
    predicted = store.read([store.get(dataset, fact.key, revision)], [watch.entity, problem.output])
    truth, answers, new = _matched(predicted, labels, watch, problem, classes)
    found: dict[str, Any] = {
        "version": sight.made.version,
        "problem": problem.name,
        "rows": len(truth),
        "metrics": as_json(problem.score(truth, answers)) if len(truth) else {},
        **({"new_classes": new} if new else {}),
    }
    ledger.record(MATURED, watch.model, found, key=key)
    return found


def _matched(
    predicted: pa.Table, labels: pa.Table, watch: Watch, problem: Problem, classes: Sequence[str]
) -> tuple[np.ndarray, np.ndarray, int]:
    """Return truths and predictions row by row, and how many rows are of a class that is none of the model's."""
    places = predicted.select([watch.entity]).append_column(_PLACE, pa.array(range(predicted.num_rows), pa.int64()))
    both = places.join(labels, watch.entity, join_type="inner").sort_by(_PLACE)
    new = 0
    if classes:
        known = both.filter(pc.is_in(both[watch.label], value_set=pa.array(classes, both[watch.label].type)))
        new, both = both.num_rows - known.num_rows, known
    answers = predicted[problem.output].take(both[_PLACE]).combine_chunks()
    if isinstance(answers, pa.ListArray):  # one number a class
        flat = np.asarray(answers.flatten())
        return problem.targets(both[watch.label], classes), flat.reshape(len(answers), -1), new
    return problem.targets(both[watch.label], classes), np.asarray(answers), new


def _labels(store: PartitionStore, watch: Watch, start: datetime, end: datetime) -> pa.Table:
    """Return entity and label of the rows whose label can belong to a time; of several, the last one."""
    until = end if watch.labels == watch.source else end + watch.matures_after
    table = store.read(store.list(watch.labels, start, until), [watch.entity, watch.label])
    known = table.filter(pc.is_valid(table[watch.label]))
    known = as_label(known, watch.label, watch.labels, watch.problem)
    last = known.append_column("place", pa.array(range(known.num_rows), pa.int64()))
    places = last.group_by(watch.entity).aggregate([("place", "max")])["place_max"]
    return known.take(places)
