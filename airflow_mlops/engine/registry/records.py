"""A training as MLflow keeps it: parameters, tags, metrics and the data that went in."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from airflow_mlops.contracts import Evaluation, Snapshot, TrainingResult, TrainingSpec

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput, Metric, Param, RunTag

EPOCH = "epoch/"
"""Begins the name of a metric that has a value for each epoch."""
_METRICS_A_CALL = 1000
_LONGEST_DIGEST = 36


def params_of(spec: TrainingSpec) -> list[Param]:
    """Return what the training was told."""
    from mlflow.entities import Param

    told = {
        **_code_of(spec),
        **({"transform": spec.transform} if spec.transform else {}),
        "seed": spec.seed,
        "epochs": spec.epochs,
        "batch_size": spec.batch_size,
        "snapshot_id": spec.snapshot.id,
        "feature_service": spec.snapshot.feature_service,
        **spec.compute.model_dump(exclude_defaults=True),
        **{f"model.{name}": value for name, value in spec.params.items()},
    }
    return [Param(name, str(value)) for name, value in told.items()]


def _code_of(spec: TrainingSpec) -> dict[str, str]:
    if spec.script:
        return {"script": spec.script, "args": " ".join(spec.args)}
    return {"fit": spec.fit} if spec.fit else {"entrypoint": spec.entrypoint}


def tags_of(spec: TrainingSpec, more: Mapping[str, str]) -> list[RunTag]:
    """Return the tags by which a run is found."""
    from mlflow.entities import RunTag

    tags = {
        "mlops.model": spec.model,
        "mlops.snapshot_id": spec.snapshot.id,
        "mlops.spec_hash": spec.hash,
        "mlflow.source.name": spec.script or spec.fit or spec.entrypoint,
        "mlflow.source.type": "JOB",
        **more,
    }
    return [RunTag(name, value) for name, value in tags.items()]


def data_of(snapshot: Snapshot) -> list[DatasetInput]:
    """Return the snapshot as a dataset: its digest, size and columns, and none of its rows."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    splits = {
        name: {"rows": split.rows, **(split.labels or {"positives": split.positives})}
        for name, split in snapshot.splits.items()
    }
    dataset = Dataset(
        name=f"{snapshot.model}-snapshot",
        digest=snapshot.id[:_LONGEST_DIGEST],
        source_type="local",
        source=json.dumps({"uri": snapshot.uri, **({"files": snapshot.files} if snapshot.files else {})}),
        schema=json.dumps(
            {"features": snapshot.features, "label": snapshot.label}
            | ({"heads": list(snapshot.heads)} if snapshot.heads else {})
        ),
        profile=json.dumps(splits),
    )
    return [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])]


def milliseconds(moment: datetime | None) -> int | None:
    """Return a moment as MLflow keeps it."""
    return None if moment is None else round(moment.timestamp() * 1000)


def metric_batches(result: TrainingResult, evaluation: Evaluation, timestamp: int) -> Iterator[list[Metric]]:
    """Yield all metrics in as few calls as MLflow takes.

    :param timestamp: Milliseconds; the same one whenever it is repeated, so that nothing is kept twice.
    """
    from mlflow.entities import Metric

    values = {
        (f"{metric}" if role == "challenger" else f"{role}_{metric}"): value
        for role, metrics in evaluation.metrics.items()
        for metric, value in metrics.items()
    }
    values |= {"examples_per_second": result.examples_per_second, "training_seconds": result.seconds}
    values |= result.resources
    yield from _batches([Metric(name, value, timestamp, 0) for name, value in values.items()])
    yield from epoch_batches(result.history, result.times, timestamp)


def epoch_batches(
    history: Mapping[str, Sequence[float]], times: Sequence[float], timestamp: int, since: int = 0
) -> Iterator[list[Metric]]:
    """Yield the metrics of a training's epochs.

    :param history: Metric → value of each epoch.
    :param times: When each epoch ended, in seconds since 1970; ``timestamp`` counts where that is not known.
    :param since: Leave out as many epochs.
    """
    from mlflow.entities import Metric

    moments = [round(moment * 1000) for moment in times]
    yield from _batches(
        [
            Metric(f"{EPOCH}{name}", value, moments[epoch] if epoch < len(moments) else timestamp, epoch)
            for name, series in history.items()
            for epoch, value in enumerate(series[since:], since)
        ]
    )


def usage_batches(samples: Sequence[tuple[datetime, Mapping[str, float]]], started: int) -> Iterator[list[Metric]]:
    """Yield what a training used of its machine over time; the step is how many seconds the run was old.

    :param samples: When each was taken, and metric → value.
    :param started: When the run began, in milliseconds.
    """
    from mlflow.entities import Metric

    moments = [(round(at.timestamp() * 1000), values) for at, values in samples]
    yield from _batches(
        [
            Metric(name, value, moment, max(0, moment - started) // 1000)
            for moment, values in moments
            for name, value in values.items()
        ]
    )


def _batches(metrics: list[Metric]) -> Iterator[list[Metric]]:
    finite = [one for one in metrics if math.isfinite(one.value)]
    for start in range(0, len(finite), _METRICS_A_CALL):
        yield finite[start : start + _METRICS_A_CALL]
