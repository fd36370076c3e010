"""What the Models page asks the ledger, on both databases: against the story of a model, and against nothing at all."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from airflow_mlops.engine.data.announcements import announce
from airflow_mlops.engine.data.exclusions import exclude
from airflow_mlops.engine.halts import halt
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.engine.ledger.newest import last_keys, newest, subjects
from airflow_mlops.engine.overview.models import models, rows
from airflow_mlops.engine.overview.partitions import Calendar, calendar
from airflow_mlops.engine.overview.runs import cost_of, of_run
from airflow_mlops.engine.overview.timeline import timeline
from airflow_mlops.engine.overview.versions import compared, count, detail, versions
from airflow_mlops.engine.serving.deployments import pin
from airflow_mlops.exceptions import DataError
from tests.ledger_fixtures import url
from tests.overview_fixtures import DAYS, MARKUP, SERVER, Story, day, tell

__all__ = ["url"]


@pytest.fixture
def ledger(url: str) -> Ledger:
    ledger = Ledger(url)
    tell(ledger, "shop")
    return ledger


def test_an_empty_ledger_has_nothing_and_breaks_nothing(url: str):
    ledger = Ledger(url)
    assert models(ledger) == []
    assert rows(ledger, []) == []
    [row] = rows(ledger, ["none"])
    assert (row.serving, row.verdict, row.training, row.sources, row.state) == ((), None, None, (), "idle")
    assert versions(ledger, "none") == []
    assert timeline(ledger, "none", []).events == ()
    assert calendar(ledger, "none") is None
    assert cost_of(ledger, "none").trainings == 0
    with pytest.raises(DataError, match="There is no version 1 of 'none'"):
        detail(ledger, "none", 1)


def test_a_row_says_what_serves_since_when_and_what_it_knows(ledger: Ledger):
    [row] = rows(ledger, ["shop"])
    [serving] = row.serving
    assert (serving.server, serving.version, serving.why) == (SERVER, 6, "promote: passed its gates")
    assert serving.since is not None
    assert timedelta(days=1.9) < datetime.now(UTC) - serving.since < timedelta(days=2.1)
    assert (row.verdict.version, row.verdict.status) == (6, "PASS")
    assert row.training.why == "cron: every night"
    [source] = row.sources
    assert (source.dataset, source.key, source.degraded) == ("orders", day(1), "")
    assert str(row.online.date()) == day(5)
    assert (row.metric, row.points[0], row.points[-1]) == ("auc", (1, 0.701), (6, 0.724))
    assert row.state == "serving"


def test_since_passes_over_what_did_not_change_what_serves(ledger: Ledger):
    """A pin of what serves is no new deployment."""
    [before] = rows(ledger, ["shop"])
    pin(ledger, SERVER, "shop", "otto", "black friday")
    [row] = rows(ledger, ["shop"])
    assert row.serving[0].since == before.serving[0].since
    assert "pinned by otto" in row.serving[0].pin
    assert row.state == "pinned"


def test_what_stops_a_model_is_its_state(ledger: Ledger):
    announce(ledger, "orders", "degraded", "half is missing", "lake")
    assert rows(ledger, ["shop"])[0].state == "degraded"
    assert rows(ledger, ["shop"])[0].sources[0].degraded == "half is missing"
    halt(ledger, "shop", "otto", "wrong labels")
    [row] = rows(ledger, ["shop"])
    assert row.state == "halted"
    assert "wrong labels" in row.halt


def test_models_do_not_see_each_other(ledger: Ledger):
    tell(ledger, "hotel", "another", dataset="beds")
    assert models(ledger) == ["hotel", "shop"]
    hotel, shop = rows(ledger, ["hotel", "shop"])
    assert [one.dataset for one in hotel.sources] == ["beds"]
    assert hotel.training.why == "cron: another"
    assert [one.dataset for one in shop.sources] == ["orders"]
    assert {event.detail for event in timeline(ledger, "hotel", ["beds"]).events if event.lane == "halts"} == {
        "another"
    }


def test_the_newest_facts_of_many_come_at_once(ledger: Ledger):
    tell(ledger, "hotel", dataset="beds")
    assert subjects(ledger, "registered") == ["hotel", "shop"]
    found = newest(ledger, "registered", ["shop", "nobody", "hotel"], 2, only="metrics")
    assert {model: [fact.key for fact in facts] for model, facts in found.items()} == {
        "shop": ["6", "5"],
        "hotel": ["6", "5"],
    }
    assert found["shop"][0].payload["metrics"]["auc"] == 0.724
    assert last_keys(ledger, "partition", ["orders", "beds", "none"]) == {"orders": day(1), "beds": day(1)}


def test_versions_have_their_verdict_and_what_they_are_on_a_server(ledger: Ledger):
    found = {one.number: one for one in versions(ledger, "shop")}
    assert list(found) == [6, 5, 4, 3, 2, 1]
    assert count(ledger, "shop") == 6
    assert (found[4].status, found[4].reason) == ("FAIL", "0.655 is below 0.68")
    assert found[6].states == (f"serves on {SERVER}",)
    assert found[5].states == (f"rolled back on {SERVER}",)
    assert found[3].states == (f"kept on {SERVER}",)
    assert found[1].cost == 0.12
    assert versions(ledger, "shop", page=2) == []


def test_a_version_that_was_only_judged_is_there(url: str):
    """By an own DAG, which registers nothing with the ledger."""
    ledger = Ledger(url)
    verdict = {"model": "own", "version": 3, "status": "PASS", "checks": [], "gates": [], "snapshot_id": ""}
    ledger.record("verdict", "own", {"version": 3})  # as the first releases wrote them
    assert rows(ledger, ["own"])[0].verdict.status == ""
    ledger.record("verdict", "own", verdict)
    assert models(ledger) == ["own"]
    assert [(one.number, one.status) for one in versions(ledger, "own")] == [(3, "PASS")]
    assert detail(ledger, "own", 3).held == ()


def test_versions_that_were_only_judged_lie_between_the_others(ledger: Ledger):
    story = Story(ledger, "mixed")
    for number in (1, 3):
        story.version(number, 10 - number, 0.7)
    story.told({"server": SERVER, "model": "mixed", "stable": None})
    for number in (2, 4):
        verdict = {"model": "mixed", "version": number, "status": "FAIL", "checks": [], "gates": []}
        ledger.record("verdict", "mixed", verdict)
    assert [(one.number, one.status) for one in versions(ledger, "mixed")] == [
        *((4, "FAIL"), (3, "PASS"), (2, "FAIL"), (1, "PASS"))
    ]


def test_pages_of_versions_follow_each_other(url: str):
    ledger = Ledger(url)
    story = Story(ledger, "long")
    for number in range(1, 121):
        story.version(number, 121 - number, 0.7)
    story.told({"server": SERVER, "model": "long", "stable": None})
    pages = [[one.number for one in versions(ledger, "long", page)] for page in (1, 2, 3, 4)]
    assert [number for page in pages for number in page] == list(range(120, 0, -1))
    assert [len(page) for page in pages] == [50, 50, 20, 0]
    assert {one.status for one in versions(ledger, "long", 2)} == {"PASS"}


def test_a_version_leads_back_to_its_partitions(ledger: Ledger):
    ledger.record("taint", "shop", {"dataset": "orders", "key": day(12), "old": "a", "new": "b"}, key="s6")
    one = detail(ledger, "shop", 6)
    assert one.snapshot == "s6"
    [held] = one.held
    assert held.dataset == "orders"
    assert held.words == f"{day(33)} to {day(4)}, 30 partitions"
    assert one.tainted == (f"orders {day(12)} was replaced since",)
    assert [check["gate"] for check in one.verdict["checks"]] == ["auc >= 0.68", "log_loss <= 0.9"]


def test_two_versions_side_by_side(ledger: Ledger):
    both = compared(ledger, "shop", 4, 6)
    better = {line.name: line.better for line in both.metrics}
    assert better == {"auc": 2, "log_loss": 2, "brier": 2}
    assert [line.name for line in both.checks] == ["auc >= 0.68", "log_loss <= 0.9 country=NO"]
    changed = {line.name: (line.one, line.two) for line in both.changed}
    assert set(changed) == {"knows labels up to", "partitions of orders"}
    assert changed["partitions of orders"][1] == f"only here: {day(19)} to {day(4)}, 16 partitions"


def test_what_is_not_recorded_of_one_of_two_versions_is_said(ledger: Ledger):
    """The snapshot of a version may be recorded elsewhere, or its training have been registered by other means."""
    read = {"model": "shop", "service": "s", "project": "p", "definition": "d", "code": {}, "features": []}
    for number, datasets in ((7, ["orders"]), (8, ["orders"]), (9, ["refunds"])):
        made = {"model": "shop", "version": number, "spec_hash": "h", "snapshot": f"s{number}", "run": "r"}
        made["code"] = f"code of {number}"
        ledger.record("registered", "shop", {**made, "metrics": {}}, key=str(number))
        features = {**read, "version": number, "snapshot": f"s{number}", "datasets": datasets}
        ledger.record("model_features", "shop", features, key=str(number))
    changed = {line.name: (line.one, line.two) for line in compared(ledger, "shop", 6, 7).changed}
    assert changed["partitions of orders"] == (f"{day(33)} to {day(4)}, 30 partitions", "not recorded")
    changed = {line.name: (line.one, line.two) for line in compared(ledger, "shop", 7, 8).changed}
    assert changed["partitions of orders"] == ("not recorded", "not recorded"), "that they are alike is not known"
    assert changed["code that trained it"] == ("code of 7", "code of 8")
    changed = {line.name: (line.one, line.two) for line in compared(ledger, "shop", 6, 9).changed}
    assert changed["partitions of orders"][1] == "not read"
    assert changed["partitions of refunds"] == ("not read", "not recorded")


def test_everything_is_on_one_axis(ledger: Ledger):
    line = timeline(ledger, "shop", ["orders"])
    told = {(event.lane, event.title) for event in line.events}
    assert ("versions", "version 4 judged FAIL") in told
    assert ("deployments", f"rollback on {SERVER}: version 3 serves") in told
    assert ("halts", "halt by otto") in told
    assert ("data", "orders announced degraded by lake") in told
    assert ("data", f"orders {day(20)} blocked") in told
    assert ("data", f"orders {day(12)} replaced by late data") in told
    assert any(title.startswith("orders excluded from") for _, title in told)
    assert [event.at for event in line.events] == sorted((event.at for event in line.events), reverse=True)
    assert [version for _, version, _ in line.points] == [1, 2, 3, 4, 5, 6]


def test_the_calendar_has_every_partition_and_why_it_is_not_there(ledger: Ledger):
    cells = {}
    for year in {day(n)[:4] for n in (DAYS, 1)}:
        found = calendar(ledger, "orders", rows(ledger, ["shop"])[0].online, year)
        assert found.every == "daily"
        cells |= {cell.key: cell for cell in found.cells}
    assert len(cells) == DAYS
    assert cells[day(31)].state == "missing"
    assert (cells[day(20)].state, cells[day(20)].reason) == (
        "blocked",
        "expect_column_values_to_not_be_null of price: 12 % of the prices are missing",
    )
    assert {cells[day(n)].state for n in (45, 44, 43)} == {"excluded"}
    assert cells[day(42)].state == "sealed"
    assert (cells[day(6)].features, cells[day(5)].features) == ("online", "")
    told = calendar(ledger, "orders", None, day(5)[:4], computed={day(5), day(31)})
    assert {cell.key for cell in told.cells if cell.features == "computed"} == {day(5)}
    assert cells[day(6)].rows == 1006
    ledger.record("retention", "orders", {"revision": f"{6:016x}", "reason": "old", "bytes": 1}, key=day(6))
    again = calendar(ledger, "orders", None, day(6)[:4])
    assert next(cell.state for cell in again.cells if cell.key == day(6)) == "removed"


def test_what_is_valid_and_not_sealed_is_on_its_way(ledger: Ledger):
    outcome = {"expectation": "e", "column": None, "severity": "block", "success": True}
    ledger.record("validation", "orders", {"outcomes": [outcome], "rows": 1}, key=day(31))
    found = calendar(ledger, "orders", None, day(31)[:4])
    assert next(cell.state for cell in found.cells if cell.key == day(31)) == "valid"


def test_what_a_run_waits_for_and_what_has_arrived_is_not_missing(ledger: Ledger):
    seen = {day(0): "awaited", day(31): "arrived", day(5): "awaited", "2019-01-01": "arrived", "2026-01": "awaited"}
    found = calendar(ledger, "orders", worked_on=seen)
    cells = {cell.key: cell.state for cell in found.cells}
    assert cells[day(0)] == "awaited", "it comes after all that were sealed"
    assert "2019-01-01" not in cells, "another period is shown"
    period = calendar(ledger, "orders", period=day(31)[:4], worked_on=seen)
    assert {cell.key: cell.state for cell in period.cells}[day(31)] == "arrived"
    period = calendar(ledger, "orders", period=day(5)[:4], worked_on=seen)
    assert {cell.key: cell.state for cell in period.cells}[day(5)] == "sealed", "by an earlier run"


def test_partitions_stand_below_each_other_by_day():
    found = Calendar("orders", "daily", "2026", ("2026",), ())
    assert (found.before("2026-01-01"), found.before("2026-02-15")) == (0, 14)
    assert Calendar("orders", "hourly", "2026-01", ("2026-01",), ()).before("2026-01-15T0500Z") == 5
    assert Calendar("orders", "weekly", "2026", ("2026",), ()).before("2026-01-05") == 0


def test_a_partition_that_was_mended_is_sealed(ledger: Ledger):
    sealed = {"revision": "new", "rows": 5, "bytes": 1, "uri": "u", "receipt": {}, "replaces": None}
    ledger.record("partition", "orders", sealed, key=day(20))
    found = calendar(ledger, "orders", None, day(20)[:4])
    assert next(cell.state for cell in found.cells if cell.key == day(20)) == "sealed"


@pytest.mark.parametrize(
    ("keys", "every", "between"),
    [
        (["2026-01-15T0600Z", "2026-01-15T0800Z"], "hourly", "2026-01-15T0700Z"),
        (["2026-01-05", "2026-01-12", "2026-01-26"], "weekly", "2026-01-19"),
        (["2026-01", "2026-03"], "monthly", "2026-02"),
    ],
)
def test_calendars_of_other_cuts(url: str, keys: list[str], every: str, between: str):
    ledger = Ledger(url)
    for key in keys:
        sealed = {"revision": "r", "rows": 5, "bytes": 1, "uri": "u", "receipt": {}, "replaces": None}
        ledger.record("partition", "d", sealed, key=key)
    found = calendar(ledger, "d")
    assert found.every == every
    assert {cell.key: cell.state for cell in found.cells} == dict.fromkeys(keys, "sealed") | {between: "missing"}
    assert found.interval(between)[1] == found.interval(keys[-1])[0]


def test_a_run_has_its_request_its_version_and_its_partition(ledger: Ledger):
    found = of_run(ledger, "shop", "shop.train manual__1", ["orders"], day(20))
    assert [one.reason for one in found.requests] == ["cron"]
    assert found.version.version.number == 1
    [(dataset, cell)] = found.partitions
    assert (dataset, cell.state) == ("orders", "blocked")
    assert of_run(ledger, "shop", "shop.train other", ["orders"]).version is None


def test_trainings_are_added_up(ledger: Ledger):
    cost = cost_of(ledger, "shop")
    assert (cost.trainings, cost.seconds, cost.cost, cost.saved) == (6, 570.0, pytest.approx(0.72), 0)


def test_any_text_may_stand_anywhere(url: str):
    ledger = Ledger(url)
    name = 'it\'s <b>"one"</b> & %_'
    tell(ledger, name, MARKUP, dataset=MARKUP)
    assert models(ledger) == [name]
    [row] = rows(ledger, [name])
    assert row.sources[0].dataset == MARKUP
    assert detail(ledger, name, 6).version.why == MARKUP
    assert calendar(ledger, MARKUP, period=MARKUP).cells


def test_weeks_of_one_key_are_days(url: str):
    ledger = Ledger(url)
    story = Story(ledger, "m")
    story.say("partition", "d", {"revision": "r", "rows": 1, "bytes": 1, "uri": "u", "replaces": None}, 1, "2026-01-05")
    story.told({"server": SERVER, "model": "m", "stable": None})
    assert calendar(ledger, "d").every == "daily"
    exclude(ledger, "d", datetime(2026, 1, 5, tzinfo=UTC), datetime(2026, 1, 6, tzinfo=UTC), "bad", "otto")
    assert calendar(ledger, "d").cells[0].state == "excluded"
