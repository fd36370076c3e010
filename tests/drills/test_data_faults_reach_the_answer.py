"""D08 and D16 as callers see them: partition dates off by one day; a source that is empty or may not be read.

A week of real flights lands, is validated, sealed and computed into features, and a model trained on it answers
its golden requests through the model server. The faults strike two days before the last. Past its guard, a fault
passes the checks of the training set, the model store and the rollout, and only the answers tell.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from great_expectations.expectations.expectation import Expectation

from airflow_mlops.contracts import Snapshot
from airflow_mlops.demo.flights import Feed
from airflow_mlops.engine.data import partitions
from airflow_mlops.engine.data.arrival import look_for
from airflow_mlops.engine.data.parquet import parquet_files
from airflow_mlops.engine.data.partitions import PartitionStore
from airflow_mlops.engine.data.validation import enforce, evaluate, validate
from airflow_mlops.engine.features.governance.apply import ensure_applied
from airflow_mlops.engine.features.project.location import Location
from airflow_mlops.engine.features.training.training_data import build_training_snapshot
from airflow_mlops.engine.serving.deployments import unpin
from airflow_mlops.engine.serving.golden import Golden
from airflow_mlops.engine.serving.model_store import publish
from airflow_mlops.engine.serving.rollout import Rollout
from airflow_mlops.exceptions import DataError
from flights import expectations
from tests.data_fixtures import EVENT_TIMES, landed, permission_lost, sealed
from tests.drills.test_d16_empty_source import CANNOT_LIST, ROWWISE, believing, no_files, no_rows
from tests.feast_fixtures import REPO, compute_day, ledger_of
from tests.serving_fixtures import (
    put_into_service,
    rollout_of,
    served,
)
from tests.training_fixtures import make_spec
from tests.warm_trainer import train

pytestmark = pytest.mark.drill

START, BAD, LAST = date(2013, 1, 4), date(2013, 1, 8), date(2013, 1, 10)
DAY = timedelta(days=1)
WRONG_DAY = f"rows do not belong to the partition of {BAD}"
SINCE = [BAD, BAD + DAY, LAST]
CHAMPION = 1
MOVED = 0.005  # mean over the golden requests, whose answers lie between 0.01 and 0.2; without a fault it is 0

Land = Callable[[Path, Feed, date], Path]
Suites = Mapping[Feed, Sequence[Expectation]]
CHECKED: Suites = {name: getattr(expectations, name)() for name in EVENT_TIMES}


# --- the faults -------------------------------------------------------------------------------------------


def off_by(days: int, *feeds: Feed) -> Land:
    """Land the rows of another day under the name of the day."""

    def land(lake: Path, feed: Feed, day: date) -> Path:
        if feed not in feeds:
            return landed(lake, feed, day)
        return Path(shutil.move(landed(lake / "upstream", feed, day + days * DAY), lake / feed / str(day)))

    return land


def spoilt(how: Callable[[Path], None]) -> Land:
    """Land departures without rows, or without files, on the one bad day."""

    def land(lake: Path, feed: Feed, day: date) -> Path:
        folder = landed(lake, feed, day)
        if (feed, day) == ("departures", BAD):
            how(folder)
        return folder

    return land


# --- from landing to a trained model, as the DAGs do it ---------------------------------------------------


def seal_landed(home: Path, feed: Feed, day: date, land: Land = landed, suites: Suites = CHECKED) -> None:
    folder = land(home / "lake", feed, day)
    assert look_for(folder.parent, str(day)) is not None  # the upstream says that the day is complete
    passed = validate(parquet_files(folder), suites[feed], suite_name=feed, batch=str(day))
    enforce(passed)
    PartitionStore.under(home).seal(
        feed,
        str(day),
        folder,
        event_time=EVENT_TIMES[feed],
        batch_hash=passed.batch_hash,
        suite_hash=passed.suite_hash,
    )


def run_days(home: Path, days: Sequence[date], land: Land = landed, suites: Suites = CHECKED) -> None:
    """Let days land, and bring them to features."""
    repo = ensure_applied(Location(REPO, home), ledger_of(home))
    for day in days:
        for feed in EVENT_TIMES:
            seal_landed(home, feed, day, land, suites)
        compute_day(home, str(day), repo=repo, start=START)


def training_set(home: Path) -> Snapshot:
    """Freeze and validate what a retraining after the last day reads: to half a day before the label cut."""
    snapshot = build_training_snapshot(
        Location(REPO, home),
        store=PartitionStore.under(home),
        ledger=None,
        model="flight_delay",
        source_dataset="departures",
        entity="flight_id",
        event_time="sched_dep_utc",
        keys=["carrier", "origin", "dest"],
        service="flight_delay_v1",
        label_dataset="arrivals",
        label="late_15",
        matures_after=DAY,
        window=timedelta(days=7),
        validation=timedelta(hours=12),
        test=timedelta(hours=12),
        as_of=datetime(2013, 1, 11, tzinfo=UTC),
        start=START,
    )
    suite = expectations.snapshot()
    enforce(validate(parquet_files(Path(snapshot.uri)), suite, suite_name="snapshot", batch=snapshot.id))
    return snapshot


def trained(home: Path, snapshot: Snapshot) -> Path:
    """Return the SavedModel of a short training, in a process of its own."""
    spec = make_spec(snapshot, epochs=1, batch_size=128)
    return Path(train(spec, home / "trainings" / spec.hash[:16]).saved_model)


# --- the worlds -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def before(tmp_path_factory) -> Path:
    """The home on the eve of the bad day."""
    home = tmp_path_factory.mktemp("before") / "home"
    home.mkdir()
    run_days(home, [START + n * DAY for n in range((BAD - START).days)])
    return home


class Worlds:
    """What became of the same days, by name: the home, what a retraining reads there, and the model it makes.

    One trains while the next is prepared.
    """

    def __init__(self, folder: Path, before: Path, pool: ThreadPoolExecutor) -> None:
        self.folder, self.before, self.pool = folder, before, pool
        self.snapshots: dict[str, Snapshot] = {}
        self.models: dict[str, Future[Path]] = {}

    def prepare(self, name: str, land: Land = landed, suites: Suites = CHECKED) -> None:
        home = self.folder / name
        shutil.copytree(self.before, home, ignore=shutil.ignore_patterns("feast", "ledger.db*"))
        run_days(home, SINCE, land, suites)
        self.snapshots[name] = training_set(home)

    def train(self, name: str) -> None:
        home = self.folder / name
        self.models[name] = self.pool.submit(trained, home, self.snapshots[name])


def trusting(files, event_time, bounds, source, **_):
    """In place of the check of event times and rows: believe the folder's name."""
    columns = PartitionStore.under(source.parents[2]).list(source.parent.name, None, None)[0].columns
    return columns, *bounds


@pytest.fixture(scope="module")
def worlds(tmp_path_factory, before) -> Iterator[Worlds]:
    """The clean world, the same again, and one for each fault with only its guard replaced."""
    with ThreadPoolExecutor() as pool:
        worlds = Worlds(tmp_path_factory.mktemp("worlds"), before, pool)
        for name in ("clean", "clean again"):
            worlds.prepare(name)
            worlds.train(name)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(partitions, "inspect", trusting)
            worlds.prepare("D08", off_by(1, "departures"))
            worlds.train("D08")
            patch.setattr(evaluate, "parquet_batch", believing)
            worlds.prepare("D16", spoilt(no_rows), {**CHECKED, "departures": ROWWISE, "arrivals": ROWWISE})
        yield worlds


@pytest.fixture(scope="module")
def champion(worlds) -> Path:
    return worlds.models["clean"].result()


@pytest.fixture(scope="module")
def service(server, tmp_path_factory, champion) -> Iterator[Rollout]:
    """The clean world's model in service."""
    with rollout_of(server, "flight_delay", ledger_of(tmp_path_factory.mktemp("ledger"))) as rollout:
        publish(champion, rollout.base, CHAMPION)
        put_into_service(rollout, CHAMPION)
        yield rollout


@pytest.fixture(scope="module")
def requests(champion) -> dict[str, list[Any]]:
    """The golden requests: the clean world's last flights."""
    return Golden.read(champion).inputs


@pytest.fixture(scope="module")
def right(service, requests) -> list[float]:
    """What callers get from the clean world's model."""
    return served(service, requests)


@pytest.fixture
def rollout(service, right, requests, request) -> Iterator[Rollout]:
    """The service, which must answer right again when the test is over and its model rolled back."""
    yield service
    if service.deployment().stable != CHAMPION:
        service.rollback("ann", "a drill", request=request.node.name)
        unpin(service.ledger, service.server, service.model, "ann", "the drill is over")
    assert served(service, requests) == right


def put_retrained_into_service(rollout: Rollout, model: Path) -> None:
    version = max(rollout.deployment().loaded) + 1
    publish(model, rollout.base, version, serving=CHAMPION)
    put_into_service(rollout, version)
    assert rollout.deployment().stable == version


# --- guard on ---------------------------------------------------------------------------------------------


def retraining_is_refused(home: Path, feed: Feed) -> None:
    """Everything but the bad day of one feed is sealed, and that alone stops the retraining."""
    for day in SINCE:
        for other in EVENT_TIMES:
            if (other, day) != (feed, BAD):
                sealed(home, other, day)
    missing = {
        "departures": rf"1 of \d partitions of 'departures' are not sealed; the first is {BAD}",
        "arrivals": rf"The labels have not come far enough(.|\n)*'arrivals' is complete from {START} up to {BAD}",
    }
    with pytest.raises(DataError, match=missing[feed]):
        training_set(home)
    assert not (home / "snapshots").exists()
    assert not (home / "trainings").exists()


@pytest.fixture
def home(before, tmp_path) -> Path:
    """A home of the test's own, on the eve of the bad day."""
    return Path(shutil.copytree(before, tmp_path / "home"))


class Fault(NamedTuple):
    feed: Feed
    land: Land
    guard: str


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(Fault("departures", off_by(1, "departures"), WRONG_DAY), id="D08 departures a day early"),
        pytest.param(Fault("departures", off_by(-1, "departures"), WRONG_DAY), id="D08 departures a day late"),
        pytest.param(Fault("arrivals", off_by(1, "arrivals"), WRONG_DAY), id="D08 arrivals a day early"),
        pytest.param(Fault("departures", spoilt(no_files), "There are no Parquet files"), id="D16 no files"),
        pytest.param(Fault("departures", spoilt(no_rows), "There are no rows to validate"), id="D16 no rows"),
    ],
)
def test_fault_guard_on(fault, home, rollout, right, requests):
    deployed = rollout.deployment()
    with pytest.raises(DataError, match=fault.guard):
        seal_landed(home, fault.feed, BAD, fault.land)
    retraining_is_refused(home, fault.feed)
    assert rollout.deployment() == deployed
    assert served(rollout, requests) == right


def test_permission_lost_guard_on(home, rollout, right, requests):
    deployed = rollout.deployment()
    folder = landed(home / "lake", "departures", BAD)
    with permission_lost(folder, CANNOT_LIST), pytest.raises(DataError, match="cannot be read"):
        seal_landed(home, "departures", BAD, land=lambda *_: folder)
    retraining_is_refused(home, "departures")
    assert rollout.deployment() == deployed
    assert served(rollout, requests) == right


# --- guard off --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["D08", "D16"])
def test_fault_guard_off(fault, worlds, rollout, right, requests):
    """A fifth of the flights is silently gone, nothing on the way objects, and callers get other answers.

    Both faults leave the very same rows to train on, so that one training stands for both.
    """
    clean, faulty = worlds.snapshots["clean"].splits, worlds.snapshots[fault].splits
    assert faulty["train"].rows < 0.8 * clean["train"].rows
    assert faulty == worlds.snapshots["D08"].splits
    put_retrained_into_service(rollout, worlds.models["D08"].result())
    moved = np.abs(np.array(served(rollout, requests)) - right)
    assert moved.mean() > MOVED


def test_permission_lost_guard_off(worlds, tmp_path, monkeypatch):
    """To an ordinary glob the folder is empty: the model is trained on exactly what an empty day leaves."""
    home = Path(shutil.copytree(worlds.folder / "D16", tmp_path / "home"))
    folder = landed(home / "lake", "departures", BAD)
    with permission_lost(folder, CANNOT_LIST):
        found = sorted(folder.glob("*.parquet"))
    monkeypatch.setattr(partitions, "parquet_files", lambda _: found)
    monkeypatch.setattr(partitions, "inspect", trusting)
    store = PartitionStore.under(home)
    store.seal("departures", str(BAD), folder, event_time="sched_dep_utc", batch_hash=None, suite_hash=None)
    assert store.get("departures", str(BAD)).files == ()
    repo = ensure_applied(Location(REPO, home), ledger_of(home))
    for day in SINCE:
        compute_day(home, str(day), repo=repo, start=START)
    assert training_set(home).splits == worlds.snapshots["D16"].splits


# --- no fault ---------------------------------------------------------------------------------------------


def test_no_fault(worlds, rollout, right, requests):
    """The same days pass every guard again, and the model trained on them again answers the same, to the last bit."""
    assert worlds.snapshots["clean again"].id == worlds.snapshots["clean"].id
    put_retrained_into_service(rollout, worlds.models["clean again"].result())
    assert served(rollout, requests) == right
