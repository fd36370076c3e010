"""When a training must hold, and in which words."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from airflow_mlops.engine.data.announcements import announce
from airflow_mlops.engine.data.exclusions import exclude, lift
from airflow_mlops.engine.data.partitions import PartitionStore
from airflow_mlops.engine.data.readiness import Need, Source, latest_complete, readiness, watermark
from airflow_mlops.engine.data.retention import sweep_partitions
from airflow_mlops.engine.data.sources import require_dataset
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.exceptions import ConfigError, DataError
from airflow_mlops.partitioning import Partitioning
from airflow_mlops.triggers.readiness import look
from tests.small_days import START, ledger_of, seal_day, seal_days

CUT = datetime(2013, 1, 6, tzinfo=UTC)
NEEDS = [Need("departures", START, CUT), Need("arrivals", START, CUT)]


def reasons(home: Path, ledger: Ledger | None = None) -> list[str]:
    return readiness(PartitionStore.under(home), ledger or ledger_of(home), NEEDS)


@pytest.fixture
def five_days(home: Path) -> Path:
    seal_days(home, "departures", 5)
    seal_days(home, "arrivals", 5)
    return home


def test_all_days_sealed_is_ready(five_days: Path):
    assert reasons(five_days) == []
    assert watermark(PartitionStore.under(five_days), ledger_of(five_days), "arrivals", START) == CUT


def test_a_later_day_does_not_close_a_gap(home: Path):
    seal_days(home, "departures", 5)
    seal_days(home, "arrivals", 2)
    seal_days(home, "arrivals", 2, start=date(2013, 1, 4))
    [reason] = reasons(home)
    assert reason.startswith("arrivals: partition 2013-01-03 is not sealed")
    assert "from 2013-01-01 up to 2013-01-06" in reason
    seal_day(home, "arrivals", date(2013, 1, 3))
    assert reasons(home) == []


def test_what_retention_removed_was_there(five_days: Path):
    ledger = ledger_of(five_days)
    store = PartitionStore.under(five_days, ledger)
    for dataset in ("departures", "arrivals"):
        gone = sweep_partitions(store, ledger, dataset, timedelta(days=2), now=datetime(2013, 1, 6, tzinfo=UTC))
        assert [one.key for one in gone.removed] == ["2013-01-01", "2013-01-02"]
    assert reasons(five_days) == []
    sources = [Source(need.dataset, START) for need in NEEDS]
    assert latest_complete(store, ledger, sources) == CUT
    seal_day(five_days, "arrivals", date(2013, 1, 8))
    later = Need("arrivals", START, datetime(2013, 1, 9, tzinfo=UTC))
    assert "2013-01-06 is not sealed" in readiness(store, ledger, [later])[0], "a gap is a gap all the same"


def test_nothing_sealed_holds(home: Path):
    assert [reason.partition(":")[0] for reason in reasons(home)] == ["departures", "arrivals"]


def test_an_excluded_day_is_not_waited_for_until_the_exclusion_is_lifted(home: Path):
    ledger = ledger_of(home)
    seal_days(home, "departures", 5)
    seal_days(home, "arrivals", 4)
    window = [datetime(2013, 1, day, tzinfo=UTC) for day in (5, 6)]
    half = exclude(ledger, "arrivals", window[0], datetime(2013, 1, 5, 12, tzinfo=UTC), "noise", "ann")
    assert len(reasons(home)) == 1, "half a day is not a day"
    excluded = exclude(ledger, "arrivals", *window, "the feed was down", "ann")
    assert reasons(home) == []
    for exclusion in (excluded, half):
        lift(ledger, exclusion.id, "it came after all", "ann")
    assert len(reasons(home)) == 1


def test_degraded_holds_with_its_reason_until_ok(five_days: Path):
    ledger = ledger_of(five_days)
    announce(ledger, "departures", "degraded", "half of the sensors are down", "lake")
    [reason] = reasons(five_days)
    assert reason.startswith("departures: degraded since ")
    assert reason.endswith("by lake: half of the sensors are down")
    announce(ledger, "departures", "ok", "mended", "lake")
    assert reasons(five_days) == []


def test_another_dataset_may_be_degraded(five_days: Path):
    announce(ledger_of(five_days), "weather", "degraded", "foggy", "lake")
    assert reasons(five_days) == []


def test_a_ledger_that_is_down_is_a_reason_to_hold(five_days: Path):
    nowhere = Ledger("postgresql+psycopg2://nobody@127.0.0.1:9/nothing")
    found = reasons(five_days, nowhere)
    assert [reason.partition(":")[0] for reason in found] == ["departures", "arrivals"]
    assert "database does not answer" in found[0]


def test_unknown_datasets_are_named_with_the_nearest(five_days: Path):
    require_dataset(ledger_of(five_days), "departures")
    with pytest.raises(DataError, match="Did you mean 'departures'"):
        require_dataset(ledger_of(five_days), "departure")


@pytest.mark.parametrize("sources", [[], [{"dataset": "departures"}], [{"start": "2013-01-01"}]])
def test_what_is_waited_for_must_be_named(five_days: Path, sources: list[dict[str, str]]):
    with pytest.raises(ConfigError, match="Nothing says which data a training waits for"):
        look(ledger_of(five_days), five_days, sources, "2013-01-06T00:00:00+00:00")


def test_the_latest_complete_data_is_that_of_the_source_that_lags_most(home: Path):
    store, ledger = PartitionStore.under(home), ledger_of(home)
    sources = [Source("departures", START), Source("arrivals", START)]
    assert latest_complete(store, ledger, sources) == datetime(2013, 1, 2, tzinfo=UTC), "what it would wait for"
    seal_days(home, "departures", 5)
    seal_days(home, "arrivals", 3)
    cut = latest_complete(store, ledger, sources)
    assert cut == datetime(2013, 1, 4, tzinfo=UTC)
    assert readiness(store, ledger, [source.need(cut) for source in sources]) == []


def test_of_what_is_there_when_it_begins_the_week_that_goes_on_is_needed(home: Path):
    store, ledger = PartitionStore.under(home), ledger_of(home)
    seal_days(home, "departures", 9)
    store.declare("prices", Partitioning("weekly"))
    ahead = Source("prices", date(2012, 12, 31), ahead=True)
    sources = [Source("departures", START), ahead]
    cut = datetime(2013, 1, 9, tzinfo=UTC)
    assert ahead.need(cut, Partitioning("weekly")).until == datetime(2013, 1, 14, tzinfo=UTC)
    assert latest_complete(store, ledger, sources) == datetime(2013, 1, 7, tzinfo=UTC), "what it would wait for"
    [held] = readiness(store, ledger, [source.need(cut, store.partitioning(source.dataset)) for source in sources])
    assert "prices: partition 2012-12-31 is not sealed" in held


def test_a_source_that_has_ended_does_not_hold_the_others_back(home: Path):
    store, ledger = PartitionStore.under(home), ledger_of(home)
    seal_days(home, "departures", 5)
    seal_days(home, "arrivals", 3)
    ended = Source("arrivals", START, date(2013, 1, 3))
    assert latest_complete(store, ledger, [Source("departures", START), ended]) == datetime(2013, 1, 6, tzinfo=UTC)
    all_ended = [Source("departures", START, date(2013, 1, 5)), ended]
    assert latest_complete(store, ledger, all_ended) == datetime(2013, 1, 6, tzinfo=UTC)
