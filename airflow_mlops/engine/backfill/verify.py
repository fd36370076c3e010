"""Whether what a plan said is what changed: each partition before and after, held against the plan.

Fact ``backfill_verified`` (subject: the plan's id).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from airflow_mlops.engine.backfill.make import newest_version, who_saw
from airflow_mlops.engine.backfill.plan import WORK, Plan, Seen, Step, few
from airflow_mlops.engine.backfill.run import finish, outcomes
from airflow_mlops.engine.backfill.survey import Site, stale_after, survey
from airflow_mlops.engine.history.pace import FEATURES
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.engine.retraining.requests import ask
from airflow_mlops.exceptions import DataError

FACT = "backfill_verified"


@dataclass
class Verified:
    """What came of a plan, by the names of its partitions.

    :param changed: Partitions that are there now as planned, each with its revisions and rows before and after.
    :param computed: Features that are there now, as planned.
    :param same: Partitions that were to be looked at and have the rows that they had.
    :param left: What was planned and is not so now, each with why.
    :param later: Partitions that came after the plan was made, and have features of what was replaced.
    :param unplanned: Partitions of the window that changed though the plan did not say so, each with its revisions.
    :param retrain: Models that saw what was replaced, or is excluded, each with what to do.
    """

    changed: list[str] = field(default_factory=list)
    computed: list[str] = field(default_factory=list)
    same: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    later: list[str] = field(default_factory=list)
    unplanned: list[str] = field(default_factory=list)
    retrain: list[str] = field(default_factory=list)

    @property
    def as_planned(self) -> bool:
        """Whether all that was planned is so now, and nothing else changed."""
        return not self.left and not self.unplanned

    def lines(self) -> list[str]:
        """Say it in words."""
        groups = (
            ("partitions sealed as planned", self.changed),
            ("partitions whose features are as planned", self.computed),
            ("partitions looked at that had not changed", self.same),
            ("not as planned", self.left),
            ("changed though nobody planned it", self.unplanned),
            ("came later, and have features of what was replaced: plan them", self.later),
        )
        return [*(f"{len(some)} {what}: {few(some)}" for what, some in groups if some), *self.retrain]

    def check(self) -> None:
        """Refuse what is not as planned.

        :raises DataError: listing it.
        """
        if not self.as_planned:
            raise DataError(
                f"{len(self.left) + len(self.unplanned)} partitions are not as the backfill planned them.",
                detail="\n    ".join([*self.left, *self.unplanned]),
                hint="Have the upstream correct what was refused, or accept or exclude it, and run the same plan "
                "again; where what landed has changed, plan again. What is done is not done twice.",
            )


def verify(site: Site, plan: Plan, *, retrain: bool = False) -> Verified:
    """Hold what there is now against a plan, write it down, and let the next backfill begin.

    :param retrain: Whether a training is asked for of each model that saw what was replaced or is excluded, if all is
        as planned.
    :raises DataError: when what has landed cannot be read.
    :raises TransientError: when the ledger, a storage or a database does not answer.
    """
    begin, end = site.pipeline.source.partitioning.span(plan.first, plan.last)
    now = {step.name: step for step in survey(site, begin, end)}
    # A survey sees features after its window only while they read what has landed and is not sealed.
    replaced = {(step.dataset, step.key) for step in plan.steps if step.revision and step.state in WORK}
    stale = [Step(FEATURES, key, "changed") for key in stale_after(site, end, replaced)] if replaced else []
    now |= {step.name: step for step in stale}
    done, found = outcomes(site.ledger, plan), Verified()
    found.later = [step.key for step in stale if step.name not in {one.name for one in plan.steps}]
    for step in plan.steps:
        after = now.get(step.name, step._replace(state="present"))
        refused = done[step.name].refused if step.name in done else "nobody worked on it"
        _compare(step, after, refused, found)
    saw = who_saw(site.ledger, plan.steps) if found.changed else ()  # by now: models were trained since the plan
    learned = [seen for seen in plan.seen if plan.learned(seen)]
    found.retrain = [_retrain(site.ledger, plan, seen, retrain and found.as_planned) for seen in (*saw, *learned)]
    site.ledger.record(FACT, plan.id, {"as_planned": found.as_planned, "lines": found.lines()})
    finish(site, plan)
    return found


def _compare(step: Step, after: Step, refused: str, found: Verified) -> None:
    if step.state not in WORK:
        if step.revision != after.revision:
            found.unplanned.append(f"{step.name}: {_revisions(step, after)}")
    elif step.dataset == FEATURES:
        if after.state in ("present", "unknown"):  # of what is sealed now, whatever a table may have by now
            found.computed.append(step.key)
        else:
            found.left.append(f"{step.name} is {after.state}: {refused or 'what it was computed from changed since'}")
    elif step.state == "unknown" and after.revision == step.revision and not refused:
        found.same.append(step.name)
    elif after.revision and after.revision != step.revision:
        found.changed.append(f"{step.name}: {_revisions(step, after)}")
    else:
        found.left.append(f"{step.name} is {after.state}: {refused or 'it was worked on, and is as it was'}")


def _retrain(ledger: Ledger, plan: Plan, seen: Seen, asked: bool) -> str:
    """Say that a model saw what was replaced or excluded, and how it is trained anew; ask for it, if that is wanted."""
    learned = plan.learned(seen)
    saw = f"saw {len(seen.partitions)} partitions that {'are excluded' if learned else 'were replaced'}"
    how = f"To train it anew: airflow dags trigger {seen.model}.train"
    if learned and newest_version(ledger, seen.model) not in (None, *seen.versions):
        how = "A newer version left them out"
    elif asked:
        detail = f"it {saw} by backfill {plan.id}"
        request = ask(ledger, seen.model, "backfill", detail, key=f"backfill:{plan.id}", who=plan.who)
        how = f"A training is asked for, request {request.id}: see airflow-mlops why {seen.model}"
    return f"{seen.model} {saw}, in versions {', '.join(map(str, seen.versions)) or 'none'}. {how}"


def _revisions(before: Step, after: Step) -> str:
    was = f"{before.revision}, {before.rows:,} rows" if before.revision and before.rows is not None else "not there"
    now = f"{after.revision}, {after.rows:,} rows" if after.revision and after.rows is not None else "not there"
    return f"{was} → {now}"


def told(ledger: Ledger, plan: Plan) -> list[str]:
    """Return what the last look at a plan's outcome said; nothing when there was none."""
    facts = ledger.facts(FACT, plan.id, limit=1)
    return list(facts[0].payload["lines"]) if facts else []


def as_planned(ledger: Ledger, plan: Plan) -> bool:
    """Return whether the last look at a plan's outcome found all as planned; so when there was none."""
    facts = ledger.facts(FACT, plan.id, limit=1)
    return not facts or bool(facts[0].payload["as_planned"])
