"""Versions side by side, on the metrics of their runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_mlops.engine.registry.connection import talking_to
from airflow_mlops.engine.registry.lookup import find_version
from airflow_mlops.engine.registry.registry import Registry
from airflow_mlops.exceptions import ConfigError, DataError, did_you_mean
from airflow_mlops.problems import METRICS, head_of, less_is_better, of_head

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

SNAPSHOT = "mlops.snapshot_id"
_TOLD = 20


@dataclass(frozen=True)
class Comparison:
    """Metric → version → value, None where a run has no such value; and for each metric the version that is best.

    ``best`` is None where the metric's direction is not known, or two are alike. ``same_data`` says whether all
    versions were trained and measured on one snapshot: else the values are of different rows.
    """

    model: str
    versions: tuple[int, ...]
    table: Mapping[str, Mapping[int, float | None]]
    best: Mapping[str, int | None]
    same_data: bool


def compare(registry: Registry, model: str, wanted: Sequence[str], metrics: Sequence[str] = ()) -> Comparison:
    """Compare versions on what their runs logged last.

    :param wanted: Numbers or aliases of two versions or more.
    :param metrics: Names of metrics; none: those of the problem types that any of the runs has.
    :raises ConfigError: when that is one version only, or a metric that no run has.
    :raises DataError: when there is no such version, or one has no run.
    """
    found = {int(one.version): one for one in (find_version(registry, model, each) for each in wanted)}
    if len(found) < 2:
        raise ConfigError(
            "A comparison takes two versions or more.",
            detail=f"{', '.join(wanted) or 'nothing'} of {model!r}: {'the same version' if wanted else 'no version'}",
            hint='Name others, by number or alias: versions=["champion", "challenger"].',
        )
    logged = {number: _metrics(registry, one) for number, one in found.items()}
    names = list(metrics) or _of_problem_types(logged)
    _check_names(names, logged, model)
    table = {name: {number: _finite(run.get(name)) for number, run in logged.items()} for name in names}
    snapshots = {one.tags.get(SNAPSHOT) for one in found.values()}
    return Comparison(
        model=model,
        versions=tuple(found),
        table=table,
        best={name: _best(name, values) for name, values in table.items()},
        same_data=len(snapshots) == 1 and None not in snapshots,
    )


def _of_problem_types(logged: Mapping[int, Mapping[str, float]]) -> list[str]:
    """Return the metrics that a problem type knows: those of the label first, and then those of each head."""
    heads = sorted({head_of(name) for run in logged.values() for name in run})
    known = [of_head(head, metric) for head in heads for metric in METRICS]
    return [name for name in known if any(name in run for run in logged.values())]


def _metrics(registry: Registry, version: ModelVersion) -> dict[str, float]:
    if not version.run_id:
        raise DataError(
            f"Version {version.version} of {version.name!r} has no run, and so no metrics.",
            detail=f"it was registered from {version.source} alone",
            hint="Register it with the run that trained it: create_model_version(..., run_id=...).",
        )
    with talking_to(registry.tracking_uri):
        return dict(registry.client.get_run(version.run_id).data.metrics)


def _check_names(names: Sequence[str], logged: Mapping[int, Mapping[str, float]], model: str) -> None:
    there = sorted({name for run in logged.values() for name in run})
    told = ", ".join(there[:_TOLD]) + (", …" if len(there) > _TOLD else "") if there else "none"
    if not names:
        raise ConfigError(
            f"The runs of {model!r} have no metric of a problem type: name those that count.",
            detail=f"metrics of the runs: {told}",
            hint='Such as metrics=["val_accuracy"].',
        )
    for name in names:
        if name not in there:
            raise ConfigError(
                f"No run of these versions has the metric {name!r}.{did_you_mean(name, there)}",
                detail=f"metrics of the runs: {told}",
                hint="Correct the name.",
            )


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _best(metric: str, values: Mapping[int, float | None]) -> int | None:
    less = less_is_better(metric)
    there = {number: value for number, value in values.items() if value is not None}
    if less is None or len(there) < 2:
        return None
    best = (min if less else max)(there.values())
    first, *others = [number for number, value in there.items() if value == best]
    return None if others else first
