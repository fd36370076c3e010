"""Gradient-boosted trees of scikit-learn as a Keras model, which is served with TensorFlow alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class Encoding:
    """How columns become the numbers that trees split.

    :param kinds: Input → ``string``, ``bool``, ``int64`` or ``float32``, in the order of the trees' columns.
    :param words: Input that is a text → the values that have a number, from 1 on; all others are 0.
    """

    kinds: Mapping[str, str]
    words: Mapping[str, tuple[str, ...]]

    @classmethod
    def of(cls, rows: pd.DataFrame, known_from: int = 10) -> Encoding:
        """Return the encoding of the columns of a training split.

        :param known_from: Fewest rows with a text for it to have a number: what few rows have may name someone.
        """
        kinds = {str(name): _kind(column) for name, column in rows.items()}
        texts = [name for name, kind in kinds.items() if kind == "string"]
        return cls(kinds, {name: _shared(rows[name], known_from) for name in texts})

    def __call__(self, rows: pd.DataFrame) -> np.ndarray:
        """Return rows as the matrix that trees are fitted on."""
        return np.stack([self._numbers(name, rows[name]) for name in self.kinds], axis=1)

    def _numbers(self, name: str, column: pd.Series[Any]) -> np.ndarray:
        if name in self.words:
            places = {word: n for n, word in enumerate(self.words[name], 1)}
            return column.map(places).fillna(0).to_numpy(np.float64)
        # As a server is given them: in 32 bits.
        return column.to_numpy(np.float32 if self.kinds[name] == "float32" else np.float64).astype(np.float64)


def as_keras(booster: Any, encoding: Encoding) -> keras.Model:
    """Return trees as a Keras model of the raw columns.

    :param booster: A ``HistGradientBoostingClassifier`` or ``HistGradientBoostingRegressor`` that was fitted on
        ``encoding(rows)``, without ``categorical_features``.
    """
    import keras
    from keras import layers, ops

    inputs = {name: keras.Input((), name=name, dtype=kind) for name, kind in encoding.kinds.items()}
    known = {name: layers.StringLookup(vocabulary=list(words) or ["(none)"]) for name, words in encoding.words.items()}
    numbers = [known[name](one) if name in known else one for name, one in inputs.items()]
    matrix = ops.stack([ops.cast(one, "float64") for one in numbers], axis=1)
    raw = _raw(booster, matrix)
    if not hasattr(booster, "classes_"):
        return keras.Model(inputs, raw)
    return keras.Model(inputs, ops.sigmoid(raw) if len(booster.classes_) == 2 else ops.softmax(raw))


def _raw(booster: Any, matrix: Any) -> Any:
    """Return what all trees add up to, ``[rows, 1]`` or ``[rows, classes]``: each row walks down all trees at once."""
    from keras import ops

    trees = [tree.nodes for round_of in booster._predictors for tree in round_of]
    nodes = np.concatenate(trees)
    begins = np.cumsum([0, *map(len, trees)])[:-1].astype(np.int32)
    own = np.repeat(begins, [len(tree) for tree in trees])
    leaf = nodes["is_leaf"].astype(bool)
    # A leaf leads to itself, so a row that has arrived stays.
    here = np.arange(len(nodes), dtype=np.int32)
    left = np.where(leaf, here, nodes["left"] + own).astype(np.int32)
    right = np.where(leaf, here, nodes["right"] + own).astype(np.int32)
    feature, threshold = nodes["feature_idx"].astype(np.int32), nodes["num_threshold"].astype(np.float64)
    missing_left = nodes["missing_go_to_left"].astype(bool)

    at = ops.zeros_like(matrix[:, :1], dtype="int32") + begins[None, :]
    for _ in range(int(nodes["depth"].max())):
        value = ops.take_along_axis(matrix, ops.take(feature, at), axis=1)
        goes_left = ops.where(ops.isnan(value), ops.take(missing_left, at), value <= ops.take(threshold, at))
        at = ops.where(goes_left, ops.take(left, at), ops.take(right, at))
    width = len(booster._predictors[0])
    added = ops.reshape(ops.take(nodes["value"].astype(np.float64), at), (-1, len(booster._predictors), width))
    return ops.cast(ops.sum(added, axis=1) + np.ravel(booster._baseline_prediction)[None, :], "float32")


def _kind(column: pd.Series[Any]) -> str:
    if pd.api.types.is_bool_dtype(column):
        return "bool"
    if pd.api.types.is_integer_dtype(column):
        return "int64"
    return "float32" if pd.api.types.is_numeric_dtype(column) else "string"


def _shared(column: Iterable[Any], known_from: int) -> tuple[str, ...]:
    counted = Counter(value for value in column if isinstance(value, str) and value)
    return tuple(sorted(value for value, rows in counted.items() if rows >= known_from))
