"""Label rate and label coverage, of the whole day and of every slice, against the days before.

A slice is measured by its log odds against the rest of the same day, so that a storm that makes every carrier late
is no news of any one of them. What blocks is that nine tenths of the positives, or of the negatives, are gone; less
than that happens by weather and only warns.

Measured on the arrivals of 2013 (337 days, late by more than 15 minutes): by carrier, by airport and overall nothing
is blocked; by destination two of 35,048 are, both real (all flights to Boston late in the snow of 8 March, those to
Chicago in the storm of 10 April). Ten days and slices warn. With 95 % of the positives removed, a carrier of which ten
or more were expected is blocked in about 85 of 100 cases; fewer are too few to tell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from airflow_mlops.contracts import ExpectationOutcome, Profile, Severity, SliceProfile
from airflow_mlops.engine.data.checks.robust import FAR, RateShift, Share, logit, outcome, rate_shift, rounded, unknown
from airflow_mlops.engine.data.profiles import label_rate, null_rate
from airflow_mlops.exceptions import did_you_mean

GONE = 0.1
"""Share of the usual positives, or negatives, at which a label rate is blocked."""

VERY_FAR = 5.0
"""Robust distance from which on a label rate is blocked: of a hundred small slices, one a month reaches 4."""

COVERAGE_LOST = 0.5
"""Share of the usual label coverage at which it is blocked."""

_NONE = SliceProfile(rows=0)


def check_labels(
    profile: Profile, usual_days: Sequence[Profile], label: str, slices: Sequence[str]
) -> list[ExpectationOutcome]:
    """Compare label rate and coverage with the usual ones."""
    if profile.label != label or label not in profile.columns:
        missing = f"there is no label {label!r} in the profile.{did_you_mean(label, profile.columns)}"
        return [unknown("label_rate_as_usual", missing, column=label)]
    days = [day for day in usual_days if day.label == label and label in day.columns]
    if not days:
        note = "no day before has this label"
        return [outcome("label_rate_as_usual", column=label, at_worst="info", note=note)]
    return [
        *_compare(_Check("label_rate_as_usual", label, _positives, _rate_level), profile, days, slices),
        *_compare(_Check("label_coverage_as_usual", label, _labelled, _coverage_level), profile, days, slices),
    ]


@dataclass(frozen=True)
class _Check:
    """A share to compare: what is counted, and how bad a shift of it is."""

    expectation: str
    label: str
    count: Callable[[SliceProfile], Share]
    judge: Callable[[RateShift], Severity | None]


def _compare(
    check: _Check, profile: Profile, days: Sequence[Profile], slices: Sequence[str]
) -> Iterator[ExpectationOutcome]:
    today, before = check.count(_whole(profile)), [check.count(_whole(day)) for day in days]
    overall = rate_shift(today, before)
    if overall is not None:
        yield _answer(check, overall, "all rows")
    for column in slices:
        sliced = [(day, whole) for day, whole in zip(days, before, strict=True) if column in day.slices]
        shifts = {
            value: rate_shift(
                _against_rest(check, profile, today, column, value),
                [_against_rest(check, day, whole, column, value) for day, whole in sliced],
            )
            for value in sorted(profile.slices[column])
        }
        answers = [
            _answer(check, shift, f"slice {value!r} of {column!r}")
            for value, shift in shifts.items()
            if shift is not None
        ]
        shifted = [answer for answer in answers if not answer.success]
        yield from shifted
        if not shifted:
            note = f"each slice of {column!r}"
            yield outcome(check.expectation, column=check.label, observed={"slices": len(answers)}, note=note)


def _answer(check: _Check, shift: RateShift, where: str) -> ExpectationOutcome:
    return outcome(
        check.expectation,
        column=check.label,
        level=check.judge(shift),
        observed=rounded(shift.rate),
        bound={"usual": rounded(shift.usual), "distance": rounded(shift.distance), "far": FAR},
        note=f"{where}: {shift.rate:.2%}, usual {shift.usual:.2%}",
    )


def _rate_level(shift: RateShift) -> Severity | None:
    if abs(shift.distance) < FAR:
        return None
    gone = shift.rate <= GONE * shift.usual or 1 - shift.rate <= GONE * (1 - shift.usual)
    return "block" if gone and abs(shift.distance) >= VERY_FAR else "warn"


def _coverage_level(shift: RateShift) -> Severity | None:
    if shift.distance > -FAR:
        return None
    return "block" if shift.rate <= COVERAGE_LOST * shift.usual else "warn"


def _positives(counts: SliceProfile) -> Share:
    return Share(counts.positives, counts.labelled)


def _labelled(counts: SliceProfile) -> Share:
    return Share(counts.labelled, counts.rows)


def _against_rest(check: _Check, day: Profile, whole: Share, column: str, value: str) -> Share:
    own = check.count(day.slices[column].get(value, _NONE))
    return Share(own.hits, own.rows, logit(whole.hits - own.hits, whole.rows - own.rows))


def _whole(day: Profile) -> SliceProfile:
    for values in day.slices.values():
        return SliceProfile(
            rows=day.rows,
            labelled=sum(counts.labelled for counts in values.values()),
            positives=sum(counts.positives for counts in values.values()),
        )
    assert day.label is not None  # the caller compared it
    labelled = round(day.rows * (1 - null_rate(day.columns[day.label])))
    return SliceProfile(rows=day.rows, labelled=labelled, positives=round(labelled * (label_rate(day) or 0)))
