"""The child process of a training: ``python -m airflow_mlops.engine.training.runner <workdir>``.

It reads ``spec.json``, trains, and leaves either ``result.json`` or ``error.json``. It lives only as long as
its parent holds the other end of its standard input.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path

from airflow_mlops.engine.process import die_with_parent
from airflow_mlops.engine.training import ending
from airflow_mlops.engine.training.workdir import Workdir, read_spec, write_text
from airflow_mlops.exceptions import MlopsError


def main(workdir: Path) -> int:
    """Train what ``workdir`` asks for. Returns the exit status."""
    die_with_parent()
    ending.listen()
    logging.basicConfig(stream=sys.stdout, format="%(message)s", level=logging.INFO)
    # TensorFlow's own chatter on stderr would show as errors in the task's log.
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    try:
        spec = read_spec(workdir)
        if spec.script:
            from airflow_mlops.engine.training.script import run_script

            run_script(spec, Workdir(workdir))
        else:
            from airflow_mlops.engine.training.fit import fit  # and with it TensorFlow

            fit(spec, Workdir(workdir))
    except MlopsError as error:
        words = {"headline": error.headline, "detail": error.detail, "hint": error.hint, "retryable": error.retryable}
        write_text(Workdir(workdir).error, json.dumps(words, indent=2))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
