"""Windows of bad data that no training set may contain: they stay until somebody lifts them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta

from airflow_mlops.contracts import Exclusion, content_hash
from airflow_mlops.engine.data.announcements import require
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.exceptions import ConfigError, did_you_mean
from airflow_mlops.partitioning import DAILY, Partitioning

EXCLUDED = "exclusion"
LIFTED = "exclusion_lifted"


def exclude(  # noqa: PLR0917  the order is that of the sentence: what, from, to, why, who
    ledger: Ledger, dataset: str, start: datetime, end: datetime, reason: str, who: str
) -> Exclusion:
    """Exclude the rows of a dataset with event times in ``[start, end)``; the same window again changes nothing.

    The dataset need not be known: a window may be excluded before its first day is sealed. Where a person types its
    name, check it first: :func:`~airflow_mlops.engine.data.sources.require_dataset`.

    :returns: The exclusion; the one that is in force already when there is one of the same window.
    :raises ConfigError: when a bound is no moment with a time zone, the window is empty, or reason or who are.
    """
    require(f"The exclusion of data of {dataset!r}", dataset=dataset, reason=reason, who=who)
    start, end = _in_utc(dataset, start), _in_utc(dataset, end)
    if start >= end:
        raise ConfigError(
            f"The window to exclude from {dataset!r} is empty.",
            detail=f"start {start.isoformat()}, end {end.isoformat()}",
            hint="The end is exclusive: one day ends at midnight of the next.",
        )
    # The id is that of the window, so that two people who exclude it at the same moment agree on it.
    identity = content_hash([dataset, start.isoformat(), end.isoformat()])[:12]
    for present in exclusions(ledger, dataset):
        if present.id == identity:
            return present
    made = Exclusion(id=identity, dataset=dataset, start=start, end=end, reason=reason, who=who)
    ledger.record(EXCLUDED, dataset, made.model_dump(mode="json"), key=identity)
    return made


def lift(ledger: Ledger, exclusion_id: str, reason: str, who: str) -> Exclusion:
    """End an exclusion, so that its rows may be trained on again; lifting it once more changes nothing.

    :returns: The exclusion as it was.
    :raises ConfigError: when there is none of that id, or it, reason or who are empty.
    """
    require(f"The lifting of exclusion {exclusion_id!r}", id=exclusion_id, reason=reason, who=who)
    made = ledger.facts(EXCLUDED, key=exclusion_id, limit=1)
    if not made:
        known = {fact.key: fact.subject for fact in ledger.facts(EXCLUDED, limit=None)}
        raise ConfigError(
            f"There is no exclusion {exclusion_id!r}.{did_you_mean(exclusion_id, known)}",
            detail=f"known: {', '.join(f'{key} ({dataset})' for key, dataset in known.items()) or 'none'}",
            hint="Take the id from the list of exclusions.",
        )
    exclusion = Exclusion.model_validate(made[0].payload)
    lifted = ledger.facts(LIFTED, exclusion.dataset, key=exclusion_id, limit=1)
    if not lifted or lifted[0].id < made[0].id:
        ledger.record(LIFTED, exclusion.dataset, {"reason": reason, "who": who}, key=exclusion_id)
    return exclusion


def window_of_days(first: date, last: date) -> tuple[datetime, datetime]:
    """Return begin and end, in UTC, of a window that is named by its first and last day.

    :raises ConfigError: when it ends before it begins.
    """
    if last < first:
        raise ConfigError(
            "The window ends before it begins.", detail=f"{first} to {last}", hint="Name the earlier day first."
        )
    start, end = (datetime(day.year, day.month, day.day, tzinfo=UTC) for day in (first, last))
    return start, end + timedelta(days=1)


def excluded_as(ledger: Ledger, dataset: str, start: datetime, end: datetime) -> Exclusion:
    """Return the exclusion in force of just this window.

    :raises ConfigError: when there is none, naming those that there are.
    """
    present = exclusions(ledger, dataset)
    found = [one for one in present if (one.start, one.end) == (start, end)]
    if not found:
        windows = [f"{one.start:%Y-%m-%d %H:%M} to {one.end:%Y-%m-%d %H:%M} UTC" for one in present]
        raise ConfigError(
            f"Nothing of {dataset!r} is excluded from {start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC.",
            detail=f"excluded: {', '.join(windows) or 'nothing'}",
            hint="An exclusion is lifted whole: name its first and its last day.",
        )
    return found[0]


def check_something_left(  # noqa: PLR0917
    ledger: Ledger, dataset: str, start: datetime, end: datetime, keys: Iterable[str], partitioning: Partitioning
) -> None:
    """Refuse a window that, with those excluded already, leaves nothing of all that is sealed.

    :param keys: Keys of the sealed partitions; of none nothing is refused.
    :raises ConfigError: when it would.
    """
    asked = Exclusion(id="", dataset=dataset, start=start, end=end, reason="asked", who="asked")
    sealed, gone = set(keys), excluded_keys([*exclusions(ledger, dataset), asked], partitioning)
    if sealed and sealed <= gone:
        raise ConfigError(
            f"Nothing of {dataset!r} would be left to train on.",
            detail=f"from {start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC, beside what is excluded already, are all "
            f"{len(sealed)} sealed partitions",
            hint="Exclude less. To stop training, halt the model.",
        )


def outside(start: datetime, end: datetime, keys: Iterable[str], partitioning: Partitioning) -> str:
    """Say that a window has no sealed partition in it, as one of another year; empty when it has, or none is sealed.

    It may be meant: what is sealed later is left out too.

    :param keys: Keys of the sealed partitions.
    """
    sealed = sorted(keys)
    spans = map(partitioning.interval, sealed)
    if not sealed or any(begin < end and start < until for begin, until in spans):
        return ""
    return f"No sealed partition lies in it: the {len(sealed)} that there are go from {sealed[0]} to {sealed[-1]}."


def exclusions(ledger: Ledger, dataset: str) -> list[Exclusion]:
    """Return the exclusions in force for a dataset, earliest start first."""
    lifted: dict[str, int] = {}
    for fact in ledger.facts(LIFTED, dataset, limit=None):
        lifted.setdefault(fact.key, fact.id)
    latest: dict[str, Exclusion] = {}
    for fact in ledger.facts(EXCLUDED, dataset, limit=None):
        if fact.key not in latest and fact.id > lifted.get(fact.key, 0):
            latest[fact.key] = Exclusion.model_validate(fact.payload)
    return sorted(latest.values(), key=lambda exclusion: (exclusion.start, exclusion.end))


def excluded_keys(exclusions: Iterable[Exclusion], partitioning: Partitioning = DAILY) -> set[str]:
    """Return the keys of the partitions that lie wholly inside the exclusions of a dataset, taken together."""
    windows: list[tuple[datetime, datetime]] = []
    for exclusion in sorted(exclusions, key=lambda exclusion: exclusion.start):
        start, end = exclusion.start, exclusion.end
        if windows and start <= windows[-1][1]:
            last_start, last_end = windows.pop()
            start, end = last_start, max(last_end, end)
        windows.append((start, end))
    return {key for start, end in windows for key in partitioning.within(start, end)}


def left_out(ledger: Ledger, dataset: str, partitioning: Partitioning = DAILY) -> set[str]:
    """Return the keys of the partitions of a dataset that are excluded whole: one query where nothing ever was."""
    if not ledger.facts(EXCLUDED, dataset, limit=1):
        return set()
    return excluded_keys(exclusions(ledger, dataset), partitioning)


def _in_utc(dataset: str, bound: datetime) -> datetime:
    if not isinstance(bound, datetime):  # a date, say
        raise ConfigError(
            f"A bound of the window to exclude from {dataset!r} is not a moment.",
            detail=f"{bound!r} of type {type(bound).__name__}",
            hint="Pass a datetime with its time zone: a day begins at datetime(2013, 1, 5, tzinfo=UTC).",
        )
    if bound.tzinfo is None:
        raise ConfigError(
            f"A bound of the window to exclude from {dataset!r} has no time zone.",
            detail=bound.isoformat(),
            hint="Give it one, as in 2013-01-05T00:00+00:00.",
        )
    return bound.astimezone(UTC)
