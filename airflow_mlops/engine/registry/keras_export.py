"""Export a Keras file as a SavedModel: ``python -m airflow_mlops.engine.registry.keras_export FILE FOLDER``.

It runs in a process of its own, because it imports TensorFlow.
"""

from __future__ import annotations

import sys
from pathlib import Path


def export(file: str, folder: str) -> None:
    """Write a SavedModel whose ``serving_default`` takes the model's inputs by their names."""
    import keras

    keras.models.load_model(file, compile=False).export(folder, verbose=False)
    (Path(folder) / "fingerprint.pb").unlink(missing_ok=True)  # else the same file would give other bytes each time


if __name__ == "__main__":
    export(*sys.argv[1:])
