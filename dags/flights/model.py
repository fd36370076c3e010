"""The model: the probability that a flight arrives more than 15 minutes late.

All preprocessing is part of the model, so that whoever serves it sends raw values.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import keras
import numpy as np
from keras import layers, ops

# Whole numbers that come round again: 23 h is next to 0 h, December next to January.
CYCLES = {"sched_hour": 24, "weekday": 7, "month": 12}


def build(
    train: Mapping[str, np.ndarray],
    seed: int,
    *,
    hidden: tuple[int, ...] = (64, 32),
    dropout: float = 0.1,
    learning_rate: float = 2e-3,
    known_from: int = 10,
) -> keras.Model:
    """Return the compiled model for these training columns.

    :param train: Raw training column of each input: text, float32 (NaN is missing) or int64.
    :param seed: Seed of the weights and of dropout.
    :param known_from: Fewest rows with a text for the model to know it: what few rows have teaches little, and may
        name someone.
    """
    inputs = {name: keras.Input((), name=name, dtype=_dtype(values)) for name, values in train.items()}
    texts = [name for name, values in train.items() if values.dtype == object]
    cycles = [name for name in train if name in CYCLES]
    numbers = [name for name in train if name not in texts and name not in cycles]

    parts = [_embedded(inputs[name], train[name], known_from) for name in texts]
    parts += [_on_circle(inputs[name], CYCLES[name]) for name in cycles]
    parts.append(_normalised([inputs[name] for name in numbers], [train[name] for name in numbers]))

    hidden_state = layers.Concatenate()(parts)
    for i, units in enumerate(hidden):
        hidden_state = layers.Dense(
            units, activation="relu", kernel_initializer=keras.initializers.GlorotUniform(seed + i)
        )(hidden_state)
        hidden_state = layers.Dropout(dropout, seed=seed + i)(hidden_state)
    probability = layers.Dense(1, activation="sigmoid", name="probability")(hidden_state)

    model = keras.Model(inputs, probability)
    model.compile(
        optimizer=keras.optimizers.Adam(learning_rate),
        loss="binary_crossentropy",
        metrics=[keras.metrics.AUC(name="auc")],
    )
    return model


def _dtype(values: np.ndarray) -> str:
    return "string" if values.dtype == object else values.dtype.name


def _embedded(text: keras.KerasTensor, values: np.ndarray, known_from: int) -> keras.KerasTensor:
    """A learned vector for each value that training rows share, and one for all others."""
    vocabulary = sorted(value for value, rows in Counter(values.tolist()).items() if value and rows >= known_from)
    vocabulary = vocabulary or ["(none)"]
    index = layers.StringLookup(vocabulary=vocabulary)(text)
    return layers.Embedding(len(vocabulary) + 1, min(8, 2 + len(vocabulary) // 4))(index)


def _on_circle(number: keras.KerasTensor, period: int) -> keras.KerasTensor:
    angle = ops.cast(number, "float32") * (2 * np.pi / period)
    return ops.stack([ops.sin(angle), ops.cos(angle)], axis=1)


def _normalised(numbers: list[keras.KerasTensor], values: list[np.ndarray]) -> keras.KerasTensor:
    """Numbers with the mean and spread of training; a missing one becomes the mean, and says that it was missing."""
    columns = np.stack([column.astype("float32") for column in values], axis=1)
    mean = np.nan_to_num(np.nanmean(columns, axis=0))
    spread = np.nan_to_num(np.nanstd(columns, axis=0))
    matrix = ops.stack([ops.cast(number, "float32") for number in numbers], axis=1)
    missing = ops.isnan(matrix)
    normal = ops.where(missing, 0.0, (matrix - mean) / np.maximum(spread, 1e-6))
    return layers.Concatenate()([normal, ops.cast(missing, "float32")])
