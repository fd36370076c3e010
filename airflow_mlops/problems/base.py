"""What a problem type has to say."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_mlops.exceptions import DataError

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from airflow_mlops.contracts import ColumnProfile, SliceProfile
    from airflow_mlops.engine.data.checks.measures import Measure

MOST_CLASSES = 1000
"""More different values are no classes."""


@dataclass(frozen=True)
class Metric:
    """A number that says how good predictions are: what it is, and whether less of it is better."""

    says: str
    less_is_better: bool = False


class Tally(ABC):
    """What a split's labels are like, counted as they come."""

    def __init__(self) -> None:
        self.rows = 0

    @abstractmethod
    def add(self, labels: pa.ChunkedArray) -> None:
        """Count some, none of which is null."""

    @abstractmethod
    def fields(self) -> dict[str, Any]:
        """Return what a :class:`~airflow_mlops.contracts.Split` keeps of them."""


class Problem(ABC):
    """A type of what is predicted. Labels are as :func:`~airflow_mlops.problems.as_label` makes them.

    Predictions are one row an example: of one number, or of one a class.
    """

    name: ClassVar[str]
    label_type: ClassVar[str]
    """Arrow type of its labels."""
    output: ClassVar[str]
    """Name of what is served."""
    metrics: ClassVar[Mapping[str, Metric]]
    gates: ClassVar[Sequence[Mapping[str, Any]]]
    """What a challenger must meet where nobody said it, as arguments of :class:`~airflow_mlops.parts.Gate`."""
    too_good: ClassVar[tuple[str, float]]
    """A metric, and the value that no honest model of something uncertain reaches: a feature must tell the label."""
    leak: ClassVar[tuple[str, float]]
    """How well one feature may tell the label: what is measured, and from where on it is a leak."""
    grouped: ClassVar[bool] = False
    """Whether rows are held against each other, within groups that somebody must name."""
    ending: ClassVar[str]
    """The last layer and the loss that its Keras models usually have."""

    # --- labels ---------------------------------------------------------------------------------------------

    @abstractmethod
    def claims(self, column: pa.ChunkedArray) -> bool:
        """Return whether a column that nobody said the type of is a label of this one."""

    @abstractmethod
    def convert(self, column: pa.ChunkedArray, label: str, where: str) -> pa.ChunkedArray:
        """Return a label in the type that it is learned from.

        :raises DataError: when a value has no place in it.
        """

    @abstractmethod
    def claims_profile(self, column: ColumnProfile, *, said: bool) -> bool:
        """Return whether a column of this profile is, or (``said``) can be, a label of this type."""

    def check_profile(self, column: ColumnProfile, label: str, where: str) -> None:  # noqa: B027  most need no more
        """Refuse a column that is such a label by its type, and not by its values."""

    @abstractmethod
    def tally(self) -> Tally:
        """Return what counts the labels of a split."""

    @abstractmethod
    def check_splits(self, tallies: Mapping[str, Any], wheres: Mapping[str, str], label: str) -> None:
        """Refuse splits from which nothing can be learned, or told.

        :param tallies: Split → what was counted, which is what :meth:`tally` returns; the training split first.
        :param wheres: Split → its times, in words.
        :raises DataError: naming the split.
        """

    @abstractmethod
    def check_days(self, rows: pa.Table, event_time: str, label: str, shift: float) -> None:
        """Refuse days whose labels lie far from those of the other days of the window.

        :param shift: How far, in robust standard deviations.
        :raises DataError: naming the days.
        """

    def count_slices(self, rows: pa.Table, *, said: bool) -> dict[Any, dict[str, Any]]:
        """Return slice → what a :class:`~airflow_mlops.contracts.SliceProfile` keeps of its labels of this type.

        :param rows: Columns ``slice``, and ``label`` as it landed, null where it is unknown.
        :param said: Whether somebody said that the labels are of this type.
        """
        return {}

    def join_slices(self, one: SliceProfile, other: SliceProfile) -> dict[str, Any]:
        """Return the same of two slices together."""
        return {}

    def measures(self, days: Sequence[SliceProfile]) -> list[Measure]:
        """Return what of the labels must stay as usual from day to day, in all and in each slice.

        :param days: All rows of each day that says what is usual. Without what this type counts there is nothing.
        """
        return []

    @abstractmethod
    def telling(self, column: pa.ChunkedArray, labels: np.ndarray) -> float:
        """Return how well a feature alone tells the label, in the unit of :attr:`leak`.

        :param labels: Of the same rows.
        """

    def no_label(self, label: str, kind: str, where: str) -> DataError:
        """Return what to raise for a column that is no label of this type."""
        return DataError(f"The label {label!r} is of type {kind}, {self.not_what}.", detail=where, hint=self.label_hint)

    not_what: ClassVar[str]
    label_hint: ClassVar[str]

    # --- learning and judging -------------------------------------------------------------------------------

    def classes(self, tallies: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the classes in the order in which a model predicts them; none where there are no classes."""
        return ()

    @abstractmethod
    def targets(self, labels: pa.ChunkedArray, classes: Sequence[str]) -> np.ndarray:
        """Return labels as the numbers that a model learns: ``float32``, or ``int64`` places of classes."""

    def width(self, classes: Sequence[str]) -> int:
        """Return how many numbers a prediction has."""
        return 1

    def baseline(self, trained: np.ndarray, classes: Sequence[str]) -> np.ndarray:
        """Return the one prediction that says for every row what is usual among the targets that were trained on."""
        import numpy as np

        return np.asarray(trained.mean() if len(trained) else np.nan)

    def score(
        self,
        targets: np.ndarray,
        predicted: np.ndarray,
        *,
        weights: np.ndarray | None = None,
        groups: np.ndarray | None = None,
    ) -> dict[str, float]:
        """Return metric → value. What is not defined is NaN, and NaN passes no gate.

        Without a row nothing is defined; nor where a single prediction cannot be one.

        :param weights: What each row counts.
        :param groups: To which group each row belongs, where rows are held against each other.
        """
        import numpy as np

        if not len(targets) or self.mistake(predicted):
            return dict.fromkeys(self.metrics, math.nan)
        return self.rate(targets, predicted.astype(np.float64), weights, groups)

    @abstractmethod
    def rate(
        self, targets: np.ndarray, predicted: np.ndarray, weights: np.ndarray | None, groups: np.ndarray | None
    ) -> dict[str, float]:
        """Return metric → value of predictions that can be such; see :meth:`score`."""

    @abstractmethod
    def mistake(self, predicted: np.ndarray) -> str:
        """Say what is wrong with predictions that cannot be such; nothing when nothing is."""
