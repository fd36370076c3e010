"""How many rows found their label, against the model's own history."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from airflow_mlops import Label, Partitions
from airflow_mlops.demo.flights import read_feed
from airflow_mlops.engine.data.lateness import SNAPSHOT
from airflow_mlops.engine.features.training.joins import Joins, earlier_joins
from airflow_mlops.engine.features.training.recipe import Recipe
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.exceptions import ConfigError

CUT = datetime(2013, 3, 1, tzinfo=UTC)


def recipe(cut: datetime = CUT, days: int = 28, slices: tuple[str, ...] = ("shop",)) -> Recipe:
    return Recipe(
        source="orders",
        entity="id",
        event_time="at",
        keys=(),
        service="s",
        labels="payments",
        label="paid",
        begin=cut - timedelta(days=days),
        label_cut=cut,
        as_of=cut + timedelta(days=1),
        start=date(2013, 1, 1),
        split_rule=None,
        validation=timedelta(days=2),
        test=timedelta(days=2),
        excluded={},
        slices=slices,
    )


def joins(share, days: int = 28) -> Joins:
    """100 rows a day in each of two shops; ``share`` of shop and days before the cut find their label."""
    made = Joins(recipe(days=days))
    for day in range(1, days + 1):
        for shop in ("a", "b"):
            rows = pa.table({"at": pa.array([CUT - timedelta(days=day)] * 100), "shop": [shop] * 100})
            made.add(rows, pa.array([n < 100 * share(shop, day) for n in range(100)]))
    return made


def refused(made: Joins, earlier=(), **bounds):
    return [one for one in made.check(earlier, **bounds) if not one.success]


def test_labels_that_exist_for_a_third_by_nature_pass_without_any_word():
    made = joins(lambda shop, day: 0.3)
    assert made.whole == {"": {"": [5600, 1680]}, "shop": {"a": [2800, 840], "b": [2800, 840]}}
    assert not refused(made)
    assert not refused(made, [made.whole])
    [told] = refused(made, min_joined=0.9)
    assert (told.observed, told.bound, told.severity) == ({"rows": 5600, "share": 0.3}, {"min": 0.9}, "block")


def test_one_week_of_one_slice_does_not_hide_in_the_window():
    [told] = refused(joins(lambda shop, day: 0.45 if shop == "b" and day <= 7 else 0.9))
    assert told.note == "slice 'b' of 'shop', 2013-02-22 to 2013-02-28: 315 of 700 rows found their label, usual 89.9%"
    assert told.observed == {"rows": 700, "share": 0.45}


def test_a_fault_as_old_as_the_window_is_seen_against_earlier_snapshots():
    lost = joins(lambda shop, day: 0.45)
    assert not refused(lost)
    assert {one.note.partition(",")[0] for one in refused(lost, [joins(lambda shop, day: 0.9).whole] * 3)} == {
        "all rows",
        "slice 'a' of 'shop'",
        "slice 'b' of 'shop'",
    }
    assert not refused(lost, [joins(lambda shop, day: 0.9).whole], max_join_drop=0.6)


def test_a_loss_that_goes_on_slowly_does_not_become_usual(tmp_path):
    ledger, share, passed = Ledger(f"sqlite:///{tmp_path}/ledger.db"), 0.95, 0
    for n in range(30):
        made = joins(lambda shop, day, now=share: now)
        if refused(made, earlier_joins(ledger, "m", recipe())):
            break
        payload = {"label_joins": made.whole, "label_cut": (CUT - timedelta(days=60 - n)).isoformat()}
        ledger.record(SNAPSHOT, "m", payload, key=f"s{n}")
        share, passed = 0.9 * share, passed + 1
    assert (passed, round(share, 2)) == (6, 0.5), "about 40 % less than it ever was, and not less than the last"


def test_a_handful_of_rows_and_no_rows_are_no_news():
    made = Joins(recipe())
    assert [one.success for one in made.check([])] == [True]
    made.add(pa.table({"at": [CUT - timedelta(days=1)] * 5, "shop": ["a"] * 5}), pa.array([False] * 5))
    assert not refused(made, [{"": {"": [100, 60]}, "shop": {"a": [100, 60]}}])
    assert "shop" not in made.whole


def test_no_fault_any_week_of_real_flights():
    """Every fifth week of the year, those of the storms among them, is the end of a window of ten weeks."""
    flights, landed = (read_feed(feed, date(2013, 1, 1), date(2013, 12, 29)) for feed in ("departures", "arrivals"))
    known = landed.filter(pc.is_valid(landed["late_15"]))["flight_id"].combine_chunks()
    rows = flights.select(["sched_dep_utc", "carrier", "origin"]).rename_columns(["at", "carrier", "origin"])
    joined = pc.is_in(flights["flight_id"], value_set=known)
    earlier = []
    for week in range(6, 52, 3):
        cut = datetime(2013, 1, 1, tzinfo=UTC) + timedelta(weeks=week)
        inside = pc.and_(
            pc.less(rows["at"], pa.scalar(cut, rows["at"].type)),
            pc.greater_equal(rows["at"], pa.scalar(cut - timedelta(weeks=10), rows["at"].type)),
        )
        made = Joins(recipe(cut, 70, ("carrier", "origin")))
        made.add(rows.filter(inside), joined.filter(inside))
        assert not refused(made, earlier[-8:]), week
        earlier.append(made.whole)


@pytest.mark.parametrize("bound", [{"min_joined": 1.1}, {"max_join_drop": -0.1}, {"min_joind": 0.5}])
def test_bounds_that_cannot_be_are_refused(bound):
    feed = Partitions("lake/payments", event_time="at", suite="a:b", start=date(2013, 1, 1))
    with pytest.raises(ConfigError, match=r"Label\(...\) is not valid"):
        Label("paid", source=feed, matures_after="1d", **bound)
