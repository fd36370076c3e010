"""A training as MLflow keeps it: parameters, tags, metrics and the data that went in."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from airflow_mlops.contracts import Evaluation, Snapshot, TrainingResult, TrainingSpec

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput, Metric, Param, RunTag

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

    tags = {"mlops.model": spec.model, "mlops.snapshot_id": spec.snapshot.id, "mlops.spec_hash": spec.hash, **more}
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


def metric_batches(result: TrainingResult, evaluation: Evaluation, timestamp: int) -> Iterator[list[Metric]]:
    """Yield all metrics in as few calls as MLflow takes.

    :param timestamp: Milliseconds; the same one whenever it is repeated, so that nothing is kept twice.
    """
    from mlflow.entities import Metric

    values = [
        (f"{metric}" if role == "challenger" else f"{role}_{metric}", value, 0)
        for role, metrics in evaluation.metrics.items()
        for metric, value in metrics.items()
    ]
    values += [
        (f"epoch/{name}", value, epoch) for name, series in result.history.items() for epoch, value in enumerate(series)
    ]
    values += [("examples_per_second", result.examples_per_second, 0), ("training_seconds", result.seconds, 0)]
    metrics = [Metric(name, value, timestamp, step) for name, value, step in values if math.isfinite(value)]
    for start in range(0, len(metrics), _METRICS_A_CALL):
        yield metrics[start : start + _METRICS_A_CALL]
