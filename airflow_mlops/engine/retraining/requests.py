"""Requests for training, all of a model in one table: who or what asked, why, and what became of it.

A request is ``waiting`` until a training starts for it. Then it is ``started``, or ``merged`` into another one that
did; and at the end ``done``, ``failed`` or ``skipped``. Asking again with the same key is the same request.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from sqlalchemy import RowMapping, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from airflow_mlops.engine.ledger import Ledger, as_json
from airflow_mlops.engine.ledger.models import TrainingRequestRow as Row
from airflow_mlops.engine.ledger.payloads import check_names

Reason = Literal["emergency", "hand", "backfill", "cron", "rollup", "decay", "drift", "features", "new_rows", "asset"]
State = Literal["waiting", "started", "merged", "done", "failed", "skipped"]

PRIORITY: dict[Reason, int] = {
    "emergency": 90,
    "hand": 80,
    "backfill": 70,
    "cron": 60,
    "rollup": 55,
    "decay": 50,
    "drift": 40,
    "features": 30,
    "new_rows": 20,
    "asset": 10,
}
"""Which of several requests leads the training that answers them all."""

_OVER: tuple[State, ...] = ("done", "failed", "skipped", "merged")


@dataclass(frozen=True)
class Request:
    """One request. Times are UTC.

    :param key: Of requests with the same one, only the first is made.
    :param detail: Why, in words and figures.
    :param as_of: Moment of which knowledge is asked for; empty: the latest complete data.
    :param special: What is to be other than usual: of an emergency.
    :param said: What became of it, in words.
    :param run: Run of the training that it started, or was merged into.
    """

    id: int
    model: str
    key: str
    reason: Reason
    detail: str
    priority: int
    as_of: str
    special: dict[str, Any]
    asked_at: datetime
    asked_by: str
    state: State
    said: str
    run: str
    changed_at: datetime
    started_at: datetime | None

    @property
    def words(self) -> str:
        """Why a training is asked for, in one line."""
        return f"{self.reason}: {self.detail}" if self.detail else self.reason


def ask(
    ledger: Ledger,
    model: str,
    reason: Reason,
    detail: str,
    *,
    key: str,
    who: str,
    as_of: str = "",
    special: Mapping[str, Any] | None = None,
) -> Request:
    """Write down that a training is asked for; asked again with the same key, return the request of then.

    :raises ConfigError: when a text cannot be kept.
    :raises TransientError: when the ledger's database does not answer.
    """
    check_names(model=model, key=key, detail=detail, who=who)
    now = datetime.now(UTC).isoformat()
    row = {
        "model": model,
        "key": key,
        "reason": reason,
        "detail": detail,
        "priority": PRIORITY[reason],
        "as_of": as_of,
        "special": as_json(special or {}, "special"),
        "asked_at": now,
        "asked_by": who,
        "state": "waiting",
        "said": "",
        "run": "",
        "changed_at": now,
        "started_at": "",
    }
    try:
        with ledger.transaction(write=True) as connection:
            made = connection.execute(insert(Row).values(**row).returning(Row.__table__)).mappings().one()
    except IntegrityError:
        with ledger.transaction() as connection:
            same = select(Row.__table__).where(Row.model == model, Row.key == key)
            made = connection.execute(same).mappings().one()
    return _request(made)


def ask_while(ledger: Ledger, model: str, reason: Reason, detail: str, *, basis: str, who: str) -> Request:
    """Ask for what holds until a training answers it, such as drift: once, and anew when that training came to nothing.

    :param basis: What it was measured against, such as the last training.
    """
    prefix = f"{reason}:{basis}:"
    with ledger.transaction() as connection:
        mine = (Row.model == model, Row.key.startswith(prefix, autoescape=True))
        over = connection.execute(select(func.count()).where(*mine, Row.state.in_(_OVER))).scalar_one()
    return ask(ledger, model, reason, detail, key=f"{prefix}{over}", who=who)


def requests(
    ledger: Ledger, model: str, states: Sequence[State] | None = None, *, run: str | None = None, limit: int = 100
) -> list[Request]:
    """Return the newest requests of a model, newest first.

    :param states: Only those in one of these states.
    :param run: Only those that this run of its training answers.
    """
    query = select(Row.__table__).where(Row.model == model).order_by(Row.id.desc()).limit(limit)
    if states is not None:
        query = query.where(Row.state.in_(states))
    if run is not None:
        query = query.where(Row.run == run)
    with ledger.transaction() as connection:
        return [_request(row) for row in connection.execute(query).mappings()]


def request_of(ledger: Ledger, model: str, number: int) -> Request | None:
    """Return a request by its id; None when the model has none of it."""
    with ledger.transaction() as connection:
        found = select(Row.__table__).where(Row.model == model, Row.id == number)
        row = connection.execute(found).mappings().first()
    return None if row is None else _request(row)


def started_last(ledger: Ledger, model: str, besides: str = "") -> Request | None:
    """Return the request whose training started last; None when none ever did. A run of Airflow's own backfill, which
    trains on the past, is none.

    :param besides: A run that does not count.
    """
    ran = select(Row.__table__).where(Row.model == model, Row.state.in_(("started", "done", "failed")), Row.run != "")
    ran = ran.where(Row.run != besides, (Row.reason != "backfill") | (Row.as_of == ""))
    with ledger.transaction() as connection:
        row = connection.execute(ran.order_by(Row.id.desc()).limit(1)).mappings().first()
    return None if row is None else _request(row)


def start(ledger: Ledger, request: Request, run: str, merged: Sequence[Request] = (), said: str = "") -> bool:
    """Let a run of the training answer a waiting request, and others with it.

    :param run: DAG and run. One that was cleared takes its own request up again, also one that was
        skipped or failed.
    :returns: False when another run, or none any more, answers it: then this one must not go on.
    """
    now = datetime.now(UTC).isoformat()
    with ledger.transaction(write=True) as connection:
        mine = (
            Row.id == request.id,
            Row.state.in_(("waiting", "skipped", "failed")) | ((Row.run == run) & (Row.state != "merged")),
        )
        taken = connection.execute(
            update(Row).where(*mine).values(state="started", run=run, said=said, changed_at=now, started_at=now)
        ).rowcount
        if taken and merged:
            connection.execute(
                update(Row)
                .where(Row.id.in_([one.id for one in merged]), Row.state == "waiting")
                .values(state="merged", run=run, said=f"merged into request {request.id}", changed_at=now)
            )
    return bool(taken)


def finish(ledger: Ledger, request: Request, state: State, said: str = "") -> None:
    """Write down what became of a request that waited or whose training started."""
    now = datetime.now(UTC).isoformat()
    with ledger.transaction(write=True) as connection:
        connection.execute(
            update(Row)
            .where(Row.id == request.id, Row.state.in_(("waiting", "started")))
            .values(state=state, said=said, changed_at=now)
        )


def settle(ledger: Ledger, model: str, state_of: Callable[[str], str | None]) -> list[Request]:
    """Finish the requests whose training is over, and return those whose training still runs.

    :param state_of: Run id → ``success``, ``failed``, any other state, or None when there is no such run.
    """
    running = []
    for request in requests(ledger, model, ["started"]):
        state = state_of(request.run)
        if state == "success":
            finish(ledger, request, "done")
        elif state in (None, "failed"):
            finish(ledger, request, "failed", "its run failed" if state else "its run is gone")
        else:
            running.append(request)
    return running


def _request(row: RowMapping) -> Request:
    times = {
        name: datetime.fromisoformat(row[name]) if row[name] else None
        for name in ("asked_at", "changed_at", "started_at")
    }
    return Request(**{**row, **times})
