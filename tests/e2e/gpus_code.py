"""A training that says where it is, and waits until it is told to go on."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any


def fit(data: Any, spec: Any, report: Any) -> Any:
    import keras

    folder = Path(spec.snapshot.uri).parent.parent
    tries = len((folder / "said.txt").read_text().splitlines()) if (folder / "said.txt").exists() else 0
    report(epoch=tries + 1, loss=1.0)  # further each time
    with (folder / "said.txt").open("a") as said:
        print("begins", os.environ.get("WORKER"), os.getpid(), file=said, flush=True)
        while not (folder / "go").exists():
            time.sleep(0.1)
        inputs = {name: keras.Input((), name=name) for name in data.inputs}
        answer = keras.layers.Dense(1, activation="sigmoid")(keras.ops.stack(list(inputs.values()), axis=1))
        print("ends", os.environ.get("WORKER"), os.getpid(), file=said, flush=True)
    return keras.Model(inputs, answer)
