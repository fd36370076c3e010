"""Execute a plan: approved, unchanged since, one at a time a model, and resumed after any kill.

Facts: ``backfill_approval``, ``backfill_step`` (key: dataset and partition) and ``backfill_cancelled``; the subject of
each is the plan's id.
Pointer ``backfill:<model>``: the plan that runs, or that ran last, and the run of Airflow that does it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from airflow_mlops.engine.backfill.make import who_saw
from airflow_mlops.engine.backfill.plan import Plan, Step, few, find, in_use, spell
from airflow_mlops.engine.backfill.survey import Site, look_again
from airflow_mlops.engine.data.validation import load_suite
from airflow_mlops.engine.history.ahead import Ahead
from airflow_mlops.engine.history.load import Loaded, load_ahead, load_partitions
from airflow_mlops.engine.history.pace import FEATURES
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.exceptions import DataError, GateError

APPROVAL, STEP, CANCELLED = "backfill_approval", "backfill_step", "backfill_cancelled"
_RUNNING, _ENDED, _CANCELLED = "running", "ended", "cancelled"
_NAMED = 10


class Done(NamedTuple):
    """What came of a step: when (UTC), in how many seconds of one process, and why it was refused, if it was."""

    at: datetime
    seconds: float
    refused: str


class BusyError(DataError):
    """Another plan of the model is being executed.

    :param run: The run of Airflow that does it; empty: a command.
    :param overlaps: Whether it works on a partition that this one works on too.
    """

    def __init__(self, headline: str, detail: str, hint: str, *, run: str = "", overlaps: bool = False) -> None:
        super().__init__(headline, detail, hint)
        self.run, self.overlaps = run, overlaps


# --- may it run? ------------------------------------------------------------------------------------------


def approve(ledger: Ledger, plan: Plan, shown: str, who: str) -> None:
    """Write down that a person approved a plan.

    :param shown: Hash of the plan that the person was shown.
    :raises GateError: when that is another one, or nobody answers for it.
    """
    if shown != plan.hash or not who.strip():
        raise GateError(
            f"Backfill {plan.id} was not approved: the answer is about another plan.",
            detail=f"approved by {who!r}: {shown!r}, to be executed: {plan.hash}",
            hint="Approve the hash of the plan that is to be executed: `airflow-mlops backfill status` prints it.",
        )
    ledger.record(APPROVAL, plan.id, {"hash": shown, "who": who.strip(), "approved": True})


def refuse(ledger: Ledger, plan: Plan, who: str) -> None:
    """Write down that a person refused a plan; an approval from before counts no more."""
    ledger.record(APPROVAL, plan.id, {"hash": plan.hash, "who": who, "approved": False})


def approved_by(ledger: Ledger, plan: Plan) -> str:
    """Return who approved a plan; empty when nobody did, or the last answer was a no."""
    answers = [fact.payload for fact in ledger.facts(APPROVAL, plan.id) if fact.payload["hash"] == plan.hash]
    return str(answers[0]["who"]) if answers and answers[0]["approved"] else ""


def begin(site: Site, plan: Plan, *, run: str = "", ended: Callable[[str], bool] = lambda _: False) -> None:
    """Let a plan run, or go on; the first of several at a time wins.

    :param run: The run of Airflow that executes it.
    :param ended: Whether such a run has ended: the plan that one left behind is not running any more.
    :raises GateError: when it needs an approval that nobody gave, or a version that the plan does not name came into
        use since and saw what is replaced.
    :raises BusyError: when another runs.
    :raises DataError: when it was cancelled, or partitions or code changed since it was made.
    :raises TransientError: when the ledger or a storage does not answer.
    """
    _check_approved(site.ledger, plan)
    _check_not_cancelled(site.ledger, plan)
    left = remaining(site.ledger, plan)
    check_unchanged(site, plan, left)
    _check_shown(site.ledger, plan, left)

    def take(value: dict[str, Any] | None) -> dict[str, Any] | None:
        other = value is not None and value["plan"] != plan.id and value["state"] == _RUNNING and value
        if other and not (other.get("run") and ended(other["run"])):
            raise _busy(site.ledger, plan, other["plan"], other.get("run") or "")
        return {"plan": plan.id, "state": _RUNNING, "run": run}

    before = site.ledger.pointer(_pointer(plan))
    site.ledger.move(_pointer(plan), take)
    site.ledger.move(turn_of(plan), lambda value: value and {"share": None})  # a run that died had it
    if before is not None and before.value["plan"] != plan.id:
        ahead_of(site, plan).clear()  # what an earlier plan left


def cancel(ledger: Ledger, plan: Plan, who: str) -> None:
    """End a plan: what works on it stops after the partition it is at. What is done stays. The same again changes
    nothing.

    :raises DataError: when it is not running.
    """
    state = state_of(ledger, plan)
    if state not in (_RUNNING, _CANCELLED):
        raise DataError(
            f"Backfill {plan.id} is not running.", detail=f"model {plan.model!r}", hint="Nothing was changed."
        )
    if state == _RUNNING:
        ledger.record(CANCELLED, plan.id, {"who": who})
    end(ledger, plan)  # also where the ledger went away before this, the last time


def end(ledger: Ledger, plan: Plan) -> None:
    """Say that a plan has run, so that the next one may."""
    ledger.move(
        _pointer(plan),
        lambda value: (
            {**value, "state": _ENDED}
            if value is not None and value["plan"] == plan.id and value["state"] == _RUNNING
            else None
        ),
    )


def finish(site: Site, plan: Plan) -> None:
    """End a plan that is done, and remove what it worked out ahead and did not need."""
    pointer = site.ledger.pointer(_pointer(plan))
    if pointer is not None and pointer.value["plan"] == plan.id:
        end(site.ledger, plan)
        ahead_of(site, plan).clear()


def state_of(ledger: Ledger, plan: Plan) -> str:
    """Return ``planned``, ``running``, ``ended`` or ``cancelled``."""
    if ledger.facts(CANCELLED, plan.id, limit=1):
        return _CANCELLED
    pointer = ledger.pointer(_pointer(plan))
    if pointer is not None and pointer.value["plan"] == plan.id:
        return str(pointer.value["state"])
    return _ENDED if outcomes(ledger, plan) else "planned"


def running(ledger: Ledger, model: str) -> Plan | None:
    """Return the plan that runs; None when there is none."""
    pointer = ledger.pointer(f"backfill:{model}")
    return find(ledger, pointer.value["plan"]) if pointer and pointer.value["state"] == _RUNNING else None


def check_unchanged(site: Site, plan: Plan, steps: Sequence[Step]) -> None:
    """Refuse a plan of which partitions, or the code of the features, are not what they were when it was made.

    So is one of which partitions were excluded since. A partition that was sealed meanwhile from what the plan saw
    landed is as planned.

    :raises DataError: naming them.
    """
    if site.code.whole != plan.code:
        raise DataError(
            f"The code of the features changed since backfill {plan.id} was planned.",
            detail=f"transform {site.pipeline.features.transform!r}",
            hint=_AGAIN,
        )
    planned = {(step.dataset, step.key): step for step in steps}
    changed = [now.name for now in look_again(site, steps) if not _as_planned(planned[now.dataset, now.key], now)]
    if changed:
        raise DataError(
            f"{len(changed)} partitions changed since backfill {plan.id} was planned.",
            detail=", ".join(changed[:_NAMED]) + (" …" if changed[_NAMED:] else ""),
            hint=_AGAIN,
        )


# --- execute ----------------------------------------------------------------------------------------------


def remaining(ledger: Ledger, plan: Plan) -> list[Step]:
    """Return what is not done yet, in the plan's order; what was refused is tried again."""
    done = {name for name, one in outcomes(ledger, plan).items() if not one.refused}
    return [step for step in plan.work if step.name not in done]


def outcomes(ledger: Ledger, plan: Plan) -> dict[str, Done]:
    """Return the name of each step that was worked on → what came of it last."""
    found: dict[str, Done] = {}
    for fact in ledger.facts(STEP, plan.id, limit=None):
        found.setdefault(fact.key, Done(fact.at, fact.payload["seconds"], fact.payload["refused"]))
    return found


def execute(site: Site, plan: Plan, steps: Sequence[Step], *, workers: int = 1) -> Loaded:
    """Work on some steps of a plan that runs, as a history does; what is done already is left alone, and what was
    worked out ahead is taken.

    Each partition passes what it would pass day by day. Its new revision is staged, validated and checked before one
    swap makes it count; the one before stays, until retention removes it.

    :param workers: Processes at work.
    :raises GateError: when the plan needs an approval that nobody gave.
    :raises DataError: when it was cancelled, partitions changed since it was made, or, of an ordered one, a partition
        was refused.
    :raises TransientError: when the ledger or a storage does not answer.
    """
    left = _to_do(site, plan, steps)

    def took(dataset: str, key: str, why: str, seconds: float) -> None:
        site.ledger.record(STEP, plan.id, {"seconds": seconds, "refused": why}, key=f"{dataset} {key}")
        if why and plan.ordered:
            raise DataError(
                f"Backfill {plan.id} stopped: {dataset} {key} was refused, and it is to go in order.",
                detail=why,
                hint="Have it corrected, accepted or excluded, and plan again.",
            )
        _check_running(site.ledger, plan)

    return load_partitions(*_job(site, left), **_place(site), workers=workers, took=took, ahead=ahead_of(site, plan))


def work_ahead(site: Site, plan: Plan, steps: Sequence[Step]) -> int:
    """Do of some steps what needs nothing of those before them, and keep it until their turn; return of how many.

    Staged, validated, profiled; features computed. Nothing that counts is changed. The errors are those of
    :func:`execute`.
    """
    job = _job(site, _to_do(site, plan, steps))
    return load_ahead(*job, **_place(site), ahead=ahead_of(site, plan), going=lambda: _check_running(site.ledger, plan))


def _to_do(site: Site, plan: Plan, steps: Sequence[Step]) -> list[Step]:
    """Return which of some steps are to be done, if the plan may go on."""
    _check_approved(site.ledger, plan)
    _check_running(site.ledger, plan)
    done = {name for name, one in outcomes(site.ledger, plan).items() if not one.refused}
    left = [step for step in steps if step.name not in done]
    check_unchanged(site, plan, left)
    return left


def _job(site: Site, steps: Sequence[Step]) -> tuple[Any, ...]:
    """Return the pipeline, what of it is to be sealed, and the partitions whose features are to be computed."""
    sealing = [(site.feed(step.dataset), step.key) for step in steps if step.dataset != FEATURES]
    return site.pipeline, sealing, [step.key for step in steps if step.dataset == FEATURES]


def _place(site: Site) -> dict[str, Any]:
    names = ("location", "store", "ledger", "code_path", "locate", "databases")
    return {name: getattr(site, name) for name in names}


def ahead_of(site: Site, plan: Plan) -> Ahead:
    """Return what was worked out ahead of a plan."""
    return Ahead(site.location.home, plan.model, plan.id)


def probe(site: Site, plan: Plan) -> str:
    """Work on the first partition of each dataset, and say how long the rest is likely to take.

    Features are probed when nothing is to be sealed before them.
    """
    load_suite(site.pipeline.features.suite, site.code_path)  # what is wrong with a name is said before the work
    left = remaining(site.ledger, plan)
    sealing = [step for step in left if step.dataset != FEATURES]
    some = {step.dataset: step for step in reversed(sealing or left)}
    execute(site, plan, list(some.values()))
    return eta(site.ledger, plan)


def eta(ledger: Ledger, plan: Plan) -> str:
    """Say how long what is left takes: by what this backfill took so far, else as it was planned."""
    took: dict[str, list[float]] = {}
    for name, one in outcomes(ledger, plan).items():
        if not one.refused and one.seconds:
            took.setdefault(name.split()[0], []).append(one.seconds)
    left = remaining(ledger, plan)
    if not left:
        return f"all {len(plan.work)} are done"
    total, unknown = 0.0, set()
    for step in left:
        planned = plan.estimates[step.dataset]
        if step.dataset in took:
            total += sum(took[step.dataset]) / len(took[step.dataset]) / 60
        elif planned.minutes is not None:
            total += planned.minutes / planned.partitions
        else:
            unknown.add(step.dataset)
    beside = f", and {' and '.join(sorted(unknown))}, of which nothing is known yet" if unknown else ""
    return f"{len(left)} of {len(plan.work)} left: about {spell(total)} of one process{beside}"


_AGAIN = "Plan again, and have the new plan approved: what was approved is not what there is now. What is done stays."


def turn_of(plan: Plan) -> str:
    """Return the name of the ledger's pointer to the share that has the turn."""
    return f"backfill_turn:{plan.id}"


def _pointer(plan: Plan) -> str:
    return f"backfill:{plan.model}"


def _busy(ledger: Ledger, plan: Plan, other: str, run: str) -> BusyError:
    both = {step.name for step in plan.work} & {step.name for step in find(ledger, other).work}
    too = f"; both work on {few(sorted(both))}" if both else ""
    return BusyError(
        f"Another backfill of {plan.model!r} is running.",
        f"plan {other}" + (f", run {run}" if run else "") + too,
        "Wait until it has ended, and begin again. Where it died, go on with it or end it: `airflow-mlops backfill run "
        f"PIPELINE {other}`, `airflow-mlops backfill cancel {other}`.",
        run=run,
        overlaps=bool(both),
    )


def _check_approved(ledger: Ledger, plan: Plan) -> None:
    if plan.approval and not approved_by(ledger, plan):
        raise GateError(
            f"Backfill {plan.id} of {plan.model!r} was approved by nobody.",
            detail=plan.approval,
            hint=f"Approve what the plan says: `airflow-mlops backfill run PIPELINE {plan.id} --approve {plan.hash}`, "
            f"or answer the task `approve` of {plan.model}.backfill.",
        )


def _check_shown(ledger: Ledger, plan: Plan, steps: Sequence[Step]) -> None:
    """Refuse a plan when a version is in use now that saw what it replaces, and whoever approved it was not shown."""
    shown = {(one.model, version) for one in plan.seen for version in one.serving}
    since = in_use(who_saw(ledger, steps), besides=shown)
    if since:
        raise GateError(
            f"Backfill {plan.id} of {plan.model!r} touches what was not in use when it was planned.",
            detail="; ".join(since),
            hint=_AGAIN,
        )


def _check_running(ledger: Ledger, plan: Plan) -> None:
    _check_not_cancelled(ledger, plan)
    pointer = ledger.pointer(_pointer(plan))
    if pointer is None or (pointer.value["plan"], pointer.value["state"]) != (plan.id, _RUNNING):
        raise DataError(
            f"Backfill {plan.id} of {plan.model!r} is not running.",
            detail=f"what ran last: {pointer.value['plan'] if pointer else 'nothing'}",
            hint="Begin it, by the command or by the task `begin`.",
        )


def _check_not_cancelled(ledger: Ledger, plan: Plan) -> None:
    if cancelled := ledger.facts(CANCELLED, plan.id, limit=1):
        raise DataError(
            f"Backfill {plan.id} of {plan.model!r} was cancelled by {cancelled[0].payload['who']}.",
            detail="what was done before stays, and is sealed and computed",
            hint="To go on with the rest, plan again.",
        )


def _as_planned(planned: Step, now: Step) -> bool:
    """Whether a partition is as it was planned, or was sealed since from what had landed then."""
    if now.state == "excluded":
        return False
    return planned.landed == now.landed and (planned.revision == now.revision or now.state == "present")
