"""Two mergeable sketches in NumPy, deterministic so that a verdict which rests on them can be repeated.

Apache DataSketches has both, but its KLL draws from a generator seeded by the clock, without a way to seed it from
Python, and its distinct counters take one Python value at a time.
"""

from __future__ import annotations

import binascii
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Self

import numpy as np
import numpy.typing as npt

from airflow_mlops.engine.data.profiles.hashing import Hashes, mix

Floats = npt.NDArray[np.float64]

_LEAST_CAPACITY = 8
_DECAY = 2 / 3


def _pack(array: npt.NDArray[np.generic]) -> str:
    return binascii.b2a_base64(zlib.compress(array.tobytes(), level=1), newline=False).decode()


def _unpack(text: str) -> bytes:
    return zlib.decompress(binascii.a2b_base64(text))


@dataclass
class DistinctSketch:
    """K minimum values: the smallest hashes of all distinct values say how densely hashes lie, so how many there are.

    Exact below ``K`` values; above, the relative standard error is 1 / sqrt(K - 2) = 4.4 %
    (Bar-Yossef et al. 2002; unbiased estimator and error: Beyer et al. 2007). Merging loses nothing.
    """

    K = 512

    hashes: Hashes = field(default_factory=lambda: np.empty(0, np.uint64))

    def add(self, hashes: Hashes) -> None:
        """Take in hashes, in any order, repeated or not."""
        if len(self.hashes) == self.K:
            hashes = hashes[hashes < self.hashes[-1]]
        if len(hashes):
            hashes = np.sort(np.concatenate([self.hashes, hashes]))  # np.unique hashes them again: ten times slower
            self.hashes = hashes[np.concatenate([[True], hashes[1:] != hashes[:-1]])][: self.K].copy()

    def estimate(self) -> float:
        """Return about how many distinct values were taken in."""
        if len(self.hashes) < self.K:
            return float(len(self.hashes))
        return (self.K - 1) / (float(self.hashes[-1]) / 2**64)

    def pack(self) -> str:
        """Return the sketch as text."""
        return binascii.b2a_base64(self.hashes.astype("<u8").tobytes(), newline=False).decode()

    @classmethod
    def unpack(cls, text: str) -> Self:
        """Read a sketch back."""
        return cls(np.frombuffer(binascii.a2b_base64(text), "<u8"))

    @classmethod
    def merged(cls, sketches: Iterable[Self]) -> Self:
        """Return the sketch of all values together: the same as if one had taken them all in."""
        every = [sketch.hashes for sketch in sketches]
        hashes = np.concatenate(every)
        # A full sketch alone shows that its K-th hash is no lower than that of the union.
        bounds = [full[-1] for full in every if len(full) == cls.K]
        union = cls()
        union.add(hashes[hashes <= min(bounds)] if bounds else hashes)
        return union


@dataclass
class QuantileSketch:
    """KLL: a value in level ``h`` stands for 2**h values; a level that is full passes every second value up.

    The rank of a value is off by at most 1.33 % of all values in 99 % of the queries, whatever the order and however
    often sketches were merged (Karnin, Lang, Liberty 2016; the figure is the one that DataSketches measured for
    ``K`` = 200, and ``tests/unit/test_profiles_sketches.py`` holds this one to it). Exact up to ``K`` values.

    Which of two neighbours goes up is a coin thrown by a hash of the level's content instead of a clock.
    """

    K = 200

    levels: list[Floats] = field(default_factory=lambda: [np.empty(0)])

    def add(self, values: Floats) -> None:
        """Take in finite values in ascending order."""
        self.levels[0] = np.concatenate([self.levels[0], values + 0.0])  # -0 becomes 0: the two have no order
        self._compress()

    def _compress(self) -> None:
        while True:
            height = len(self.levels)
            room = [max(_LEAST_CAPACITY, int(self.K * _DECAY ** (height - 1 - level))) for level in range(height)]
            if sum(map(len, self.levels)) <= sum(room):
                return
            level = next(level for level in range(height) if len(self.levels[level]) > room[level])
            # Each level is a few sorted runs, which a stable sort (timsort) merges in one go.
            values = np.sort(self.levels[level], kind="stable")
            odd = len(values) % 2
            # Copies, as a view would keep the whole batch in memory.
            promoted = values[odd + _coin(values, level) :: 2].copy()
            self.levels[level] = values[:odd].copy()
            if level + 1 == height:
                self.levels.append(promoted)
            else:
                self.levels[level + 1] = np.concatenate([self.levels[level + 1], promoted])

    def weighted(self) -> tuple[Floats, npt.NDArray[np.int64]]:
        """Return the values kept, ascending, and how many of all values are at or below each."""
        values = np.concatenate(self.levels)
        weights = np.repeat(1 << np.arange(len(self.levels)), [len(level) for level in self.levels])
        order = np.argsort(values, kind="stable")
        return values[order], np.cumsum(weights[order])

    def pack(self) -> str:
        """Return the sketch as text."""
        if not any(map(len, self.levels)):
            return ""
        header = np.array([len(self.levels), *map(len, self.levels)], "<f8")
        return _pack(np.concatenate([header, *(np.sort(level) for level in self.levels)]).astype("<f8"))

    @classmethod
    def unpack(cls, text: str) -> Self:
        """Read a sketch back."""
        if not text:
            return cls()
        numbers = np.frombuffer(_unpack(text), "<f8")
        height = int(numbers[0])
        ends = accumulate(map(int, numbers[1 : height + 1].tolist()), initial=height + 1)
        return cls([numbers[start:end] for start, end in pairwise(ends)])

    @classmethod
    def merged(cls, sketches: Iterable[Self]) -> Self:
        """Return the sketch of all values together, the same in whatever order they come."""
        every = [sketch.levels for sketch in sketches]
        height = max(map(len, every))
        # Sorted here: a stable sort of so many short runs is slow, of one run it is free.
        levels = [
            np.sort(np.concatenate([levels[level] for levels in every if level < len(levels)]))
            for level in range(height)
        ]
        union = cls(levels)
        union._compress()
        return union


def _coin(values: Floats, level: int) -> int:
    middle = values[len(values) // 2 : len(values) // 2 + 1].view(np.uint64)
    return int(mix(middle + np.uint64(level + (len(values) << 8)))[0] & np.uint64(1))
