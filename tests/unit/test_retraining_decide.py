"""Which request starts a training: at most one, for a reason, whatever comes together."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_mlops.engine.retraining.decide import URGENT, Decision, Policy, Situation, decide
from airflow_mlops.engine.retraining.requests import PRIORITY, Request

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
UNHURRIED = settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)


def request(number: int = 1, reason: str = "drift", **changes) -> Request:
    made = Request(
        id=number,
        model="m",
        key=f"{reason}:{number}",
        reason=reason,
        detail="",
        priority=PRIORITY[reason],
        as_of="",
        special={},
        asked_at=NOW - timedelta(minutes=number),
        asked_by="m.retrain",
        state="waiting",
        said="",
        run="",
        changed_at=NOW,
        started_at=None,
    )
    return replace(made, **changes)


def decided(*waiting: Request, cooldown: timedelta = DAY, now: datetime = NOW, **situation) -> Decision:
    return decide(waiting, Situation(**situation), Policy(cooldown), now)


def test_nothing_starts_where_nothing_asks():
    assert decided() == Decision(None, (), "nothing asks for a training")


def test_a_storm_of_twelve_is_one_training():
    reasons = [one for one in PRIORITY if one not in (*URGENT, "backfill", "rollup")] * 2
    storm = [request(number, reason) for number, reason in enumerate(reasons)]
    made = decided(*storm)
    assert made.start is storm[6], "of two, the one that was asked for first"
    assert made.start.reason == "cron"
    assert len(made.merged) == len(storm) - 1
    assert "with 11 more: asset, cron, decay, drift, features, new_rows" in made.why


def test_the_cool_down_holds_what_nobody_asked_for_by_hand():
    last = NOW - timedelta(hours=3)
    held = decided(request(), last_start=last)
    assert (held.start, held.until) == (None, last + DAY)
    assert held.why == "cooling down until 2026-03-02 09:00 UTC"
    assert decided(request(), last_start=NOW - DAY).start is not None
    by_hand = decided(request(1), request(2, "hand"), last_start=last)
    assert by_hand.start.reason == "hand"
    assert [one.reason for one in by_hand.merged] == ["drift"]


def test_a_clock_that_was_wrong_cools_nothing_down():
    assert decided(request(), last_start=NOW + 400 * DAY).start is not None


def test_a_halt_holds_even_an_emergency():
    held = decided(request(1, "emergency"), halt="m is halted by ann until somebody resumes: wrong labels")
    assert held.start is None
    assert "wrong labels" in held.why


def test_a_pin_holds_no_training_and_is_named():
    made = decided(request(), pin="version 3 is pinned by ann until it is lifted: bad week")
    assert made.start is not None
    assert "not deployed while version 3 is pinned by ann" in made.why


def test_what_asks_for_something_else_is_not_merged():
    special = request(1, "emergency", special={"window": "20d"})
    then = request(2, "hand", as_of="2026-01-01T00:00:00+00:00")
    usual = request(3, "new_rows")
    assert decided(special, then, usual).start is special
    assert decided(special, then, usual).merged == ()
    assert decided(then, usual).merged == ()
    assert decided(then, replace(then, id=9)).merged == (replace(then, id=9),)


requests_strategy = st.lists(
    st.builds(
        request,
        number=st.integers(0, 10_000),
        reason=st.sampled_from(list(PRIORITY)),
        special=st.sampled_from([{}, {"window": "20d"}]),
        as_of=st.sampled_from(["", "2026-01-01T00:00:00+00:00"]),
    ),
    max_size=12,
    unique_by=lambda one: one.id,
)


@UNHURRIED
@given(
    waiting=requests_strategy,
    halt=st.sampled_from(["", "halted"]),
    running=st.booleans(),
    since=st.integers(-48, 48),
    cooldown=st.integers(0, 48),
)
def test_at_most_one_starts_and_none_is_lost(waiting, halt, running, since, cooldown):
    last = NOW - timedelta(hours=since)
    situation = Situation(
        running=[request(99_999, state="started", run="r", started_at=NOW)] if running else [],
        last_start=last,
        halt=halt,
    )
    policy = Policy(timedelta(hours=cooldown))
    made = decide(waiting, situation, policy, NOW)
    assert made.why
    assert made == decide(list(reversed(waiting)), situation, policy, NOW), "the order in which they come says nothing"
    if made.start is None:
        assert made.merged == ()
        return
    assert not halt
    assert not running
    assert made.start in waiting
    assert made.start not in made.merged
    assert len({one.id for one in made.merged}) == len(made.merged)
    assert all(one.as_of == made.start.as_of and not one.special for one in made.merged)
    if 0 <= since < cooldown:
        assert made.start.reason in URGENT
    able = waiting if not 0 <= since < cooldown else [one for one in waiting if one.reason in URGENT]
    assert made.start.priority == max(one.priority for one in able)


@UNHURRIED
@given(waiting=requests_strategy)
def test_after_so_many_trainings_every_request_was_answered(waiting):
    left = list(waiting)
    for _ in range(len(waiting)):
        made = decide(left, Situation(), Policy(), NOW)
        if made.start is None:
            break
        left = [one for one in left if one is not made.start and one not in made.merged]
    assert left == []
