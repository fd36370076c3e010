"""Base of the sensors: poke once, then defer."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator, BaseSensorOperator, PokeReturnValue, conf
from airflow.sdk.exceptions import (
    AirflowException,
    AirflowSensorTimeout,
    AirflowSkipException,
    TaskDeferralError,
    TaskDeferralTimeout,
)

from airflow_mlops.exceptions import ConfigError, MlopsError, TransientError
from airflow_mlops.operators.base import doc_of, failing_clearly, open_home

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_mlops.triggers.base import PollTrigger


class MlopsSensor(BaseSensorOperator):
    """A sensor that looks once in the worker and then waits in the triggerer.

    Subclasses implement :meth:`look` (one look; None means not yet), :meth:`trigger` and :meth:`describe`.

    :param home: Folder for partitions, snapshots and models, or ``s3://connection@bucket/prefix``; default is option
        ``[mlops] home``.
    :param poke_interval: Seconds, or a timedelta, between looks; in the worker and in the triggerer.
    :param timeout: Seconds until the sensor gives up, counted by the wall clock from the first look.
    :param deferrable: Wait in the triggerer instead of holding a worker slot; default from option
        ``[operators] default_deferrable``.
    """

    template_fields: Sequence[str] = ()
    ui_color = "#fef7e0"
    seen = ""  # what the last look saw instead, in words; the message of a timeout says it

    def __init__(
        self,
        *,
        home: str | None = None,
        poke_interval: timedelta | float = 30,
        timeout: float = 24 * 3600,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        **kwargs: Any,
    ) -> None:
        if "poll_interval" in kwargs:
            raise ConfigError(
                f"{type(self).__name__} has no 'poll_interval'. Did you mean 'poke_interval'?",
                detail=f"poll_interval={kwargs['poll_interval']!r}",
                hint="Write poke_interval=<seconds>, Airflow's word for sensors.",
            )
        # As for the operators: each key of the result is an XCom of its own too.
        super().__init__(
            poke_interval=poke_interval,
            timeout=timeout,
            **{"multiple_outputs": True, "doc_md": doc_of(type(self)), **kwargs},
        )
        self.home = home
        self.deferrable = deferrable

    @property
    def home_path(self) -> Path:
        """The home folder on this machine, from the argument or from the configuration."""
        return open_home(self.home)

    @abstractmethod
    def look(self, context: Context) -> Mapping[str, object] | None:
        """Look once. Return the JSON-able result when the wait is over, else None."""

    @abstractmethod
    def trigger(self, deadline: float) -> PollTrigger:
        """Return the trigger that goes on looking, with plain values only."""

    @abstractmethod
    def describe(self) -> str:
        """Say what is waited for; it ends up in the timeout's message."""

    def poke(self, context: Context) -> PokeReturnValue:
        """Look once, for Airflow's own poke and reschedule modes."""
        result = self.look(context)
        return PokeReturnValue(is_done=result is not None, xcom_value=result)

    def execute(self, context: Context) -> Any:
        """Look once; if it is not there yet, defer (or poke on, when not deferrable).

        Errors that a retry cannot cure fail the task at once. They are made plain only here: inside, Airflow would take
        them for a timeout, and skip the task when ``soft_fail`` is set.
        """
        if not self.deferrable:
            try:
                with failing_clearly():
                    return super().execute(context)
            except AirflowSensorTimeout:
                raise self._timed_out(self.seen) from None
        deadline = time.time() + self.timeout
        with failing_clearly():
            poked = self.poke(context)
        if poked.is_done:
            return poked.xcom_value
        self.log.info("Not yet: %s. Deferring, looking every %s s.", self.describe(), self.poke_interval)
        with failing_clearly():
            trigger = self.trigger(deadline)
        return self.defer(trigger=trigger, method_name="execute_complete")

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Go on after a deferral. ``soft_fail`` skips what timed out only: a wrong setting never looks like a skip."""
        try:
            return BaseOperator.resume_execution(self, next_method, next_kwargs, context)
        except (AirflowSensorTimeout, TaskDeferralTimeout) as error:
            if self.soft_fail or self.never_fail:
                raise AirflowSkipException(f"Skipped: {error}") from error
            raise AirflowSensorTimeout(*error.args) from error
        except (AirflowException, TaskDeferralError) as error:
            if self.never_fail:
                raise AirflowSkipException(f"Skipped: {error}") from error
            raise

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        """Turn the trigger's one event into a result or a clear failure."""
        if event["status"] == "success":
            return event["result"]
        if event["status"] == "timeout":
            raise self._timed_out(event.get("seen", ""))
        kind = TransientError if event["retryable"] else MlopsError
        with failing_clearly():
            raise kind(event["headline"], event["detail"], event["hint"])

    def _timed_out(self, seen: str) -> AirflowSensorTimeout:
        last = f"\n  seen:  {seen}" if seen else ""
        return AirflowSensorTimeout(
            f"Gave up waiting after {self.timeout:.0f} s.\n  where: {self.describe()}{last}\n"
            "  fix:   See why it did not come, then clear this task; raise timeout= if it may take longer."
        )
