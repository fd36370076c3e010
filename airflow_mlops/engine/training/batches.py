"""Batches for TensorFlow, cut from blocks of rows. Importing this module imports TensorFlow.

A block holds all inputs of one type in one matrix: a batch is then a few slices, and not one for each input.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
import tensorflow as tf

from airflow_mlops.engine.training.inputs import Columns

if TYPE_CHECKING:
    from airflow_mlops.engine.training.data import SplitData

TF_TYPES = {"string": tf.string, "float32": tf.float32, "int64": tf.int64, "bool": tf.bool}


def kept(split: SplitData, batch_size: int, seed: int | None) -> tf.data.Dataset:
    """Return batches of a split in memory.

    With a seed the rows are shuffled once and the batches anew every epoch, which is several times faster than
    shuffling rows every epoch, and the same in every process.
    """
    layout = _Layout.of(split.columns)
    order = slice(None) if seed is None else np.random.default_rng(seed).permutation(split.rows)
    block = [tf.constant(part[order]) for part in layout.block(*split.arrays(split.arrow()))]
    starts = tf.data.Dataset.range(0, split.rows, batch_size)
    if seed is not None:
        starts = starts.shuffle(starts.cardinality(), seed=seed, reshuffle_each_iteration=True)
    return starts.map(
        lambda start: layout.batch(block, start, batch_size), num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
    ).prefetch(tf.data.AUTOTUNE)


def streamed(split: SplitData, batch_size: int, seed: int | None) -> tf.data.Dataset:
    """Return batches of a split that is read anew every epoch, one window ahead of what is trained on."""
    layout = _Layout.of(split.columns)
    epochs = itertools.count()

    def windows() -> Iterator[tuple[np.ndarray, ...]]:
        rng = None if seed is None else np.random.default_rng([seed, next(epochs)])
        rest: list[np.ndarray] | None = None
        for rows in split.windows(rng):
            block = layout.block(*split.arrays(rows))
            if rng is not None:
                order = rng.permutation(rows.num_rows)
                block = [part[order] for part in block]
            if rest is not None:
                block = [_joined(pair) for pair in zip(rest, block, strict=True)]
            whole = len(block[0]) - len(block[0]) % batch_size
            yield tuple(part[:whole] for part in block)
            rest = [part[whole:] for part in block]
        if rest is not None and len(rest[0]):
            yield tuple(rest)

    def cut(*block: tf.Tensor) -> tf.data.Dataset:
        starts = tf.data.Dataset.range(0, tf.shape(block[0], tf.int64)[0], batch_size)
        return starts.map(lambda start: layout.batch(block, start, batch_size))

    signature = tuple(
        tf.TensorSpec([None] * part.ndim if part.dtype == object else [None, *part.shape[1:]], tf.as_dtype(part.dtype))
        for part in layout.block(*split.arrays(next(split.windows(None)).slice(0, 1)))
    )
    batches = tf.data.Dataset.from_generator(windows, output_signature=signature).prefetch(1).flat_map(cut)
    steps = math.ceil(split.rows / batch_size)
    return batches.apply(tf.data.experimental.assert_cardinality(steps)).prefetch(tf.data.AUTOTUNE)


class _Layout(NamedTuple):
    """Which inputs share a matrix, and which have one of their own."""

    together: list[list[str]]
    alone: list[str]

    @classmethod
    def of(cls, columns: Columns) -> Self:
        groups: dict[str, list[str]] = {}
        for name, values in columns.items():
            if values.ndim == 1:
                groups.setdefault(values.dtype.name, []).append(name)
        return cls(list(groups.values()), [name for name, values in columns.items() if values.ndim > 1])

    def block(self, columns: Columns, targets: np.ndarray, weights: np.ndarray | None) -> list[np.ndarray]:
        """Return the matrices of some rows: inputs, targets, weights if there are any."""
        # A column for each row, as a layer of one unit gives; places of classes are plain numbers.
        targets = targets if targets.dtype == np.int64 else targets[:, None]
        inputs = [np.stack([columns[name] for name in names], axis=1) for names in self.together]
        return [*inputs, *(columns[name] for name in self.alone), targets, *([] if weights is None else [weights])]

    def batch(self, block: Any, start: tf.Tensor, size: int) -> tuple[Any, ...]:
        """Return the inputs by name, the targets, and the weights if there are any, of some rows of a block."""
        parts = [part[start : start + size] for part in block]
        inputs: dict[str, tf.Tensor] = {}
        for names, part in zip(self.together, parts, strict=False):
            inputs |= dict(zip(names, tf.unstack(part, num=len(names), axis=1), strict=True))
        rest = parts[len(self.together) :]
        inputs |= dict(zip(self.alone, rest, strict=False))
        return (inputs, *rest[len(self.alone) :])


def _joined(pair: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Return the rows of two parts; lists of texts are filled up to the longest."""
    if pair[0].ndim == 2 and pair[0].dtype == object and pair[0].shape[1] != pair[1].shape[1]:
        width = max(part.shape[1] for part in pair)
        filled = [np.pad(part, ((0, 0), (0, width - part.shape[1])), constant_values="") for part in pair]
        return np.concatenate(filled)
    return np.concatenate(pair)
