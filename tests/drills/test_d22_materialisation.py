"""D22: materialisation is killed half-way, two run at once, a day is missing; and reads go on meanwhile."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from airflow_mlops.engine.features.governance.apply import apply_repo
from airflow_mlops.engine.features.materialization import materialize as module
from airflow_mlops.engine.features.materialization import write as online_write
from airflow_mlops.engine.features.materialization.materialize import materialize, materialize_chunk, plan_chunks
from airflow_mlops.engine.features.materialization.watermarks import watermarks
from airflow_mlops.engine.features.project.location import Location
from airflow_mlops.engine.features.project.schema import feature_file
from airflow_mlops.engine.features.project.store import open_store
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.exceptions import DataError
from tests.feast_fixtures import ledger_of
from tests.online_stores import redis_online  # noqa: F401
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


# Forked from a process that has Feast imported and has done nothing yet: a fresh one each would take ten times longer.
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["airflow_mlops.engine.features.materialization.write"])


def start(target: Callable[..., None], *arguments: Any) -> Any:
    process = processes.Process(target=target, args=arguments, daemon=True)
    process.start()
    return process


def ended(process: Any) -> int:
    process.join(300)
    return process.exitcode


def die(*_args: Any, **_kwargs: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


# --- killed half-way --------------------------------------------------------------------------------------


def before_reading() -> None:
    online_write.read_latest = die


def after_the_first_row() -> None:
    make, online_write.BATCH, calls = online_write._writer, 1, []

    def dying(*args):
        write = make(*args)
        return lambda rows: die() if calls else (calls.append(1), write(rows))

    online_write._writer = dying


def before_the_registry_knows() -> None:
    module.record_interval = die


def before_the_watermark_moves() -> None:
    Ledger.move = die


def between_two_views() -> None:
    write = module._Work.write
    module._Work.write = lambda self, chunk: die() if chunk["view"] == "item_price" else write(self, chunk)


KILLS = [before_reading, after_the_first_row, before_the_registry_knows, before_the_watermark_moves, between_two_views]


def dying(arm: Callable[[], None], location: Location) -> None:
    arm()
    ours(location)


@pytest.mark.parametrize("arm", KILLS)
def test_fault_guard_on_killed(location, arm):
    ours(location, 2)
    assert ended(start(dying, arm, location)) == -signal.SIGKILL
    for mark in watermarks(ledger_of(location.home), PROJECT, VIEWS).values():
        assert mark.until in (day(2), day(DAYS)), "it moved only where the chunk was done"
    assert answers(location).keys() == {"sales", "price"}, "and reads are not refused"
    ours(location)
    assert answers(location) == right(DAYS)
    for view, mark in watermarks(ledger_of(location.home), PROJECT, VIEWS).items():
        assert (mark.until, mark.gaps) == (day(DAYS), ())
        assert len(covered(location, view)) == 2, "each interval once, and none lost"


# --- two at once ------------------------------------------------------------------------------------------


def in_days(location: Location, order: int) -> None:
    ledger = ledger_of(location.home)
    for chunk in plan_chunks(location, SERVICE, until=day(DAYS), ledger=ledger, chunk_bytes=4000)[::order]:
        materialize_chunk(location, chunk, ledger=ledger)


def test_fault_guard_on_two_at_once(location):
    """The same window twice, in pieces that are done in opposite order."""
    apply_repo(location, ledger_of(location.home))
    both = [start(in_days, location, order) for order in (1, -1)]
    assert [ended(one) for one in both] == [0, 0]
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


def reading(location: Location, log: Path) -> None:
    store = open_store(location)
    refused = reads = 0
    while True:
        try:
            store.get_online_features(["shop_sales:sales"], [{"shop": "ash"}]).to_dict()
            reads += 1
        except Exception:
            refused += 1
        log.with_suffix(".tmp").write_text(json.dumps([reads, refused]))
        log.with_suffix(".tmp").replace(log)
        time.sleep(0.02)


@contextmanager
def reader(location: Location, log: Path) -> Iterator[Path]:
    """Let another process read all the time, and look at the registry again every second."""
    process = start(reading, location, log)
    try:
        _wait(lambda: log.exists() and sum(json.loads(log.read_text())) > 3)
        yield log
        assert process.is_alive()
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
    from airflow_mlops.engine.features.materialization import write as online_write

    monkeypatch.setattr(online_write, "write_latest", slowly(online_write.write_latest, 3))
    with reader(watched, tmp_path / "reads") as log:
        before = json.loads(log.read_text())[0]
        ours(watched)
    reads, refused = json.loads(log.read_text())
    assert reads > before + 10
    assert refused == 0
    assert answers(watched) == right(DAYS)


@pytest.mark.slow
def test_fault_guard_off_feast_refuses_reads(watched, tmp_path, monkeypatch):
    from feast.infra.online_stores.sqlite import SqliteOnlineStore

    monkeypatch.setattr(SqliteOnlineStore, "online_write_batch", slowly(SqliteOnlineStore.online_write_batch, 3))
    with reader(watched, tmp_path / "reads") as log:
        feasts(watched, 2, DAYS)
    assert json.loads(log.read_text())[1] > 10


def feast_dying(location: Location) -> None:
    from feast.infra.online_stores.sqlite import SqliteOnlineStore

    SqliteOnlineStore.online_write_batch = die
    feasts(location, 2, DAYS)


def test_fault_guard_off_feast_leaves_the_view_unreadable_when_killed(watched):
    assert ended(start(feast_dying, watched)) == -signal.SIGKILL
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


@pytest.mark.slow
def test_no_fault(location):
    """Many days in order: every day is written once, at once, and is what is served."""
    write_days(location.home, 10, first=DAYS)
    for n in range(1, DAYS + 10):
        ledger = ledger_of(location.home)
        chunks = plan_chunks(location, SERVICE, until=day(n), ledger=ledger)
        assert [(chunk["view"], chunk["start"]) for chunk in chunks] == [
            (view, day(n - 1).isoformat()) for view in VIEWS
        ]
        for chunk in chunks:
            materialize_chunk(location, chunk, ledger=ledger)
        if n % 5 == 0:
            assert answers(location) == right(n)
            assert plan_chunks(location, SERVICE, until=day(n), ledger=ledger) == []
    marks = watermarks(ledger_of(location.home), PROJECT, VIEWS)
    assert {view: (mark.until, mark.gaps, len(mark.files)) for view, mark in marks.items()} == {
        "shop_sales": (day(DAYS + 9), (), 3), "item_price": (day(DAYS + 9), (), 7),
    }  # fmt: skip
