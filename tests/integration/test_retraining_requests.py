"""Requests for training in a real ledger: asked once, started once, whoever comes at the same moment."""

from __future__ import annotations

from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.engine.retraining.decide import Policy
from airflow_mlops.engine.retraining.looking import look_and_decide
from airflow_mlops.engine.retraining.registered import Registered, record_registered
from airflow_mlops.engine.retraining.requests import ask, ask_while, finish, requests, settle, start, started_last
from airflow_mlops.engine.retraining.why import why
from tests.ledger_fixtures import CROWD, crowd, url
from tests.retraining_fixtures import ROWS, World

__all__ = ["crowd", "url"]


def asked(ledger: Ledger, key: str, reason: str = "asset", **more):
    return ask(ledger, "m", reason, "orders", key=key, who="m.retrain", **more)


def test_a_doubled_event_is_one_request(url):
    ledger = Ledger(url)
    first = asked(ledger, "asset:1", special={"window": "20d"})
    assert asked(ledger, "asset:1") == first
    assert first.words == "asset: orders"
    assert requests(ledger, "m", ["waiting"]) == [first]
    assert requests(ledger, "other") == []


def test_one_starts_and_the_others_go_with_it(url):
    ledger = Ledger(url)
    storm = [asked(ledger, f"asset:{number}") for number in range(12)]
    assert start(ledger, storm[0], "run 1", storm[1:], "new orders")
    assert requests(ledger, "m", ["waiting"]) == []
    assert len(requests(ledger, "m", run="run 1")) == 12
    assert not start(ledger, storm[1], "run 2"), "it was merged"
    assert not start(ledger, storm[1], "run 1"), "the run that answers it is started by another one"
    assert start(ledger, storm[0], "run 1"), "a cleared run takes its own up again"
    assert started_last(ledger, "m").id == storm[0].id
    assert [one.id for one in settle(ledger, "m", lambda run: "running")] == [storm[0].id]
    assert settle(ledger, "m", lambda run: "success") == []
    assert started_last(ledger, "m").state == "done"
    assert start(ledger, storm[0], "run 1"), "cleared after its end too"


def test_of_a_training_that_nothing_looks_at_it_is_said_what_came_of_it(url):
    ledger = Ledger(url)
    start(ledger, asked(ledger, "hand:1", "hand"), "m.train run 1")
    assert next(why(ledger, "m")).endswith("run m.train run 1, started")
    record_registered(ledger, Registered(model="m", version=3, spec_hash="h", snapshot="s", run="m.train run 1"))
    assert next(why(ledger, "m")).endswith("run m.train run 1, version 3 came of it")
    settle(ledger, "m", lambda run: "success")
    assert next(why(ledger, "m")).endswith("run m.train run 1, done")


def test_what_holds_on_is_asked_for_again_only_when_the_training_came_to_nothing(url):
    ledger = Ledger(url)

    def drift():
        return ask_while(ledger, "m", "drift", "psi 0.3", basis="s1", who="m.retrain")

    first = drift()
    assert drift().id == first.id
    start(ledger, first, "run 1")
    assert drift().id == first.id, "its training runs"
    assert settle(ledger, "m", lambda run: None) == []
    assert requests(ledger, "m", ["failed"])[0].said == "its run is gone"
    assert drift().id != first.id
    finish(ledger, drift(), "skipped", "nothing new")
    assert len(requests(ledger, "m")) == 2
    assert drift().state == "waiting"


def _start(url: str, number: int) -> bool:
    ledger = Ledger(url)
    return start(ledger, asked(ledger, "asset:1"), f"run {number}")


def test_of_a_crowd_one_starts_it(url, crowd):
    Ledger(url).check()
    assert sorted(crowd(_start, url)) == [False] * (CROWD - 1) + [True]
    assert len(requests(Ledger(url), "m")) == 1


def test_a_look_asks_decides_and_is_repeated_in_either_database(url, tmp_path):
    world = World(tmp_path, Ledger(url))
    world.seal_days(0, 7)
    world.train(1, 6)
    world.seal_days(7, 14)

    def looked():
        watch = world.watch(new_rows=ROWS, drift_psi=0.2, on_new_features=True, service="m_v2")
        return look_and_decide(
            world.ledger, world.store, tmp_path, watch=watch, policy=Policy(), who="m.retrain", running=[]
        )

    made = looked()
    assert made.start.reason == "features"
    assert made.why == "features: the feature service is m_v2, was m_v1, with 1 more: new_rows"
    assert looked() == made
    assert len(requests(world.ledger, "m", ["waiting"])) == 2
    said = list(why(world.ledger, "m"))
    assert any(line.startswith(f"  fires  new_rows: {7 * ROWS:,} new rows since 2026-01-10") for line in said)
    assert any(line.startswith("  quiet  drift: PSI of ") for line in said)
