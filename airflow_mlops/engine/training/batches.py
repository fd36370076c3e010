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

_AT_ONCE = 2
"""Batches that are made at a time, and that wait to be trained on."""

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
    batches = places.flat_map(tf.data.Dataset.from_tensor_slices).map(
        lambda start: layout.batch(block, start, batch_size), num_parallel_calls=_AT_ONCE, deterministic=True
    )
    return _ahead(batches)


def streamed(split: SplitData, batch_size: int, seed: int | None, passes: Passes) -> tf.data.Dataset:
    """Return batches of a split that is read anew every epoch, one window ahead of what is trained on.

    Texts go to TensorFlow as places in a list of those that a window has: a Python string for each row would hold up
    the training, which needs the interpreter too.
    """
    texts = [name for name, values in split.columns.items() if values.dtype == object and values.ndim == 1]
    others = {name: values[:1] for name, values in split.columns.items() if name not in texts}
    layout = _Layout.of(others, split.snapshot)

    def part(rows: pa.Table, order: np.ndarray) -> tuple[np.ndarray, ...]:
        words, places = _encoded(rows, texts)
        block = layout.block(*split.arrays(rows, list(others)), order)
        return (words, places[:, order], *block)

    def windows() -> Iterator[tuple[np.ndarray, ...]]:
        epoch, skipped = next(passes)
        left_out = skipped * batch_size
        rng = None if seed is None else np.random.default_rng([seed, epoch])
        for rows in _whole_batches(split.windows(rng, texts), batch_size):
            order = np.arange(rows.num_rows) if rng is None else rng.permutation(rows.num_rows)
            if left_out < rows.num_rows:
                yield part(rows, order[left_out:])
            left_out = max(0, left_out - rows.num_rows)

    def cut(words: tf.Tensor, places: tf.Tensor, *block: tf.Tensor) -> tuple[tf.Tensor, ...]:
        rows = tf.shape(block[layout.targets])[0]
        size = tf.minimum(rows, batch_size)  # of the last window, which is one batch, it may be less
        count = rows // size
        in_lines = [tf.gather(words, places), *block[: len(layout.together)]]
        lines = [tf.transpose(tf.reshape(part, [part.shape[0], count, size]), [1, 0, 2]) for part in in_lines]
        others = [
            tf.ensure_shape(
                tf.reshape(part, tf.concat([[count, size], tf.shape(part)[1:]], 0)), [None, None, *part.shape[1:]]
            )
            for part in block[len(layout.together) :]
        ]
        return (*lines, *others)

    def batch(written: tf.Tensor, *parts: tf.Tensor) -> tuple[Any, ...]:
        inputs, *answers = layout.named(parts)
        named = inputs | dict(zip(texts, tf.unstack(written, num=len(texts)), strict=True))
        return ({name: named[name] for name in split.columns}, *answers)

    first = part(next(split.windows(None, texts)).slice(0, 1), np.arange(1))
    told = (
        tf.TensorSpec([None], tf.string),
        tf.TensorSpec([len(texts), None], tf.int32),
        *layout.signature(list(first[2:])),
    )
    read = tf.data.Dataset.from_generator(windows, output_signature=told).map(cut).prefetch(_AT_ONCE)
    return _ahead(read.unbatch().map(batch, num_parallel_calls=_AT_ONCE, deterministic=True))


def _ahead(batches: tf.data.Dataset) -> tf.data.Dataset:
    """Return the same batches, made while others are trained on.

    Without TensorFlow's tuning: at the start of a pass it now and then waits a quarter of a second for itself.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return batches.prefetch(_AT_ONCE).with_options(options)


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
        column = rows.column(name).unify_dictionaries().combine_chunks()
        column = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
        known = column.dictionary.cast(pa.binary()).to_pylist()
        np.add(pc.fill_null(column.indices, len(known)).to_numpy(), len(words), out=line)
        words += [*known, b""]
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
