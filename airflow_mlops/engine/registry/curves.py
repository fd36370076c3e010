"""The values of a training by epoch, as its run in MLflow keeps them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_mlops.engine.registry.connection import talking_to
from airflow_mlops.engine.registry.lookup import find_version
from airflow_mlops.engine.registry.records import EPOCH

if TYPE_CHECKING:
    from airflow_mlops.engine.registry.registry import Registry

Curve = dict[int, float]
"""Epoch, from 1 on → value. An epoch whose value was no finite number is left out."""


def curves(registry: Registry, model: str, version: int) -> dict[str, Curve]:
    """Return metric → its values by epoch, of the run that a version was made by.

    Empty where the version has no run, or the run no values of two epochs.

    :raises DataError: when MLflow has no such version, or no longer has its run.
    :raises TransientError: when MLflow does not answer.
    """
    run_id = find_version(registry, model, str(version)).run_id
    if not run_id:
        return {}
    with talking_to(registry.tracking_uri):
        names = sorted(name for name in registry.client.get_run(run_id).data.metrics if name.startswith(EPOCH))
        told = {name: registry.client.get_metric_history(run_id, name) for name in names}
    # A training that was taken up again may have logged an epoch twice: the later value counts.
    found = {
        name.removeprefix(EPOCH): {one.step + 1: one.value for one in sorted(values, key=lambda one: one.timestamp)}
        for name, values in told.items()
    }
    return {name: dict(sorted(curve.items())) for name, curve in found.items() if len(curve) > 1}
