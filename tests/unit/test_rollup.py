"""Partitions that are trained on together: when a week asks for a training, for which, and only once."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime, timedelta
from pathlib import Path

import pytest
from airflow.sdk import MinimumCount, PartitionedAssetTimetable, WaitForAll
from airflow.serialization.serialized_objects import DagSerialization

from airflow_mlops import ModelPipeline, Partitioning, Retrain, Rollup
from airflow_mlops.engine.data.readiness import Source
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.engine.retraining import rollup as engine
from airflow_mlops.engine.retraining.decide import Policy
from airflow_mlops.engine.retraining.looking import last_look, look_and_decide
from airflow_mlops.engine.retraining.requests import ask_while, finish, requests, start
from airflow_mlops.engine.retraining.why import why
from airflow_mlops.exceptions import ConfigError
from airflow_mlops.explain import explain
from tests.retraining_fixtures import START, WATCH, World, at
from tests.unit.test_pipeline import pipeline, source

SOURCES = (Source("orders", START), Source("outcomes", START))
WEEKLY = engine.Rollup(Partitioning("weekly"), Partitioning(), SOURCES)
LENIENT = engine.Rollup(Partitioning("weekly"), Partitioning(), SOURCES, minimum=5, deadline=timedelta(days=2))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, Ledger(f"sqlite:///{tmp_path}/ledger.db"))


def due(world: World, rollup: engine.Rollup, day: float, seen: datetime | None = None) -> tuple[bool, str, str]:
    fires, period, words = engine.due(
        world.ledger, world.store, "m", rollup, seen=seen, now=at(0) + timedelta(days=day)
    )
    return fires, period.key, words


def test_a_week_asks_once_all_its_days_are_there(world: World):
    world.seal_days(0, 6)
    world.seal(6)
    fires, key, words = due(world, WEEKLY, 7.1)
    assert (fires, key) == (False, "2026-01-05")
    assert "6 of 7 partitions of the period from 2026-01-05 are complete" in words, "the outcomes of a day are missing"
    assert "the next one is 2026-01-11" in words
    world.seal(6, dataset="outcomes")
    assert due(world, WEEKLY, 7.1) == (
        True,
        "2026-01-05",
        "7 of 7 partitions of the period from 2026-01-05 are complete",
    )


def test_enough_of_them_are_enough_after_the_deadline(world: World):
    world.seal_days(0, 5)
    fires, _, words = due(world, LENIENT, 8.9)
    assert not fires
    assert "all, or 5 from 2026-01-14 00:00 UTC on, are asked for" in words
    assert due(world, LENIENT, 9)[:2] == (True, "2026-01-05")


def test_too_few_are_never_enough(world: World):
    world.seal_days(0, 4)
    world.seal_days(5, 7)  # nothing behind the gap can be trained on
    fires, _, words = due(world, LENIENT, 13)
    assert not fires
    assert "4 of 7" in words
    assert "the next one is 2026-01-09" in words


def test_a_minimum_without_a_deadline_is_enough_at_once(world: World):
    world.seal_days(0, 5)
    at_once = engine.Rollup(Partitioning("weekly"), Partitioning(), SOURCES, minimum=5)
    assert due(world, at_once, 5)[0]


def test_the_week_before_asks_too_when_nobody_looked_meanwhile(world: World):
    world.seal_days(0, 9)
    assert due(world, WEEKLY, 9.1)[:2] == (True, "2026-01-05")
    fires, _, words = due(world, WEEKLY, 9.1, seen=at(9))
    assert not fires
    assert "2 of 7" in words


def test_what_was_trained_for_asks_no_more(world: World):
    world.seal_days(0, 5)
    request = ask_while(world.ledger, "m", "rollup", "", basis="2026-01-05", who="m.retrain")
    start(world.ledger, request, "m.train retrain__1")
    finish(world.ledger, request, "done")
    world.seal_days(5, 7)  # they came after the deadline
    fires, _, words = due(world, LENIENT, 10, seen=at(5))
    assert not fires
    assert words.endswith("; the period from 2026-01-05 was trained for by m.train retrain__1")


def test_a_look_writes_one_request_whatever_rang_and_however_often(world: World):
    world.seal_days(0, 7)

    def look() -> str:
        watch = world.watch(rollup=WEEKLY)
        policy = Policy(timedelta(days=1))
        running = requests(world.ledger, "m", ["started"])
        made = look_and_decide(
            world.ledger, world.store, world.home, watch=watch, policy=policy, who="m.rollup", running=running
        )
        return made.why

    assert look() == look() == "rollup: 7 of 7 partitions of the period from 2026-01-05 are complete"
    [request] = requests(world.ledger, "m")
    assert (request.key, request.reason) == ("rollup:2026-01-05:0", "rollup"), "also of a model that was never trained"
    start(world.ledger, request, "m.train retrain__1")
    finish(world.ledger, request, "failed")
    assert "cooling down" in look()
    assert [one.key for one in requests(world.ledger, "m", ["waiting"])] == ["rollup:2026-01-05:1"]
    assert last_look(world.ledger, "m") is not None
    assert any("fires  rollup: 7 of 7" in line for line in why(world.ledger, "m"))


def test_what_a_dag_says_is_what_is_looked_at():
    made = pipeline(retrain=Retrain(rollup=Rollup(minimum=5, deadline="2d"), cooldown="1d")).dags()
    said = made["m_rollup"].task_dict["decide"].watch["rollup"]
    sources = (Source("departures", date(2013, 1, 1)), Source("arrivals", date(2013, 1, 1)))
    expected = engine.Rollup(Partitioning("weekly"), Partitioning(), sources, 5, timedelta(days=2))
    assert engine.Rollup.of(said) == expected
    assert made["m_retrain"].task_dict["decide"].watch["rollup"] == said, "which finds what no event told of"
    assert WATCH.rollup is None


@pytest.mark.parametrize(
    ("rollup", "policy"),
    [
        (Rollup(), WaitForAll()),
        (Rollup(minimum=5), MinimumCount(5)),
        (Rollup(minimum=5, deadline="1d"), WaitForAll()),
        (Rollup("monthly"), WaitForAll()),
    ],
)
def test_airflow_counts_the_partitions(rollup, policy):
    dag = pipeline(retrain=Retrain(rollup=rollup, cooldown="6h")).dags()["m_rollup"]
    assert isinstance(dag.timetable, PartitionedAssetTimetable)
    assert dag.timetable.default_partition_mapper.wait_policy == policy
    assert DagSerialization.to_dict(dag)


def test_a_period_is_what_airflow_takes_for_one():
    """The keys that Airflow waits for are those that the source's partitions have."""
    from airflow.serialization.decoders import decode_timetable
    from airflow.serialization.encoders import encode_timetable

    expected = {"weekly": ("2013-01-16", "2013-01-14", 7), "monthly": ("2013-02-16", "2013-02", 28)}
    for every, (key, period, count) in expected.items():
        dag = pipeline(retrain=Retrain(rollup=Rollup(every), cooldown="6h")).dags()["m_rollup"]
        mapper = decode_timetable(encode_timetable(dag.timetable)).default_partition_mapper
        assert mapper.to_downstream(key) == period == Partitioning(every).key(Partitioning().interval(key)[0])
        wanted = set(mapper.to_upstream(period))
        assert len(wanted) == count
        assert all(map(Partitioning().is_key, wanted))


def test_hours_of_a_zone_are_left_to_the_clock():
    def cut(zone: str) -> dict:
        hours = Partitioning("hourly", zone)
        made = pipeline(
            source=source(partitioning=hours),
            retrain=Retrain(rollup=Rollup("daily"), cooldown="6h"),
        )
        return made.dags()

    assert "m_rollup" not in cut("America/New_York")
    mapper = cut("UTC")["m_rollup"].timetable.default_partition_mapper
    assert mapper.upstream_mapper.input_format == "%Y-%m-%dT%H%MZ"


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: Rollup("yearly"), "'daily', 'weekly' or 'monthly'"),
        (lambda: Rollup(deadline="2d"), "what is enough then"),
        (lambda: Rollup(minimum=5, deadline="7d"), "as long as the period"),
        (lambda: Retrain(rollup=Rollup()), "how often this may train"),
        (lambda: Retrain(rollup=Rollup(), cooldown="7d"), "keep back the next one"),
        (lambda: Retrain(rollup=Rollup(), cron="@weekly", cooldown="1d"), "the clock, and the data of a period"),
        (lambda: Retrain(new_rows=5, cooldown="14d", max_age="7d"), "must become too old"),
        (lambda: Retrain(on_assets=["a", "b", "a"], cooldown="1d"), "'a' is there twice"),
        (lambda: pipeline(retrain=Retrain(rollup=Rollup(minimum=7), cooldown="1d")), "no less than all of them"),
        (
            lambda: pipeline(retrain=Retrain(rollup=Rollup("daily"), cooldown="1h")),
            "Write Rollup('weekly' or 'monthly')",
        ),
    ],
)
def test_a_mistake_is_explained(build: Callable[[], object], says: str):
    with pytest.raises(ConfigError) as error:
        build()
    assert says in str(error.value)


YAML = """
model: m
source: {uri: lake/orders, event_time: at, suite: "code:orders", start: 2024-01-01}
entity: id
label: {column: late, known_at: decided_at}
features: {name: m_v1, transform: "code:compute", suite: "code:snapshot"}
train: {entrypoint: "code:build", window: 60d}
retrain: {rollup: {every: monthly, minimum: 20, deadline: 2d}, cooldown: 1d}
"""


def test_it_may_be_written_in_yaml(tmp_path: Path):
    file = tmp_path / "m.yaml"
    file.write_text(YAML)
    assert ModelPipeline.from_yaml(file).retrain == Retrain(rollup=Rollup("monthly", 20, "2d"), cooldown="1d")
    file.write_text(YAML.replace("minimum", "minimun"))
    with pytest.raises(ConfigError, match="unknown key 'minimun'"):
        ModelPipeline.from_yaml(file)


def test_it_is_said_in_words():
    def words(rollup: Rollup) -> str:
        return " ".join(explain(pipeline(retrain=Retrain(rollup=rollup, cooldown="1d"))).split())

    assert "starts it when all partitions of a week are there." in words(Rollup())
    assert "starts it when the first 5 partitions of a week are there." in words(Rollup(minimum=5))
    assert (
        "starts it when all partitions of a month are there (or, from 2 days after its end on, the first 20)."
        in words(Rollup("monthly", minimum=20, deadline="2d"))
    )
