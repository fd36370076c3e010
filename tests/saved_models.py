"""Tiny SavedModels, made by TensorFlow in a child process: it is imported once a test session, and not here."""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tensorflow as tf

INPUTS = {"distance": "float32", "hour": "int64", "carrier": "string"}
"""Inputs of the models: name → type."""

ROWS = {
    "float32": [0.5, -1.0, 2.0, float("nan")],
    "float64": [0.5, -1.0, 2.0, 0.25],
    "int64": [1, 2, 3, 4],
    "string": ["AA", "DL", "", "United"],
}
"""Golden inputs by type."""


def make_saved_model(
    path: Path, weight: float, inputs: Mapping[str, str] | None = None, *, answers: str = "probability"
) -> Path:
    """Export a SavedModel with golden predictions and return its folder.

    :param weight: Models of different weights give different answers.
    :param inputs: Name → type; default is :data:`INPUTS`.
    :param answers: ``probability``; or ``many``: also two ``probabilities``, a ``class``, and ``raw``, which is
        NaN where an input is; or ``complex``: also a ``wave`` of complex numbers; or ``bfloat16``: also a ``half`` of
        that type, and without a variable.
    """
    worker = _worker()
    request = {
        "path": str(path), "weight": weight, "inputs": dict(INPUTS if inputs is None else inputs), "answers": answers,
    }  # fmt: skip
    worker.stdin.write(json.dumps(request) + "\n")
    worker.stdin.flush()
    answer = worker.stdout.readline()
    assert answer.strip() == "done", f"TensorFlow did not export a model: {answer!r}"
    return path


@cache
def _worker() -> subprocess.Popen[str]:
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    worker = subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    atexit.register(worker.kill)
    return worker


def _export(path: str, weight: float, inputs: dict[str, str], answers: str) -> None:
    import tensorflow as tf

    def number(tensor: tf.Tensor) -> tf.Tensor:
        if tensor.dtype == tf.string:
            return tf.cast(tf.strings.length(tensor), tf.float32)
        value = tf.cast(tensor, tf.float32)
        return tf.where(tf.math.is_nan(value), tf.zeros_like(value), value)

    module = tf.Module()
    module.weight = tf.constant(weight) if answers == "bfloat16" else tf.Variable(weight, dtype=tf.float32)
    specs = {name: tf.TensorSpec([None], dtype, name=name) for name, dtype in inputs.items()}

    def predict(**tensors: tf.Tensor) -> dict[str, tf.Tensor]:
        total = tf.add_n([number(tensors[name]) * (0.1 + 0.1 * i) for i, name in enumerate(sorted(tensors))])
        probability = tf.sigmoid(module.weight * total)
        if answers == "probability":
            return {"probability": probability}
        if answers == "complex":
            return {"probability": probability, "wave": tf.complex(probability, total)}
        if answers == "bfloat16":
            return {"probability": probability, "half": tf.cast(probability, tf.bfloat16)}
        return {
            "probability": probability[:, None],
            "probabilities": tf.stack([1 - probability, probability], axis=1),
            "class": tf.where(probability > 0.51, "späť", "pünktlich"),
            "raw": module.weight * sum(one for one in tensors.values() if one.dtype == tf.float32),
        }

    module.predict = tf.function(predict, autograph=False)
    signature = module.predict.get_concrete_function(**specs)
    tf.saved_model.save(module, path, signatures={"serving_default": signature})

    rows = {name: ROWS[dtype] for name, dtype in inputs.items()}
    outputs = signature(**{name: tf.constant(rows[name], dtype) for name, dtype in inputs.items()})
    told = {name: value for name, value in outputs.items() if value.dtype not in (tf.string, tf.complex64, tf.bfloat16)}
    golden = {"inputs": rows, "outputs": {name: value.numpy().tolist() for name, value in told.items()}}
    extra = Path(path) / "assets.extra"
    extra.mkdir()
    (extra / "golden.json").write_text(json.dumps(golden))


if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "w")  # whatever TensorFlow prints must not look like an answer
    os.dup2(2, 1)
    for line in sys.stdin:
        _export(**json.loads(line))
        answers.write("done\n")
        answers.flush()
