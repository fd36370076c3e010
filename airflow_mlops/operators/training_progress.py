"""How a training that is under way is shown: in MLflow, in the ledger, as XCom, as metrics of Airflow."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from airflow_mlops.exceptions import ConfigError
from airflow_mlops.hooks.ledger import LedgerHook
from airflow_mlops.hooks.mlflow import MLflowHook
from airflow_mlops.links.mlflow import MLflowRunLink
from airflow_mlops.metrics import gauge
from airflow_mlops.operators.base import run_tags

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator, Context

    from airflow_mlops.contracts import TrainingProgress, TrainingSpec
    from airflow_mlops.engine.ledger import Ledger
    from airflow_mlops.engine.registry.live import LiveRun
    from airflow_mlops.engine.registry.registry import TrainingRun

POINTER = "training:{model}"
"""Of the ledger: how far the training of a model is, or was when it ended."""
_EVERY = 30.0
"""Seconds between two of them; MLflow has every epoch."""


def live_run(context: Context, task: BaseOperator, mlflow_conn_id: str | None, spec: TrainingSpec) -> LiveRun | None:
    """Return the run that MLflow is to have of a training while it trains; None where it is to have none."""
    from airflow_mlops.engine.registry.live import LiveRun

    if mlflow_conn_id is None:
        return None
    hook = MLflowHook(mlflow_conn_id)

    def opened(run: TrainingRun) -> None:
        MLflowRunLink.persist(context, hook.run_url(run.experiment_id, run.run_id))

    return LiveRun(hook.get_conn, spec, run_tags(context, task), opened, task.log)


class ShownProgress:
    """Shows the progress of one training.

    :param live: Its run in MLflow, if it is to have one.
    :param ledger_conn_id: Airflow connection of type ``mlops_ledger``, which need not be there.
    """

    def __init__(self, context: Context, model: str, live: LiveRun | None, ledger_conn_id: str | None) -> None:
        self._ti, self._model, self._live = context["ti"], model, live
        self._ledger = _ledger(ledger_conn_id)
        self._shown = -_EVERY

    def follow(self, progress: TrainingProgress) -> None:
        """Show it; it is called in a thread beside the task's own."""
        from airflow_mlops.engine.ledger import as_json

        if self._live is not None:
            self._live.follow(progress)
        if progress.examples_left and time.monotonic() - self._shown < _EVERY:
            return
        self._shown = time.monotonic()
        told = as_json(progress.model_dump(mode="json", exclude={"history", "times"}))
        self._ti.xcom_push("progress", told)
        gauge("mlops.training_examples_per_second", progress.examples_per_second, model=self._model)
        gauge("mlops.training_examples_left", progress.examples_left, model=self._model)
        if progress.seconds_left is not None:
            gauge("mlops.training_seconds_left", progress.seconds_left, model=self._model)
        if self._ledger is not None:
            run = {"dag_id": self._ti.dag_id, "run_id": self._ti.run_id}
            self._ledger.move(POINTER.format(model=self._model), lambda _: {**told, **run})


def _ledger(conn_id: str | None) -> Ledger | None:
    try:
        return None if conn_id is None else LedgerHook(conn_id).get_conn()
    except ConfigError:
        return None  # none is configured
