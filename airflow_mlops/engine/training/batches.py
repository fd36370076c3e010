"""Batches for TensorFlow, cut from blocks of rows. Importing this module imports TensorFlow.

A block holds all inputs of one type in one matrix, a line an input: a batch is then a few slices, and not one for each.
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
    order = None if seed is None else np.random.default_rng(seed).permutation(split.rows)
    block = [tf.constant(part) for part in layout.block(split.columns, *split.answers(split.arrow()), order)]
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
            order = None if rng is None else rng.permutation(rows.num_rows)
            block = layout.block(*split.arrays(rows), order)
            if rest is not None:
                block = layout.joined(rest, block)
            whole = layout.rows(block) - layout.rows(block) % batch_size
            yield tuple(layout.slice(block, 0, whole))
            rest = layout.slice(block, whole, None)
        if rest is not None and layout.rows(rest):
            yield tuple(rest)

    def cut(*block: tf.Tensor) -> tf.data.Dataset:
        starts = tf.data.Dataset.range(0, tf.shape(block[layout.targets], tf.int64)[0], batch_size)
        return starts.map(lambda start: layout.batch(block, start, batch_size))

    known = {name: values[:1] for name, values in split.columns.items()}
    row = layout.block(known, *split.answers(next(split.windows(None)).slice(0, 1)))
    batches = tf.data.Dataset.from_generator(windows, output_signature=layout.signature(row)).prefetch(2).flat_map(cut)
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

    @property
    def targets(self) -> int:
        """Place of the targets in a block: behind the inputs."""
        return len(self.together) + len(self.alone)

    def block(
        self, columns: Columns, targets: np.ndarray, weights: np.ndarray | None, order: np.ndarray | None = None
    ) -> list[np.ndarray]:
        """Return the matrices of some rows, in some order: inputs, targets, weights if there are any."""
        # A column for each row, as a layer of one unit gives; places of classes are plain numbers.
        targets = targets if targets.dtype == np.int64 else targets[:, None]
        others = [*(columns[name] for name in self.alone), targets, *([] if weights is None else [weights])]
        if order is None:
            return [*(np.stack([columns[name] for name in names]) for names in self.together), *others]
        matrices = []
        for names in self.together:
            matrices.append(np.empty((len(names), len(order)), columns[names[0]].dtype))
            for line, name in zip(matrices[-1], names, strict=True):
                np.take(columns[name], order, out=line, mode="clip")  # which writes to it at once
        return [*matrices, *(part[order] for part in others)]

    def slice(self, block: Any, start: Any, end: Any) -> list[Any]:
        """Return some rows of a block."""
        lines = len(self.together)
        return [part[:, start:end] if place < lines else part[start:end] for place, part in enumerate(block)]

    def rows(self, block: list[np.ndarray]) -> int:
        """Return how many rows a block has."""
        return len(block[self.targets])

    def joined(self, one: list[np.ndarray], other: list[np.ndarray]) -> list[np.ndarray]:
        """Return the rows of both."""
        lines = len(self.together)
        return [
            np.concatenate(pair, axis=1) if place < lines else _joined(*pair)
            for place, pair in enumerate(zip(one, other, strict=True))
        ]

    def signature(self, block: list[np.ndarray]) -> tuple[tf.TensorSpec, ...]:
        """Return what any block is like, by one."""
        shapes = [
            (part.shape[0], None) if place < len(self.together) else (None, *part.shape[1:])
            for place, part in enumerate(block)
        ]
        texts = range(len(self.together), self.targets)
        return tuple(
            tf.TensorSpec((None, None) if place in texts and part.dtype == object else shape, tf.as_dtype(part.dtype))
            for place, (part, shape) in enumerate(zip(block, shapes, strict=True))
        )

    def batch(self, block: Any, start: tf.Tensor, size: int) -> tuple[Any, ...]:
        """Return the inputs by name, the targets, and the weights if there are any, of some rows of a block."""
        parts = self.slice(block, start, start + size)
        inputs: dict[str, tf.Tensor] = {}
        for names, part in zip(self.together, parts, strict=False):
            inputs |= dict(zip(names, tf.unstack(part, num=len(names)), strict=True))
        inputs |= dict(zip(self.alone, parts[len(self.together) :], strict=False))
        return (inputs, *parts[self.targets :])


def _joined(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the rows of two parts; lists of texts are filled up to the longest."""
    if one.dtype == object and one.shape[1] != other.shape[1]:
        width = max(one.shape[1], other.shape[1])
        one, other = (np.pad(part, ((0, 0), (0, width - part.shape[1])), constant_values="") for part in (one, other))
    return np.concatenate([one, other])
