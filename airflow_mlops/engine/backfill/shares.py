"""The shares in which a plan is executed: so many partitions a task, several tasks at once.

One task at a time has the turn: it works on its share to the end, and goes on with what others made ready behind it.
The others do what can be done ahead of the turn; a last task takes what is left. So what is checked against the
partitions before is checked in order, however many work at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count, takewhile
from typing import Any, Literal

from airflow_mlops.engine.backfill.plan import Plan, Step
from airflow_mlops.engine.backfill.run import ahead_of, execute, outcomes, turn_of, work_ahead
from airflow_mlops.engine.backfill.survey import Site
from airflow_mlops.engine.history.load import Loaded
from airflow_mlops.engine.history.pace import FEATURES
from airflow_mlops.engine.ledger import Ledger

Work = Literal["seal", "compute"]
_WORTH_A_TASK = 10
"""Partitions: a task for fewer takes longer to start than to do them."""
_IN_TURN = 0.4
"""How long that takes which is done in turn, to what can be done ahead (`bench/backfill_dag.py`)."""


def shares(plan: Plan, partitions: int, at_once: int = 1) -> int:
    """Return into how many shares a plan is cut, so that none has more than so many partitions, or features.

    :param at_once: How many tasks work at once: at least so many shares, where there is enough to do for each.
    """
    most = max(len(steps_of(plan, work)) for work in ("seal", "compute"))
    if plan.ordered or not most:
        return min(most, 1)
    few = max(1, min(at_once, most // _WORTH_A_TASK))
    return next(of for of in count(few) if max(_sizes(most, of)) <= partitions)


def steps_of(plan: Plan, work: Work, share: int = 0, of: int = 1) -> list[Step]:
    """Return a share of what is to be sealed, or computed, in the plan's order.

    :param share: Which, from 0.
    :param of: How many shares there are.
    """
    steps = [step for step in plan.work if (step.dataset == FEATURES) == (work == "compute")]
    sizes = _sizes(len(steps), of)
    return steps[sum(sizes[:share]) : sum(sizes[: share + 1])]


def _sizes(steps: int, of: int) -> list[int]:
    """Return how many steps each share has. The first has fewer: it is to go on in turn with those of the others."""
    first = max((1 - _IN_TURN * (of - 1)) / of, 1 / (2 * of))
    ends = [math.ceil(steps * (first + (1 - first) * share / max(of - 1, 1))) for share in range(of)]
    return [end - begin for begin, end in zip([0, *ends], ends, strict=False)]


def in_shares(plan: Plan, partitions: int) -> Iterator[list[Step]]:
    """Yield the steps of a plan, share by share: all partitions, and then the features."""
    of = shares(plan, partitions)
    works: tuple[Work, ...] = ("seal", "compute")
    for work in works:
        for share in range(of):
            yield steps_of(plan, work, share, of)


def work_on(site: Site, plan: Plan, work: Work, share: int, of: int) -> Loaded:
    """Work on a share: in its turn to the end, else only ahead; and in turn on what others made ready.

    The errors are those of :func:`~airflow_mlops.engine.backfill.run.execute`.
    """
    steps = steps_of(plan, work, share, of)
    done = _in_turn(site, plan, work, share, steps)
    tried = outcomes(site.ledger, plan)
    if left := [step for step in steps if step.name not in tried]:
        ahead = work_ahead(site, plan, left)
        done = [*done, Loaded(ahead=ahead), *_in_turn(site, plan, work, share, [])]
    return _sum(done)


def work_on_rest(site: Site, plan: Plan, work: Work) -> Loaded:
    """Do, in order, what the shares only worked out ahead; what they were refused is not tried again."""
    tried = outcomes(site.ledger, plan)
    left = [step for step in steps_of(plan, work) if step.name not in tried]
    return execute(site, plan, left) if left else Loaded()


def _in_turn(site: Site, plan: Plan, work: Work, share: int, own: Sequence[Step]) -> list[Loaded]:
    """Execute own steps and those that are ready, in order, until one is neither; none while another has the turn."""
    done, ahead = [], ahead_of(site, plan)
    mine = {step.name for step in own}
    with _turn(site.ledger, plan, share) as has_it:
        if not has_it:
            return []
        tried = {name for name, one in outcomes(site.ledger, plan).items() if not (one.refused and name in mine)}
        left = [step for step in steps_of(plan, work) if step.name not in tried]
        while now := [*takewhile(lambda step: step.name in mine or ahead.has(step.dataset, step.key), left)]:
            done.append(execute(site, plan, now))
            left = left[len(now) :]
    return done


@contextmanager
def _turn(ledger: Ledger, plan: Plan, share: int) -> Iterator[bool]:
    """Take the turn, if nobody has it; a share that died with it has it again."""

    def take(value: dict[str, Any] | None) -> dict[str, Any] | None:
        return {"share": share} if value is None or value["share"] is None else None

    taken = ledger.move(turn_of(plan), take)
    has_it = taken is not None and taken.value["share"] == share
    try:
        yield has_it
    finally:
        if has_it:
            ledger.move(turn_of(plan), lambda _: {"share": None})


def _sum(some: Sequence[Loaded]) -> Loaded:
    total = Loaded()
    for one in some:
        total.sealed += one.sealed
        total.computed += one.computed
        total.there += one.there
        total.early += one.early
        total.ahead += one.ahead
        total.refused += one.refused
    return total
