"""The shares in which a plan is executed: so many partitions a task, several tasks at once.

Whose turn it is works on its share to the end. The others do what can be done ahead of theirs, and the last task takes
that: so what is checked against the partitions before is checked in order, however many work at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

from airflow_mlops.engine.backfill.plan import Plan, Step
from airflow_mlops.engine.backfill.run import execute, outcomes, work_ahead
from airflow_mlops.engine.backfill.survey import Site
from airflow_mlops.engine.history.load import Loaded
from airflow_mlops.engine.history.pace import FEATURES

Work = Literal["seal", "compute"]
_WORTH_A_TASK = 10
"""Partitions: a task for fewer takes longer to start than to do them."""


def shares(plan: Plan, partitions: int, at_once: int = 1) -> int:
    """Return into how many shares a plan is cut, so that none has more than so many partitions, or features.

    :param at_once: How many tasks work at once: at least so many shares, where there is enough to do for each.
    """
    most = max(len(steps_of(plan, work)) for work in ("seal", "compute"))
    if plan.ordered:
        return min(most, 1)
    return max(math.ceil(most / partitions), min(at_once, most // _WORTH_A_TASK))


def steps_of(plan: Plan, work: Work, share: int = 0, of: int = 1) -> list[Step]:
    """Return a share of what is to be sealed, or computed, in the plan's order.

    :param share: Which, from 0.
    :param of: How many shares there are.
    """
    steps = [step for step in plan.work if (step.dataset == FEATURES) == (work == "compute")]
    size = math.ceil(len(steps) / of) if of else 0
    return steps[share * size : (share + 1) * size]


def in_shares(plan: Plan, partitions: int) -> Iterator[list[Step]]:
    """Yield the steps of a plan, share by share: all partitions, and then the features."""
    of = shares(plan, partitions)
    works: tuple[Work, ...] = ("seal", "compute")
    for work in works:
        for share in range(of):
            yield steps_of(plan, work, share, of)


def work_on(site: Site, plan: Plan, work: Work, share: int, of: int) -> Loaded:
    """Work on a share: in its turn to the end, else only ahead.

    The errors are those of :func:`~airflow_mlops.engine.backfill.run.execute`.
    """
    tried = outcomes(site.ledger, plan)
    steps = steps_of(plan, work, share, of)
    if all(step.name in tried for step in steps_of(plan, work)[: share * _size(plan, work, of)]):
        return execute(site, plan, steps)
    return Loaded(ahead=work_ahead(site, plan, steps))


def work_on_rest(site: Site, plan: Plan, work: Work) -> Loaded:
    """Do, in order, what the shares only worked out ahead; what they were refused is not tried again."""
    tried = outcomes(site.ledger, plan)
    left = [step for step in steps_of(plan, work) if step.name not in tried]
    return execute(site, plan, left) if left else Loaded()


def _size(plan: Plan, work: Work, of: int) -> int:
    return math.ceil(len(steps_of(plan, work)) / of) if of else 0
