"""All checks of one landed day in one call."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

from airflow_mlops.contracts import ExpectationOutcome, Profile, ValidationResult, content_hash
from airflow_mlops.engine.data.checks.age import check_age, check_repeated
from airflow_mlops.engine.data.checks.categories import check_categories
from airflow_mlops.engine.data.checks.contract import SchemaContract, check_schema
from airflow_mlops.engine.data.checks.distribution import Usual, check_numbers, check_offsets, usual_numbers
from airflow_mlops.engine.data.checks.labels import check_labels
from airflow_mlops.engine.data.checks.likeness import check_likeness
from airflow_mlops.engine.data.checks.references import ENOUGH, comparable
from airflow_mlops.engine.data.checks.rows import check_duplicates, check_infinities, check_near_unique, check_nulls
from airflow_mlops.engine.data.checks.sql import Source, check_invariants
from airflow_mlops.engine.data.checks.volume import check_rows, check_slices
from airflow_mlops.engine.data.robust import outcome, unknown
from airflow_mlops.exceptions import DataError, did_you_mean
from airflow_mlops.problems import PROBLEMS

SUITE = "history"


def run_checks(
    profile: Profile,
    references: Sequence[Profile],
    *,
    slices: Sequence[str] = (),
    label: str | None = None,
    problem: str = "",
    unique: Sequence[str] = (),
    identifiers: Sequence[str] = (),
    volatile: Sequence[str] = (),
    invariants: Mapping[str, str] | None = None,
    files: Source | None = None,
    contract: SchemaContract | None = None,
    event_time: str | None = None,
    interval: tuple[datetime, datetime] | None = None,
    written_at: datetime | None = None,
    late: Sequence[str] = (),
) -> list[ExpectationOutcome]:
    """Hold a day against the valid days before it, against rules across its columns, and against its contract.

    With fewer than three days to compare with, that is reported and succeeds: the first days must be able to land.

    :param references: What :func:`~airflow_mlops.engine.data.checks.references.references` returned.
    :param slices, label, unique, identifiers, volatile, invariants: As in :class:`~airflow_mlops.parts.Checks`;
        the profile must have been made with the same slices, label and unique key.
    :param problem: Problem type of the label, if the profile was made with it.
    :param files: The Parquet files, or a table, that the invariants are evaluated on.
    :param event_time: Column of the event times; its age is checked when ``interval`` is given too.
    :param written_at: When the newest file was written, by the clock of its storage.
    :param late: Columns that are known later than their rows, such as a label: neither their nulls nor what the few
        first values are like is held against earlier days.
    """
    if not profile.rows:
        note = "there are no rows, as may be of this feed: there is nothing to compare"
        return [outcome("compared_with_history", at_worst="info", observed=0, note=note)]
    outcomes = [*check_near_unique(profile, [*identifiers, *unique])]
    if contract is not None:
        outcomes += check_schema(contract, profile, usual=references[-1] if references else None)
    if invariants:
        outcomes += _invariants(files, invariants)
    if event_time is not None and interval is not None:
        outcomes.append(check_age(profile, references, event_time, interval, written_at))
    outcomes += _unique(profile, references, unique)
    if len(references) < ENOUGH:
        note = f"not enough history yet: {len(references)} of {ENOUGH} valid days to compare with"
        return [*outcomes, outcome("compared_with_history", at_worst="info", observed=len(references), note=note)]
    # Whole numbers that are classes have no level and no unit.
    names = [label] if label and problem and PROBLEMS[problem].label_type == "string" else []
    return [
        *outcomes,
        *_history(profile, references, slices, label, problem, late=late),
        *check_numbers(
            profile, _without([*volatile, *names, *late], usual_numbers(comparable(profile, references))), contract
        ),
        *check_likeness(profile, references, label),
        *check_categories(profile, references, slices, skip={*identifiers, *unique, *volatile, *late}),
    ]


def as_result(
    outcomes: Sequence[ExpectationOutcome],
    rows: int,
    *,
    batch: str,
    batch_hash: str,
    parameters: Mapping[str, object],
    suite: str = SUITE,
) -> ValidationResult:
    """Return the outcomes as a validation result.

    :param parameters: What the checks were configured with; their hash is the result's ``suite_hash``.
    """
    return ValidationResult(
        suite=suite,
        suite_hash=content_hash(dict(parameters)),
        batch=batch,
        batch_hash=batch_hash,
        rows=rows,
        outcomes=tuple(outcomes),
        engine="profile",
    )


def _history(
    profile: Profile,
    references: Sequence[Profile],
    slices: Sequence[str],
    label: str | None,
    problem: str,
    *,
    late: Sequence[str],
) -> Iterator[ExpectationOutcome]:
    """Compare with the same weekdays what follows the week, and with all days what does not."""
    days = comparable(profile, references)
    yield check_rows(profile, days)
    for column in slices:
        if column in profile.slices:
            yield from check_slices(profile, days, column, references)
        else:
            error = f"the profile has no slices by {column!r}.{did_you_mean(column, profile.columns)}"
            yield unknown("slice_rows_as_usual", error, column=column)
    if label is not None:
        yield from check_labels(
            profile, references, label, [name for name in slices if name in profile.slices], problem
        )
    yield from check_nulls(profile, references, late)
    yield from check_infinities(profile, references)
    yield from check_offsets(profile, references)
    yield check_repeated(profile, references)


def _without(columns: Sequence[str], usual: Mapping[str, Usual]) -> dict[str, Usual]:
    return {name: one for name, one in usual.items() if name not in columns}


def _unique(profile: Profile, references: Sequence[Profile], unique: Sequence[str]) -> Iterator[ExpectationOutcome]:
    if not unique:
        return
    if profile.duplicates is None or tuple(profile.unique) != tuple(unique):
        missing = [name for name in unique if name not in profile.columns]
        error = "the profile has not counted repeated keys"
        if missing:
            error = f"there is no column {missing[0]!r}.{did_you_mean(missing[0], profile.columns)}"
        yield unknown("duplicates_as_usual", error, column=", ".join(unique))
    else:
        yield check_duplicates(profile, [day for day in references if day.unique == profile.unique])


def _invariants(files: Source | None, invariants: Mapping[str, str]) -> list[ExpectationOutcome]:
    if files is None:
        return [unknown(f"invariant:{name}", "there are no files to evaluate it on") for name in invariants]
    try:
        return check_invariants(files, invariants)
    except DataError as error:
        return [unknown(f"invariant:{name}", error.headline) for name in invariants]
