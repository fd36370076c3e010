"""Which of several classes: the probability of each."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow_mlops.exceptions import DataError
from airflow_mlops.problems.base import MOST_CLASSES, Metric, Problem, Tally

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from airflow_mlops.contracts import ColumnProfile, SliceProfile
    from airflow_mlops.engine.data.checks.measures import Measure

_EPSILON = 1e-7
_SUM = 1e-3
"""How far the probabilities of an example may be from 1 in all."""
_FEWEST = 2


class Classes(Tally):
    """How many labels each class has."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def add(self, labels: pa.ChunkedArray) -> None:
        self.rows += len(labels)
        self.counts.update({one["values"]: one["counts"] for one in labels.value_counts().to_pylist()})

    def fields(self) -> dict[str, Any]:
        return {"positives": 0, "labels": {name: float(rows) for name, rows in sorted(self.counts.items())}}


class Multiclass(Problem):
    """Labels are texts, or whole numbers where somebody said that they are classes."""

    name = "multiclass"
    label_type = "string"
    output = "probabilities"
    metrics = {
        "accuracy": Metric("share of rows whose likeliest class is right"),
        "log_loss": Metric("mean negative log likelihood", less_is_better=True),
        "auc": Metric("mean over the classes of how often one of it is ranked above one of another"),
        "f1": Metric("mean over the classes of the harmonic mean of precision and recall"),
        "calibration_error": Metric("how far the likeliest class's probability is from how often it is right", True),
    }
    gates = (
        {"metric": "log_loss", "vs": "baseline", "min_gain": 0.01},
        {"metric": "log_loss", "vs": "champion", "max_drop": 0.05},
    )
    too_good = ("accuracy", 0.9995)
    leak = ("AUC of every class", 0.999)
    ending = 'Dense(len(classes), activation="softmax") and loss="sparse_categorical_crossentropy"'
    not_what = "and names no class"
    label_hint = "Let the feed carry a text or a whole number for each class; and null where it is not known."

    def claims(self, column: pa.ChunkedArray) -> bool:
        import pyarrow as pa

        kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))

    def convert(self, column: pa.ChunkedArray, label: str, where: str) -> pa.ChunkedArray:
        import pyarrow as pa

        kind = column.type
        if not self.claims(column) and not (
            pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_null(kind)
        ):
            raise self.no_label(label, str(kind), where)
        return column.cast(pa.string())

    def claims_profile(self, column: ColumnProfile, *, said: bool) -> bool:
        return column.kind == "category" or (said and (column.type == "bool" or "int" in column.type))

    def check_profile(self, column: ColumnProfile, label: str, where: str) -> None:
        from airflow_mlops.engine.data.profiles import distinct

        if (different := round(distinct(column))) > MOST_CLASSES:
            raise DataError(
                f"The label {label!r} has about {different:,} different values: they are no classes.",
                detail=f"{where}; at most {MOST_CLASSES:,}",
                hint="Name the column that is to be predicted; or group its values.",
            )

    def tally(self) -> Classes:
        return Classes()

    def check_splits(self, tallies: Mapping[str, Classes], wheres: Mapping[str, str], label: str) -> None:
        train = tallies["train"].counts
        if len(train) < 2:
            raise DataError(
                f"The train split has only one class: {', '.join(map(repr, train))}.",
                detail=f"{wheres['train']}, label {label!r}",
                hint="There is nothing to tell apart. Lengthen the split, or see what became of the label.",
            )
        if rare := sorted(name for name, rows in train.items() if rows < _FEWEST):
            raise DataError(
                f"{len(rare)} of {len(train)} classes have a single row in the train split: {_few(rare)}.",
                detail=f"{wheres['train']}, label {label!r}",
                hint="Nothing can be learned of one row. Lengthen the window, or put rare classes together as 'other'.",
            )
        for name, tally in tallies.items():
            if unseen := sorted(set(tally.counts) - set(train)):
                raise DataError(
                    f"The {name} split has classes that the train split does not have: {_few(unseen)}.",
                    detail=f"{wheres[name]}, label {label!r}; {sum(tally.counts[one] for one in unseen)} rows",
                    hint="A model cannot predict them. Lengthen the window, or put rare classes together as 'other'.",
                )

    def check_days(self, rows: pa.Table, event_time: str, label: str, shift: float) -> None:
        import pyarrow.compute as pc

        from airflow_mlops.engine.data.days import check_shares

        for one in sorted(pc.unique(rows[label].combine_chunks()).to_pylist()):
            check_shares(rows, event_time, pc.equal(rows[label], one), f"class {one!r}", shift)

    def count_slices(self, rows: pa.Table, *, said: bool) -> dict[Any, dict[str, Any]]:
        import pyarrow as pa

        label = rows["label"]
        if not self.claims(label):
            if not said or not (pa.types.is_integer(label.type) or pa.types.is_boolean(label.type)):
                return {}
            rows = pa.table({"slice": rows["slice"], "label": label.cast(pa.string())})
        found: dict[Any, dict[str, Any]] = {}
        for row in rows.group_by(["slice", "label"]).aggregate([([], "count_all")]).to_pylist():
            if row["label"] is not None:
                found.setdefault(row["slice"], {"classes": {}})["classes"][row["label"]] = row["count_all"]
        return found

    def join_slices(self, one: SliceProfile, other: SliceProfile) -> dict[str, Any]:
        classes = Counter(one.classes) + Counter(other.classes)
        if len(classes) > MOST_CLASSES:
            raise DataError(
                f"The label has more than {MOST_CLASSES:,} different values: they are no classes.",
                hint="Name another column in Checks(label=...), or group its values.",
            )
        return {"classes": dict(sorted(classes.items()))}

    def measures(self, days: Sequence[SliceProfile]) -> list[Measure]:
        from airflow_mlops.engine.data.checks.measures import ShareMeasure, rate_level

        known = {name for day in days for name in day.classes}

        def rows_of(name: str, counts: SliceProfile) -> tuple[float, float]:
            return counts.classes.get(name, 0), counts.labelled

        def new(counts: SliceProfile) -> tuple[float, float]:
            return sum(rows for name, rows in counts.classes.items() if name not in known), counts.labelled

        expectation = "label_share_as_usual"
        each = [
            ShareMeasure(expectation, partial(rows_of, name), rate_level, f"class {name!r}") for name in sorted(known)
        ]
        # New ones are not named: what was never seen before may be anything.
        return [*each, ShareMeasure(expectation, new, rate_level, "new classes")] if known else []

    def telling(self, column: pa.ChunkedArray, labels: np.ndarray) -> float:
        """A leak tells every class: one class that is told apart by one feature may well be honest."""
        import numpy as np

        from airflow_mlops.engine.data.separation import binned, separation

        codes = binned(column)
        return min(separation(codes, labels == one) for one in np.unique(labels).tolist())

    def classes(self, tallies: Mapping[str, Classes]) -> tuple[str, ...]:
        return tuple(sorted(tallies["train"].counts))

    def targets(self, labels: pa.ChunkedArray, classes: Sequence[str]) -> np.ndarray:
        import numpy as np
        import pyarrow as pa
        import pyarrow.compute as pc

        places = pc.index_in(labels, value_set=pa.array(classes, pa.string()))
        return np.asarray(places.to_numpy(), dtype=np.int64)

    def width(self, classes: Sequence[str]) -> int:
        return len(classes)

    def baseline(self, trained: np.ndarray, classes: Sequence[str]) -> np.ndarray:
        import numpy as np

        return np.bincount(trained, minlength=len(classes)) / max(len(trained), 1)

    def rate(
        self, targets: np.ndarray, predicted: np.ndarray, weights: np.ndarray | None, groups: np.ndarray | None
    ) -> dict[str, float]:
        """AUC and F1 are of the classes that the rows have."""
        import numpy as np
        from sklearn import metrics

        chances = np.clip(predicted, _EPSILON, 1)
        chances /= chances.sum(axis=1, keepdims=True)
        likeliest = chances.argmax(axis=1)
        right = likeliest == targets
        there = np.unique(targets)
        aucs = [
            metrics.roc_auc_score(targets == one, chances[:, one], sample_weight=weights)
            for one in there
            if len(there) > 1
        ]
        return {
            "accuracy": float(np.average(right, weights=weights)),
            "log_loss": float(np.average(-np.log(chances[np.arange(len(targets)), targets]), weights=weights)),
            "auc": float(np.mean(aucs)) if aucs else math.nan,
            "f1": float(
                metrics.f1_score(
                    targets, likeliest, labels=there, average="macro", zero_division=0.0, sample_weight=weights
                )
            ),
            "calibration_error": _calibration_error(chances.max(axis=1), right, weights),
        }

    def mistake(self, predicted: np.ndarray) -> str:
        import numpy as np

        if predicted.ndim != 2:
            return "there is one probability a class"
        if not (np.isfinite(predicted) & (predicted >= 0)).all() or (np.abs(predicted.sum(axis=1) - 1) > _SUM).any():
            return "the probabilities of the classes are not negative, and 1 in all"
        return ""


def _calibration_error(chances: np.ndarray, right: np.ndarray, weights: np.ndarray | None) -> float:
    """Return the expected calibration error in ten bins of equal width (Guo et al., 2017, arXiv:1706.04599)."""
    import numpy as np

    w = np.ones(len(chances)) if weights is None else weights
    bins = np.minimum((chances * 10).astype(int), 9)
    gap = np.bincount(bins, weights=w * (chances - right), minlength=10)
    return float(np.abs(gap).sum() / w.sum())


def _few(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:5])) + (" …" if names[5:] else "")
