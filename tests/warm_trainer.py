"""Trainings for tests of something else: one after another, in one process that has TensorFlow loaded.

The same ``fit`` on the same spec as in the process of its own that ``engine.training.launch`` starts, without the five
seconds that such a process needs to begin. Tests of the launch itself do not use it.
"""

from __future__ import annotations

import atexit
import functools
import subprocess
import sys
import threading
from pathlib import Path

from airflow_mlops.contracts import TrainingResult, TrainingSpec
from airflow_mlops.engine.process import child_environment
from airflow_mlops.engine.training.workdir import Workdir, write_text

ROOT = Path(__file__).parent.parent
_ONE_AT_A_TIME = threading.Lock()


def train(spec: TrainingSpec, folder: Path) -> TrainingResult:
    """Train ``spec`` in ``folder`` and return what came out; an error of the training is an assertion's."""
    folder.mkdir(parents=True)
    workdir = Workdir(folder.absolute())
    write_text(workdir.spec, spec.to_json())
    said = []
    with _ONE_AT_A_TIME:  # or one thread reads the answer that another waits for
        process = _process()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{workdir.path}\n")
        process.stdin.flush()
        for line in process.stdout:
            if line == "done\n":
                break
            said.append(line)
    result = workdir.finished(spec.hash)
    assert result is not None, "".join(said)
    return result


@functools.cache
def _process() -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.warm_trainer"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=child_environment(str(ROOT)),
        cwd=ROOT,
    )
    atexit.register(process.kill)
    return process


def _serve() -> None:
    """Train what each line of standard input names, and say ``done``."""
    import traceback

    import keras

    from airflow_mlops.engine.training.fit import fit
    from airflow_mlops.engine.training.workdir import read_spec

    for line in sys.stdin:
        folder = Path(line.rstrip("\n"))
        keras.utils.clear_session()
        try:
            fit(read_spec(folder), Workdir(folder))
        except Exception:
            traceback.print_exc()
        print("\ndone", flush=True)  # noqa: T201


if __name__ == "__main__":
    _serve()
