"""A history loaded in bulk is, to the byte, what the daily steps make of it, and what is wrong stops nothing else."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from airflow.sdk.exceptions import AirflowFailException

from airflow_mlops import Checks, FeatureService, Gate, Label, ModelPipeline, Partitions, Trainer, cli
from airflow_mlops.engine.data.files import sha256
from airflow_mlops.engine.features.computing.provenance import read_inputs
from airflow_mlops.engine.history import landed as landed_module
from airflow_mlops.engine.history import load as load_module
from airflow_mlops.engine.history.landed import Landed, load_landed
from airflow_mlops.engine.history.load import Loaded, in_groups, load_history
from airflow_mlops.exceptions import ConfigError, DataError
from airflow_mlops.operators.history import PlanHistoryOperator, ReportHistoryOperator
from tests import rides
from tests.rides import EVENT_TIMES, FIRST, MODEL, SERVICE, Rides, key_of

DAYS = 8
LAST = FIRST + timedelta(days=DAYS - 1)
CODE = """
from datetime import date
import great_expectations.expectations as gxe
from airflow_mlops import FeatureService, Gate, Label, ModelPipeline, Partitions, Trainer

def suite():
    return [gxe.ExpectTableRowCountToBeBetween(min_value=20, max_value=200)]

def feed(name, event_time):
    return Partitions(
        f"lake/{name}", event_time=event_time, suite="ride_pipeline:suite", start=date(2024, 3, 1), arrived="still"
    )

ride_delay = ModelPipeline(
    model="ride_delay",
    source=feed("rides", "called_at"),
    entity="ride_id",
    label=Label("late", source=feed("ends", "ended_at"), matures_after="1d"),
    features=FeatureService(
        "rides_v1", transform="ride_features:compute", suite="ride_pipeline:suite", history="2d",
        view_suites={"zone_delays": "ride_pipeline:views"},
    ),
    train=Trainer("ride_pipeline:build", window="60d"),
    gates=[Gate("auc", min=0.5)],
)

def views():
    return [gxe.ExpectColumnValuesToBeBetween(column="zone_late_rate", min_value=0, max_value=1)]
"""


def feed(name: str) -> Partitions:
    return Partitions(
        f"lake/{name}", event_time=EVENT_TIMES[name], suite="ride_pipeline:suite", start=FIRST, arrived="still"
    )


PIPELINE = ModelPipeline(
    model="ride_delay",
    source=feed("rides"),
    entity="ride_id",
    label=Label("late", source=feed("ends"), matures_after="1d"),
    features=FeatureService(
        SERVICE, transform=rides.TRANSFORM, suite="ride_pipeline:suite", history="2d",
        view_suites={"zone_delays": "ride_pipeline:views"},
    ),
    train=Trainer("ride_pipeline:build", window="60d"),
    gates=[Gate("auc", min=0.5)],
)  # fmt: skip


@pytest.fixture(scope="module")
def by_day(tmp_path_factory):
    """The same days, sealed and computed one after the other."""
    return Rides.make(tmp_path_factory.mktemp("by_day"), DAYS)


@pytest.fixture(scope="module")
def landed(tmp_path_factory):
    """A world in which everything has landed, and nothing else has happened."""
    world = Rides.make(tmp_path_factory.mktemp("landed"), 0)
    for n in range(DAYS):
        for dataset in EVENT_TIMES:
            rides.land(world.home, dataset, n)
    (world.dags / "ride_pipeline.py").write_text(CODE)
    return world


@pytest.fixture
def world(landed, tmp_path):
    sys.modules.pop("ride_pipeline", None)
    for name in ("home", "repo", "dags"):
        shutil.copytree(getattr(landed, name), tmp_path / name, ignore=shutil.ignore_patterns("feast", "ledger.db*"))
    return Rides(tmp_path)


def load(world: Rides, last: date = LAST, **more: Any) -> Loaded:
    store, ledger = world.store, world.ledger
    store.ledger = ledger
    return load_history(
        more.pop("pipeline", PIPELINE),
        FIRST,
        last,
        location=world.location,
        store=store,
        ledger=ledger,
        code_path=str(world.dags),
        locate=world.home.joinpath,
        **more,
    )


def contents(world: Rides) -> dict[str, str]:
    """Every feature file with its bytes, and every sealed revision."""
    files = sorted((world.home / "features").glob("*/*.parquet"))
    found = {str(file.relative_to(world.home)): sha256(file) for file in files}
    return found | {
        f"{name} {one.key}": one.revision for name in EVENT_TIMES for one in world.store.list(name, None, None)
    }


@pytest.mark.parametrize("workers", [1, 2])
def test_in_bulk_and_day_by_day_are_the_same_bytes(world, by_day, workers):
    loaded = load(world, workers=workers)
    assert (loaded.sealed, loaded.computed, loaded.there, loaded.refused) == (2 * DAYS, DAYS, 0, [])
    assert contents(world) == contents(by_day)
    kinds = [fact.payload["suite"] for fact in world.ledger.facts("validation", "rides", limit=None)]
    assert sorted(set(kinds)) == ["history", "ride_pipeline:suite"], "as the daily DAG writes them down"


def test_what_is_there_is_left_alone(world):
    load(world)
    before = {file: file.stat().st_mtime_ns for file in (world.home / "features").glob("*/*.parquet")}
    again = load(world)
    assert (again.sealed, again.computed, again.there) == (0, 0, 3 * DAYS)
    assert before == {file: file.stat().st_mtime_ns for file in (world.home / "features").glob("*/*.parquet")}


def test_what_is_sealed_is_replaced_by_nothing_unasked(world):
    """Other rows landed for two days; they are told together, and with what is to be done."""
    load(world)
    before = contents(world)
    for n in (2, 4):
        rides.land(world.home, "rides", n, rides.rides_of(n)[1:])
    again = load(world)
    assert (again.sealed, again.computed) == (0, 0)
    assert contents(world) == before
    [line] = in_groups(again.refused)
    assert f"rides {key_of(2)} is sealed, and other bytes have landed" in line
    assert f"So are 1 more: {key_of(4)}" in line
    assert f"{MODEL}.backfill, says who saw what is sealed" in line
    wanted = load(world, again=True)
    assert (wanted.sealed, wanted.refused) == (2 * DAYS, [])
    assert [len(world.store.revisions("rides", key_of(n))) for n in range(1, 5)] == [1, 2, 1, 2]


def test_the_next_days_go_on_where_it_ended(world):
    load(world, FIRST + timedelta(days=4))
    more = load(world)
    assert (more.sealed, more.computed) == (2 * (DAYS - 5), DAYS - 5)


def test_a_partition_that_is_blocked_stops_no_other_and_is_listed(world, by_day):
    few = rides.rides_of(3)[:5]
    rides.land(world.home, "rides", 3, few)
    loaded = load(world)
    refused = {(one.dataset, one.key) for one in loaded.refused}
    assert refused == {("rides", key_of(3)), *(("features", key_of(n)) for n in (3, 4, 5))}
    assert "do not hold" in next(one.why for one in loaded.refused if one.dataset == "rides")
    assert (loaded.sealed, loaded.computed) == (2 * DAYS - 1, DAYS - 3)
    rides.land(world.home, "rides", 3)
    repaired = load(world)
    assert (repaired.sealed, repaired.computed, repaired.refused) == (1, 3, [])
    assert contents(world) == contents(by_day)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"entity": "ride"}, "'rides' has no column 'ride'"),
        (
            {"label": Label("lat", source=feed("ends"), matures_after="1d")},
            "'ends' has no column 'lat'. Did you mean 'late'",
        ),
        ({"label": replace(PIPELINE.label, weight="wieght")}, "'rides' has no column 'wieght'"),
        (
            {"features": replace(PIPELINE.features, keys=["zoone"])},
            "'rides' has no column 'zoone'. Did you mean 'zone'",
        ),
    ],
    ids=["entity", "label", "weight", "key"],
)
def test_a_name_that_is_mistyped_is_refused_with_the_first_partition(world, changes, words):
    loaded = load(world, last=FIRST, pipeline=replace(PIPELINE, **changes))
    assert any(words in one.why for one in loaded.refused), loaded.refused
    assert loaded.computed == 0


def test_a_suite_that_is_not_there_is_said_before_the_work(world):
    with pytest.raises(ConfigError, match="ride_pipeline:nothing"):
        load(world, pipeline=replace(PIPELINE, features=replace(PIPELINE.features, suite="ride_pipeline:nothing")))
    assert not world.store.keys("rides")


def test_after_a_change_of_the_contract_what_is_sealed_is_read_again(world):
    for n in range(DAYS):  # a note on some days only
        file = world.home / "lake" / "rides" / key_of(n) / "rows.parquet"
        table = pq.read_table(file, partitioning=None)
        if n > 2:
            table = table.append_column("note", pa.array([f"n{i % 2}" for i in range(table.num_rows)]))
        pq.write_table(table, file)
    contract = world.dags / "ride_contract.py"
    contract.write_text(
        "from airflow_mlops.engine.data.checks import Column, SchemaContract\n\n\ndef rides():\n    return "
        "SchemaContract(version='1', columns={'ride_id': Column('string')}, new_columns='keep')\n"
    )
    checks = Checks(contract="ride_contract:rides", identifiers=["ride_id", "rider"])
    source = replace(PIPELINE.source, checks=checks)
    pipeline = replace(PIPELINE, source=source)
    load(world, pipeline=pipeline)
    assert "note" not in world.store.get("rides", key_of(0)).columns
    contract.write_text(contract.read_text().replace("}, new", ", 'note': Column('string')}, new"))
    sys.modules.pop("ride_contract", None)
    assert load(world, pipeline=pipeline).sealed == 0
    load(world, pipeline=pipeline, again=True)
    assert all("note" in world.store.get("rides", key_of(n)).columns for n in range(DAYS))
    table = world.store.read(world.store.list("rides", None, None), ["note"])
    assert table.num_rows == sum(world.store.get("rides", key_of(n)).rows for n in range(DAYS))


def test_what_has_not_landed_is_listed(world):
    shutil.rmtree(world.home / "lake" / "ends" / key_of(7))
    assert {(one.dataset, one.key) for one in load(world).refused} == {("ends", key_of(7)), ("features", key_of(7))}


@pytest.mark.parametrize("after", ["sealed 5 of", "computed the features of 3 of"])
def test_killed_anywhere_it_goes_on(world, by_day, after):
    def stop(text: str) -> None:
        if text.startswith(after):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load(world, say=stop)
    rest = load(world)
    assert rest.there > 0
    assert contents(world) == contents(by_day)


def test_edited_code_computes_the_features_again_and_seals_nothing(world):
    load(world)
    world.edit("ride_units.py", "/ 60", "/ 3600")
    again = load(world)
    assert (again.sealed, again.computed) == (0, DAYS)


def test_bounds_in_the_wrong_order_are_refused(world):
    with pytest.raises(ConfigError, match="before it begins"):
        load(world, FIRST - timedelta(days=1))


def test_a_wrong_setting_is_no_fault_of_a_partition(world):
    (world.dags / "ride_pipeline.py").write_text("def suite():\n    return 7\n")
    with pytest.raises(ConfigError, match="ride_pipeline:suite"):
        load(world)


def test_a_weekly_feed_beside_daily_ones(world):
    """A day stands on the last week that has ended with it; before there is one, there is nothing to compute."""
    for monday in ("2024-02-26", "2024-03-04"):
        folder = world.home / "lake" / "prices" / monday
        folder.mkdir(parents=True)
        at = datetime.fromisoformat(monday).replace(tzinfo=UTC)
        rows = {
            "at": pa.array([at + timedelta(minutes=n) for n in range(30)], pa.timestamp("us", "UTC")),
            "x": range(30),
        }
        pq.write_table(pa.table(rows), folder / "a.parquet")
    weekly = Partitions(
        "lake/prices", event_time="at", suite="ride_pipeline:suite", start=date(2024, 2, 26), arrived="still",
        partitioning="weekly",
    )  # fmt: skip
    features = replace(PIPELINE.features, sources=[weekly])
    loaded = load(world, pipeline=replace(PIPELINE, features=features))
    assert loaded.refused == []
    assert (loaded.sealed, loaded.computed) == (2 * DAYS + 1, DAYS - 2)
    assert world.store.keys("prices") == ["2024-02-26"], "the next week has not ended on the eighth of March"
    inputs = read_inputs(world.home, ["zone_delays"], FIRST, LAST)
    assert {one.partitions["prices"].popitem()[0] for one in inputs.values()} == {"2024-02-26"}


def test_prices_of_the_week_that_goes_on(world):
    """The list of a week is there when it begins, and lands by the day: each day stands on its own week's."""
    for n in range(14):
        day = date(2024, 2, 26) + timedelta(days=n)
        folder = world.home / "lake" / "prices" / str(day)
        folder.mkdir(parents=True)
        at = datetime(day.year, day.month, day.day, tzinfo=UTC)
        times = pa.array([at + timedelta(minutes=n) for n in range(10)], pa.timestamp("us", "UTC"))
        pq.write_table(pa.table({"at": times, "x": range(10)}), folder / "a.parquet")
    prices = Partitions(
        "lake/prices", event_time="at", suite="ride_pipeline:suite", start=date(2024, 2, 26), arrived="still",
        partitioning="weekly", lands="daily", ahead=True,
    )  # fmt: skip
    features = replace(PIPELINE.features, sources=[prices])
    pipeline = replace(PIPELINE, features=features)
    loaded = load(world, pipeline=pipeline)
    assert loaded.refused == []
    assert (loaded.sealed, loaded.computed) == (2 * DAYS + 2, DAYS)
    inputs = read_inputs(world.home, ["zone_delays"], FIRST, LAST)
    stood_on = {key: max(one.partitions["prices"]) for (_, key), one in inputs.items()}
    assert stood_on == {
        key_of(n): "2024-02-26" if FIRST + timedelta(days=n) < date(2024, 3, 4) else "2024-03-04" for n in range(DAYS)
    }
    assert world.store.get("prices", "2024-03-04").rows == 70
    again = load(world, pipeline=pipeline)
    assert (again.sealed, again.computed) == (0, 0)


# --- command and DAG --------------------------------------------------------------------------------------


def test_the_command(world, capsys, monkeypatch):
    monkeypatch.chdir(world.home.parent)
    place = ["--home", str(world.home), "--ledger", world.ledger.url, "--repo", str(world.repo), "--workers", "1"]
    spec = f"{world.dags}/ride_pipeline.py:ride_delay"
    assert cli.main(["history", spec, "--to", str(LAST), *place]) == 0
    assert capsys.readouterr().out.startswith(
        f"{2 * DAYS} partitions sealed, features of {DAYS} computed, 0 were there"
    )
    assert cli.main(["history", spec, "--to", str(LAST + timedelta(days=1)), *place]) == 1
    assert f"rides {key_of(DAYS)}: " in capsys.readouterr().err
    assert cli.main(["history", f"{world.dags}/ride_pipeline.py:suite", "--to", str(LAST), *place]) == 1
    assert "is no ModelPipeline" in capsys.readouterr().err
    assert cli.main(["history", "nowhere.py:x", "--to", str(LAST), *place]) == 1
    assert "does not name a pipeline" in capsys.readouterr().err


def test_the_dag_loads_in_order_and_reports(tmp_path):
    dag = PIPELINE.dags()["ride_delay_history"]
    assert dag.get_task("load").partial_kwargs["max_active_tis_per_dagrun"] == 1
    assert dag.get_task("load").upstream_task_ids == {"plan"}
    assert dag.get_task("report").upstream_task_ids == {"load"}
    plan = PlanHistoryOperator(
        task_id="p", pipeline=PIPELINE, first="2024-03-01", last="2024-03-25", partitions=10, home=str(tmp_path)
    )
    stretches = plan.execute({})
    assert [one["partitions"] for one in stretches] == [10, 10, 5]
    assert [one["end"] for one in stretches][:-1] == [one["start"] for one in stretches][1:]
    done = {"sealed": 2, "computed": 1, "there": 0, "refused": []}
    assert ReportHistoryOperator(task_id="r", loaded=[done, done], home=str(tmp_path)).execute({})["sealed"] == 4
    bad = ReportHistoryOperator(task_id="r", loaded=[{**done, "refused": ["rides x: why"]}], home=str(tmp_path))
    with pytest.raises(AirflowFailException, match=r"1 partitions of the history were refused(.|\n)*rides x: why"):
        bad.execute({})


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"last": "2024-02-01"}, "ends on 2024-02-01, before it begins"),
        ({"first": "x"}, "first='x' is not a day"),
        ({"partitions": "0"}, "is not a number of partitions"),
    ],
)
def test_a_form_that_makes_no_sense_is_refused(tmp_path, changes, says):
    arguments = {"first": "2024-03-01", "last": "2024-03-02", "partitions": "10", **changes}
    with pytest.raises(AirflowFailException, match=says):
        PlanHistoryOperator(task_id="p", pipeline=PIPELINE, home=str(tmp_path), **arguments).execute({})


# --- up to what has landed --------------------------------------------------------------------------------------------


class SomeDaysLater(datetime):
    """A clock that stands three days after the last that landed."""

    @classmethod
    def now(cls, tz: Any = None) -> datetime:
        return datetime(LAST.year, LAST.month, LAST.day, 12, tzinfo=tz) + timedelta(days=4)


def load_all(world: Rides, monkeypatch: pytest.MonkeyPatch, pipeline: ModelPipeline = PIPELINE) -> Landed:
    monkeypatch.setattr(landed_module, "datetime", SomeDaysLater)
    store = world.store
    store.ledger = world.ledger
    return load_landed(
        pipeline,
        location=world.location,
        store=store,
        ledger=world.ledger,
        code_path=str(world.dags),
        locate=world.home.joinpath,
    )


def test_without_a_last_day_all_is_loaded_that_has_landed(world, monkeypatch):
    done = load_all(world, monkeypatch)
    assert done.end == datetime(LAST.year, LAST.month, LAST.day, tzinfo=UTC) + timedelta(days=1)
    assert (done.loaded.sealed, done.loaded.computed, done.loaded.refused) == (2 * DAYS, DAYS, [])


def test_what_is_missing_between_is_no_end(world, monkeypatch):
    shutil.rmtree(world.home / "lake" / "rides" / key_of(3))
    with pytest.raises(DataError, match=f"rides {key_of(3)}"):
        load_all(world, monkeypatch)


def test_a_source_that_has_ended_must_be_there_to_its_end(world, monkeypatch):
    source = replace(PIPELINE.source, end=LAST + timedelta(days=1))
    ended = replace(PIPELINE, source=source, train=replace(PIPELINE.train, validation="1d", test="1d"))
    with pytest.raises(DataError, match=f"rides {key_of(DAYS)}"):
        load_all(world, monkeypatch, ended)


def test_where_nothing_has_landed_there_is_no_end(world, monkeypatch):
    shutil.rmtree(world.home / "lake")
    with pytest.raises(DataError, match="partitions were refused"):
        load_all(world, monkeypatch)


def test_a_source_that_begins_today_has_no_end_yet(world, monkeypatch):
    later = replace(PIPELINE, source=replace(PIPELINE.source, start=LAST + timedelta(days=4)))
    monkeypatch.setattr(load_module, "datetime", SomeDaysLater)
    with pytest.raises(DataError, match="Nothing of 'rides' has landed yet"):
        load_all(world, monkeypatch, later)
