"""Why a model was trained last, and why it is not trained now: in words, from the ledger."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from airflow_mlops.engine.data.lateness import is_known, known_models
from airflow_mlops.engine.halts import halted
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.engine.retraining.looking import last_look
from airflow_mlops.engine.retraining.registered import saved, version_of, words_of
from airflow_mlops.engine.retraining.requests import Request, requests
from airflow_mlops.exceptions import did_you_mean

_LAST = 5


def why(ledger: Ledger, model: str) -> Iterator[str]:
    """Yield lines: the last training and what asked for it; each trigger beside its bound; what waits, and for what.

    A model that never trained is told what would start its first training; so is a name that may be mistyped.

    :raises TransientError: when the ledger does not answer.
    """
    every = requests(ledger, model)
    look = last_look(ledger, model)
    if not every and look is None and not is_known(ledger, model):
        yield from _never(ledger, model)
        return
    started = [one for one in every if one.started_at is not None]
    if started:
        merged = [one for one in every if one.state == "merged" and one.run == started[0].run]
        yield from _started(started[0], merged, version_of(ledger, model, started[0].run))
    else:
        yield "no training was asked for yet"
    if halt := halted(ledger, model):
        yield f"now: {halt}"
    if look is not None:
        yield f"every look since {look['since'][:16].replace('T', ' ')} UTC: {look['why']}"
        for trigger in look["triggers"]:
            yield f"  {'fires' if trigger['fires'] else 'quiet'}  {trigger['reason']}: {trigger['detail']}"
    else:
        yield "nothing looks at it between the runs of its schedule: Retrain(...) has a cron only, or nothing"
    for one in [one for one in every if one.state == "waiting"][:_LAST]:
        yield f"waits: {_named(one)}"
    for one in [one for one in every if one.state in ("skipped", "failed")][:_LAST]:
        yield f"{one.state}: {_named(one)}: {one.said}"
    if (kept := saved(ledger, model)).trainings:
        cost = f", {kept.cost:,.2f} of cost" if kept.cost else ""
        yield f"saved: {kept.trainings} trainings of what was trained already, {_length(kept.seconds)}{cost}"


def _never(ledger: Ledger, model: str) -> Iterator[str]:
    yield f"no training of {model!r} was asked for yet"
    if halt := halted(ledger, model):
        yield f"now: {halt}"
    yield f"what starts one: {model}.train, by the cron of Retrain(...) or by hand: airflow dags trigger {model}.train"
    yield f"the other triggers of Retrain(...), such as new_rows, are looked at by {model}.retrain"
    yield "a paused DAG starts nothing; a run trains once its data is complete: airflow-mlops sources says how far"
    if close := did_you_mean(model, known_models(ledger)):
        yield f"this model was never trained.{close}"


def _started(last: Request, merged: list[Request], version: int | None) -> Iterator[str]:
    at: datetime | None = last.started_at
    # That its run has ended is found by <model>.retrain only, and where there is a schedule alone there is none.
    state = last.state if last.state != "started" or version is None else f"version {version} came of it"
    yield f"last training: {at:%Y-%m-%d %H:%M} UTC, run {last.run}, {state}"
    yield f"  for {_named(last)}"
    for one in merged:
        yield f"  and {_named(one)}"
    if last.special:
        yield f"  special: {words_of(last.special)}"


def _named(one: Request) -> str:
    return f"request {one.id} of {one.asked_at:%Y-%m-%d %H:%M} UTC by {one.asked_by}: {one.words}"


def _length(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
