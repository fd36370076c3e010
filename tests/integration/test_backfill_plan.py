"""What a backfill would do, what it costs, who may say yes, and what refuses it."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import Counter
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from types import SimpleNamespace

import pytest
from airflow.sdk.exceptions import AirflowFailException, TaskDeferred

from airflow_mlops import Partitions
from airflow_mlops.contracts import Deployment
from airflow_mlops.engine.backfill import run
from airflow_mlops.engine.backfill.make import plan_backfill
from airflow_mlops.engine.backfill.plan import find
from airflow_mlops.engine.backfill.run import (
    APPROVAL,
    STEP,
    BusyError,
    approve,
    begin,
    cancel,
    eta,
    execute,
    outcomes,
    probe,
    remaining,
    state_of,
)
from airflow_mlops.engine.backfill.shares import shares, steps_of
from airflow_mlops.engine.backfill.verify import verify
from airflow_mlops.engine.data.exclusions import exclude
from airflow_mlops.engine.features.computing.provenance import stale_days
from airflow_mlops.engine.history.load import load_partitions
from airflow_mlops.engine.history.pace import pace
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.exceptions import ConfigError, DataError, GateError, TransientError
from airflow_mlops.operators.backfill import BeginBackfillOperator
from tests import rides
from tests.backfill_fixtures import DAYS, LAST, PIPELINE, copied, land_other, landed, plan_of, site_of
from tests.ledger_fixtures import url
from tests.rides import FIRST, MODEL, key_of, midnight

__all__ = ["landed", "url"]


@pytest.fixture
def world(landed, tmp_path):
    return copied(landed, tmp_path)


def states(plan, dataset):
    return {step.key: step.state for step in plan.steps if step.dataset == dataset}


def sealed(site, *days):
    """Seal some days of both feeds, by a backfill."""
    for n in days:
        plan = plan_of(site, n, n)
        begin(site, plan)
        execute(site, plan, steps_of(plan, "seal"))
        run.end(site.ledger, plan)


def test_each_partition_is_said_to_be_what_it_is(world):
    site = site_of(world)
    sealed(site, 0, 1, 2, 3)
    land_other(world, "rides", 1)
    touched = world.home / "lake" / "rides" / key_of(2) / "rows.parquet"
    os.utime(touched, (1, 1))
    (world.home / "lake" / "rides" / key_of(3) / "rows.parquet").unlink()  # the upstream cleaned up
    (world.home / "lake" / "rides" / key_of(5) / "rows.parquet").unlink()
    exclude(site.ledger, "ends", midnight(4), midnight(5), "a bad day", "ann")
    plan = plan_of(site)
    assert list(states(plan, "rides").values()) == ["present", "changed", "present", "present", "missing", "absent"]
    assert list(states(plan, "ends").values()) == ["present"] * 4 + ["excluded", "missing"]
    assert list(states(plan, "features").values()) == ["missing"] * 5 + ["absent"]
    assert [step.name for step in steps_of(plan, "seal")] == [
        f"rides {key_of(1)}",
        f"rides {key_of(4)}",
        f"ends {key_of(5)}",
    ]
    words = "\n".join(plan.lines())
    assert f"rides: 3 present, 1 changed ({key_of(1)}), 1 missing ({key_of(4)}), 1 absent ({key_of(5)})" in words
    assert "price of features: 5 partitions; time unknown: none was ever loaded" in words
    assert "price of rides: 2 partitions, about" in words
    assert plan.estimates["rides"].at_least <= plan.estimates["rides"].minutes <= plan.estimates["rides"].at_most
    assert "price in all: unknown; the probe says" in words


def test_what_was_there_already_says_nothing_of_the_price(world):
    site = site_of(world)
    sealed(site, 0)
    known = pace(site.ledger, "rides")
    load_partitions(
        site.pipeline, [(site.feed("rides"), key_of(0))], [], location=site.location, store=site.store,
        ledger=site.ledger, code_path=site.code_path, locate=site.locate,
    )  # fmt: skip
    assert pace(site.ledger, "rides") == known
    assert pace(site.ledger, "nothing") is None


def test_the_price_is_in_money_where_an_hour_has_one(world):
    site = site_of(world)
    sealed(site, 0)
    site.ledger.record("load_pace", MODEL, {"partitions": 1, "seconds": 60, "quick": 30, "slow": 120})
    plan = plan_of(site, 1, 2, hourly_price=30)
    assert plan.minutes[0] == pytest.approx(2 + plan.estimates["rides"].minutes + plan.estimates["ends"].minutes)
    assert plan.minutes[1] < plan.minutes[0] < plan.minutes[2]
    assert any("minutes of one process (" in line and "; 1.0" in line for line in plan.lines()), plan.lines()


def test_newest_first_and_in_order(world):
    plan = plan_of(site_of(world), order="newest", ordered=True)
    assert [step.key for step in steps_of(plan, "compute")] == [key_of(n) for n in reversed(range(DAYS))]
    assert steps_of(plan, "seal")[0].key == key_of(DAYS - 1)
    assert shares(plan, 2) == 1
    every = plan_of(site_of(world))
    assert (shares(every, 5), shares(every, 100), shares(every, 100, at_once=2)) == (3, 1, 1), (
        "12: too few for two tasks"
    )
    cut = [steps_of(plan, "seal", share, 3) for share in range(3)]
    assert [step for some in cut for step in some] == steps_of(plan, "seal")


def test_a_weekly_feed_beside_daily_ones(world):
    """A day stands on the last week that has ended with it; before there is one, there are no features to compute."""
    weekly = Partitions(
        "lake/prices", event_time="at", suite="backfill_suite:suite", start=date(2024, 2, 26), arrived="still",
        partitioning="weekly",
    )  # fmt: skip
    site = site_of(world, features=replace(PIPELINE.features, sources=[weekly]))
    folder = world.home / "lake" / "prices" / "2024-02-26"
    folder.mkdir(parents=True)
    (folder / "a.parquet").write_bytes(b"landed")
    plan = plan_of(site)
    assert states(plan, "prices") == {"2024-02-26": "missing"}
    assert list(states(plan, "features")) == [key_of(n) for n in range(2, DAYS)], "it ends with the third of March"


@pytest.mark.parametrize(
    ("days", "says"),
    [
        ((3, 1), "before it begins on"),
        ((-1, 2), "before 'rides' does"),
        ((0, DAYS), "after 'rides' does"),
    ],
)
def test_a_window_that_makes_no_sense(world, days, says):
    with pytest.raises(ConfigError, match=says):
        plan_of(site_of(world), *days)


def test_what_has_not_ended_yet_is_refused(world):
    plan = plan_backfill(site_of(world), None, None, who="ann")
    assert (plan.first, plan.last) == (FIRST, LAST)
    start = datetime.now(UTC).date() - timedelta(days=20)
    ends = replace(PIPELINE.label.source, start=start, end=None, partitioning="weekly")
    source = replace(PIPELINE.source, start=start, end=None, partitioning="weekly")
    site = site_of(world, source=source, label=replace(PIPELINE.label, source=ends))
    plan = plan_backfill(site, None, None, who="ann")
    assert (plan.last.isoweekday(), plan.last < datetime.now(UTC).date()) == (7, True)
    site = site_of(world, source=replace(PIPELINE.source, end=None))
    with pytest.raises(ConfigError, match=r"has not ended yet(.|\n)*ride_delay.features"):
        plan_of(site, 0, 40_000)


def test_a_window_that_is_excluded_whole(world):
    site = site_of(world)
    for dataset in ("rides", "ends"):
        exclude(site.ledger, dataset, midnight(0), midnight(DAYS), "strike", "ann")
    with pytest.raises(ConfigError, match="is excluded: there is nothing to work on"):
        plan_of(site)


def served(site, key, revision, version=3):
    """Let a version that serves have been trained on a revision."""
    partitions = {"rides": {key: revision}}
    site.ledger.record("snapshot", MODEL, {"partitions": partitions}, key="snap1")
    site.ledger.record("verdict", MODEL, {"version": version, "snapshot_id": "snap1"})
    state = Deployment(server="s", model=MODEL, stable=version).model_dump(mode="json")
    site.ledger.swap(f"deployment:s:{MODEL}", state, None)


def test_who_saw_what_is_replaced_and_that_somebody_must_approve(world):
    site = site_of(world)
    sealed(site, 1)
    served(site, key_of(1), site.store.current("rides", key_of(1)))
    assert not plan_of(site, 1, 1).approval
    land_other(world, "rides", 1)
    plan = plan_of(site, 1, 1)
    assert plan.approval == f"version 3 of {MODEL}, which serves on s, saw what is replaced"
    assert f"{MODEL} saw what is replaced: rides {key_of(1)}; in 1 snapshots" in "\n".join(plan.lines())
    with pytest.raises(GateError, match="approved by nobody"):
        begin(site, plan)
    other = plan_of(site, 1, 1)
    assert other.hash != plan.hash, "each plan is approved by itself"
    with pytest.raises(GateError, match="the answer is about another plan"):
        approve(site.ledger, plan, other.hash, "ann")
    with pytest.raises(GateError, match="the answer is about another plan"):
        approve(site.ledger, plan, plan.hash, " ")
    approve(site.ledger, plan, plan.hash, "ann")
    begin(site, plan)
    with pytest.raises(GateError, match="approved by nobody"):
        execute(site, other, steps_of(other, "seal"))
    execute(site, plan, steps_of(plan, "seal"))
    found = verify(site, plan)
    assert len(found.changed) == 1
    assert "rows →" in found.changed[0]
    assert f"airflow dags trigger {MODEL}.train" in found.retrain[0]
    assert [taint.payload["key"] for taint in site.ledger.facts("taint", MODEL)] == [key_of(1)]


def test_who_learned_from_what_is_excluded(world):
    """Nothing landed anew: the exclusion alone changes what features are to be, also those after the window."""
    site = site_of(world)
    every = plan_of(site)
    begin(site, every)
    execute(site, every, every.work)
    verify(site, every).check()
    served(site, key_of(1), "an earlier revision")
    exclude(site.ledger, "rides", midnight(1), midnight(2), "a broken sensor", "ann")
    plan = plan_of(site, 1, 1)
    assert [step.name for step in plan.work] == [f"features {key_of(n)}" for n in (1, 2, 3)], "of two days, and its own"
    words = "\n".join(plan.lines())
    assert f"{MODEL} learned from what is excluded: rides {key_of(1)}; in 1 snapshots" in words
    assert "of which versions were made: 3; version 3 serves on s" in words
    assert "No model saw what is replaced." in words
    assert not plan.approval, "no bytes are replaced"
    begin(site, plan)
    execute(site, plan, plan.work)
    found = verify(site, plan, retrain=True)
    assert found.as_planned
    assert f"{MODEL} saw 1 partitions that are excluded, in versions 3. A training is asked for" in found.retrain[0]
    nothing = plan_of(site, 1, 1)
    assert not nothing.work, "they are computed without it now"
    stale = stale_days(world.home, site.store, ["zone_delays"], FIRST, LAST, ledger=site.ledger)
    assert stale == [], "a training may read them, also what the excluded day has computed"
    assert "learned from what is excluded" in "\n".join(nothing.lines())
    site.ledger.record("verdict", MODEL, {"version": 4, "snapshot_id": "snap2"})
    assert "A newer version left them out" in verify(site, plan, retrain=True).retrain[0]
    site.ledger.move(f"deployment:s:{MODEL}", lambda state: {**state, "stable": 4, "previous": None})
    assert not plan_of(site, 1, 1).seen, "it is in use no more, and the newest left it out"


def test_what_came_into_use_since_must_be_shown(world):
    site = site_of(world)
    sealed(site, 1)
    seen = site.store.current("rides", key_of(1))
    land_other(world, "rides", 1)
    plan = plan_of(site, 1, 1)
    assert not plan.approval, "nobody has trained on it"
    served(site, key_of(1), seen)
    with pytest.raises(
        GateError, match=r"version 3 of (.|\n)*, which serves on s, saw what is replaced(.|\n)*Plan again"
    ):
        begin(site, plan)
    assert site.store.current("rides", key_of(1)) == seen
    plan = plan_of(site, 1, 1)
    approve(site.ledger, plan, plan.hash, "ann")
    begin(site, plan)


def test_the_end_names_a_model_that_was_trained_since(world):
    site = site_of(world)
    sealed(site, 1)
    seen = site.store.current("rides", key_of(1))
    land_other(world, "rides", 1)
    plan = plan_of(site, 1, 1)
    begin(site, plan)
    served(site, key_of(1), seen)
    execute(site, plan, steps_of(plan, "seal"))
    assert f"{MODEL} saw 1 partitions that were replaced, in versions 3" in verify(site, plan).retrain[0]


def test_the_end_names_features_that_came_since_and_read_what_was_replaced(world):
    site = site_of(world)
    sealed(site, 0, 1, 2)
    land_other(world, "rides", 1)
    plan = plan_of(site, 1, 1)
    assert [step.name for step in plan.work if step.dataset == "features"] == ["features " + key_of(1)]
    day_by_day = plan_of(site, 2, 2)
    begin(site, day_by_day)
    execute(site, day_by_day, day_by_day.work)
    assert verify(site, day_by_day).as_planned
    begin(site, plan)
    execute(site, plan, plan.work)
    found = verify(site, plan)
    assert (found.as_planned, found.later) == (True, [key_of(2)])
    assert f"1 came later, and have features of what was replaced: plan them: {key_of(2)}" in found.lines()
    assert [step.name for step in plan_of(site, 2, 2).work] == ["features " + key_of(2)]
    exclude(site.ledger, "rides", midnight(2), midnight(3), "strike", "ann")
    assert verify(site, plan).later == [key_of(2)], "a training reads what an excluded day has computed"
    assert [step.name for step in plan_of(site, 2, 2).work] == ["features " + key_of(2)]


def test_features_after_the_window_that_were_refused_are_not_said_to_be_computed(world):
    site = site_of(world)
    first = plan_of(site, 0, 3)
    begin(site, first)
    execute(site, first, first.work)
    verify(site, first)
    land_other(world, "rides", 1)
    plan = plan_of(site, 1, 1)
    begin(site, plan)
    execute(site, plan, [step for step in plan.work if step.key == key_of(1)])
    found = verify(site, plan)
    assert found.computed == [key_of(1)]
    assert [line.split(":")[0] for line in found.left] == [
        f"features {key_of(2)} is changed",
        f"features {key_of(3)} is changed",
    ]


def test_above_a_limit_somebody_must_approve(world):
    assert "18 partitions are more than 17" in plan_of(site_of(world), approve_above=17).approval
    assert not plan_of(site_of(world), approve_above=18).approval


def test_what_changed_since_is_planned_anew(world):
    site = site_of(world)
    sealed(site, 0)
    plan = plan_of(site, 0, 3)
    land_other(world, "rides", 2)
    with pytest.raises(DataError, match=f"1 partitions changed since(.|\n)*rides {key_of(2)}(.|\n)*Plan again"):
        begin(site, plan)
    plan = plan_of(site, 0, 3)
    exclude(site.ledger, "ends", midnight(3), midnight(4), "a bad day", "ann")
    with pytest.raises(DataError, match=f"ends {key_of(3)}"):
        begin(site, plan)
    plan = plan_of(site, 0, 3)
    begin(site, plan)
    land_other(world, "ends", 1)
    with pytest.raises(DataError, match=f"ends {key_of(1)}"):
        execute(site, plan, steps_of(plan, "seal"))
    assert site.store.current("ends", key_of(1)) is None
    world.edit("ride_units.py", "/ 60", "/ 3600")
    with pytest.raises(DataError, match="code of the features changed"):
        begin(site, plan)


def test_what_a_run_that_has_ended_left_behind_does_not_run_any_more(world):
    """Somebody marked the run as failed in the UI: the next one need not be told."""
    site, ended = site_of(world), []
    plan, other = plan_of(site, 0, 2), plan_of(site, 3, 4)
    begin(site, plan, run="m.backfill manual__1", ended=ended.__contains__)
    with pytest.raises(DataError, match=r"is running(.|\n)*run m.backfill manual__1"):
        begin(site, other, run="m.backfill manual__2", ended=ended.__contains__)
    ended.append("m.backfill manual__1")
    begin(site, other, run="m.backfill manual__2", ended=ended.__contains__)
    with pytest.raises(DataError, match=f"is not running(.|\n)*what ran last: {other.id}"):
        execute(site, plan, steps_of(plan, "seal"))
    begin(site, other)
    ended.append("")
    with pytest.raises(BusyError, match="is running"):  # by a command, of which Airflow knows nothing
        begin(site, plan, run="m.backfill manual__3", ended=ended.__contains__)


@pytest.mark.parametrize(("days", "run", "waits"), [((3, 4), "b", True), ((2, 4), "b", False), ((3, 4), "", False)])
def test_another_run_waits_its_turn_unless_it_overlaps(world, monkeypatch, days, run, waits):
    """A command that runs is not waited for: nothing here would see that it died."""
    site, states = site_of(world), {}
    plan, other = plan_of(site, 0, 2), plan_of(site, *days)
    begin(site, plan, run=run and f"{MODEL}.backfill {run}")
    monkeypatch.setattr(BeginBackfillOperator, "site", lambda _: site)
    monkeypatch.setattr("airflow_mlops.operators.backfill.run_state", lambda _, run: states.get(run, "running"))
    task = BeginBackfillOperator(task_id="begin", pipeline=site.pipeline, plan=other.id)
    context = {"ti": SimpleNamespace(dag_id=f"{MODEL}.backfill", run_id="c")}
    if not waits:
        says = f"both work on ends {key_of(2)}" if days[0] == 2 else "is running"
        with pytest.raises(AirflowFailException, match=says):
            task.execute(context)
        return
    with pytest.raises(TaskDeferred) as deferred:
        task.execute(context)
    assert state_of(site.ledger, plan) == "running"
    states[f"{MODEL}.backfill {run}"] = "success"
    assert getattr(task, deferred.value.method_name)(context) == [{"share": 0, "of": 1}]
    assert state_of(site.ledger, other) == "running"
    with pytest.raises(DataError, match="is not running"):
        execute(site, plan, steps_of(plan, "seal"))


def test_one_at_a_time_and_cancelled_in_the_middle(world, monkeypatch):
    site = site_of(world)
    plan, other = plan_of(site, 0, 2), plan_of(site, 3, 4)
    begin(site, plan)
    begin(site, plan)
    with pytest.raises(DataError, match=f"is running(.|\n)*plan {plan.id}"):
        begin(site, other)
    with pytest.raises(DataError, match="is not running"):
        execute(site, other, steps_of(other, "seal"))
    with pytest.raises(DataError, match="is not running"):
        cancel(site.ledger, other, "bob")
    record = Ledger.record

    def cancels(self, kind, *arguments, **more):
        number = record(self, kind, *arguments, **more)
        if kind == STEP and len(outcomes(self, plan)) == 2:
            cancel(self, plan, "bob")
        return number

    monkeypatch.setattr(Ledger, "record", cancels)
    with pytest.raises(DataError, match="was cancelled by bob"):
        execute(site, plan, steps_of(plan, "seal"))
    assert len(outcomes(site.ledger, plan)) == 2
    assert state_of(site.ledger, plan) == "cancelled"
    with pytest.raises(DataError, match="was cancelled by bob"):
        begin(site, plan)
    begin(site, other)
    assert state_of(site.ledger, other) == "running"
    run.end(site.ledger, other)
    with pytest.raises(DataError, match="was cancelled by bob"):
        begin(site, plan)
    assert state_of(site.ledger, plan) == "cancelled"


def test_a_ledger_that_goes_away_while_it_is_cancelled_keeps_no_other_from_running(world, monkeypatch):
    site = site_of(world)
    plan, other = plan_of(site, 0, 2), plan_of(site, 3, 4)
    begin(site, plan)

    def gone(*_):
        raise TransientError("It does not answer.")

    with monkeypatch.context() as patch, pytest.raises(TransientError):
        patch.setattr(Ledger, "move", gone)
        cancel(site.ledger, plan, "bob")
    cancel(site.ledger, plan, "bob")
    assert len(site.ledger.facts("backfill_cancelled", plan.id)) == 1
    begin(site, other)


@pytest.mark.parametrize("workers", [1, 2])
def test_killed_in_the_middle_it_goes_on_and_repeats_no_success(world, workers):
    site = site_of(world)
    plan = plan_of(site, 0, 2)
    begin(site, plan)

    def dies():
        record = Ledger.record

        def kill(self, kind, subject, payload, *, key=""):
            if kind == STEP and key == f"rides {key_of(1)}":  # sealed, and not written down
                os.kill(os.getpid(), signal.SIGKILL)
            return record(self, kind, subject, payload, key=key)

        Ledger.record = kill
        execute(site_of(world), plan, steps_of(plan, "seal"), workers=workers)

    child = multiprocessing.get_context("fork").Process(target=dies)
    child.start()
    child.join(120)
    assert child.exitcode == -signal.SIGKILL
    done = outcomes(site.ledger, plan)
    assert {f"rides {key_of(0)}", f"ends {key_of(0)}"} <= set(done)
    assert site.store.current("rides", key_of(1)) is not None, "sealed by the one that died"
    begin(site, plan)
    assert len(remaining(site.ledger, plan)) == 9 - len(done)
    loaded = execute(site, plan, steps_of(plan, "seal"))
    assert loaded.there >= 1, "that one is not sealed again"
    assert Counter(fact.key for fact in site.ledger.facts(STEP, plan.id)).most_common(1)[0][1] == 1
    assert Counter(fact.key for fact in site.ledger.facts("partition", "rides")).most_common(1)[0][1] == 1
    assert not [step for step in remaining(site.ledger, plan) if step.dataset != "features"]


def test_one_that_is_refused_is_listed_and_stops_no_other_unless_ordered(world):
    rides.land(world.home, "rides", 1, rides.rides_of(1)[:5])
    site = site_of(world)
    plan = plan_of(site, 0, 2)
    begin(site, plan)
    loaded = execute(site, plan, steps_of(plan, "seal"))
    assert [(one.dataset, one.key) for one in loaded.refused] == [("rides", key_of(1))]
    assert "do not hold" in outcomes(site.ledger, plan)[f"rides {key_of(1)}"].refused
    found = verify(site, plan)
    assert [line.partition(":")[0] for line in found.left][:1] == [f"rides {key_of(1)} is missing"]
    with pytest.raises(DataError, match="partitions are not as the backfill planned them"):
        found.check()
    in_order = plan_of(site, 1, 2, ordered=True)
    begin(site, in_order)
    with pytest.raises(DataError, match="it is to go in order"):
        execute(site, in_order, steps_of(in_order, "seal"))


def test_a_probe_says_how_long_the_rest_takes(world):
    site = site_of(world)
    plan = plan_of(site, 0, 3)
    begin(site, plan)
    words = probe(site, plan)
    assert set(outcomes(site.ledger, plan)) == {f"rides {key_of(0)}", f"ends {key_of(0)}"}
    assert words.startswith("10 of 12 left: about ")
    assert words.endswith("and features, of which nothing is known yet")
    assert eta(site.ledger, plan) == words


def test_what_nobody_planned_is_told(world):
    site = site_of(world)
    sealed(site, 0)
    plan = plan_of(site, 0, 1)
    begin(site, plan)
    execute(site, plan, steps_of(plan, "seal"))
    land_other(world, "rides", 0)
    folder = world.home / "lake" / "rides" / key_of(0)
    site.store.seal("rides", key_of(0), folder, event_time="called_at", batch_hash=None, suite_hash=None)
    found = verify(site, plan)
    assert [line.split(":")[0] for line in found.unplanned] == [f"rides {key_of(0)}"]
    assert not found.as_planned


def test_a_plan_is_frozen_in_the_ledger_of_either_database(world, url):
    site = site_of(world, Ledger(url))
    plan = plan_of(site, hourly_price=0.1)
    again = find(site.ledger, plan.id)
    assert (again, again.hash) == (plan, plan.hash)
    assert find(site.ledger, plan.hash) == plan
    with pytest.raises(DataError, match="There is no plan"):
        find(site.ledger, plan.id[:-1] + "x")
    approve(site.ledger, plan, plan.hash, "ann")
    assert run.approved_by(site.ledger, plan) == "ann"
    assert len(site.ledger.facts(APPROVAL, plan.id)) == 1
    begin(site, plan)
    execute(site, plan, steps_of(plan, "seal")[:2])
    assert len(remaining(site.ledger, plan)) == 3 * DAYS - 2
