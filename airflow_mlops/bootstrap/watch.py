"""Follow DAG runs until they end: show where they are, and fail with the words of the task that failed."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from typing import Any, NamedTuple

from airflow_mlops.exceptions import MlopsError, TransientError
from airflow_mlops.partitioning import DAILY
from airflow_mlops.stack.airflow_api import ACTIVE, AirflowApi
from airflow_mlops.stack.console import Console
from airflow_mlops.stack.stack import Stack

_POLL = 1.0
_LOG_LINES = 25
_SAID = re.compile(r"^\w+: (.+)\n(?:  where: (?:.*\n)+?)?  fix:   (.+)", re.MULTILINE)
"""An error of ours at the end of a task's log."""


class TaskFailedError(MlopsError):
    """A task of a followed run failed for good."""


class Watcher:
    """Runs DAGs of one stack and follows them.

    :param airflow: The stack's Airflow.
    :param stack: Asked all the time whether it still runs.
    :param timeout: Seconds that one wait may take.
    """

    def __init__(self, airflow: AirflowApi, stack: Stack, timeout: float = 900) -> None:
        self.airflow = airflow
        self._stack = stack
        self._timeout = timeout

    @property
    def console(self) -> Console:
        """Where it says what it waits for."""
        return self._stack.console

    def ready(self, dag_ids: Sequence[str]) -> None:
        """Wait until DAGs are parsed, and unpause them.

        :raises MlopsError: when their file cannot be imported.
        """

        def parsed() -> bool:
            if self.airflow.dag_ids() >= set(dag_ids):
                return True
            for file, trace in self.airflow.import_errors(self._stack.dags).items():
                raise MlopsError(
                    f"Airflow cannot import {file}.", detail=f"\n{trace}", hint="Correct the file; it is parsed again."
                )
            return False

        self.until(parsed, "waiting for Airflow to parse the DAG files")
        for dag_id in dag_ids:
            self.airflow.unpause(dag_id)

    def finish(self, dag_id: str, run_id: str) -> dict[str, Any]:
        """Wait until a run has succeeded, and return it.

        :raises TaskFailedError: with the end of the failed task's log.
        """
        run: dict[str, Any] = {}

        def ended() -> bool:
            run.update(self.airflow.run(dag_id, run_id))
            if active := self._active(dag_id, run):
                self.console.step(f"{dag_id}: {_names(active)}")
            return run["state"] not in ACTIVE

        self.until(ended)
        if run["state"] != "success":
            raise self.failure(dag_id, run)
        return run

    def partitions(self, first: date, last: date, dag_ids: Sequence[str]) -> None:
        """Backfill the days that have not succeeded, several DAGs at once, and wait for all of them.

        :raises TaskFailedError: as soon as a run failed; what did not start by then is called off.
        """
        days = list(DAILY.keys(*DAILY.span(first, last)))
        started: set[str] = set()

        def done() -> bool:
            for dag_id in dag_ids:
                # Airflow refuses a backfill while the one before is not wound up, up to 30 s after its last run.
                if dag_id not in started and (
                    self._underway(dag_id, days) or self.airflow.backfill(dag_id, first, last) is not None
                ):
                    started.add(dag_id)
            states = [self._progress(dag_id, days) for dag_id in dag_ids]
            self.console.step(
                ", ".join(state.words for state in states), "; ".join(state.active for state in states if state.active)
            )
            return len(started) == len(dag_ids) and all(state.done for state in states)

        try:
            self.until(done)
        except MlopsError:
            for dag_id in dag_ids:
                self.airflow.cancel_backfills(dag_id)
            raise

    def _underway(self, dag_id: str, days: Sequence[str]) -> bool:
        """Whether every day has a run that may still succeed, or has."""
        runs = self.airflow.runs_by_key(dag_id)
        return all(day in runs and runs[day]["state"] != "failed" for day in days)

    def _progress(self, dag_id: str, days: Sequence[str]) -> _Progress:
        """Return how far the days are; fail with the first that failed."""
        runs = {day: run for day, run in self.airflow.runs_by_key(dag_id).items() if day in days}
        for run in runs.values():
            if run["state"] == "failed":
                raise self.failure(dag_id, run)
        succeeded = sum(run["state"] == "success" for run in runs.values())
        active = ""
        if running := next((run for run in runs.values() if run["state"] == "running"), None):
            active = f"{running['partition_key']} {_names(self._active(dag_id, running)) or 'between tasks'}"
        return _Progress(succeeded == len(days), f"{dag_id} {succeeded} of {len(days)} days", active)

    def _active(self, dag_id: str, run: dict[str, Any]) -> list[dict[str, Any]]:
        tasks = self.airflow.tasks(dag_id, run["dag_run_id"])
        return [task for task in tasks if task["state"] in ("running", "deferred", "up_for_retry")]

    def until(self, true: Callable[[], bool], step: str = "") -> None:
        """Ask again and again until the answer is yes.

        :raises TransientError: when it takes too long, or the stack dies meanwhile.
        """
        deadline = time.monotonic() + self._timeout
        while not true():
            if time.monotonic() > deadline:
                raise TransientError(
                    f"Gave up after {self._timeout:.0f} s{f' {step}' if step else ''}.",
                    detail=f"Airflow: {self.airflow.url}",
                    hint="See what it waits for in the Airflow UI.",
                )
            self._stack.check()
            if step:
                self.console.step(step)
            time.sleep(_POLL)

    def failure(self, dag_id: str, run: dict[str, Any]) -> TaskFailedError:
        """Return the error that says which task of a run failed, and how its log ends."""
        page = self.airflow.run_page(dag_id, run["dag_run_id"])
        failed = [task for task in self.airflow.tasks(dag_id, run["dag_run_id"]) if task["state"] == "failed"]
        if not failed:
            return TaskFailedError(
                f"{dag_id} failed, but none of its tasks did.", detail=page, hint="See the Airflow UI."
            )
        task = failed[0]
        lines = self.airflow.log(dag_id, run["dag_run_id"], task["task_id"], task["try_number"], task["map_index"])
        lines = [line for line in lines if not line.startswith(("::group::", "::endgroup::"))]
        tail = "\n".join(f"  | {line}" for line in lines[-_LOG_LINES:])
        said = [one.groups() for one in _SAID.finditer("\n".join(lines))]
        headline, hint = said[-1] if said else ("see the end of its log.", "Correct what it says.")
        return TaskFailedError(
            f"Task {task['task_id']} of {dag_id} failed: {headline}",
            detail=f"{page}\n{tail}",
            hint=f"{hint} Then start again: what succeeded is kept.",
        )


def _names(tasks: Sequence[Mapping[str, Any]]) -> str:
    """Return the tasks' names; of those that one was mapped to, how many."""
    count = Counter(task["task_id"] for task in tasks)
    return ", ".join(name if times == 1 else f"{name} ({times})" for name, times in count.items())


class _Progress(NamedTuple):
    """How far a DAG's days are: all done, in words, and what runs now."""

    done: bool
    words: str
    active: str
