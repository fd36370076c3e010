"""What a training is given: the splits of a snapshot, as Arrow, pandas, arrays or batches for TensorFlow.

::

    data = TrainingData(snapshot)
    model.fit(data.train.tf_dataset(batch_size=256, shuffle=7), validation_data=data.validation.tf_dataset(256))

What fits in memory is read once and kept. What does not is streamed from its Parquet files: memory stays flat, however
many rows there are. TensorFlow is imported where batches are asked for, and not before.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from airflow_mlops.contracts import Profile, Snapshot, SplitName, Target
from airflow_mlops.engine.data.profiles import profile_files, profile_table
from airflow_mlops.engine.data.snapshots import check_whole
from airflow_mlops.engine.training.inputs import Answers, Columns, read_answers, read_inputs
from airflow_mlops.exceptions import TrainingError

if TYPE_CHECKING:
    import pandas as pd
    import tensorflow as tf

WINDOW_ROWS = 49_152
"""Rows that are in memory at a time, and shuffled among each other, of a split that is streamed."""
SAMPLE_ROWS = 262_144
"""Rows that stand for a split that is streamed, where something needs them all at once."""

_COPIES = 3
"""What a training in memory holds: Arrow's columns, arrays, tensors."""
_SHARE = 0.5
_TEXT = 64
"""Bytes of a text beside its characters, as a Python string and as TensorFlow's."""
_CGROUP = Path("/sys/fs/cgroup")

log = logging.getLogger(__name__)


class TrainingData:
    """The three splits of a snapshot, and what their columns are.

    All of it is kept in memory once read, if three times its size is no more than half of the memory that is free.

    :param snapshot: A snapshot, whose files are checked against its manifest.
    :param memory: Bytes that are free; default is what this machine, or this container, has.
    :raises TrainingError: when a split has no rows.
    :raises DataError: when a file is missing or changed.
    """

    def __init__(self, snapshot: Snapshot, memory: int | None = None) -> None:
        for name, split in snapshot.splits.items():
            if not split.rows:
                raise TrainingError(
                    f"The {name} split has no rows.",
                    detail=f"snapshot {snapshot.id}",
                    hint="Widen the window, or see why no labels have matured in it.",
                )
        check_whole(snapshot)
        self.snapshot = snapshot
        self.inputs: dict[str, str] = dict(snapshot.features)
        """Model input → Arrow type, in order."""
        self.label = snapshot.label
        self.problem = snapshot.problem
        self.classes: tuple[str, ...] = snapshot.classes
        self.heads: dict[str, Target] = dict(snapshot.heads)
        """Further labels that the model predicts: name → ``problem`` and ``classes``."""
        self.weight = snapshot.weight
        """Column of what a row counts; empty: all the same."""
        free = available_memory() if memory is None else memory
        needed = _bytes_of(snapshot) * _COPIES
        self.in_memory = needed <= free * _SHARE
        if not self.in_memory:
            log.info(
                "In memory it would take %.1f GB, and %.1f GB are free: rows are streamed, %d at a time",
                needed / 1e9, free / 1e9, WINDOW_ROWS,
            )  # fmt: skip
        self.train, self.validation, self.test = (
            SplitData(snapshot, name, in_memory=self.in_memory) for name in ("train", "validation", "test")
        )


class SplitData:
    """One split of the training data: its rows in the forms that libraries take."""

    def __init__(self, snapshot: Snapshot, name: SplitName, *, in_memory: bool) -> None:
        self.name = name
        self.snapshot = snapshot
        self.in_memory = in_memory
        self.files: list[Path] = [Path(snapshot.uri) / snapshot.splits[name].file]
        """Its Parquet files, in order."""
        self.rows: int = snapshot.splits[name].rows

    def arrow(self) -> pa.Table:
        """Return all rows, with entity, event time and label beside the inputs. In memory it is read once."""
        return self._table if self.in_memory else pq.read_table(self.files[0])

    def pandas(self) -> pd.DataFrame:
        """Return all rows as a data frame of your own."""
        return self.arrow().to_pandas()

    def tf_dataset(self, batch_size: int, shuffle: int | None = None, first_epoch: int = 0) -> tf.data.Dataset:
        """Return whole batches: ``(inputs, labels)``, and a third part with the weights where rows have some.

        ``inputs`` are named tensors as :func:`~airflow_mlops.engine.training.inputs.read_inputs` has them. Labels are
        a column ``[rows, 1]`` of float32; classes are ``[rows]`` of int64, their places in ``data.classes``.
        With heads, labels and weights are by label, and there are always weights: 0 where that of a head is not known.

        :param batch_size: Rows of a batch; the last one may have fewer.
        :param shuffle: Seed of the order, which is the same in every process, and another in every epoch; None: as in
            the file. In memory rows are shuffled once and batches every epoch. Of a stream, row groups are shuffled
            every epoch, and rows among those of :data:`WINDOW_ROWS`.
        :param first_epoch: What epoch the first pass is, from 0 on: the order of the rows follows from the seed and the
            epoch, so a training that goes on after three of them asks for ``first_epoch=3``.
        """
        import tensorflow as tf

        passes = zip(itertools.count(first_epoch), itertools.repeat(0))
        steps = math.ceil(self.rows / batch_size)
        return self.batches(batch_size, shuffle, passes, from_first=True).apply(
            tf.data.experimental.assert_cardinality(steps)
        )

    def batches(
        self, batch_size: int, shuffle: int | None, passes: Iterator[tuple[int, int]], *, from_first: bool = False
    ) -> tf.data.Dataset:
        """Return batches as :meth:`tf_dataset` does.

        :param passes: Of each pass its epoch, and how many of its batches are left out.
        :param from_first: Whether none are ever left out.
        """
        from airflow_mlops.engine.training import batches  # and with it TensorFlow

        if not self.in_memory:
            return batches.streamed(self, batch_size, shuffle, passes)
        return batches.kept(self, batch_size, shuffle, passes, from_first=from_first)

    @cached_property
    def columns(self) -> Columns:
        """The inputs as arrays; of a split that is streamed, of rows by chance, some :data:`SAMPLE_ROWS`."""
        return read_inputs(self._table if self.in_memory else self._sample(), self.snapshot.features)

    def arrays(self, rows: pa.Table, names: Sequence[str] | None = None) -> tuple[Columns, Answers, Answers | None]:
        """Return some rows' inputs, labels and weights; with heads these two are by label.

        :param names: Of these inputs only.
        """
        features = self.snapshot.features
        inputs = read_inputs(rows, features if names is None else {name: features[name] for name in names})
        for name, values in inputs.items():
            if values.ndim > 1 and not values.shape[1]:  # not a vector among them: the others say how long one is
                inputs[name] = np.full((len(values), *self.columns[name].shape[1:]), np.nan, np.float32)
        return inputs, *self.answers(rows)

    def answers(self, rows: pa.Table) -> tuple[Answers, Answers | None]:
        """Return some rows' labels and weights."""
        return read_answers(rows, self.snapshot)

    def windows(self, rng: np.random.Generator | None, texts: Sequence[str] = ()) -> Iterator[pa.Table]:
        """Yield the rows in parts of :data:`WINDOW_ROWS` or a row group more, of row groups in an order of chance.

        The first is one row group: the training waits for it.

        :param rng: Draws the order; None: as in the file.
        :param texts: Columns that come as places in a list of their texts.
        """
        with pq.ParquetFile(self.files[0], read_dictionary=list(texts)) as file:
            order = np.arange(file.num_row_groups)
            if rng is not None:
                rng.shuffle(order)
            names = [*self.snapshot.features, *self.snapshot.targets, *filter(None, [self.snapshot.weight])]
            waiting: list[int] = []
            rows = 0
            for place, group in enumerate(order.tolist()):
                waiting.append(group)
                rows += file.metadata.row_group(group).num_rows
                if rows >= WINDOW_ROWS or place in (0, len(order) - 1):
                    yield file.read_row_groups(waiting, columns=names)
                    waiting, rows = [], 0

    def profile(self) -> Profile:
        """Return what its columns are like."""
        if self.in_memory:
            table = self._table.select(list(self.snapshot.features))
            return profile_table(table, dataset=self.name, key=self.name, revision="")
        return profile_files(self.files, dataset=self.name, key=self.name, revision="")

    @cached_property
    def _table(self) -> pa.Table:
        return pq.read_table(self.files[0])

    def _sample(self) -> pa.Table:
        with pq.ParquetFile(self.files[0]) as file:
            order = np.random.default_rng(0).permutation(file.num_row_groups).tolist()
            rows, drawn = 0, []
            while order and rows < SAMPLE_ROWS:
                drawn.append(order.pop())
                rows += file.metadata.row_group(drawn[-1]).num_rows
            return file.read_row_groups(sorted(drawn), columns=list(self.snapshot.features))


def available_memory() -> int:
    """Return how many bytes this process may still take: of the machine, and of its container."""
    free = int(psutil.virtual_memory().available)
    try:
        limit, used = ((_CGROUP / name).read_text().strip() for name in ("memory.max", "memory.current"))
        return free if limit == "max" else max(0, min(free, int(limit) - int(used)))
    except (OSError, ValueError):
        return free  # no container, or one that does not say


def _bytes_of(snapshot: Snapshot) -> float:
    """Return how large the arrays of all splits are, by the first row group of the training split."""
    with pq.ParquetFile(Path(snapshot.uri) / snapshot.splits["train"].file) as file:
        columns = read_inputs(file.read_row_group(0, columns=list(snapshot.features)), snapshot.features)
    rows = len(next(iter(columns.values())))
    return sum(map(_size, columns.values())) / rows * sum(split.rows for split in snapshot.splits.values())


def _size(values: np.ndarray) -> int:
    return values.nbytes + (sum(_TEXT + len(one) for one in values.ravel()) if values.dtype == object else 0)
