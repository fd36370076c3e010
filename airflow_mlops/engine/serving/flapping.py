"""A mitigation that feeds the fault: rolled back, deployed again, rolled back. After the second time a person decides.

To go on all the same, by the next version, is a choice of its own: :func:`roll_through`.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from itertools import zip_longest

from airflow_mlops.contracts import Deployment
from airflow_mlops.engine.halts import halted
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.engine.serving.deployments import (
    check_said,
    deployment,
    lasting,
    moves,
    pointer_name,
    record,
    require_deployed,
)
from airflow_mlops.exceptions import GateError

ROLL_THROUGH = "roll through"
TIMES = 2
"""So many rollbacks within :data:`WITHIN` are no accident of one version."""

WITHIN = timedelta(days=7)


def flapping(ledger: Ledger, server: str, model: str, now: datetime) -> str:
    """Return why nothing is deployed by itself, in words: what serves was rolled back too often; empty: it may be.

    Only rollbacks to another version count, since the last :func:`roll_through`.
    """
    back = []
    history = list(lasting(moves(ledger, server, model)))
    for move, before in zip_longest(history, history[1:]):
        if move.action == ROLL_THROUGH or move.at <= now - WITHIN:
            break
        if move.action == "rollback" and before is not None and before.state.stable != move.state.stable:
            back.append(move.at)
    if len(back) < TIMES:
        return ""
    times = ", ".join(f"{at:%Y-%m-%d %H:%M}" for at in reversed(back))
    return f"{model} was rolled back {len(back)} times within {WITHIN.days} days: {times} UTC"


def roll_through(ledger: Ledger, server: str, model: str, who: str, reason: str) -> Deployment:
    """Decide to go forward: lift the pin, and let the next version that passes its gates be deployed again.

    What was rolled back stays out.

    :raises ConfigError: without a name and a reason.
    :raises DataError: when the model was never deployed on the server.
    :raises GateError: while the model is halted: nothing could go forward.
    """
    check_said(who, reason)
    require_deployed(ledger, server, model)
    if halt := halted(ledger, model):
        raise GateError(
            f"{model!r} cannot go forward while it is halted.",
            detail=str(halt),
            hint=f"Resume it first: `airflow-mlops resume {model}`, or action resume of {model}.runbook.",
        )
    ledger.move(pointer_name(server, model), lambda value: {**(value or {}), "pin": None})
    state = deployment(ledger, server, model)[0]
    record(ledger, state, ROLL_THROUGH, f"{who}: {reason}")
    return state
