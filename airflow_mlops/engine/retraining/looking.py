"""One look at a model: what asks for a training is written down, and it is decided which request starts one.

Everything is read from the ledger each time. So it does not matter why it is looked: an event that rang the bell, was
lost, or came twice leaves the same requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from airflow_mlops.contracts import Deployment
from airflow_mlops.engine.data.partitions import PartitionStore
from airflow_mlops.engine.features.governance.consumers import data_cut
from airflow_mlops.engine.halts import halted
from airflow_mlops.engine.ledger import Ledger, as_json
from airflow_mlops.engine.retraining.decide import Decision, Policy, Situation, companions, cool_until, decide, in_words
from airflow_mlops.engine.retraining.first import waits_for_first
from airflow_mlops.engine.retraining.requests import Request, ask_while, finish, requests, start, started_last
from airflow_mlops.engine.retraining.triggers import Trigger, Watch, look
from airflow_mlops.engine.serving.deployments import deployment


def look_and_decide(
    ledger: Ledger,
    store: PartitionStore,
    home: Path,
    *,
    watch: Watch,
    policy: Policy,
    who: str,
    running: Sequence[Request],
) -> Decision:
    """Ask for what the triggers of a model ask for, decide, and write down what was found for whoever asks why.

    :param who: Who looks, such as the DAG.
    :param running: Requests whose training runs, from :func:`~airflow_mlops.engine.retraining.requests.settle`.
    :raises TransientError: when the ledger or the storage does not answer.
    """
    with ledger.reading():
        state = deployment(ledger, watch.server, watch.model)[0]
        basis, triggers = look(ledger, store, home, watch, state.stable)
        waiting = requests(ledger, watch.model, ["waiting"])
        first = waits_for_first(ledger, watch.model, watch.first, watch.code) if watch.first else ""
        situation = _situation(ledger, state, running, first)
    live = {one.reason for one in (*waiting, *running)}
    for one in triggers:
        since = one.about or ("" if basis is None else basis.snapshot)
        if one.fires and one.reason not in live:
            waiting.append(ask_while(ledger, watch.model, one.reason, one.detail, basis=since, who=who))
    now = datetime.now(UTC)
    made = decide([one for one in waiting if one.state == "waiting"], situation, policy, now)
    record_look(ledger, watch.model, made, triggers, now)
    return made


def admit(ledger: Ledger, request: Request, run: str, policy: Policy) -> Decision:
    """Let a run of the training answer its request, and whatever else waits that it answers too; or say why not.

    A run that was cleared goes on. One of the schedule is skipped while a training that something else asked for cools
    down; whatever a person asked for is not. Trainings that wait for their data hold nobody up: a model is fitted once
    at a time.

    :param run: DAG and run.
    """
    if request.state == "merged":
        return Decision(None, (), f"{request.said}: {request.run}")
    last = started_last(ledger, request.model, besides=run)
    if request.reason == "cron" and request.state == "waiting" and last is not None and last.reason != "cron":
        until = cool_until(Situation(last_start=last.started_at), policy, datetime.now(UTC))
        if until is not None:
            why = f"cooling down until {until:%Y-%m-%d %H:%M} UTC, since the training for {last.words}"
            finish(ledger, request, "skipped", why)
            return Decision(None, (), why, until)
    merged = companions(request, requests(ledger, request.model, ["waiting"]))
    made = Decision(request, merged, in_words(request, merged))
    if not start(ledger, request, run, merged, made.why):
        return Decision(None, (), f"request {request.id} is answered by another run")
    return made


def record_look(ledger: Ledger, model: str, made: Decision, triggers: Sequence[Trigger], now: datetime) -> None:
    """Keep the last look at a model, and since when it finds this: a hundred a day that find the same write nothing."""
    value: dict[str, Any] = {
        "why": made.why,
        "start": None if made.start is None else made.start.id,
        "until": made.until,
        "triggers": [asdict(trigger) for trigger in triggers],
    }
    found = as_json(value)
    ledger.move(
        _name(model),
        lambda before: None if before is not None and {**before, **found} == before else {"since": now, **found},
    )


def last_look(ledger: Ledger, model: str) -> dict[str, Any] | None:
    """Return what was found when a model was looked at last; None when nothing looks at it."""
    pointer = ledger.pointer(_name(model))
    return None if pointer is None else pointer.value


def served_age(ledger: Ledger, server: str, model: str, now: datetime) -> tuple[int | None, timedelta | None]:
    """Return the version that serves, and how old the newest labels are that it knows; None where that is not known."""
    version = deployment(ledger, server, model)[0].stable
    cut = None if version is None else data_cut(ledger, model, version)
    return version, None if cut is None else now - cut


def _situation(ledger: Ledger, state: Deployment, running: Sequence[Request], first: str) -> Situation:
    halt, pin, last = halted(ledger, state.model), state.pin, started_last(ledger, state.model)
    return Situation(
        running=running,
        last_start=None if last is None else last.started_at,
        halt=str(halt) if halt else "",
        first=first,
        pin=str(pin) if pin is not None and pin.holds(datetime.now(UTC)) else "",
    )


def _name(model: str) -> str:
    return f"retraining:{model}"
