"""Values of a column against the days before: another unit, another column's values, another level.

What a day looks like is five quantiles. The usual day is their medians over the days before, and the scale of each is
their spread from day to day, at least a fiftieth of the range that a day covers (the sketches are
not finer) and at least the sampling error. The *misfit* of a day is the median of the five distances (one heavy tail
is weather, a change of unit moves them all) or, if larger, the distance of the logarithm of its range: noisy values
around zero that shrink to a sixtieth of themselves stay near every usual quantile.

A change of unit is found by undoing it: the day does not fit, and does once it is divided by 60. A misfit that nothing
explains is blocked when no day before came near it, unless only the level moved, which warns.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from airflow_mlops.contracts import ColumnProfile, ExpectationOutcome, Profile
from airflow_mlops.engine.data.checks.contract import SchemaContract
from airflow_mlops.engine.data.profiles import distinct, quantiles
from airflow_mlops.engine.data.robust import FAR, median_spread, outcome, rounded

RANKS = (0.05, 0.25, 0.5, 0.75, 0.95)

UNFIT = 8.0
"""Misfit from which on a day is not taken for a usual one."""

FIT = 4.0
"""Misfit up to which a day, once a change is undone, is taken for a usual one."""

_BETTER = 4.0
"""How many times better it must fit then: between a storm and a usual day, some factor always fits a little."""

_UNLIKE = 10.0
"""How many times the largest misfit of the days before (at least 2) is blocked though nothing explains it.

The storms of 2013 reach 6.3."""

ENOUGH_ROWS = 30
"""Fewer rows than this have no shape of their own."""

_A_FEW_VALUES = 10
"""Columns of fewer distinct values than this are categories, such as a month: no quantile of them is near another."""

_UNITS = {
    60.0: "minutes → seconds, or hours → minutes",
    3600.0: "hours → seconds",
    24.0: "days → hours",
    86400.0: "days → seconds",
    1000.0: "a thousandth of the unit, such as seconds → milliseconds",
    1e6: "a millionth of the unit",
    100.0: "dollars → cents, or a share → percent",
    1.609344: "miles → kilometres",
    1.852: "nautical miles → kilometres",
    3.28084: "metres → feet",
    2.54: "inches → centimetres",
    2.20462: "kilograms → pounds",
    3.6: "metres a second → kilometres an hour",
}
_FAMILIES = (
    (
        {"ms", "milliseconds", "s", "seconds", "min", "minutes", "h", "hours", "d", "days"},
        {60.0, 3600.0, 24.0, 86400.0},
    ),
    (
        {"m", "metres", "km", "kilometres", "mi", "miles", "ft", "feet", "in", "inches", "cm"},
        {1.609344, 1.852, 3.28084, 2.54},
    ),
    ({"kg", "kilograms", "lb", "pounds"}, {2.20462}),
    ({"m/s", "km/h"}, {3.6}),
)
"""Units of one dimension, and the factors of ``_UNITS`` between them: minutes never become feet."""

_DEGREES = {"c", "celsius", "f", "fahrenheit", "k", "kelvin"}
_TEMPERATURES = (
    (1.8, 32.0, "Celsius → Fahrenheit"),
    (1 / 1.8, -32 / 1.8, "Fahrenheit → Celsius"),
    (1.0, 273.15, "Celsius → Kelvin"),
    (1.0, -273.15, "Kelvin → Celsius"),
)
"""Factor and offset: what was ``x`` is now ``factor * x + offset``."""

_LEAST_STRETCH = 0.1
"""Spread of the logarithm of the range below which it is taken for sampling: a tenth more or less."""

_SURELY_RISING = 7
"""As many days in rising order are no chance (1 in 5,040)."""

_TIGHT = 1.15
"""Largest ratio of two quantiles' own factors for the factor to be one constant."""

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Usual:
    """Five quantiles of the usual day, how far each lies from it on other days, and the days themselves."""

    quantiles: Numbers
    scale: Numbers
    days: Numbers

    def misfit(self, found: Numbers) -> float:
        """Return how far five quantiles, and the range they span, are from usual, in units of their scale."""
        usual, spread = median_spread(_log_range(self.days))
        stretched = abs(_log_range(found) - usual) / max(spread, _LEAST_STRETCH)
        return max(float(np.median(np.abs(found - self.quantiles) / self.scale)), float(stretched))


def usual_numbers(usual_days: Sequence[Profile]) -> dict[str, Usual]:
    """Return what is usual of each column of numbers; not of those that hold one value, which have no scale."""
    found: dict[str, list[list[float]]] = {}
    rows: dict[str, list[int]] = {}
    for day in usual_days:
        for name, column in day.columns.items():
            if column.kind == "number" and column.min is not None:
                found.setdefault(name, []).append(quantiles(column, RANKS))
                rows.setdefault(name, []).append(column.count - column.nulls)
    usual = {name: _usual(np.array(days), float(np.median(rows[name]))) for name, days in found.items()}
    return {name: one for name, one in usual.items() if one is not None}


def check_numbers(
    profile: Profile,
    usual: Mapping[str, Usual],
    contract: SchemaContract | None = None,
) -> list[ExpectationOutcome]:
    """Look for columns whose values are not those of the days before, and say what happened to them."""
    today = {
        name: np.array(quantiles(column, RANKS))
        for name, column in profile.columns.items()
        if column.kind == "number" and column.min is not None and name in usual
    }
    outcomes = []
    for name, found in today.items():
        misfit = usual[name].misfit(found)
        level, note = _explained(name, found, misfit, usual, contract)
        explained = level == "block"
        if not explained and _unlike_itself(profile.columns[name], found, misfit, usual[name]):
            level, note = "block", f"does not look like itself: {misfit:.0f} times as far from usual as days are apart"
        if level is not None:
            outcomes.append(
                outcome(
                    "unit_unchanged" if explained else "values_as_usual",
                    column=name,
                    level=level,  # type: ignore[arg-type]
                    observed={"quantiles": [rounded(value) for value in found]},
                    bound={"usual": [rounded(value) for value in usual[name].quantiles], "misfit": rounded(misfit)},
                    note=note,
                )
            )
    return outcomes or [outcome("values_as_usual", observed={"columns": len(today)}, bound={"misfit": UNFIT})]


def check_offsets(profile: Profile, usual_days: Sequence[Profile]) -> Iterator[ExpectationOutcome]:
    """Warn of whole numbers whose lowest and highest value, the same on every day, both moved by the same amount."""
    for name, column in profile.columns.items():
        days = [day.columns[name] for day in usual_days if name in day.columns]
        bounds = {(day.min, day.max) for day in days}
        if column.kind != "number" or "int" not in column.type or len(bounds) != 1:
            continue
        [(low, high)] = bounds
        if None in (low, high, column.min, column.max) or low == high:
            continue
        offset = column.min - low  # type: ignore[operator]
        if offset and column.max - high == offset:  # type: ignore[operator]
            yield outcome(
                "values_not_offset",
                column=name,
                level="warn",
                observed={"min": column.min, "max": column.max},
                bound={"min": low, "max": high},
                note=f"lowest and highest value both moved by {offset:+g}: counted from another number?",
            )


def _log_range(quantiles: Numbers) -> Numbers:
    return np.asarray(np.log(np.maximum(quantiles[..., -1] - quantiles[..., 0], 1e-12)))


def _usual(days: Numbers, rows: float) -> Usual | None:
    median, spread = median_spread(days)
    # The median of n normal values has a standard error of 1.25 standard deviations / √n, which is 0.38 of this range.
    least = (median[-1] - median[0]) * max(1 / 50, 0.38 / math.sqrt(rows))
    scale = np.maximum(np.maximum(spread, least), np.abs(median) / 100)
    return Usual(median, scale, days) if median[-1] > median[0] else None


def _unlike_itself(column: ColumnProfile, found: Numbers, misfit: float, own: Usual) -> bool:
    """Say whether the misfit is far beyond that of every day before, and of the shape: a level that moves is none."""
    middle = len(RANKS) // 2
    rising = bool(np.all(np.diff(np.append(own.days[:, middle], found[middle])) >= 0))
    few = column.count - column.nulls < ENOUGH_ROWS or distinct(column) < _A_FEW_VALUES
    if misfit < UNFIT or rising or few or own.misfit(found - (found[middle] - own.quantiles[middle])) <= FIT:
        return False
    return misfit >= _UNLIKE * max(2.0, *(own.misfit(day) for day in own.days))


def _explained(
    name: str, found: Numbers, misfit: float, usual: Mapping[str, Usual], contract: SchemaContract | None
) -> tuple[str | None, str]:
    """Return how bad it is, and what happened; nothing when the day fits, or moves on as the days before did."""
    own = usual[name]
    if misfit >= UNFIT and found[-1] > found[0]:  # a single value has no shape to be recognised by
        unit = contract.columns[name].unit if contract is not None and name in contract.columns else None
        fits = {**_as_other_columns(name, found, usual), **_as_other_units(found, own, unit)}
        fitting = [words for words, its in fits.items() if its <= min(FIT, misfit / _BETTER)]
        if fitting:
            best = min(fitting, key=lambda words: (unit is None or unit not in words, fits[words]))
            return "block", best + (f"; the contract says {unit}" if unit else "")
    middle = len(RANKS) // 2
    reach = float(own.quantiles[3] - own.quantiles[1])
    shift = float(found[middle] - own.quantiles[middle])
    levels = np.append(own.days[:, middle], found[middle])
    if len(levels) > _SURELY_RISING and np.all(np.diff(levels[:-1]) > 0) and levels[-1] < levels[-2]:
        return (
            "warn",
            "its median rose from each day to the next and now fell: a counter that was reset, or a difference?",
        )
    far = abs(shift) >= max(reach, FAR * float(own.scale[middle]))
    if far and not np.all(np.diff(levels) >= 0):  # a month, a serial number or a meter moves on
        return "warn", f"the median moved by {rounded(shift):+g}, {abs(shift) / (reach or 1):.1f} usual quartile ranges"
    return None, ""


def _as_other_columns(name: str, found: Numbers, usual: Mapping[str, Usual]) -> dict[str, float]:
    """Return what could have happened → how far the day is from usual if it did: columns shifted or swapped."""
    return {
        f"holds what {other!r} usually holds: were columns shifted or swapped?": its.misfit(found)
        for other, its in usual.items()
        if other != name
    }


def _as_other_units(found: Numbers, usual: Usual, unit: str | None) -> dict[str, float]:
    """Return what could have happened → how far the day is from usual once it is undone: a change of unit.

    Temperatures are tried where the contract says that it is one: a factor with an offset fits many a storm.
    """
    units = _possible(unit)
    changes = {f"a factor of {factor:g} ({words})": (factor, 0.0) for factor, words in units.items()}
    changes |= {f"a factor of 1/{factor:g} (undoes {words})": (1 / factor, 0.0) for factor, words in units.items()}
    changes["the sign"] = (-1.0, 0.0)
    if unit is not None and unit.casefold().strip("° ") in _DEGREES:
        changes |= {words: (factor, offset) for factor, offset, words in _TEMPERATURES}
    fits = {
        f"changed by {words}": usual.misfit(np.sort((found - offset) / factor))
        for words, (factor, offset) in changes.items()
    }
    fitted = _constant_factor(found, usual)
    if fitted is not None and min(fits.values()) > FIT:  # else it is an estimate of a known one
        fits[f"changed by a constant factor of {fitted:.3g}"] = usual.misfit(found / fitted)
    return fits


def _possible(unit: str | None) -> dict[float, str]:
    """Return the changes of unit that a column may have seen: of its own dimension where the contract names it."""
    named = (unit or "").casefold().strip()
    others = {factor for units, factors in _FAMILIES if named not in units for factor in factors}
    known = any(named in units for units, _ in _FAMILIES)
    return {factor: words for factor, words in _UNITS.items() if not known or factor not in others}


def _constant_factor(found: Numbers, usual: Usual) -> float | None:
    """Return the factor that all quantiles grew by, if it is one and not near 1."""
    clear = np.abs(usual.quantiles) > 2 * usual.scale
    factors = found[clear] / usual.quantiles[clear]
    if len(factors) < 3 or factors.min() <= 0 or factors.max() > factors.min() * _TIGHT:
        return None
    factor = float(np.median(factors))
    return factor if abs(math.log(factor)) > math.log(1.5) else None
