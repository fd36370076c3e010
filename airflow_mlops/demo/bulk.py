"""The history lands in a program of its own, beside the stack that starts; here it is started and followed."""

from __future__ import annotations

import subprocess
import time

from airflow_mlops.demo.history import PROGRESS, History
from airflow_mlops.exceptions import MlopsError
from airflow_mlops.stack import processes
from airflow_mlops.stack.stack import Stack


class BulkLanding:
    """The program that lands a history, started at once; none when all of it is there.

    :param stack: Its database must answer.
    """

    def __init__(self, stack: Stack, history: History) -> None:
        self._stack = stack
        self._log = stack.layout.log("history")
        self._process: subprocess.Popen[bytes] | None = None
        if history.done:
            return
        self._log.unlink(missing_ok=True)
        with self._log.open("wb") as output:
            self._process = subprocess.Popen(
                history.command,
                env={**stack.environment, "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING"},
                cwd=stack.layout.home,
                stdout=output,
                stderr=output,
                start_new_session=True,  # so that its workers can be ended with it
            )

    def finish(self) -> bool:
        """Wait for it.

        :returns: False when there was nothing to land.
        :raises MlopsError: when it failed, with the end of its log.
        """
        if self._process is None:
            return False
        while self._process.poll() is None:
            self._stack.check()
            progress = [line for line in self._lines() if line.startswith(PROGRESS)]
            self._stack.console.step("history in bulk", progress[-1].removeprefix(PROGRESS) if progress else "starting")
            time.sleep(0.2)
        if self._process.returncode != 0:
            raise MlopsError(
                "Landing the history failed.",
                detail="\n".join([str(self._log), *self._lines()[-20:]]),
                hint="Correct what it says and start again.",
            )
        return True

    def stop(self) -> None:
        """End it, if it still works."""
        if self._process is not None and self._process.poll() is None:
            processes.stop([processes.record_of("history", self._process.pid)], grace=2)

    def _lines(self) -> list[str]:
        return self._log.read_text(errors="replace").splitlines()
