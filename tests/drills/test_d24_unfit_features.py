"""D24: a deprecated or blocked feature is used; a window outside a feature's validity is asked for.

Real flights and the example's own feature repository, with only tags changed. What is unfit is refused when it is
applied; and, should somebody have registered it with Feast alone, when a model is to be trained on it. A window is
known only then.
"""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from airflow_mlops.contracts import Snapshot
from airflow_mlops.engine.data.partitions import PartitionStore
from airflow_mlops.engine.data.snapshots import read_split
from airflow_mlops.engine.features.governance import apply
from airflow_mlops.engine.features.governance.apply import apply_repo, last_applied
from airflow_mlops.engine.features.governance.lint import check_training_use
from airflow_mlops.engine.features.project.location import Location
from airflow_mlops.engine.features.training import training_data
from airflow_mlops.engine.features.training.training_data import build_training_snapshot
from airflow_mlops.exceptions import ConfigError
from tests.feast_fixtures import FIRST, REPO, ledger_of, make_home
from tests.training_fixtures import make_spec
from tests.warm_trainer import train

pytestmark = pytest.mark.drill

DAYS = 5
DAY = timedelta(days=1)
VIEW = "origin_weather.tags.update({})"
FEATURE = "next(f for f in origin_weather.features if f.name == 'weather_temp').tags.update({})"
SERVICE = "flight_delay_v1.tags.update({})"


@pytest.fixture(scope="module")
def flights(tmp_path_factory) -> Path:
    """Five days of flights and features. Tests copy it."""
    return make_home(tmp_path_factory.mktemp("d24") / "home", DAYS)


@pytest.fixture
def location(flights, tmp_path) -> Location:
    """The same flights, and a repository of the test's own, as it was applied before the fault."""
    home, repo = tmp_path / "own", tmp_path / "repo"
    shutil.copytree(flights, home, ignore=shutil.ignore_patterns("feast", "ledger.db*", "snapshots"))
    shutil.copytree(REPO, repo, ignore=shutil.ignore_patterns("__pycache__"))
    location = Location(repo, home)
    apply_repo(location, ledger_of(home))
    return location


def tag(location: Location, what: str, **tags: str) -> None:
    with (location.repo / "features.py").open("a") as file:
        file.write(f"\n{what.format(repr(tags))}\n")


def snapshot_of(location: Location) -> Snapshot:
    """Freeze what a training at the end of the five days reads: flights of 1 to 4 January."""
    return build_training_snapshot(
        location,
        store=PartitionStore.under(location.home),
        ledger=ledger_of(location.home),
        model="flight_delay",
        source_dataset="departures",
        entity="flight_id",
        event_time="sched_dep_utc",
        keys=["carrier", "origin", "dest"],
        service="flight_delay_v1",
        label_dataset="arrivals",
        label="late_15",
        matures_after=DAY,
        window=30 * DAY,
        validation=DAY,
        test=DAY,
        as_of=datetime(2013, 1, 1 + DAYS, tzinfo=UTC),
        start=FIRST,
    )


def without_the_guard_at_apply(location: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    """Register as Feast alone does."""
    with monkeypatch.context() as patch:
        patch.setattr(apply, "check_lint", lambda repo: [])
        apply_repo(location, ledger_of(location.home))


# --- used although it must not be ------------------------------------------------------------------------------

UNFIT = [
    pytest.param(VIEW, {"status": "blocked"}, "feature view 'origin_weather'", id="blocked view"),
    pytest.param(FEATURE, {"status": "blocked"}, "feature 'origin_weather:weather_temp'", id="blocked feature"),
    pytest.param(VIEW, {"status": "deprecated"}, "feature view 'origin_weather'", id="deprecated view"),
    pytest.param(FEATURE, {"status": "deprecated"}, "feature 'origin_weather:weather_temp'", id="deprecated feature"),
    pytest.param(FEATURE, {"allowed_use": "another"}, "feature 'origin_weather:weather_temp'", id="not for this model"),
]


@pytest.mark.parametrize(("what", "tags", "named"), UNFIT)
def test_fault_guard_on(location, monkeypatch, what, tags, named):
    ledger = ledger_of(location.home)
    before = last_applied(location, ledger)
    tag(location, what, **tags)
    with pytest.raises(ConfigError, match=f"nothing was applied(.|\n)*'flight_delay_v1'(.|\n)*{named}"):
        apply_repo(location, ledger)
    assert last_applied(location, ledger) == before

    without_the_guard_at_apply(location, monkeypatch)
    with pytest.raises(ConfigError, match=f"must not be trained(.|\n)*{named}"):
        snapshot_of(location)
    assert not (location.home / "snapshots").exists()


def test_fault_guard_on_a_deprecated_service_serves_and_is_not_trained_on(location):
    tag(location, FEATURE, status="deprecated")
    tag(location, SERVICE, status="deprecated")
    apply_repo(location, ledger_of(location.home))
    with pytest.raises(ConfigError, match="feature service 'flight_delay_v1': It is deprecated"):
        snapshot_of(location)


@pytest.mark.slow
def test_fault_guard_off(location, monkeypatch):
    """Without both guards the blocked feature is an input of the model."""
    tag(location, FEATURE, status="blocked")
    without_the_guard_at_apply(location, monkeypatch)
    monkeypatch.setattr(training_data, "check_training_use", lambda *arguments, **options: None)
    snapshot = snapshot_of(location)
    assert read_split(snapshot, "train")["weather_temp"].null_count < snapshot.splits["train"].rows / 2
    spec = make_spec(snapshot, epochs=1, batch_size=256)
    trained = train(spec, location.home / "trainings" / spec.hash[:16])
    assert "weather_temp" in trained.signature.inputs


# --- a window outside the validity -----------------------------------------------------------------------------

OUTSIDE = [
    pytest.param({"valid_from": "2013-01-02"}, "from 2013-01-02", id="begins later"),
    pytest.param({"valid_until": "2013-01-03"}, "until before 2013-01-03", id="ends earlier"),
    pytest.param(
        {"valid_from": "2014-01-01", "valid_until": "2014-02-01"}, "from 2014-01-01 until before 2014-02-01", id="later"
    ),
]
WINDOW = "2013-01-01T00:00:00\\+00:00 to 2013-01-05T00:00:00\\+00:00"


@pytest.mark.parametrize(("tags", "said"), OUTSIDE)
def test_window_fault_guard_on(location, tags, said):
    tag(location, FEATURE, **tags)
    apply_repo(location, ledger_of(location.home))
    named = "feature 'origin_weather:weather_temp': It is valid at event times "
    with pytest.raises(ConfigError, match=f"must not be trained(.|\n)*{WINDOW}(.|\n)*{named}{said}"):
        snapshot_of(location)


def test_window_fault_guard_off(location, monkeypatch):
    """Without the guard the training set has rows, with values, of days on which the feature means nothing."""
    tag(location, FEATURE, valid_until="2013-01-02")
    apply_repo(location, ledger_of(location.home))
    monkeypatch.setattr(training_data, "check_training_use", lambda *arguments, **options: None)
    table = read_split(snapshot_of(location), "test")
    assert min(table["sched_dep_utc"].to_pylist()) >= datetime(2013, 1, 4, tzinfo=UTC)
    assert np.isfinite(table["weather_temp"].to_numpy(zero_copy_only=False)).mean() > 0.5


# --- no fault --------------------------------------------------------------------------------------------------


def test_no_fault(location):
    """A year of rolling windows inside the validity, to its edges, and unused features in any state."""
    tag(location, VIEW, status="active", allowed_use="flight_delay other", valid_from="2013-01-01")
    tag(location, FEATURE, valid_until="2014-01-01")
    repo = apply_repo(location, ledger_of(location.home))
    first = datetime(2013, 1, 1, tzinfo=UTC)
    for n in range(365):
        end = first + (n + 1) * DAY
        check_training_use(repo, "flight_delay_v1", "flight_delay", max(first, end - 60 * DAY), end)
    snapshot = snapshot_of(location)
    assert "weather_temp" in snapshot.features
    assert snapshot.feature_definition == repo.definition_hash("flight_delay_v1")
