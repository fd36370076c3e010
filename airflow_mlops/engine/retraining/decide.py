"""What is done about the requests for training of a model: which one starts, which go with it, and why none does.

Twelve requests in a minute are one training: the first by priority leads, those that ask for the same go with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from airflow_mlops.engine.retraining.requests import Request

URGENT = ("emergency", "hand")
"""What a person asks for does not wait for the cool-down."""


@dataclass(frozen=True)
class Policy:
    """How often a model may be trained.

    :param cooldown: Least time between the starts of two trainings that nobody asked for by hand.
    """

    cooldown: timedelta = timedelta(0)


@dataclass(frozen=True)
class Situation:
    """What is the case when it is decided.

    :param running: Requests whose training runs.
    :param last_start: When the last training started.
    :param halt: The halt of the model in words; empty: none.
    :param first: Why it waits for the first of its fleet, in words; empty: it does not.
    :param pin: The pin of what serves in words: a training is not kept from starting by it.
    """

    running: Sequence[Request] = ()
    last_start: datetime | None = None
    halt: str = ""
    first: str = ""
    pin: str = ""


@dataclass(frozen=True)
class Decision:
    """Which request starts, which others go with it, and why, in words; ``until`` is the end of a cool-down."""

    start: Request | None
    merged: tuple[Request, ...]
    why: str
    until: datetime | None = None


def decide(waiting: Sequence[Request], situation: Situation, policy: Policy, now: datetime) -> Decision:
    """Decide which of the waiting requests of a model starts a training now: one, or none.

    A last start that lies in the future was written by a clock that was wrong, and cools nothing down.
    """
    if situation.halt:
        return Decision(None, (), situation.halt)
    if situation.first:
        return Decision(None, (), situation.first)
    if situation.running:
        one = situation.running[0]
        return Decision(None, (), f"one runs already, since {one.started_at:%Y-%m-%d %H:%M} UTC: {one.run}")
    if not waiting:
        return Decision(None, (), "nothing asks for a training")
    until = cool_until(situation, policy, now)
    ranked = sorted(waiting, key=lambda one: (-one.priority, one.asked_at, one.id))
    able = [one for one in ranked if until is None or one.reason in URGENT]
    if not able:
        return Decision(None, (), f"cooling down until {until:%Y-%m-%d %H:%M} UTC", until)
    leader = able[0]
    merged = companions(leader, ranked)
    pinned = f"; what it makes is not deployed while {situation.pin}" if situation.pin else ""
    return Decision(leader, merged, f"{in_words(leader, merged)}{pinned}")


def companions(leader: Request, waiting: Sequence[Request]) -> tuple[Request, ...]:
    """Return the other requests that the training of one answers too: it trains on what they ask for."""
    if leader.special:
        return ()
    return tuple(one for one in waiting if one.id != leader.id and not one.special and one.as_of == leader.as_of)


def in_words(leader: Request, merged: Sequence[Request]) -> str:
    """Return why a training starts, in one line."""
    reasons = ", ".join(sorted({one.reason for one in merged}))
    return f"{leader.words}, with {len(merged)} more: {reasons}" if merged else leader.words


def cool_until(situation: Situation, policy: Policy, now: datetime) -> datetime | None:
    """Return when the cool-down ends; None when nothing cools down."""
    last = situation.last_start
    if last is None or last > now or now >= last + policy.cooldown:
        return None
    return last + policy.cooldown
