"""Waiting for other runs of the same DAG: what a partition stands on may be on its way in one of them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow_mlops.exceptions import DataError
from airflow_mlops.operators.base import MlopsOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

PATIENCE = 30 * 60
"""Seconds that a task waits for other runs, from when it was first in want of them."""

_AGAIN = timedelta(seconds=20)
_ACTIVE = ["queued", "running"]


class WaitsForOtherRuns(MlopsOperator):
    """Base of the operators that need earlier partitions: of several in one backfill, the later ones wait."""

    _since: float | None = None

    @contextmanager
    def other_runs_minded(self, context: Context) -> Iterator[None]:
        """Defer, and try again, where an earlier partition is missing while other runs of the DAG are active."""
        from airflow_mlops.engine.data.complete import MissingPartitionsError

        try:
            yield
        except MissingPartitionsError as error:
            since = time.time() if self._since is None else self._since
            if time.time() - since > PATIENCE or not self._others(context):
                raise DataError(error.headline, error.detail, error.hint) from None
            from airflow.providers.standard.triggers.temporal import TimeDeltaTrigger

            self.log.info("%s\nOther runs of this DAG are active: trying again in %s.", error, _AGAIN)
            self.defer(trigger=TimeDeltaTrigger(_AGAIN), method_name="execute_again", kwargs={"since": since})

    def execute_again(self, context: Context, since: float, event: Any = None) -> Any:
        """Try again."""
        self._since = since
        return self.execute(context)

    def _others(self, context: Context) -> bool:
        return context["ti"].get_dr_count(self.dag_id, states=_ACTIVE) > 1
