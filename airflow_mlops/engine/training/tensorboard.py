"""Logs for TensorBoard, written with TensorFlow alone. Importing this module imports TensorFlow.

Keras's own callback needs the package ``tensorboard``, which TensorFlow does not bring any more. What is written here
has the same names: ``epoch_loss`` in ``train`` and in ``validation``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

_VALIDATION = "val_"
_SCALARS = tf.compat.v1.SummaryMetadata(
    plugin_data=tf.compat.v1.SummaryMetadata.PluginData(plugin_name="scalars"), data_class="DATA_CLASS_SCALAR"
)


class EpochScalars(keras.callbacks.Callback):
    """Writes the metrics of every epoch. A try that goes on adds to what those before have written.

    :param folder: Where TensorBoard is to look.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._writers = {name: tf.summary.create_file_writer(str(folder / name)) for name in ("train", "validation")}

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Write what Keras has measured, and the learning rate."""
        values = {**(logs or {}), "learning_rate": tf.convert_to_tensor(self.model.optimizer.learning_rate)}
        for name, value in values.items():
            with self._writers["validation" if name.startswith(_VALIDATION) else "train"].as_default():
                tag = f"epoch_{name.removeprefix(_VALIDATION)}"
                tf.summary.write(tag, tf.constant(float(value)), step=epoch, metadata=_SCALARS)
        for writer in self._writers.values():
            writer.flush()
