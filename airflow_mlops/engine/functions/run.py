"""Call a function of the user's own file in a fresh child process, and return what it returned."""

from __future__ import annotations

import json
import logging
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import airflow_mlops
from airflow_mlops.engine.devices.assign import assigned
from airflow_mlops.engine.functions.call import NotJsonError, SkippedError, plain
from airflow_mlops.engine.functions.source import source_of
from airflow_mlops.engine.process import ChildProcess, Ended, child_environment
from airflow_mlops.exceptions import ConfigError, TrainingError, TransientError
from airflow_mlops.resources import GPU

# We are found last and then taken off the path again: the child's own libraries are the ones that count.
_START = (
    "import pathlib, sys; sys.path.append(sys.argv[1]); from airflow_mlops.engine.functions.call import main; "
    "sys.path.pop(); sys.exit(main(pathlib.Path(sys.argv[2])))"
)


class FunctionProcess:
    """One call in a child process. :meth:`kill` may be called from a signal handler or another thread.

    The child runs what the function needs of its file, and imports from where this process does. It has no variable of
    Airflow's in its environment, and ends with everything it started.

    :param function: The function: named, plain, and without variables of another one around it.
    :param decorator: Last part of the name of what decorates it.
    :param python: Another Python, from 3.11 on, by path or name; empty is that of this process.
    :param log: Where the child's lines go.
    :param gpu: GPUs that it takes. None: it sees none.
    :param task: Who calls it, for those who wait for the same GPU.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        decorator: str = "",
        python: str = "",
        log: logging.Logger | Any = None,
        gpu: GPU | None = None,
        task: str = "",
    ) -> None:
        self.source = source_of(function, decorator)
        self.python = python or sys.executable
        self.log = log or logging.getLogger(__name__)
        self.gpu = gpu
        self.task = task or f"{self.source.name}() of {self.source.file}"
        self._child: ChildProcess | None = None

    def call(
        self,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        timeout: float,
        text_of: Callable[[Any], str | None] = lambda _: None,
    ) -> Any:
        """Call it and return what it returned: numbers, texts, lists, dicts or None.

        :param args: Of the same kinds; a path becomes a text.
        :param kwargs: Likewise.
        :param timeout: Seconds until the child is killed.
        :param text_of: What else among the arguments becomes a text: None for what does not.
        :raises ConfigError: when an argument is of another kind, Python cannot be started, or there are no such GPUs.
        :raises TrainingError: when the function fails, takes too long, or returns something of another kind.
        :raises TransientError: when the child was killed from outside, or something did not answer.
        :raises SkippedError: when the function raised Airflow's ``AirflowSkipException``.
        """
        with tempfile.TemporaryDirectory(prefix="mlops-call-") as name:
            folder = Path(name)
            arguments = self._arguments(args, kwargs, text_of)
            told = {**self.source._asdict(), **arguments, "path": own_folders(self.source.file)}
            (folder / "call.json").write_text(json.dumps(told))
            ended = self._run(folder, timeout)
            return self._outcome(folder, ended, timeout)

    def kill(self) -> None:
        """End the child and everything it started, at once. Nothing to do when there is none."""
        if self._child is not None:
            self._child.kill()

    def _arguments(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], text_of: Callable[[Any], str | None]
    ) -> dict[str, Any]:
        try:
            return {
                "args": [plain(value, f"argument {number}", text_of) for number, value in enumerate(args, 1)],
                "kwargs": {name: plain(value, f"argument {name}", text_of) for name, value in kwargs.items()},
            }
        except NotJsonError as error:
            raise ConfigError(
                f"What {self.source.name}() is given is not JSON.",
                detail=str(error),
                hint="Hand over numbers, texts, lists or dicts, a time by isoformat(); write anything larger to a file "
                "and hand over its path.",
            ) from None

    def _run(self, folder: Path, timeout: float) -> Ended:
        root, deadline = str(Path(airflow_mlops.__file__).parent.parent), time.monotonic() + timeout
        with assigned(self.gpu, self.task, deadline, self.log) as devices:
            try:
                self._child = ChildProcess(
                    [self.python, "-P", "-c", _START, root, str(folder)],
                    env=child_environment() | devices.environment,
                    log=self.log,
                    fds=devices.fds,
                )
            except OSError as error:
                raise ConfigError(
                    f"{self.source.name}() cannot be run.",
                    detail=f"{self.python}: {error.strerror}",
                    hint="Name a Python that is there in python=.",
                ) from None
            devices.started(self._child.pid)
            return self._child.wait(deadline - time.monotonic())

    def _outcome(self, folder: Path, ended: Ended, timeout: float) -> Any:
        name, said = self.source.name, " | ".join(ended.last_lines)
        if ended.timed_out:
            raise TrainingError(
                f"{name}() did not end within {timeout:g} s and was stopped.",
                detail=f"last output: {said or None}",
                hint="Raise timeout=, or give it less to do.",
            )
        if ended.signal:
            raise TransientError(
                f"The process of {name}() was killed by {ended.signal}.",
                detail=f"last output: {said or None}",
                hint="SIGKILL is mostly lack of memory: give it more, or less to do at once.",
            )
        if (folder / "skipped.txt").exists():
            raise SkippedError((folder / "skipped.txt").read_text())
        if (folder / "error.json").exists():
            words = json.loads((folder / "error.json").read_bytes())
            raise (TransientError if words.pop("retryable") else TrainingError)(**words)
        if ended.status or not (folder / "result.json").exists():
            raise TrainingError(
                f"The process of {name}() ended with status {ended.status} and without a result.",
                detail=f"{self.python}; last output: {said or None}",
                hint="Return a result rather than end the process. Another python= must be 3.11 or newer.",
            )
        return json.loads((folder / "result.json").read_bytes())


def own_folders(file: str) -> list[str]:
    """Return the folders that code of one's own is imported from: those that are no interpreter's, and a file's.

    :param file: The file that imports.
    """
    libraries = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib")]
    found = [str(Path(path).absolute()) for path in sys.path if path and Path(path).is_dir()]
    own = [
        path
        for path in found
        if not any(Path(path).is_relative_to(one) for one in libraries)
        and not {"site-packages", "dist-packages"} & set(Path(path).parts)
    ]
    return list(dict.fromkeys([*own, str(Path(file).absolute().parent)]))
