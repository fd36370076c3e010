"""Batches for TensorFlow, cut from blocks of rows. Importing this module imports TensorFlow.

A block holds all inputs of one type in one matrix, a line an input: a batch is then a few slices, and not one for each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tensorflow as tf

from airflow_mlops.engine.training.inputs import Answers, Columns

if TYPE_CHECKING:
    from airflow_mlops.contracts import Snapshot
    from airflow_mlops.engine.training.data import SplitData

TF_TYPES = {"string": tf.string, "float32": tf.float32, "int64": tf.int64, "bool": tf.bool}


Passes = Iterator[tuple[int, int]]
"""Of each pass over a split: its epoch, by which the order is drawn, and how many batches of it are left out."""


def kept(split: SplitData, batch_size: int, seed: int | None, passes: Passes) -> tf.data.Dataset:
    """Return batches of a split in memory.

    With a seed the rows are shuffled once and the batches anew every epoch, which is several times faster than
    shuffling rows every epoch, and the same in every process.
    """
    layout = _Layout.of(split.columns, split.snapshot)
    order = None if seed is None else np.random.default_rng(seed).permutation(split.rows)
    block = [tf.constant(part) for part in layout.block(split.columns, *split.answers(split.arrow()), order)]

    def starts() -> np.ndarray:
        epoch, skipped = next(passes)
        places = np.arange(0, split.rows, batch_size)
        if seed is not None:
            np.random.default_rng([seed, epoch]).shuffle(places)
        return places[skipped:]

    begun = tf.data.Dataset.from_tensors(0)
    places = begun.map(lambda _: tf.ensure_shape(tf.numpy_function(starts, [], tf.int64), [None]))
    return (
        places.flat_map(tf.data.Dataset.from_tensor_slices)
        .map(
            lambda start: layout.batch(block, start, batch_size),
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )
        .prefetch(tf.data.AUTOTUNE)
    )


def streamed(split: SplitData, batch_size: int, seed: int | None, passes: Passes) -> tf.data.Dataset:
    """Return batches of a split that is read anew every epoch, one window ahead of what is trained on.

    Texts go to TensorFlow as places in a list of those that a window has: a Python string for each row would hold up
    the training, which needs the interpreter too.
    """
    texts = [name for name, values in split.columns.items() if values.dtype == object and values.ndim == 1]
    others = {name: values[:1] for name, values in split.columns.items() if name not in texts}
    layout = _Layout.of(others, split.snapshot)

    def part(rows: pa.Table, order: np.ndarray | None) -> tuple[np.ndarray, ...]:
        words, places = _encoded(rows, texts)
        block = layout.block(*split.arrays(rows, list(others)), order)
        return (words, places if order is None else places[:, order], *block)

    def windows() -> Iterator[tuple[np.ndarray, ...]]:
        epoch, skipped = next(passes)
        left_out = skipped * batch_size
        rng = None if seed is None else np.random.default_rng([seed, epoch])
        for rows in _whole_batches(split.windows(rng), batch_size):
            order = np.arange(rows.num_rows) if rng is None else rng.permutation(rows.num_rows)
            if left_out < rows.num_rows:
                yield part(rows, order[left_out:] if left_out or rng is not None else None)
            left_out = max(0, left_out - rows.num_rows)

    def cut(words: tf.Tensor, places: tf.Tensor, *block: tf.Tensor) -> tf.data.Dataset:
        starts = tf.data.Dataset.range(0, tf.shape(block[layout.targets], tf.int64)[0], batch_size)
        return starts.map(
            lambda start: (
                words,
                places[:, start : start + batch_size],
                *layout.slice(block, start, start + batch_size),
            )
        )

    def batch(words: tf.Tensor, places: tf.Tensor, *parts: tf.Tensor) -> tuple[Any, ...]:
        inputs, *answers = layout.named(parts)
        named = inputs | dict(zip(texts, tf.unstack(tf.gather(words, places), num=len(texts)), strict=True))
        return ({name: named[name] for name in split.columns}, *answers)

    first = part(next(split.windows(None)).slice(0, 1), None)
    told = (
        tf.TensorSpec([None], tf.string),
        tf.TensorSpec([len(texts), None], tf.int32),
        *layout.signature(list(first[2:])),
    )
    batches = tf.data.Dataset.from_generator(windows, output_signature=told).prefetch(2).flat_map(cut)
    batches = batches.map(batch, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return batches.prefetch(tf.data.AUTOTUNE)


def _whole_batches(parts: Iterator[pa.Table], batch_size: int) -> Iterator[pa.Table]:
    """Yield the same rows in parts of whole batches; the last of all may be smaller."""
    rest: pa.Table | None = None
    for read in parts:
        rows = read if rest is None else pa.concat_tables([rest, read])
        whole = rows.num_rows - rows.num_rows % batch_size
        if whole:
            yield rows.slice(0, whole)
        rest = rows.slice(whole)
    if rest is not None and rest.num_rows:
        yield rest


def _encoded(rows: pa.Table, names: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the different texts of some columns, and of each column a line of places in them."""
    words: list[bytes] = []
    places = np.empty((len(names), rows.num_rows), np.int32)
    for line, name in zip(places, names, strict=True):
        column = rows.column(name)
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        column = pc.fill_null(column.cast(pa.binary()), b"").combine_chunks().dictionary_encode()
        np.add(column.indices.to_numpy(), len(words), out=line)
        words += column.dictionary.to_pylist()
    return np.array(words, dtype=object), places


class _Layout(NamedTuple):
    """Which inputs share a matrix, and which have one of their own; and of which labels the answers are by name."""

    together: list[list[str]]
    alone: list[str]
    labels: list[str]

    @classmethod
    def of(cls, columns: Columns, snapshot: Snapshot) -> Self:
        groups: dict[str, list[str]] = {}
        for name, values in columns.items():
            if values.ndim == 1:
                groups.setdefault(values.dtype.name, []).append(name)
        alone = [name for name, values in columns.items() if values.ndim > 1]
        return cls(list(groups.values()), alone, list(snapshot.targets) if snapshot.heads else [])

    @property
    def targets(self) -> int:
        """Place of the targets in a block: behind the inputs."""
        return len(self.together) + len(self.alone)

    def block(
        self, columns: Columns, targets: Answers, weights: Answers | None, order: np.ndarray | None = None
    ) -> list[np.ndarray]:
        """Return the matrices of some rows, in some order: inputs, targets, weights if there are any."""
        # A column for each row, as a layer of one unit gives; places of classes are plain numbers.
        learned = [one if one.dtype == np.int64 else one[:, None] for one in _each(targets)]
        others = [*(columns[name] for name in self.alone), *learned, *([] if weights is None else _each(weights))]
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
        """Return the inputs by name, the targets, and the weights if there are any, of some rows of a block.

        Of several labels both are by name.
        """
        return self.named(self.slice(block, start, start + size))

    def named(self, parts: Sequence[Any]) -> tuple[Any, ...]:
        """Return the same of rows that are cut already."""
        inputs: dict[str, tf.Tensor] = {}
        for names, part in zip(self.together, parts, strict=False):
            inputs |= dict(zip(names, tf.unstack(part, num=len(names)), strict=True))
        inputs |= dict(zip(self.alone, parts[len(self.together) :], strict=False))
        answers = parts[self.targets :]
        if not self.labels:
            return (inputs, *answers)
        count = len(self.labels)
        return (
            inputs,
            dict(zip(self.labels, answers, strict=False)),
            dict(zip(self.labels, answers[count:], strict=True)),
        )


def _each(answers: Answers) -> list[np.ndarray]:
    return list(answers.values()) if isinstance(answers, dict) else [answers]
