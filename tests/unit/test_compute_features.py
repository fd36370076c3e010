"""Computing a day of features: what a transform returns is checked, and the files say what they were made of."""

from __future__ import annotations

import json
import shutil
import sys
from datetime import UTC, date, datetime, timedelta

import pandas as pd
import psycopg2
import pyarrow.parquet as pq
import pytest

from airflow_mlops.engine.data.exclusions import exclude, lift
from airflow_mlops.engine.data.partitions import PartitionStore
from airflow_mlops.engine.features.computing.provenance import stale_days
from airflow_mlops.engine.features.project.schema import FeatureRepo, ServiceSchema, ViewSchema, feature_file
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.exceptions import ConfigError, DataError, TransientError
from tests.data_fixtures import landed, spoil
from tests.feast_fixtures import EVENT_TIMES, FIRST, compute_day, ledger_of, make_home, seal_days

START = datetime(2013, 1, 2, tzinfo=UTC)
VIEW = ViewSchema(keys={"origin": "string"}, features={"delay": "double", "n": "int64"}, ttl_seconds=86400)
REPO = FeatureRepo(
    project="p", hash="h", views={"traffic": VIEW}, services={"s": ServiceSchema(views=("traffic",), features={})}
)


@pytest.fixture(scope="module")
def sealed(tmp_path_factory):
    home = tmp_path_factory.mktemp("sealed")
    seal_days(home, 2)
    return home


def rows(**changes) -> pd.DataFrame:
    columns = {
        "origin": ["JFK", "EWR"],
        "delay": [1.5, None],
        "n": [3, 4],
        "event_timestamp": pd.to_datetime([START, START]),
        "created_timestamp": pd.to_datetime([START, START]),
        "spare": [0, 0],
    }
    return pd.DataFrame({**columns, **changes})


@pytest.fixture
def compute(sealed, tmp_path, monkeypatch):
    """Compute 2 January with a transform that returns what it is told to."""
    (tmp_path / "returning.py").write_text("def compute(day, data):\n    return answer(day, data)\n")
    sys.modules.pop("returning", None)

    def call(answer, key="2013-01-02", **changes):
        import importlib

        monkeypatch.syspath_prepend(str(tmp_path))
        module = importlib.import_module("returning")
        module.answer = answer if callable(answer) else lambda day, data: answer
        return compute_day(sealed, key, repo=REPO, transform="returning:compute", code_paths=[str(tmp_path)], **changes)

    yield call
    sys.modules.pop("returning", None)


def test_the_transform_gets_the_history_and_the_day_and_its_rows_are_written_in_order(sealed, compute):
    seen = {}

    def answer(day, data):
        seen["day"] = day
        seen["days"] = sorted({str(at.date()) for at in data["departures"]["sched_dep_utc"]})
        return {"traffic": rows()}

    assert compute(answer) == {"key": "2013-01-02", "views": {"traffic": 2}}
    assert seen == {"day": START.date(), "days": ["2013-01-01", "2013-01-02"]}
    written = pq.read_table(feature_file(sealed, "traffic", "2013-01-02"))
    assert written.column_names == ["origin", "delay", "n", "event_timestamp", "created_timestamp"]
    assert [str(kind) for kind in written.schema.types[:3]] == ["string", "double", "int64"]
    assert written["origin"].to_pylist() == ["EWR", "JFK"]
    assert written["delay"].to_pylist() == [None, 1.5]


def test_computing_again_gives_the_same_bytes(sealed, compute):
    compute({"traffic": rows()})
    first = feature_file(sealed, "traffic", "2013-01-02").read_bytes()
    compute({"traffic": rows().iloc[::-1]})
    assert feature_file(sealed, "traffic", "2013-01-02").read_bytes() == first


BAD = [
    (ConfigError, r"feature view 'trafic' that Feast does not know. Did you mean 'traffic'", {"trafic": rows()}),
    (
        ConfigError,
        r"lack the column 'delay'. Did you mean 'dealy'",
        {"traffic": rows().rename(columns={"delay": "dealy"})},
    ),
    (ConfigError, "returned DataFrame", rows()),
    (
        DataError,
        "1 of 2 rows(.|\n)*stamped outside",
        {"traffic": rows(event_timestamp=[START, START + timedelta(days=1)])},
    ),
    (
        DataError,
        "1 of 2 rows(.|\n)*stamped outside",
        {"traffic": rows(event_timestamp=[START, START - timedelta(hours=1)])},
    ),
    (DataError, "1 of 2 rows(.|\n)*duplicates", {"traffic": rows(origin=["JFK", "JFK"])}),
    (DataError, "'origin' is null in 1 of 2", {"traffic": rows(origin=["JFK", None])}),
    (DataError, "'created_timestamp' is null in 1 of 2", {"traffic": rows(created_timestamp=[START, pd.NaT])}),
    (DataError, "has no time zone", {"traffic": rows(event_timestamp=pd.to_datetime(["2013-01-02"] * 2))}),
    (DataError, "'delay'(.|\n)*not of type double", {"traffic": rows(delay=["much", "little"])}),
    (DataError, "'n'(.|\n)*not of type int64", {"traffic": rows(n=[1.5, 2.5])}),
]


@pytest.mark.parametrize(("error", "words", "answer"), BAD, ids=[words for _, words, _ in BAD])
def test_bad_rows_are_explained_and_nothing_is_written(sealed, compute, error, words, answer):
    compute({"traffic": rows()})
    before = feature_file(sealed, "traffic", "2013-01-02").read_bytes()
    with pytest.raises(error, match=f"{words}(.|\n)*fix:"):
        compute(answer)
    assert feature_file(sealed, "traffic", "2013-01-02").read_bytes() == before
    assert not (sealed / "features" / "trafic").exists()


def test_a_transform_that_raises_is_named(compute):
    def answer(day, data):
        return data["departures"]["no such column"]

    with pytest.raises(DataError, match=r"'returning:compute' raised KeyError(.|\n)*2013-01-02") as raised:
        compute(answer)
    assert isinstance(raised.value.__cause__, KeyError)


def test_a_transform_whose_database_does_not_answer_is_tried_again(compute):
    def answer(day, data):
        psycopg2.connect("postgresql://nobody@127.0.0.1:1/none")

    with pytest.raises(TransientError, match=r"'returning:compute' raised OperationalError(.|\n)*2013-01-02"):
        compute(answer)


def test_a_missing_partition_within_the_history_is_named(compute):
    with pytest.raises(DataError, match=r"2 of 4 partitions of 'departures' are not sealed; the first is 2013-01-03"):
        compute({"traffic": rows()}, key="2013-01-04")


def test_days_before_the_start_are_not_missed(compute):
    assert compute({"traffic": rows()}, history=timedelta(days=30))["views"] == {"traffic": 2}


def test_a_transform_that_does_not_exist_is_explained(sealed):
    with pytest.raises(ConfigError, match=r"has no 'comptue'\. Did you mean 'compute'"):
        compute_day(sealed, "2013-01-02", repo=REPO, transform="flight_features:comptue")


# --- what a day was computed from -------------------------------------------------------------------------

VIEWS = (
    "origin_traffic",
    "carrier_delays",
    "route_delays",
    "destination_delays",
    "aircraft_last_leg",
    "origin_weather",
)
LAST = date(2013, 1, 12)


@pytest.fixture(scope="module")
def twelve(tmp_path_factory):
    """Twelve days of flights with their features. Tests copy it."""
    return make_home(tmp_path_factory.mktemp("twelve") / "home", 12)


@pytest.fixture
def own(twelve, home):
    shutil.rmtree(home)
    shutil.copytree(twelve, home)
    return home


def stale(home) -> list[str]:
    return stale_days(home, PartitionStore.under(home), VIEWS, FIRST, LAST, ledger=ledger_of(home))


def seal_again(home, feed: str, day: date, rows: int = 5) -> None:
    """Late rows: the day is sealed with other content."""
    folder = spoil(landed(home / "lake", feed, day), lambda frame: frame.iloc[:-rows])
    store = PartitionStore.under(home)
    store.seal(feed, str(day), folder, event_time=EVENT_TIMES[feed], batch_hash=None, suite_hash=None)


def recompute(home, keys: list[str]) -> None:
    for key in keys:
        compute_day(home, key)


def test_a_file_says_which_revisions_it_was_computed_from(twelve):
    metadata = pq.read_metadata(feature_file(twelve, "carrier_delays", "2013-01-10")).metadata
    inputs = json.loads(metadata[b"airflow_mlops.inputs"])
    days = [f"2013-01-{n:02}" for n in range(2, 11)]
    assert {name: list(keys) for name, keys in inputs.items()} == dict.fromkeys(EVENT_TIMES, days)
    assert inputs["arrivals"]["2013-01-05"] == PartitionStore.under(twelve).get("arrivals", "2013-01-05").revision
    assert json.loads(metadata[b"airflow_mlops.excluded"]) == {
        "since": "2013-01-02",
        "windows": {name: [] for name in EVENT_TIMES},
    }


def test_a_replaced_partition_makes_exactly_the_days_stale_that_read_it(own):
    assert stale(own) == []
    seal_again(own, "arrivals", date(2013, 1, 3))
    assert stale(own) == [f"2013-01-{n:02}" for n in range(3, 12)]
    recompute(own, ["2013-01-04"])
    assert stale(own) == ["2013-01-03", *(f"2013-01-{n:02}" for n in range(5, 12))]
    recompute(own, stale(own))
    assert stale(own) == []


def test_content_that_came_back_is_not_stale(own):
    seal_again(own, "arrivals", date(2013, 1, 12))
    assert stale(own) == ["2013-01-12"]
    store = PartitionStore.under(own)
    folder = landed(own / "lake", "arrivals", date(2013, 1, 12))
    store.seal("arrivals", "2013-01-12", folder, event_time="landed_at", batch_hash=None, suite_hash=None)
    assert stale(own) == []


def test_days_that_were_not_computed_or_lost_their_partition_are_not_stale(own):
    feature_file(own, "carrier_delays", "2013-01-12").unlink()
    shutil.rmtree(own / "partitions" / "arrivals" / "2013-01-02")
    assert stale(own) == []
    seal_again(own, "departures", date(2013, 1, 11))
    shutil.rmtree(own / "partitions" / "departures" / "2013-01-11")  # and then retention took it
    assert stale(own) == []


def test_a_file_that_does_not_say_is_stale(own):
    file = feature_file(own, "route_delays", "2013-01-07")
    pq.write_table(pq.read_table(file).replace_schema_metadata(), file)
    assert stale(own) == ["2013-01-07"]


def test_excluded_rows_feed_nothing_and_days_excluded_whole_need_not_be_there(own):
    ledger, hour = ledger_of(own), timedelta(hours=1)
    noon = datetime(2013, 1, 10, 12, tzinfo=UTC)
    made = exclude(ledger, "arrivals", noon - 3 * hour, noon, "radar was down", "ann")
    assert stale(own) == ["2013-01-10", "2013-01-11", "2013-01-12"]
    before = pq.read_table(feature_file(own, "carrier_delays", "2013-01-10")).to_pandas()
    recompute(own, stale(own))
    assert stale(own) == []
    after = pq.read_table(feature_file(own, "carrier_delays", "2013-01-10")).to_pandas()
    morning = before["event_timestamp"] < noon - 3 * hour
    pd.testing.assert_frame_equal(before[morning], after[morning])
    at_noon = {name: rows[rows["event_timestamp"] == noon] for name, rows in (("before", before), ("after", after))}
    arrivals = pd.read_parquet(landed(own / "lake", "arrivals", date(2013, 1, 10)))
    gone = arrivals["landed_at"].between(noon - hour, noon, inclusive="neither").sum()
    assert at_noon["before"]["carrier_landings_1h"].sum() - at_noon["after"]["carrier_landings_1h"].sum() == gone > 0

    lift(ledger, made.id, "it was not", "ann")
    assert stale(own) == ["2013-01-10", "2013-01-11", "2013-01-12"]
    exclude(ledger, "arrivals", noon - 12 * hour, noon + 12 * hour, "radar was down all day", "ann")
    shutil.rmtree(own / "partitions" / "arrivals" / "2013-01-10")
    recompute(own, stale(own))
    assert stale(own) == []
    traffic = pq.read_table(feature_file(own, "origin_traffic", "2013-01-10")).to_pandas()
    assert traffic["origin_departures_1h"].sum() > 500, "the departures of that day are not excluded"


def test_a_ledger_that_does_not_answer_is_not_one_without_exclusions(own):
    down = Ledger("postgresql+psycopg2://nobody@127.0.0.1:1/none")
    before = feature_file(own, "carrier_delays", "2013-01-10").read_bytes()
    with pytest.raises(TransientError):
        compute_day(own, "2013-01-10", ledger=down, repo=REPO)
    with pytest.raises(TransientError):
        stale_days(own, PartitionStore.under(own), VIEWS, FIRST, LAST, ledger=down)
    assert feature_file(own, "carrier_delays", "2013-01-10").read_bytes() == before
