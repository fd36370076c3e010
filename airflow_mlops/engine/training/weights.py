"""Whether two SavedModels have the same weights, to the last bit. The files differ whenever a model is exported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import airflow_mlops
from airflow_mlops.engine.process import child_environment
from airflow_mlops.exceptions import DataError

_SECONDS = 600
_SAME, _DIFFER = 0, 10


def same_weights(one: Path, other: Path) -> bool:
    """Return whether all variables of two SavedModels are the same bits. A child process reads them, by TensorFlow.

    :raises DataError: when one cannot be read.
    """
    done = subprocess.run(  # noqa: PLW1510  what its status says is told below
        [sys.executable, "-P", "-m", "airflow_mlops.engine.training.weights", str(one), str(other)],
        env=child_environment(str(Path(airflow_mlops.__file__).parent.parent)),
        capture_output=True,
        text=True,
        timeout=_SECONDS,
    )
    if done.returncode not in (_SAME, _DIFFER):
        raise DataError(
            "The weights of a model cannot be read.",
            detail="; ".join([str(one), str(other), *done.stderr.strip().splitlines()[-1:]]),
            hint="Are both folders whole SavedModels?",
        )
    return done.returncode == _SAME


def _variables(saved_model: Path) -> list[tuple[bytes, str]]:
    """Return the bytes and the shape of each variable. Their names do not tell: Keras numbers them as it likes."""
    import tensorflow as tf

    prefix = saved_model / "variables" / "variables"
    if not prefix.with_suffix(".index").exists():
        return []
    reader = tf.train.load_checkpoint(str(prefix))
    names = set(reader.get_variable_to_shape_map()) - {"_CHECKPOINTABLE_OBJECT_GRAPH"}
    return sorted((value.tobytes(), str(value.shape)) for value in map(reader.get_tensor, names))


if __name__ == "__main__":
    sys.exit(_SAME if _variables(Path(sys.argv[1])) == _variables(Path(sys.argv[2])) else _DIFFER)
