"""Six processes at once on one ledger, on real SQLite and real PostgreSQL. Keep the imports light: each pays them."""

from __future__ import annotations

import multiprocessing

import pytest

from airflow_mlops.engine.ledger import Ledger, Pointer
from airflow_mlops.engine.ledger.schema import HEAD
from tests.ledger_fixtures import CROWD, FACTS, POINTERS, ROWS, crowd, run, url

__all__ = ["crowd", "url"]

TURNS = 15


def act(url: str, number: int) -> list[int]:
    """Record, swap and move for some turns; return the revisions of ``swapped`` that this process made."""
    ledger, won = Ledger(url), []
    for turn in range(TURNS):
        ledger.record("race", f"r{number}", {"turn": turn})
        seen = ledger.pointer("swapped")
        if ledger.swap("swapped", {"by": number}, seen):
            won.append(1 if seen is None else seen.revision + 1)
        ledger.move("moved", lambda value: {"n": 1 + (value or {"n": 0})["n"]})
    return won


def test_processes_that_race_lose_nothing(url, crowd):
    won = crowd(act, url)
    ledger = Ledger(url)
    for number in range(CROWD):
        turns = [fact.payload["turn"] for fact in ledger.facts("race", f"r{number}", limit=None)]
        assert turns == list(reversed(range(TURNS)))
    revisions = sorted(revision for mine in won for revision in mine)
    assert revisions == list(range(1, ledger.pointer("swapped").revision + 1))
    assert ledger.pointer("moved") == Pointer({"n": CROWD * TURNS}, CROWD * TURNS)


def arrive(url: str, number: int) -> str:
    ledger = Ledger(url)
    ledger.record("arrived", f"p{number}", {})
    return ledger.check()


@pytest.mark.parametrize("there", [(), (FACTS, POINTERS, ROWS)], ids=["empty", "old"])
def test_of_processes_that_come_first_at_once_one_migrates_and_none_fails(url, crowd, there):
    if there:
        run(url, *there)
    assert all(HEAD in said for said in crowd(arrive, url))
    ledger = Ledger(url)
    assert len(ledger.facts("arrived")) == CROWD
    assert len(ledger.facts("verdict")) == (2 if there else 0)


def test_forks_do_not_speak_on_their_parents_connection(url):
    ledger = Ledger(url)
    ledger.record("forked", "parent", {})

    def work(number: int) -> None:
        for _ in range(TURNS):
            ledger.record("forked", f"p{number}", {})

    fork = multiprocessing.get_context("fork")
    children = [fork.Process(target=work, args=(number,)) for number in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
        child.kill()  # one that still waits for another's answer
    assert [child.exitcode for child in children] == [0, 0, 0, 0]
    assert len(ledger.facts("forked", limit=None)) == 4 * TURNS + 1
