"""Make a plan: look at every partition of a window, predict what it takes, and find who saw what it replaces."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from airflow_mlops.engine.backfill.plan import WORK, Estimate, Order, Plan, Seen, Step, keep
from airflow_mlops.engine.backfill.survey import Site, survey
from airflow_mlops.engine.data.lateness import SNAPSHOT, VERDICT
from airflow_mlops.engine.history.pace import FEATURES, pace
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.engine.serving.deployments import kept_versions
from airflow_mlops.exceptions import ConfigError

if TYPE_CHECKING:
    from airflow_mlops.feeds import Feed

APPROVE_ABOVE = 31
"""So many partitions a backfill may work on that nobody approved, unless a version that is in use saw some."""


def plan_backfill(
    site: Site,
    first: date | None,
    last: date | None,
    *,
    who: str,
    order: Order = "oldest",
    ordered: bool = False,
    hourly_price: float = 0.0,
    approve_above: int = APPROVE_ABOVE,
) -> Plan:
    """Plan a window, keep the plan in the ledger, and return it. Nothing else is changed.

    :param first, last: Days of the source's zone, both included; None: its first, and the last that has ended whole.
    :param who: Who asks.
    :param order: Which partitions come first; features come after all partitions.
    :param ordered: Whether one that fails stops those after it.
    :param hourly_price: What an hour of one process costs, in any currency; 0: it is not priced.
    :param approve_above: From how many partitions on a person must approve.
    :raises ConfigError: when there is no such window, or nothing of it is left.
    :raises DataError: when what has landed cannot be read.
    :raises TransientError: when the ledger, a storage or a database does not answer.
    """
    now = datetime.now(UTC)
    first, last = first or site.pipeline.source.start, last or _last_ended(site.pipeline.source, now)
    _check_window(site, first, last, now)
    steps = survey(site, *site.pipeline.source.partitioning.span(first, last))
    if all(step.state == "excluded" for step in steps):
        raise ConfigError(
            f"All of {first} to {last} is excluded: there is nothing to work on.",
            detail=f"{len(steps)} partitions",
            hint="Lift the exclusion first, or choose other days.",
        )
    plan = Plan(
        model=site.pipeline.model,
        first=first,
        last=last,
        order=order,
        ordered=ordered,
        who=who,
        at=now,
        code=site.code.whole,
        steps=tuple(steps),
        estimates=_estimates(site, [step for step in steps if step.state in WORK]),
        hourly_price=hourly_price,
        seen=(*who_saw(site.ledger, steps), *who_learned(site.ledger, steps)),
        approve_above=approve_above,
    )
    keep(site.ledger, plan)
    return plan


def _last_ended(source: Feed, now: datetime) -> date:
    """Return the last day of the last partition that has ended by now."""
    ended = source.partitioning.floor(now)
    last = (ended if source.ends_at is None else min(ended, source.ends_at)) - timedelta(microseconds=1)
    return last.astimezone(ZoneInfo(source.partitioning.timezone)).date()


def _check_window(site: Site, first: date, last: date, now: datetime) -> None:
    source = site.pipeline.source
    cut, name = source.partitioning, source.dataset
    if last < first:
        raise ConfigError(f"The backfill ends on {last}, before it begins on {first}.", hint="Swap the days.")
    if first < source.start:
        raise ConfigError(
            f"The backfill begins on {first}, before {name!r} does.",
            detail=f"its first day is {source.start}",
            hint=f"Begin on {source.start}; or let the source start earlier.",
        )
    if source.end is not None and last > source.end:
        raise ConfigError(
            f"The backfill ends on {last}, after {name!r} does.",
            detail=f"its last day is {source.end}",
            hint=f"End on {source.end}; or let the source end later.",
        )
    if cut.after(last) > now:
        raise ConfigError(
            f"The backfill ends on {last}, and that has not ended yet.",
            detail=f"the last partition of {name!r} that has is {cut.last_ended(now)}",
            hint=f"What comes is for {site.pipeline.model}.features.",
        )


def _estimates(site: Site, work: Sequence[Step]) -> dict[str, Estimate]:
    found = {}
    for dataset in dict.fromkeys(step.dataset for step in work):
        some = [step for step in work if step.dataset == dataset]
        rows = [step.rows for step in some if step.rows is not None]
        known = pace(site.ledger, site.pipeline.model if dataset == FEATURES else dataset)
        minutes = [None] * 3 if known is None else [round(len(some) * each / 60, 3) for each in known]
        found[dataset] = Estimate(
            partitions=len(some),
            rows=sum(rows) if len(rows) == len(some) else None,
            bytes=sum(step.bytes for step in some),
            minutes=minutes[0],
            at_least=minutes[1],
            at_most=minutes[2],
        )
    return found


def who_saw(ledger: Ledger, steps: Sequence[Step]) -> tuple[Seen, ...]:
    """Return the models that saw a revision which is replaced: by what their snapshots were made of."""
    return _who(ledger, [step for step in steps if step.state in ("changed", "unknown") and step.revision])


def who_learned(ledger: Ledger, steps: Sequence[Step]) -> tuple[Seen, ...]:
    """Return the models that learned from partitions which are excluded now, of whatever revision: what is trained
    since leaves them out. One of which no version is in use, and the newest left them out, is none of them.
    """
    excluded = [step._replace(revision="") for step in steps if step.state == "excluded" and step.dataset != FEATURES]
    return tuple(
        seen
        for seen in _who(ledger, excluded)
        if seen.serving or newest_version(ledger, seen.model) in (None, *seen.versions)
    )


def newest_version(ledger: Ledger, model: str) -> int | None:
    """Return the newest version of a model that was judged; None when none was."""
    return max((fact.payload["version"] for fact in ledger.facts(VERDICT, model, limit=None)), default=None)


def _who(ledger: Ledger, steps: Sequence[Step]) -> tuple[Seen, ...]:
    """Return the models whose snapshots were made of some partitions, each of its revision; without one, of any."""
    wanted: dict[str, dict[str, str]] = {}
    for step in steps:
        wanted.setdefault(step.dataset, {})[step.key] = step.revision
    if not wanted:
        return ()
    snapshots: dict[str, dict[str, set[str]]] = {}
    for fact in ledger.facts(SNAPSHOT, limit=None):
        made_of = fact.payload["partitions"]
        some = {
            f"{name} {key}"
            for name, revisions in wanted.items()
            for key, revision in made_of.get(name, {}).items()
            if revisions.get(key) in ("", revision)
        }
        if some:
            snapshots.setdefault(fact.subject, {})[fact.key] = some
    return tuple(_model(ledger, model, found) for model, found in sorted(snapshots.items()))


def _model(ledger: Ledger, model: str, snapshots: dict[str, set[str]]) -> Seen:
    judged = {fact.payload["version"]: fact.payload for fact in ledger.facts(VERDICT, model, limit=None)}
    versions = sorted(number for number, payload in judged.items() if payload.get("snapshot_id") in snapshots)
    kept = kept_versions(ledger, model)
    return Seen(
        model=model,
        partitions=tuple(sorted(set().union(*snapshots.values()))),
        snapshots=tuple(sorted(snapshots)),
        versions=tuple(versions),
        serving={number: kept[number] for number in versions if number in kept},
    )
