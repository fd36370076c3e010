"""What a training's process sets before TensorFlow computes anything. Importing this module imports TensorFlow."""

from __future__ import annotations

import logging

import keras
import tensorflow as tf

from airflow_mlops.contracts import Compute
from airflow_mlops.engine.devices.told import told
from airflow_mlops.exceptions import ConfigError

log = logging.getLogger(__name__)


def prepare(compute: Compute) -> list[tf.config.PhysicalDevice]:
    """Set how much of each GPU is taken and what layers compute in. Returns this process's GPUs.

    :raises ConfigError: when TensorFlow does not find the GPUs that are there.
    """
    mine = told()
    gpus = tf.config.list_physical_devices("GPU")
    if len(gpus) < len(mine.names):
        words = f"TensorFlow finds {len(gpus) or 'none'} of the {len(mine.names)} GPUs that this training has"
        if not mine.or_cpu:
            raise ConfigError(
                f"{words}.",
                detail=f"{', '.join(mine.names)}; TensorFlow {tf.__version__}, "
                f"{'built with CUDA' if tf.test.is_built_with_cuda() else 'built without CUDA'}",
                hint='Install its CUDA libraries on the workers: pip install "tensorflow[and-cuda]".',
            )
        log.warning("%s, so it computes on the CPU.", words)
        gpus = []
    if mine.memory_limit is not None:
        for gpu in gpus:
            limit = tf.config.LogicalDeviceConfiguration(memory_limit=mine.memory_limit)
            tf.config.set_logical_device_configuration(gpu, [limit])
    if compute.precision != keras.config.dtype_policy().name:
        keras.config.set_dtype_policy(compute.precision)
    return gpus


def mirrored(replicas: int, gpus: list[tf.config.PhysicalDevice]) -> tf.distribute.Strategy:
    """Return the strategy of so many replicas: a GPU for each, or a part of the CPU for each."""
    if replicas == 1:
        return tf.distribute.get_strategy()
    kind = "GPU"
    if len(gpus) < replicas:
        kind, cpu = "CPU", tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * replicas)
    log.info("%d replicas, each with a part of every batch", replicas)
    return tf.distribute.MirroredStrategy([f"{kind}:{number}" for number in range(replicas)])


def hardware() -> str:
    """Return what this process computes on, in words."""
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return ""
    names = told().names or [tf.config.experimental.get_device_details(gpu).get("device_name", "GPU") for gpu in gpus]
    return ", ".join(names)
