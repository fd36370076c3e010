"""Batches for TensorFlow, from blocks of them. Importing this module imports TensorFlow.

A block is some batches of one size. It holds all inputs of one type in one array, of batches, inputs and rows: what
makes, moves and picks batches then has a few arrays to go through, and not one for each input.
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
"""Batches, or parts of a stream, that are made at a time and wait to be trained on."""
_TOGETHER = 64
"""Batches that are picked from memory in one go."""

Passes = Iterator[tuple[int, int]]
"""Of each pass over a split: its epoch, by which the order is drawn, and how many batches of it are left out."""


def kept(
    split: SplitData, batch_size: int, seed: int | None, passes: Passes, *, from_first: bool = False
) -> tf.data.Dataset:
    """Return batches of a split in memory.

    With a seed the rows are shuffled once and the batches anew every epoch, which is several times faster than
    shuffling rows every epoch, and the same in every process. A batch that is smaller is the last.

    :param from_first: Whether every pass begins with its first batch.
    """
    layout = _Layout.of(split.columns, split.snapshot)
    order = np.arange(split.rows) if seed is None else np.random.default_rng(seed).permutation(split.rows)
    whole = split.rows - split.rows % batch_size
    known = (split.columns, *split.answers(split.arrow()))
    block = [tf.constant(part) for part in layout.block(*known, order[:whole].reshape(-1, batch_size))]
    rest = [tf.constant(part) for part in layout.block(*known, order[None, whole:])]

    smaller = [0]  # batches of this pass that are so

    def numbers() -> np.ndarray:
        epoch, skipped = next(passes)
        drawn = np.arange(whole // batch_size)
        if seed is not None:
            np.random.default_rng([seed, epoch]).shuffle(drawn)
        smaller[0] = int(whole < split.rows and skipped <= len(drawn))
        return drawn[skipped:]

    def last(_: tf.Tensor) -> tf.data.Dataset:
        return layout.batches(rest).take(tf.numpy_function(lambda: np.int64(smaller[0]), [], tf.int64))

    begun = tf.data.Dataset.from_tensors(0)
    drawn = begun.map(lambda _: tf.ensure_shape(tf.numpy_function(numbers, [], tf.int64), [None]))
    picked = drawn.unbatch().batch(_TOGETHER)
    batches = picked.flat_map(lambda some: layout.batches([tf.gather(part, some) for part in block]))
    if whole == split.rows:
        return _ahead(batches)
    # A call of Python is felt at the start of a pass: where the smaller one is always there, none asks for it.
    return _ahead(batches.concatenate(layout.batches(rest) if from_first else begun.flat_map(last)))


def streamed(split: SplitData, batch_size: int, seed: int | None, passes: Passes) -> tf.data.Dataset:
    """Return batches of a split that is read anew every epoch, one window ahead of what is trained on.

    Texts go to TensorFlow as places in a list of those that a window has: a Python string for each row would hold up
    the training, which needs the interpreter too.
    """
    texts = [name for name, values in split.columns.items() if values.dtype == object and values.ndim == 1]
    others = {name: values[:1] for name, values in split.columns.items() if name not in texts}
    layout = _Layout.of(others, split.snapshot)
    written = layout._replace(together=[texts, *layout.together]) if texts else layout

    def part(rows: pa.Table, order: np.ndarray) -> tuple[np.ndarray, ...]:
        words, places = _encoded(rows, texts)
        order = order.reshape(-1, min(len(order), batch_size))  # the last window may be one batch that is smaller
        block = layout.block(*split.arrays(rows, list(others)), order)
        return (words, places[:, order].swapaxes(0, 1), *block)

    def windows() -> Iterator[tuple[np.ndarray, ...]]:
        epoch, skipped = next(passes)
        left_out = skipped * batch_size
        rng = None if seed is None else np.random.default_rng([seed, epoch])
        for rows in _whole_batches(split.windows(rng, texts), batch_size):
            order = np.arange(rows.num_rows) if rng is None else rng.permutation(rows.num_rows)
            if left_out < rows.num_rows:
                yield part(rows, order[left_out:])
            left_out = max(0, left_out - rows.num_rows)

    def write(words: tf.Tensor, places: tf.Tensor, *block: tf.Tensor) -> tuple[tf.Tensor, ...]:
        return (*([tf.gather(words, places)] if texts else []), *block)

    first = part(next(split.windows(None, texts)).slice(0, 1), np.arange(1))
    told = (
        tf.TensorSpec([None], tf.string),
        tf.TensorSpec([None, len(texts), None], tf.int32),
        *layout.signature(list(first[2:])),
    )
    blocks = tf.data.Dataset.from_generator(windows, output_signature=told).map(write).prefetch(_AT_ONCE)
    return _ahead(blocks.flat_map(lambda *block: written.batches(block)))


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

    def block(self, columns: Columns, targets: Answers, weights: Answers | None, order: np.ndarray) -> list[np.ndarray]:
        """Return the arrays of some rows: inputs, targets, weights if there are any.

        :param order: ``[batches, rows]``, places of the rows.
        """
        arrays = []
        for names in self.together:
            arrays.append(np.empty((len(order), len(names), order.shape[1]), columns[names[0]].dtype))
            for place, name in enumerate(names):
                arrays[-1][:, place] = columns[name].take(order)
        # A column for each row, as a layer of one unit gives; places of classes are plain numbers.
        learned = [one if one.dtype == np.int64 else one[:, None] for one in _each(targets)]
        others = [*(columns[name] for name in self.alone), *learned, *([] if weights is None else _each(weights))]
        return [*arrays, *(part[order] for part in others)]

    def signature(self, block: Sequence[np.ndarray]) -> tuple[tf.TensorSpec, ...]:
        """Return what any block is like, by one."""
        lines = len(self.together)
        told = []
        for place, part in enumerate(block):
            shape = (None, part.shape[1], None) if place < lines else (None, None, *part.shape[2:])
            texts = lines <= place < self.targets and part.dtype == object  # as many in a row as the longest has
            told.append(tf.TensorSpec((None, None, None) if texts else shape, tf.as_dtype(part.dtype)))
        return tuple(told)

    def batches(self, block: Sequence[tf.Tensor]) -> tf.data.Dataset:
        """Return the inputs by name, the targets, and the weights if there are any, of each batch of a block.

        Of several labels both are by name.
        """
        return tf.data.Dataset.from_tensor_slices(self._named(block))

    def _named(self, parts: Sequence[tf.Tensor]) -> tuple[Any, ...]:
        inputs: dict[str, tf.Tensor] = {}
        for names, part in zip(self.together, parts, strict=False):
            inputs |= dict(zip(names, tf.unstack(part, num=len(names), axis=1), strict=True))
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
