"""What labels are like and how many rows have one, of the whole day and of every slice, against the days before.

What is compared differs by problem type: the rate of truths, the share of each class, the mean of numbers. A slice is
measured against the rest of the same day, so that a storm that makes every carrier late is no news of any one of them.
Of a share it blocks that nine tenths of it, or of what it is not, are gone; less than that happens by weather and only
warns.

Measured on the arrivals of 2013 (337 days, late by more than 15 minutes): by carrier, by airport and overall nothing
is blocked; by destination two of 35,048 are, both real (all flights to Boston late in the snow of 8 March, those to
Chicago in the storm of 10 April). Ten days and slices warn. With 95 % of the positives removed, a carrier of which ten
or more were expected is blocked in about 85 of 100 cases; fewer are too few to tell.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import reduce

from airflow_mlops.contracts import ExpectationOutcome, Profile, SliceProfile
from airflow_mlops.engine.data.checks.measures import Compared, Counted, Measure, ShareMeasure, coverage_level
from airflow_mlops.engine.data.profiles import label_rate, null_rate
from airflow_mlops.engine.data.profiles.slices import joined
from airflow_mlops.engine.data.robust import outcome, unknown
from airflow_mlops.exceptions import did_you_mean
from airflow_mlops.problems import PROBLEMS

_NONE = SliceProfile(rows=0)


def check_labels(
    profile: Profile, usual_days: Sequence[Profile], label: str, slices: Sequence[str], problem: str = ""
) -> list[ExpectationOutcome]:
    """Compare labels and their coverage with the usual ones.

    :param problem: Problem type of the label, where somebody said it.
    """
    if profile.label != label or label not in profile.columns:
        missing = f"there is no label {label!r} in the profile.{did_you_mean(label, profile.columns)}"
        return [unknown("label_rate_as_usual", missing, column=label)]
    days = [day for day in usual_days if day.label == label and label in day.columns]
    if not days:
        note = "no day before has this label"
        return [outcome("label_rate_as_usual", column=label, at_worst="info", note=note)]
    coverage = ShareMeasure("label_coverage_as_usual", lambda counts: (counts.labelled, counts.rows), coverage_level)
    return [
        *_compare(_measures(profile, days, label, problem), label, profile, days, slices),
        *_compare([coverage], label, profile, days, slices),
    ]


def _measures(profile: Profile, days: Sequence[Profile], label: str, problem: str) -> list[Measure]:
    """Return what there is to compare of a label: of its problem type, or the first that it can be on all days."""
    columns = [day.columns[label] for day in (profile, *days) if day.columns[label].type != "null"]
    wholes = [_whole(day) for day in days]
    # Whole numbers are a label only where somebody says of which type.
    tried = [(PROBLEMS[problem], True)] if problem else []
    for one, said in [*tried, *((one, said) for said in (False, True) for one in PROBLEMS.values())]:
        if all(one.claims_profile(column, said=said) for column in columns) and (measures := one.measures(wholes)):
            return measures
    return []


def _compare(
    measures: Sequence[Measure], label: str, profile: Profile, days: Sequence[Profile], slices: Sequence[str]
) -> Iterator[ExpectationOutcome]:
    today, before = _whole(profile), [_whole(day) for day in days]
    if not measures:
        note = "no day before has counted such labels by slice"
        yield outcome("label_rate_as_usual", column=label, at_worst="info", note=note)
        return
    overall = [one.compare(Counted(today), [Counted(day) for day in before]) for one in measures]
    yield from _answers(measures, label, overall, "all rows", alone=len(measures) == 1)
    for column in slices:
        sliced = [(day, whole) for day, whole in zip(days, before, strict=True) if column in day.slices]
        found: list[ExpectationOutcome] = []
        judged = 0
        for value in sorted(profile.slices[column]):
            own = Counted(profile.slices[column][value], today)
            history = [Counted(day.slices[column].get(value, _NONE), whole) for day, whole in sliced]
            compared = [one.compare(own, history) for one in measures]
            judged += any(one is not None for one in compared)
            found += _answers(measures, label, compared, f"slice {value!r} of {column!r}", alone=True)
        shifted = [answer for answer in found if not answer.success]
        yield from shifted
        if not shifted:
            note = f"each slice of {column!r}"
            yield outcome(measures[0].expectation, column=label, observed={"slices": judged}, note=note)


def _answers(
    measures: Sequence[Measure], label: str, compared: Sequence[Compared | None], where: str, *, alone: bool
) -> list[ExpectationOutcome]:
    """Return the outcome of each measure; or of those that are not as usual, or one for all, unless ``alone``."""
    found = [
        outcome(
            one.expectation, column=label, level=said.level, observed=said.observed, bound=said.bound,
            note=f"{where}: {said.note}",
        )
        for one, said in zip(measures, compared, strict=True)
        if said is not None
    ]  # fmt: skip
    if alone or not found:
        return found
    shifted = [answer for answer in found if not answer.success]
    return shifted or [outcome(measures[0].expectation, column=label, observed={"of": len(found)}, note=where)]


def _whole(day: Profile) -> SliceProfile:
    for values in day.slices.values():
        if values:
            return reduce(joined, values.values()).model_copy(update={"rows": day.rows})
    assert day.label is not None  # the caller compared it
    labelled = round(day.rows * (1 - null_rate(day.columns[day.label])))
    return SliceProfile(rows=day.rows, labelled=labelled, positives=round(labelled * (label_rate(day) or 0)))
