"""D22: materialisation is killed half-way, two run at once, a day is missing; and reads go on meanwhile."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from airflow_mlops.engine.features.apply import apply_repo
from airflow_mlops.engine.features.location import Location
from airflow_mlops.engine.features.materialize import materialize, materialize_chunk, plan_chunks
from airflow_mlops.engine.features.schema import feature_file
from airflow_mlops.engine.features.store import open_store
from airflow_mlops.engine.features.watermarks import watermarks
from airflow_mlops.exceptions import DataError
from tests.conftest import ROOT
from tests.feast_fixtures import ledger_of
from tests.online_stores import online, redis_online, sqlite_settings  # noqa: F401
from tests.small_features import (
    ITEMS,
    PROJECT,
    SERVICE,
    SETTINGS,
    SHOPS,
    day,
    price,
    sales,
    shops,
    write_days,
    write_repo,
)

pytestmark = pytest.mark.drill

VIEWS = ["shop_sales", "item_price"]
DAYS = 4
FILE_REGISTRY = SETTINGS.replace("registry_type: sql", "registry_type: file").replace(
    "sqlite:///${MLOPS_HOME}", "${MLOPS_HOME}"
)
EVERY_SECOND = "cache_ttl_seconds: 1"


@pytest.fixture(params=["sqlite", "redis"])
def location(request, tmp_path) -> Location:
    overrides = {"online_store": request.getfixturevalue("redis_online")} if request.param == "redis" else {}
    return shops(tmp_path, DAYS, overrides)


def answers(location: Location) -> dict[str, list]:
    """What is served for every entity."""
    entities = [{"shop": shop, "item": item} for shop, item in itertools.product(SHOPS, ITEMS)]
    found = open_store(location).get_online_features(["shop_sales:sales", "item_price:price"], entities).to_dict()
    return {"sales": found["sales"], "price": found["price"]}


def right(days: int) -> dict[str, list]:
    """What must be served once so many days are online."""
    pairs = list(itertools.product(SHOPS, ITEMS))
    return {
        "sales": [sales(shop, day(days) - timedelta(hours=1)) for shop, _ in pairs],
        "price": [price(item, day(days - 1)) for _, item in pairs],
    }


def ours(location: Location, days: int = DAYS) -> None:
    materialize(location, SERVICE, until=day(days), ledger=ledger_of(location.home))


def feasts(location: Location, first: int, last: int) -> None:
    open_store(location).materialize(day(first), day(last) - timedelta(microseconds=1), VIEWS)


def covered(location: Location, view: str) -> list[tuple]:
    return sorted(open_store(location).get_feature_view(view).materialization_intervals)


def start(location: Location, script: str, *arguments: str) -> subprocess.Popen:
    """Start a process that has ``location``, ``ledger`` and what materialises at hand."""
    head = f"""
        import json, os, signal, sys, time
        from pathlib import Path
        from airflow_mlops.engine.features import materialize as module, online_write
        from airflow_mlops.engine.features.location import Location
        from airflow_mlops.engine.features.materialize import materialize, materialize_chunk, plan_chunks
        from airflow_mlops.engine.features.store import open_store
        from airflow_mlops.engine.ledger import Ledger
        from tests.small_features import SERVICE, day
        location = Location(
            Path({str(location.repo)!r}), Path({str(location.home)!r}), json.loads({json.dumps(dict(location.overrides))!r})
        )
        ledger = Ledger({ledger_of(location.home).url!r})
        def die(*args, **kwargs):
            os.kill(os.getpid(), signal.SIGKILL)
    """
    code = textwrap.dedent(head) + textwrap.dedent(script)
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True
    )


# --- killed half-way --------------------------------------------------------------------------------------

KILLS = {
    "before reading": "online_write.read_latest = die",
    "half a batch": """
        online_write.BATCH = 1
        through = online_write._writer
        def dying(*args):
            write, calls = through(*args), []
            return lambda rows: die() if calls else (calls.append(1), write(rows))
        online_write._writer = dying
    """,
    "before the registry knows": "module.record_interval = die",
    "before the watermark moves": "Ledger.move = die",
    "between two chunks": """
        write = module._Work.write
        module._Work.write = lambda self, chunk: die() if chunk["view"] == "item_price" else write(self, chunk)
    """,
}


@pytest.mark.parametrize("point", KILLS)
def test_fault_guard_on_killed(location, point):
    ours(location, 2)
    script = textwrap.dedent(KILLS[point]) + f"\nmaterialize(location, SERVICE, until=day({DAYS}), ledger=ledger)\n"
    assert start(location, script).wait(120) == -signal.SIGKILL
    for mark in watermarks(ledger_of(location.home), PROJECT, VIEWS).values():
        assert mark.until in (day(2), day(DAYS)), "it moved only where the chunk was done"
    assert answers(location).keys() == {"sales", "price"}, "and reads are not refused"
    ours(location)
    assert answers(location) == right(DAYS)
    for view, mark in watermarks(ledger_of(location.home), PROJECT, VIEWS).items():
        assert (mark.until, mark.gaps) == (day(DAYS), ())
        assert len(covered(location, view)) == 2, "each interval once, and none lost"


# --- two at once ------------------------------------------------------------------------------------------


def test_fault_guard_on_two_at_once(location):
    """The same window twice, in days that are handed out in opposite order."""
    apply_repo(location, ledger_of(location.home))
    script = f"""
        chunks = plan_chunks(location, SERVICE, until=day({DAYS}), ledger=ledger, chunk_bytes=1)
        for chunk in chunks[::int(sys.argv[1])]:
            materialize_chunk(location, chunk, ledger=ledger)
    """
    both = [start(location, script, order) for order in ("1", "-1")]
    assert [one.wait(240) for one in both] == [0, 0]
    assert answers(location) == right(DAYS)
    for view, mark in watermarks(ledger_of(location.home), PROJECT, VIEWS).items():
        assert (mark.until, mark.gaps) == (day(DAYS), ())
        found = covered(location, view)
        assert len(found) == len(set(found))
        assert all(later[0] - earlier[1] <= timedelta(microseconds=1) for earlier, later in itertools.pairwise(found))


# --- a gap in days ----------------------------------------------------------------------------------------


def test_fault_guard_on_a_gap(location):
    ours(location, 1)
    day_1 = feature_file(location.home, "item_price", str(day(1).date()))
    day_1.unlink()
    for until in (2, DAYS):
        with pytest.raises(DataError, match="'item_price' for 2024-03-02 were not computed"):
            ours(location, until)
    write_days(location.home, 1, first=1)
    chunks = plan_chunks(location, SERVICE, until=day(DAYS), ledger=ledger_of(location.home), chunk_bytes=1)
    [broken, *later] = [chunk for chunk in chunks if chunk["view"] == "item_price"]
    for chunk in later:  # the task of the first one failed, the others went on
        materialize_chunk(location, chunk, ledger=ledger_of(location.home))
    mark = watermarks(ledger_of(location.home), PROJECT, VIEWS)["item_price"]
    assert (mark.until, mark.gaps) == (day(1), ((day(1), day(2)),))
    ours(location)
    assert (broken["start"], watermarks(ledger_of(location.home), PROJECT, VIEWS)["item_price"].until) == (
        day(1).isoformat(), day(DAYS),
    )  # fmt: skip
    assert answers(location) == right(DAYS)


# --- reads meanwhile --------------------------------------------------------------------------------------


@contextmanager
def reader(location: Location, folder: Path) -> Iterator[Path]:
    """Let another process read all the time, and look at the registry again every second."""
    log, stop = folder / "reads", folder / "stop"
    script = f"""
        store, log, stop = open_store(location), Path({str(log)!r}), Path({str(stop)!r})
        refused = reads = 0
        while not stop.exists():
            try:
                store.get_online_features(["shop_sales:sales"], [{{"shop": "ash"}}]).to_dict()
                reads += 1
            except Exception as error:
                refused += 1
            log.with_suffix(".tmp").write_text(json.dumps([reads, refused]))
            log.with_suffix(".tmp").replace(log)
            time.sleep(0.02)
    """
    process = start(location, script)
    try:
        _wait(lambda: log.exists() and sum(json.loads(log.read_text())) > 3)
        yield log
        stop.touch()
        assert process.wait(60) == 0
    finally:
        process.kill()


def _wait(done) -> None:
    deadline = time.monotonic() + 90
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def slowly(write, seconds: float):
    def waiting(*args, **kwargs):
        time.sleep(seconds)
        return write(*args, **kwargs)

    return waiting


@pytest.fixture
def watched(tmp_path) -> Location:
    """The registry that keeps the mark which Feast makes; the SQL registry of this release forgets it."""
    location = shops(tmp_path, DAYS)
    write_repo(location.repo, settings=FILE_REGISTRY.replace("cache_ttl_seconds: 60", EVERY_SECOND))
    ours(location, 2)
    return location


def test_fault_guard_on_reads_are_never_refused(watched, tmp_path, monkeypatch):
    from airflow_mlops.engine.features import online_write

    monkeypatch.setattr(online_write, "write_latest", slowly(online_write.write_latest, 3))
    with reader(watched, tmp_path) as log:
        before = json.loads(log.read_text())[0]
        ours(watched)
    reads, refused = json.loads(log.read_text())
    assert reads > before + 10
    assert refused == 0
    assert answers(watched) == right(DAYS)


def test_fault_guard_off_feast_refuses_reads(watched, tmp_path, monkeypatch):
    from feast.infra.online_stores.sqlite import SqliteOnlineStore

    monkeypatch.setattr(SqliteOnlineStore, "online_write_batch", slowly(SqliteOnlineStore.online_write_batch, 3))
    with reader(watched, tmp_path) as log:
        feasts(watched, 2, DAYS)
    assert json.loads(log.read_text())[1] > 10


def test_fault_guard_off_feast_leaves_the_view_unreadable_when_killed(watched):
    script = f"""
        from feast.infra.online_stores.sqlite import SqliteOnlineStore
        SqliteOnlineStore.online_write_batch = die
        open_store(location).materialize(day(2), day({DAYS}), ["shop_sales"])
    """
    assert start(watched, script).wait(120) == -signal.SIGKILL
    with pytest.raises(ValueError, match="in state 'MATERIALIZING' and cannot serve"):
        answers(watched)
    ours(watched)  # and the guard on: it heals
    assert answers(watched) == right(DAYS)


# --- guard off: order, and concurrency --------------------------------------------------------------------


def test_fault_guard_off_older_values_overwrite_newer_ones(tmp_path):
    """A day is materialised again after later ones: the wrong values are served."""
    location = shops(tmp_path, DAYS)
    apply_repo(location, ledger_of(location.home))
    feasts(location, 0, DAYS)
    assert answers(location) == right(DAYS)
    feasts(location, 0, 2)
    assert answers(location) == right(2) != right(DAYS)


def test_fault_guard_off_a_gap_is_skipped(tmp_path):
    """Feast's incremental materialisation goes on from the last interval: what was missing in it never comes."""
    location = shops(tmp_path, DAYS)
    apply_repo(location, ledger_of(location.home))
    missing = feature_file(location.home, "item_price", str(day(DAYS - 1).date()))
    kept = missing.read_bytes()
    missing.unlink()
    feasts(location, 0, DAYS)
    missing.write_bytes(kept)
    write_days(location.home, 1, first=DAYS)
    last = feature_file(location.home, "item_price", str(day(DAYS).date()))
    last.unlink()
    open_store(location).materialize_incremental(day(DAYS + 1), VIEWS)
    assert answers(location)["price"] == right(DAYS - 1)["price"] != right(DAYS)["price"]


def test_fault_guard_off_two_at_once_lose_intervals(tmp_path, monkeypatch):
    from feast.infra.registry.sql import SqlRegistry

    location = shops(tmp_path, DAYS)
    ours(location, 2)
    both_have_read, write = threading.Barrier(2), SqlRegistry._apply_object

    def after_both_have_read(self, table, project, id_field_name, *args, **kwargs):
        if id_field_name == "feature_view_name":
            both_have_read.wait(30)
        return write(self, table, project, id_field_name, *args, **kwargs)

    monkeypatch.setattr(SqlRegistry, "_apply_object", after_both_have_read)

    def add(n: int) -> None:
        store = open_store(location)
        store.registry.apply_materialization(store.get_feature_view("shop_sales"), PROJECT, day(n), day(n + 1))

    threads = [threading.Thread(target=add, args=(n,)) for n in (2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(covered(location, "shop_sales")) == 2, "of three"


# --- no fault ---------------------------------------------------------------------------------------------


def test_no_fault(location):
    """Many days in order: every day is written once, at once, and is what is served."""
    write_days(location.home, 20, first=DAYS)
    for n in range(1, DAYS + 20):
        ledger = ledger_of(location.home)
        chunks = plan_chunks(location, SERVICE, until=day(n), ledger=ledger)
        assert [(chunk["view"], chunk["start"]) for chunk in chunks] == [(view, day(n - 1).isoformat()) for view in VIEWS]
        for chunk in chunks:
            materialize_chunk(location, chunk, ledger=ledger)
        if n % 5 == 0:
            assert answers(location) == right(n)
            assert plan_chunks(location, SERVICE, until=day(n), ledger=ledger) == []
    marks = watermarks(ledger_of(location.home), PROJECT, VIEWS)
    assert {view: (mark.until, mark.gaps, len(mark.files)) for view, mark in marks.items()} == {
        "shop_sales": (day(DAYS + 19), (), 3), "item_price": (day(DAYS + 19), (), 7),
    }  # fmt: skip
