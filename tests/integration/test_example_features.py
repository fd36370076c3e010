"""The example's features through a real Feast: one function for training and serving, and the same values from both."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest

from airflow_mlops.demo.flights import read_feed
from airflow_mlops.engine.features.materialization.materialize import materialize
from airflow_mlops.engine.features.online.reader import OnlineReader
from airflow_mlops.engine.features.project.location import Location
from airflow_mlops.engine.features.project.schema import describe
from airflow_mlops.engine.features.project.store import open_store
from tests.feast_fixtures import FIRST, REPO, ledger_of, make_home

SERVICE = "flight_delay_v1"
DAYS = 4
TOMORROW = FIRST + timedelta(days=DAYS)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """Four days of features, online as they stand when the fourth day is over."""
    home = make_home(tmp_path_factory.mktemp("example") / "home", DAYS)
    until = datetime.fromisoformat(f"{TOMORROW}T00:00:00+00:00")
    materialize(Location(REPO, home), SERVICE, until=until, ledger=ledger_of(home))
    return home


@pytest.fixture(scope="module")
def tomorrow() -> pd.DataFrame:
    """Flights of the day of which no feature was computed: every tenth, and all without a known aircraft."""
    rows = read_feed("departures", TOMORROW, TOMORROW).to_pandas()
    assert rows["tailnum"].isna().any()
    return rows[(rows.index % 10 == 0) | rows["tailnum"].isna()].reset_index(drop=True)


def offline(home: Path, flights: pd.DataFrame) -> pd.DataFrame:
    """What a training set would hold of these flights, by Feast's own interface."""
    store = open_store(Location(REPO, home))
    service = describe(store).service(SERVICE)
    keys = ["carrier", "origin", "dest", "route", "tailnum"]
    entities = flights[["flight_id", *keys, *service.request]].assign(event_timestamp=flights["sched_dep_utc"])
    rows = store.get_historical_features(entities, store.get_feature_service(SERVICE)).to_df()
    assert len(rows) == len(flights)
    return rows.set_index("flight_id").loc[flights["flight_id"], list(service.features)]


def plain(value: object) -> object:
    return None if value is None or (isinstance(value, float) and math.isnan(value)) or value is pd.NaT else value


def test_tomorrows_flights_have_the_same_features_online_as_offline(home, tomorrow):
    wanted = offline(home, tomorrow)
    aircraft_known, weather_known = 0, 0
    reader = OnlineReader(Location(REPO, home), SERVICE)
    for flight in tomorrow.astype(object).where(tomorrow.notna(), None).to_dict("records"):
        asked = {name: flight[name] for name in (*reader.keys, *reader.request)}
        [answer] = reader.read([asked], as_of=flight["sched_dep_utc"])
        trained_on = {name: plain(value) for name, value in wanted.loc[flight["flight_id"]].items()}
        assert {name: plain(value) for name, value in answer.items()} == trained_on
        aircraft_known += answer["aircraft_idle_minutes"] is not None
        weather_known += answer["weather_temp"] is not None
        within_ttl = flight["sched_dep_utc"] <= pd.Timestamp(f"{TOMORROW}T23:00Z")  # a day after the last row
        assert (answer["origin_dep_delay_mean_7d"] is not None) == within_ttl
    assert 0 < aircraft_known < len(tomorrow)
    assert 0 < weather_known < len(tomorrow), "six hours after midnight nobody knows the weather any more"


def test_a_flight_of_an_unknown_aircraft_knows_everything_else(home, tomorrow):
    unknown = tomorrow[tomorrow["tailnum"].isna()]
    rows = offline(home, unknown)
    of_aircraft = [name for name in rows if name.startswith("aircraft_")]
    assert rows[of_aircraft].isna().all(axis=None)
    assert rows[["sched_minutes", "sched_hour", "origin_dep_delay_mean_7d"]].notna().all(axis=None)


def test_the_online_store_does_not_grow_with_every_flight(home):
    """It has a row for whatever flies, and for nothing that flew."""
    schema = describe(open_store(Location(REPO, home)))
    keys = {key for view in schema.service(SERVICE).views for key in schema.views[view].keys}
    assert keys == {"carrier", "origin", "dest", "route", "tailnum"}


def test_the_request_function_comes_from_the_registry(home, tmp_path):
    """A process that cannot import the module computes the same, for it runs what was applied."""
    program = f"""
import importlib.util, json, sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from airflow_mlops.engine.features.project.location import Location
from airflow_mlops.engine.features.project.store import open_store
assert importlib.util.find_spec("flight_features") is None
store = open_store(Location(Path({str(REPO)!r}), Path({str(home)!r})))
at = datetime(2013, 2, 1, 4, 30, tzinfo=UTC)
entity = dict(carrier="UA", origin="EWR", dest="IAH", route="EWR-IAH", tailnum="N14228", distance=1400.0)
entity |= dict(sched_dep_utc=at, sched_arr_utc=at + timedelta(minutes=200))
answer = store.get_online_features(store.get_feature_service({SERVICE!r}), [entity]).to_dict()
assert "flight_features" not in sys.modules
print(json.dumps(answer))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answer = {name: value for name, [value] in json.loads(done.stdout.splitlines()[-1]).items()}
    assert (answer["sched_hour"], answer["weekday"], answer["month"]) == (23, 3, 1)
    assert answer["sched_minutes"] == 200
    assert answer["distance_miles"] == 1400
    assert answer["origin_dep_delay_mean_24h"] is not None
