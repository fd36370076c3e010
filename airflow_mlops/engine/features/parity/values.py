"""Two values of one feature, and whether they are alike."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from airflow_mlops.contracts import FeatureParity
from airflow_mlops.engine.features.governance.tags import readable
from airflow_mlops.engine.features.project.schema import FeatureRepo, OnDemandSchema, ViewSchema

ABSOLUTE = 1e-9
RELATIVE = 1e-6
"""Of floats: single precision, and sums in another order, stay within it."""

_EXAMPLES = 5
_SECOND = timedelta(seconds=1)


@dataclass(frozen=True)
class Tolerances:
    """Largest absolute differences: by feature view and feature, by feature view, and of all others."""

    features: Mapping[tuple[str, str], float]
    views: Mapping[str, float]
    default: float

    @classmethod
    def of(cls, repo: FeatureRepo, default: float | None) -> Tolerances:
        """Read the tags ``parity_tolerance`` of a repository."""
        tag = "parity_tolerance"
        views: dict[str, ViewSchema | OnDemandSchema] = {**repo.views, **repo.on_demand}

        def said(tags: Mapping[str, str]) -> bool:
            return tag in readable(tags)

        return cls(
            features={
                (name, feature): float(tags[tag])
                for name, view in views.items()
                for feature, tags in view.feature_tags.items()
                if said(tags)
            },
            views={name: float(view.tags[tag]) for name, view in views.items() if said(view.tags)},
            default=ABSOLUTE if default is None else default,
        )

    def for_feature(self, view: str, feature: str) -> float:
        """Return what goes for a feature."""
        return self.features.get((view, feature), self.views.get(view, self.default))


@dataclass
class Comparison:
    """What was found of one feature."""

    feature: str
    view: str
    tolerance: float
    compared: int = 0
    differing: int = 0
    missing_online: int = 0
    missing_offline: int = 0
    wrong_type: int = 0
    largest: float | None = None
    types: set[str] = field(default_factory=set)
    unlike: list[int] = field(default_factory=list)

    def hold(self, served: Sequence[Any], trained: Sequence[Any], kind: str) -> None:
        """Compare the values of the feature, row by row.

        Missing is None or NaN: Feast stores NaN as no value. Numbers may differ by the tolerance, floats also by a
        millionth of themselves. Times are stored in whole seconds. All else is alike when it is equal, and numbers
        in lists as numbers are.

        :param served: What a model gets.
        :param trained: What training reads.
        :param kind: Arrow type of the feature.
        """
        wanted = _python_type(kind)
        for row, (online, offline) in enumerate(zip(served, trained, strict=True)):
            if _missing(online) and _missing(offline):
                continue
            if _missing(online):
                self.missing_online += 1
            elif _missing(offline):
                self.missing_offline += 1
            elif not self._compared(online, offline, wanted):
                continue
            self.unlike.append(row)

    def _compared(self, online: Any, offline: Any, wanted: type | None) -> bool:
        """Compare two values that are there; return whether they are unlike."""
        self.compared += 1
        distance = _distance(online, offline)
        if distance is not None:
            self.largest = max(distance, self.largest or 0.0)
        if wanted is not None and type(online) is not wanted:
            self.wrong_type += 1
            self.types.add(type(online).__name__)
            return True
        if not alike(online, offline, self.tolerance):
            self.differing += 1
            return True
        return False

    def to_record(self, ids: Sequence[str]) -> FeatureParity:
        """Return it with the ids of some of the entities that are not alike, where they have any."""
        return FeatureParity(
            feature=self.feature,
            view=self.view,
            compared=self.compared,
            differing=self.differing,
            missing_online=self.missing_online,
            missing_offline=self.missing_offline,
            wrong_type=self.wrong_type,
            tolerance=self.tolerance,
            largest=self.largest,
            types=tuple(sorted(self.types)),
            examples=tuple(dict.fromkeys(ids[row] for row in self.unlike if ids))[:_EXAMPLES],
        )


def alike(one: Any, other: Any, tolerance: float = ABSOLUTE) -> bool:
    """Return whether two values that are both there are alike."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, float) or isinstance(other, float):
        if not (isinstance(one, (int, float)) and isinstance(other, (int, float))):
            return False
        return math.isclose(one, other, rel_tol=RELATIVE, abs_tol=tolerance)
    if isinstance(one, int) and isinstance(other, int):
        return abs(one - other) <= tolerance
    if isinstance(one, datetime) and isinstance(other, datetime):
        return abs(one - other) < _SECOND
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(alike(a, b, tolerance) for a, b in zip(one, other, strict=True))
    return bool(one == other)


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _distance(one: Any, other: Any) -> float | None:
    numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in (one, other))
    if not numbers:
        return None
    distance = abs(one - other)
    return float(distance) if math.isfinite(distance) else None


def _python_type(kind: str) -> type | None:
    if kind in ("double", "float", "halffloat"):
        return float
    if kind.startswith(("int", "uint")):
        return int
    return {"bool": bool, "string": str, "large_string": str, "binary": bytes}.get(kind)
