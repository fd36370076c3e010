"""What each label of a model is measured against: the rows in which it is known, and the baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from airflow_mlops.contracts import Predicted, Snapshot
from airflow_mlops.engine.training.inputs import is_known, read_labels, read_weights
from airflow_mlops.problems import Problem, problem_named


@dataclass(frozen=True)
class Measured:
    """A label, and the test rows that its predictions are held against.

    :param prefix: What its metrics begin with: nothing, or the name of a head and a dot.
    :param targets: One a test row; 0 where it is not known.
    :param known: In which test rows it is known.
    :param trained: In which rows of the training split it is known.
    :param usual: The baseline's prediction, for every test row.
    """

    label: str
    prefix: str
    problem: Problem
    targets: np.ndarray
    known: np.ndarray
    trained: np.ndarray
    usual: np.ndarray
    weights: np.ndarray | None
    groups: np.ndarray | None

    def rated(self, predicted: np.ndarray, rows: np.ndarray) -> dict[str, float]:
        """Return metric → value, on some of the test rows."""
        rows = self.known & rows
        found = self.problem.score(
            self.targets[rows],
            predicted[rows],
            weights=None if self.weights is None else self.weights[rows],
            groups=None if self.groups is None else self.groups[rows],
        )
        return {f"{self.prefix}{metric}": value for metric, value in found.items()}

    def counted(self, tested: np.ndarray, trained: np.ndarray) -> dict[str, float]:
        """Return how many of some test rows count, and how many those of the training split promised."""
        share = self.known.sum() / max(self.trained.sum(), 1)
        return {
            f"{self.prefix}n": float((self.known & tested).sum()),
            f"{self.prefix}expected_n": round(float((self.trained & trained).sum() * share), 1),
        }


def measures(snapshot: Snapshot, train: pa.Table, test: pa.Table) -> list[Measured]:
    """Return the labels of a snapshot, its heads last.

    :param train: Labels of the training split.
    :param test: All of the test split.
    """
    targets, trained = read_labels(test, snapshot), read_labels(train, snapshot)
    weights = read_weights(test, snapshot)
    groups = test.column(snapshot.group).to_numpy() if snapshot.group else None
    found = []
    for label, target in snapshot.targets.items():
        problem, learned = problem_named(target.problem), is_known(train, label)
        usual = problem.baseline(trained[label][learned], target.classes)
        found.append(
            Measured(
                label=label,
                prefix="" if label == snapshot.label else f"{label}.",
                problem=problem,
                targets=targets[label],
                known=is_known(test, label),
                trained=learned,
                usual=np.broadcast_to(usual, (test.num_rows, *usual.shape)),
                weights=weights,
                groups=groups,
            )
        )
    return found


def rated(
    measured: Sequence[Measured], predicted: Mapping[str, np.ndarray], rows: np.ndarray | None = None
) -> dict[str, float]:
    """Return metric → value of all labels that are predicted.

    :param predicted: Label → a prediction for each test row.
    :param rows: Which of the test rows count; None: all.
    """
    found: dict[str, float] = {}
    for one in measured:
        if one.label in predicted:
            found |= one.rated(predicted[one.label], one.known if rows is None else rows)
    return found


def averaged(measured: Sequence[Measured], values: Mapping[str, np.ndarray]) -> dict[str, Predicted]:
    """Return mean and deviation of what there is for each label, in the rows in which it is known, by its head's name.

    Only of truths and numbers: classes have no mean, and scores of an order no unit.
    """
    return {
        one.prefix.rstrip("."): Predicted(mean=float(np.mean(numbers)), std=float(np.std(numbers)))
        for one in measured
        if one.problem.name in ("binary", "regression")
        and one.label in values
        and len(numbers := values[one.label][one.known])
    }
