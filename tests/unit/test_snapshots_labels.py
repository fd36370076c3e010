"""Labels: complete or refused, corrected by what came later, and of a rate that can be believed."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from airflow_mlops.demo.flights import read_feed
from airflow_mlops.engine.data.labels import LABEL_SHIFT, check_watermark, latest_labels
from airflow_mlops.engine.data.partitions import PartitionStore
from airflow_mlops.exceptions import DataError
from airflow_mlops.problems import problem_named
from tests.small_days import seal_day, seal_days

START = date(2013, 1, 1)


def midnight(n: int) -> datetime:
    return datetime(2013, 1, n, tzinfo=UTC)


# --- the watermark ----------------------------------------------------------------------------------------


def test_labels_up_to_the_watermark_may_be_used_and_no_later_ones(home):
    seal_days(home, "labels", 3)
    seal_day(home, "labels", date(2013, 1, 5))
    store = PartitionStore.under(home)
    check_watermark(store, "labels", START, midnight(4))
    with pytest.raises(DataError) as refused:
        check_watermark(store, "labels", START, midnight(6))
    error = refused.value
    assert error.headline == "The labels have not come far enough."
    assert "label watermark: 'labels' is complete from 2013-01-01 up to 2013-01-04 00:00 UTC" in error.detail
    assert "known at 2013-01-06 00:00 UTC" in error.detail
    assert "every partition of 'labels' from 2013-01-04 to before 2013-01-06" in error.hint
    assert "as_of up to 2013-01-04" in error.hint
    check_watermark(store, "labels", START, midnight(6), skip={"2013-01-04"})


def test_a_dataset_without_a_partition_is_named_with_the_nearest_there_is(home):
    seal_day(home, "arrivals", START)
    with pytest.raises(DataError, match=r"no partitions of 'arrival'\. Did you mean 'arrivals'\?"):
        check_watermark(PartitionStore.under(home), "arrival", START, midnight(2))


def test_without_any_label_the_watermark_is_the_start(home):
    seal_day(home, "labels", date(2013, 1, 2))
    with pytest.raises(DataError, match="up to 2013-01-01 00:00"):
        check_watermark(PartitionStore.under(home), "labels", START, midnight(2))


# --- several labels of one entity -------------------------------------------------------------------------


def labels(*rows: tuple[str, int, bool | None]) -> pa.Table:
    ids, hours, late = zip(*rows, strict=True)
    times = pa.array([midnight(1) + timedelta(hours=hour) for hour in hours], pa.timestamp("us", "UTC"))
    return pa.table({"id": ids, "at": times, "late": pa.array(late, pa.bool_())})


def latest(*rows) -> dict[str, bool]:
    found = latest_labels(labels(*rows), "id", "at", "late", "arrivals")
    assert found.column_names == ["id", "late"]
    assert found.num_rows == len(set(found["id"].to_pylist()))
    return dict(zip(found["id"].to_pylist(), found["late"].to_pylist(), strict=True))


def test_the_label_that_came_last_counts_in_whatever_order_it_is_read():
    rows = [("a", 1, True), ("b", 1, False), ("b", 9, True), ("c", 3, True), ("c", 2, False)]
    assert latest(*rows) == latest(*reversed(rows)) == {"a": True, "b": True, "c": True}


def test_a_label_that_is_null_is_unknown_and_one_that_became_null_was_withdrawn():
    assert latest(("a", 1, None), ("b", 1, False)) == {"b": False}
    assert latest(("a", 1, True), ("a", 2, None), ("b", 1, False)) == {"b": False}


def test_the_same_label_sent_again_is_one():
    assert latest(("a", 1, True), ("a", 1, True), ("b", 1, False)) == {"a": True, "b": False}


@pytest.mark.parametrize("other", [False, None])
def test_two_labels_of_one_moment_are_refused(other):
    with pytest.raises(DataError, match=r"1 entities of 'arrivals' have two different labels of the same moment"):
        latest(("a", 1, True), ("a", 1, other), ("b", 1, False))


# --- rates ------------------------------------------------------------------------------------------------


def check_rates(rows: pa.Table, event_time: str, label: str, shift: float = LABEL_SHIFT) -> None:
    problem_named("binary").check_days(rows, event_time, label, shift)


def days_of(rates: list[float], n: int = 400) -> pa.Table:
    """So many labelled rows a day with the given rates of positives."""
    times = [midnight(1) + timedelta(days=day, minutes=i) for day in range(len(rates)) for i in range(n)]
    late = [i < round(rate * n) for rate in rates for i in range(n)]
    return pa.table({"at": pa.array(times, pa.timestamp("us", "UTC")), "late": late})


USUAL = [0.2, 0.25, 0.15, 0.3, 0.22, 0.18, 0.35, 0.12] * 3


@pytest.mark.parametrize("n", [0, 12, 23], ids=["first", "in between", "last"])
@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_a_day_of_one_class_is_named(n, rate):
    rates = [*USUAL[:n], rate, *USUAL[n + 1 :]]
    day = f"2013-01-{n + 1:02}"
    with pytest.raises(DataError, match=rf"of 1 days is not believable(.|\n)*{day} \({int(rate * 400)} of 400\)"):
        check_rates(days_of(rates), "at", "late")
    check_rates(days_of(rates), "at", "late", shift=np.inf)


def test_a_day_with_few_rows_is_not_judged_by_its_rate():
    few = days_of([0.0], n=5)
    shifted = few.set_column(0, "at", pa.array([midnight(30) for _ in range(5)], pa.timestamp("us", "UTC")))
    check_rates(pa.concat_tables([days_of(USUAL), shifted]), "at", "late")


def test_less_than_a_fortnight_is_not_judged():
    check_rates(days_of([*USUAL[:12], 0.0]), "at", "late")
    with pytest.raises(DataError):
        check_rates(days_of([*USUAL[:13], 0.0]), "at", "late")


@pytest.mark.parametrize("days", [14, 30, 60, 150])
def test_no_day_of_a_real_year_is_refused(days):
    """Storms and holidays included: rates from 4 % to 76 %."""
    year = read_feed("arrivals", date(2013, 1, 1), date(2013, 12, 31)).select(["sched_dep_utc", "late_15"])
    year = year.filter(year["late_15"].is_valid())
    times = year["sched_dep_utc"].to_numpy()
    for first in range(0, 365 - days, 7):
        begin = np.datetime64("2013-01-01") + first
        window = year.filter(pa.array((times >= begin) & (times < begin + days)))
        check_rates(window, "sched_dep_utc", "late_15")
