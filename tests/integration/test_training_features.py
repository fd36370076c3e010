"""Features of a training set: on demand and stored, of one code, pinned to files, whatever the size of the chunks."""

from __future__ import annotations

import shutil
from datetime import timedelta
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_mlops.contracts import SplitRule
from airflow_mlops.engine.data import snapshot_writer
from airflow_mlops.engine.data.exclusions import exclude
from airflow_mlops.engine.data.snapshots import read_split
from airflow_mlops.engine.features.computing.files import revision_of, superseded_file
from airflow_mlops.engine.features.computing.provenance import read_inputs, stale_days
from airflow_mlops.engine.features.governance.apply import ensure_applied
from airflow_mlops.engine.features.project.definitions import load_definitions
from airflow_mlops.engine.features.project.schema import feature_file
from airflow_mlops.engine.features.project.store import open_store
from airflow_mlops.engine.features.training import training_data
from airflow_mlops.exceptions import ConfigError, DataError, TransientError
from tests.rides import A_DAY, FIRST, Rides, key_of, midnight, rides_of

DAYS = 8


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Rides:
    """Eight days. Tests read it, or copy it."""
    return Rides.make(tmp_path_factory.mktemp("rides"), DAYS)


@pytest.fixture
def own(world, tmp_path) -> Rides:
    return world.copy(tmp_path / "own")


def rows_of(snapshot) -> pd.DataFrame:
    """All rows of a snapshot, by entity."""
    return pa.concat_tables([read_split(snapshot, name) for name in snapshot.splits]).to_pandas().set_index("ride_id")


def stale(world: Rides, code: str | None) -> list[str]:
    views = ("zone_delays", "last_ride")
    return stale_days(world.home, world.store, views, FIRST, midnight(DAYS).date(), ledger=world.ledger, code=code)


# --- on demand --------------------------------------------------------------------------------------------


def test_on_demand_features_are_computed_from_the_columns_of_the_source(world):
    snapshot = world.snapshot(DAYS)
    assert snapshot.features == {
        "zone": "string",
        "km_asked": "double",
        "hour": "int64",
        "idle_minutes": "double",
        "zone_rides": "double",
        "zone_late_rate": "double",
        "last_minutes": "double",
    }
    assert list(snapshot.features) == [
        "zone", "km_asked", "hour", "idle_minutes", "zone_rides", "zone_late_rate", "last_minutes"
    ]  # fmt: skip
    rows = rows_of(snapshot)
    rides = [one for n in range(DAYS - 1) for one in rides_of(n) if one["late"] is not None]
    assert sorted(rows.index) == sorted(one["ride_id"] for one in rides)
    ends: dict[str, list] = {}
    for one in rides_of(5) + rides_of(6):
        if one["driver"] and one["late"] is not None:
            ends.setdefault(one["driver"], []).append(one)
    for ride in (one for one in rides_of(6) if one["late"] is not None):
        row = rows.loc[ride["ride_id"]]
        assert (row["km_asked"], row["hour"]) == (ride["km"], ride["called_at"].hour)
        before = [one for one in ends.get(ride["driver"], []) if one["ended_at"] <= ride["called_at"]]
        if not before:
            assert pd.isna(row["idle_minutes"])
            continue
        last = max(before, key=lambda one: one["ended_at"])
        assert row["idle_minutes"] == (ride["called_at"] - last["ended_at"]) / timedelta(minutes=1)
        assert row["last_minutes"] == (last["ended_at"] - last["called_at"]) / timedelta(minutes=1)


def test_rows_without_a_join_key_keep_their_place_and_lack_only_its_features(world):
    rows = rows_of(world.snapshot(DAYS))
    alone = [one["ride_id"] for n in range(1, DAYS - 1) for one in rides_of(n) if one["driver"] is None]
    alone = [name for name in alone if name in rows.index]
    assert len(alone) == (DAYS - 2) * A_DAY / 20
    assert rows.loc[alone, ["last_minutes", "idle_minutes"]].isna().all().all()
    assert rows.loc[alone, ["zone_rides", "km_asked"]].notna().all().all()


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('name="km", dtype=Float64', 'name="kms", dtype=Float64', r"'rides' has no column 'kms'\. Did you mean 'km'"),
        ('name="km", dtype=Float64', 'name="km", dtype=String', "'km' of 'rides' is of type double, not string"),
        ('name="km", dtype=Float64', 'name="km", dtype=Int64', "'km' of 'rides' is of type double, not int64"),
        (
            'name="called_at", dtype=UnixTimestamp',
            'name="called_at", dtype=String',
            r"'called_at' of 'rides' is of type timestamp\[us, tz=UTC\], not string",
        ),
        ('name="zone_rides", dtype', 'name="km", dtype', "'km' is a column of 'rides' and a feature of 'rides_v1'"),
    ],
)
def test_what_an_on_demand_view_cannot_be_computed_from_is_explained(own, old, new, words):
    own.edit("definitions.py", old, new)
    if "kms" in new:
        own.edit("definitions.py", 'inputs["km"]', 'inputs["kms"]')
    own.edit("definitions.py", '"km_asked": list(inputs["km', '"km_asked": [1.0] * len(inputs["km')
    own.edit("definitions.py", "[at.hour for at in", "[1 for at in")
    own.edit("definitions.py", "(at - ended).total_seconds() / 60", "1.0")
    ensure_applied(own.location, own.ledger)
    with pytest.raises(ConfigError, match=f"{words}(.|\n)*fix:"):
        own.snapshot(DAYS)
    assert not list(own.home.glob("snapshots/*"))


def test_a_whole_number_is_taken_for_a_float_and_too_large_values_are_not_cut(own):
    def landed_as(kind: pa.DataType, value: int) -> None:
        for n in range(DAYS):
            [file] = (own.home / "lake" / "rides" / key_of(n)).glob("*.parquet")
            rows = pq.read_table(file)
            place = rows.schema.get_field_index("km")
            pq.write_table(rows.set_column(place, "km", pa.array([value] * rows.num_rows, kind)), file)
            own.store.seal("rides", key_of(n), file.parent, event_time="called_at", batch_hash=None, suite_hash=None)
        own.compute(*range(DAYS))

    landed_as(pa.int32(), 7)
    assert set(rows_of(own.snapshot(DAYS))["km_asked"]) == {7.0}
    landed_as(pa.int64(), 2**53 + 1)
    with pytest.raises(DataError, match="'km' of 'rides' holds values that are no double"):
        own.snapshot(DAYS)


# --- which code -------------------------------------------------------------------------------------------


def test_files_say_by_which_code_they_were_computed(own):
    inputs = read_inputs(own.home, ["zone_delays", "last_ride"], FIRST, midnight(DAYS))
    assert {view: found.code for (view, _), found in inputs.items()} == own.code.views
    assert own.snapshot(DAYS).feature_code == own.code.views
    assert stale(own, own.code) == []


def test_edited_code_makes_all_days_stale_and_is_refused_until_they_are_computed_again(own):
    before = own.snapshot(DAYS)
    own.edit("ride_units.py", "/ 60", "/ 3600")
    assert stale(own, own.code) == [key_of(n) for n in range(DAYS)]
    assert stale(own, None) == []
    with pytest.raises(DataError, match=r"features of 7 days were computed by other code than that of now(.|\n)*fix:"):
        own.snapshot(DAYS)
    own.compute(*range(DAYS - 3, DAYS))
    with pytest.raises(DataError, match=f"features of 5 days were computed by other code(.|\n)*days: {key_of(0)}, "):
        own.snapshot(DAYS)
    with pytest.raises(DataError, match=r"features of 5 days(.|\n)*than that of the newest day"):
        own.snapshot(DAYS, code=None)
    own.compute(*range(DAYS - 3))
    assert stale(own, own.code) == []
    after = own.snapshot(DAYS)
    assert (after.feature_code, after.id) != (before.feature_code, before.id)
    both = rows_of(after).join(rows_of(before), rsuffix="_before").dropna(subset=["last_minutes"])
    pd.testing.assert_series_equal(both["last_minutes"] * 60, both["last_minutes_before"], check_names=False)


def test_the_transform_lies_beside_the_dag_file_or_in_the_repository_but_not_in_both(own):
    before = own.code
    shutil.copy(own.repo / "ride_features.py", own.dags)
    with pytest.raises(ConfigError, match="There are 2 modules 'ride_features'"):
        own.compute(0)
    (own.repo / "ride_features.py").unlink()
    own.compute(0)
    assert own.code == before


def test_what_is_replaced_is_kept_and_the_same_bytes_change_nothing(own):
    file = feature_file(own.home, "zone_delays", key_of(3))
    first = file.read_bytes()
    own.compute(3)
    assert file.read_bytes() == first
    assert not (file.parent / "superseded").exists()
    revisions = [revision_of(file)]
    for factor in (2, 3):
        own.edit("ride_features.py", ".mean()", f".mean().mul({factor})")
        own.compute(3)
        revisions.append(revision_of(file))
    kept = {path.name for path in (file.parent / "superseded").iterdir()}
    assert kept == {f"{key_of(3)}.{revision}.parquet" for revision in revisions[:2]}
    assert superseded_file(own.home, "zone_delays", key_of(3), revisions[0]).read_bytes() == first


# --- which files ------------------------------------------------------------------------------------------


def test_the_files_that_were_read_are_pinned_and_are_no_part_of_the_id(own):
    snapshot = own.snapshot(DAYS, window=timedelta(days=4))
    assert snapshot.feature_project == "rides"
    assert snapshot.feature_definition == ensure_applied(own.location, own.ledger).definition_hash("rides_v1")
    # Predictions from the fourth day on see what is up to two days old, or one.
    assert {view: list(days) for view, days in snapshot.feature_files.items()} == {
        "last_ride": [key_of(n) for n in range(1, 7)],
        "zone_delays": [key_of(n) for n in range(2, 7)],
    }
    file = feature_file(own.home, "last_ride", key_of(4))
    assert snapshot.feature_files["last_ride"][key_of(4)] == revision_of(file)
    # A longer history is read, to no effect: the file says so, and is another one.
    for n in range(DAYS):
        own.compute(n, history=timedelta(days=5))
    assert revision_of(file) != snapshot.feature_files["last_ride"][key_of(4)]
    pinned = {name: list(days) for name, days in snapshot.partitions.items()}
    again = own.snapshot(DAYS, window=timedelta(days=4))
    assert again.splits == snapshot.splits
    if {name: list(days) for name, days in again.partitions.items()} == pinned:
        assert again == snapshot


def test_identical_training_sets_from_other_files_are_one_snapshot(own):
    snapshot = own.snapshot(DAYS)
    for n in range(DAYS):
        own.compute(n, history=timedelta(days=5))
    assert revision_of(feature_file(own.home, "last_ride", key_of(6))) != snapshot.feature_files["last_ride"][key_of(6)]
    assert own.snapshot(DAYS) == snapshot, "the one that was there, with the files that it was built from"
    shutil.rmtree(snapshot.uri)
    again = own.snapshot(DAYS)
    assert again.id == snapshot.id
    assert again.feature_files != snapshot.feature_files


def test_files_that_nobody_pinned_are_not_read(own):
    before = own.snapshot(DAYS)
    file = feature_file(own.home, "zone_delays", key_of(5))
    rows = pq.read_table(file)
    more = rows.set_column(rows.schema.get_field_index("zone_rides"), "zone_rides", pa.array([9e9] * rows.num_rows))
    pq.write_table(more, file.with_name("9999-stray.parquet"))
    shutil.rmtree(before.uri)
    assert own.snapshot(DAYS) == before


def test_features_that_are_computed_again_while_they_are_read_are_not_believed(own, monkeypatch):
    real = training_data.enforce

    def meanwhile(*arguments):
        own.edit("ride_units.py", "/ 60", "/ 61")
        own.compute(4)
        return real(*arguments)

    monkeypatch.setattr(training_data, "enforce", meanwhile)
    with pytest.raises(
        TransientError, match=rf"rows of 1 days were computed again while they were read(.|\n)*last_ride {key_of(4)}"
    ):
        own.snapshot(DAYS)
    assert not list(own.home.glob("snapshots/*"))


def test_a_view_with_a_source_of_its_own_is_read_through_feast(own, tmp_path):
    """A company's table: nobody computed its rows here, so that nobody asks from what."""
    table = tmp_path / "warehouse" / "zones.parquet"
    table.parent.mkdir()
    pq.write_table(
        pa.table(
            {
                "zone": ["a", "b", "a"],
                "people": [100.0, 200.0, 110.0],
                "at": pa.array([midnight(-9), midnight(-9), midnight(3)], pa.timestamp("us", "UTC")),
            }
        ),
        table,
    )
    own.edit(
        "definitions.py",
        "rides_v1 = FeatureService(",
        f'''zone_people = FeatureView(
    name="zone_people", entities=[zone], ttl=timedelta(days=365), tags=TAGS,
    schema=[Field(name="people", dtype=Float64)],
    source=FileSource(name="people", path="{table}", timestamp_field="at"),
)
rides_v1 = FeatureService(''',
    )
    own.edit("definitions.py", '[["last_minutes"]]]', '[["last_minutes"]], zone_people]')
    ensure_applied(own.location, own.ledger)
    snapshot = own.snapshot(DAYS, chunk_rows=A_DAY)
    assert set(snapshot.feature_files) == {"zone_delays", "last_ride"}
    rows = rows_of(snapshot)
    late = rows["called_at"] >= midnight(3)
    assert set(rows.loc[rows["zone"] == "b", "people"]) == {200.0}
    assert set(rows.loc[(rows["zone"] == "a") & ~late, "people"]) == {100.0}
    assert set(rows.loc[(rows["zone"] == "a") & late, "people"]) == {110.0}
    assert rows.loc[rows["zone"] == "c", "people"].isna().all()


# --- in chunks --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", [SplitRule(), SplitRule(kind="entity", column="driver", validation=0.2, test=0.3)])
def test_chunks_show_neither_in_the_bytes_nor_in_the_id(own, monkeypatch, rule):
    exclude(own.ledger, "rides", midnight(2) + timedelta(hours=9), midnight(3), "test data", "ann")
    own.compute(*range(2, DAYS))
    monkeypatch.setattr(snapshot_writer, "ROW_GROUP", 100)
    whole = own.snapshot(DAYS, split_rule=rule)
    assert pq.read_metadata(Path(whole.uri) / "train.parquet").num_row_groups > 2
    for chunk_rows in (1, 2 * A_DAY + 1, 3 * A_DAY):
        shutil.rmtree(whole.uri)
        assert own.snapshot(DAYS, split_rule=rule, chunk_rows=chunk_rows) == whole
    assert whole.excluded_rows > 0
    assert whole.unlabelled_rows > 0


def test_an_entity_that_comes_again_in_another_chunk_is_refused(own):
    again = [{**rides_of(5)[3], "ride_id": rides_of(1)[3]["ride_id"]}, *rides_of(5)[4:]]
    own.seal("rides", 5, again)
    own.compute(5, 6, 7)
    with pytest.raises(DataError, match=r"1 of \d+ rows of 'rides' have a 'ride_id' that is null or not their own"):
        own.snapshot(DAYS, chunk_rows=1)


# --- what it may be used for ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        ({"status": "blocked"}, "blocked"),
        ({"status": "deprecated"}, "deprecated"),
        ({"allowed_use": "another_model"}, "another_model"),
        ({"valid_from": "2024-03-03"}, "2024-03-03"),
        ({"valid_until": "2024-03-05"}, "2024-03-05"),
    ],
)
def test_features_that_must_not_be_used_for_this_are_refused(own, tags, words):
    """Feast alone registered the definitions, and asked nobody."""
    extra = ", ".join(f'"{name}": "{value}"' for name, value in tags.items())
    view = 'source=source("zone_delays"), tags='
    own.edit("definitions.py", f"{view}TAGS", f"{view}{{**TAGS, {extra}}}")
    store = open_store(own.location)
    contents = load_definitions(own.location, store.project).contents
    store.apply([*contents.feature_views, *contents.on_demand_feature_views, *contents.feature_services])
    with pytest.raises(ConfigError, match=rf"must not be trained on feature service(.|\n)*'zone_delays'(.|\n)*{words}"):
        own.snapshot(DAYS)
    assert not list(own.home.glob("snapshots/*"))
