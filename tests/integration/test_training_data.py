"""Training data: as known at the prediction time, with matured labels, without what was excluded, and again."""

from __future__ import annotations

import shutil
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from airflow_mlops.contracts import Snapshot, SplitRule
from airflow_mlops.engine.data.exclusions import exclude, lift
from airflow_mlops.engine.data.partitions import PartitionStore
from airflow_mlops.engine.data.snapshots import read_split
from airflow_mlops.engine.features.governance.apply import ensure_applied
from airflow_mlops.engine.features.project.location import Location
from airflow_mlops.engine.features.project.schema import feature_file
from airflow_mlops.engine.features.training.training_data import build_training_snapshot, rebuild_snapshot
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.engine.retraining.emergency import parse_excluded
from airflow_mlops.exceptions import ConfigError, DataError, TransientError
from tests.data_fixtures import landed, spoil
from tests.feast_fixtures import EVENT_TIMES, FIRST, REPO, compute_day, ledger_of, make_home

SERVICE = "flight_delay_v1"
DAYS = 12


def day(n: int) -> datetime:
    """Midnight at which the n-th of January 2013 starts."""
    return datetime(2013, 1, n, tzinfo=UTC)


@pytest.fixture(scope="module")
def flights(tmp_path_factory) -> Path:
    """Twelve days of flights and features. Tests read it, or copy it."""
    return make_home(tmp_path_factory.mktemp("feast") / "home", DAYS)


@pytest.fixture
def own(flights, home) -> Path:
    """A home of the test's own, with the features of twelve days and nothing online."""
    shutil.rmtree(home)
    shutil.copytree(flights, home, ignore=shutil.ignore_patterns("feast", "ledger.db*", "snapshots"))
    return home


def snapshot_of(home: Path, **changes):
    arguments = {
        "store": PartitionStore.under(home),
        "ledger": ledger_of(home),
        "model": "flight_delay",
        "source_dataset": "departures",
        "entity": "flight_id",
        "event_time": "sched_dep_utc",
        "keys": ["carrier", "origin", "dest"],
        "service": SERVICE,
        "label_dataset": "arrivals",
        "label": "late_15",
        "matures_after": timedelta(days=1),
        "window": timedelta(days=30),
        "validation": timedelta(days=2),
        "test": timedelta(days=2),
        "as_of": day(13),
        "start": FIRST,
    }
    return build_training_snapshot(Location(REPO, home), **{**arguments, **changes})


def test_snapshot_holds_what_was_known(flights):
    snapshot = snapshot_of(flights)
    assert list(snapshot.features)[:4] == ["carrier", "origin", "dest", "distance_miles"]
    assert len(snapshot.features) == 43
    assert snapshot.as_of == day(13)
    assert snapshot.label_cut == day(12)
    assert [(split.start.day, split.end.day) for split in snapshot.splits.values()] == [(1, 8), (8, 10), (10, 12)]
    tables = [read_split(snapshot, name) for name in snapshot.splits]
    for table, split in zip(tables, snapshot.splits.values(), strict=True):
        assert table.column_names == ["flight_id", "sched_dep_utc", *snapshot.features, "late_15"]
        times = pc.min_max(table["sched_dep_utc"]).as_py()
        assert split.start <= times["min"] <= times["max"] < split.end
    store = PartitionStore.under(flights)
    departures = store.read(store.list("departures", FIRST, date(2013, 1, 11)))
    assert sum(table.num_rows for table in tables) + snapshot.unlabelled_rows == departures.num_rows
    assert snapshot.unlabelled_rows > pc.sum(departures["cancelled"]).as_py() > 0


def test_features_are_those_of_the_last_stamp_before_departure(flights):
    rows = read_split(snapshot_of(flights), "test").to_pandas()
    flight = rows[(rows["sched_dep_utc"].dt.minute > 0) & (rows["carrier"] == "UA")].iloc[50]
    store = PartitionStore.under(flights)
    arrivals = store.read(store.list("arrivals", None, None)).to_pandas()
    stamp = flight["sched_dep_utc"].floor("h")
    landed = arrivals[(arrivals["carrier"] == "UA") & (arrivals["landed_at"] <= stamp)]
    within = {name: landed[landed["landed_at"] > stamp - pd.Timedelta(name)] for name in ("1h", "24h")}
    assert flight["carrier_landings_1h"] == len(within["1h"])
    assert len(within["24h"]) > 0
    assert flight["carrier_arr_delay_mean_24h"] == pytest.approx(within["24h"]["arr_delay"].mean())
    assert flight["late_15"] == arrivals.set_index("flight_id").loc[flight["flight_id"], "late_15"]


def test_the_same_again_is_the_same_snapshot(flights):
    assert snapshot_of(flights) == snapshot_of(flights, as_of=day(13) + timedelta(hours=5))


def test_rows_written_later_than_the_prediction_do_not_count(flights, own):
    """A day computed again later, and honestly dated, must not improve the past."""
    ensure_applied(Location(REPO, own), ledger_of(own))
    before = read_split(snapshot_of(own), "test")
    for key in ("2013-01-10", "2013-01-11"):
        file = feature_file(own, "carrier_delays", key)
        rows = pq.read_table(file)
        later = pc.add(rows["created_timestamp"], pa.scalar(timedelta(days=3)))
        again = rows.set_column(rows.schema.get_field_index("created_timestamp"), "created_timestamp", later)
        again = again.set_column(2, again.column_names[2], pc.add(again.column(2), 1000.0))
        both = pa.concat_tables([rows, again]).replace_schema_metadata(rows.schema.metadata)
        pq.write_table(both, file)
    assert read_split(snapshot_of(own), "test").equals(before)


def test_labels_that_came_after_the_cut_are_unknown(flights):
    early, late = snapshot_of(flights, as_of=day(12)), snapshot_of(flights, as_of=day(13))
    assert early.label_cut == day(11)
    assert max(early.partitions["arrivals"]) == "2013-01-11"
    assert early.id != late.id
    # The longest delays end after the cut: with no time to mature, the last flights have no label yet.
    raw = snapshot_of(flights, matures_after=timedelta(hours=1), as_of=day(12))
    assert raw.unlabelled_rows > early.unlabelled_rows + 20


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"service": "flight_delay"}, ConfigError, "feature service 'flight_delay'. Did you mean 'flight_delay_v1'"),
        ({"keys": ["carier"]}, ConfigError, "'departures' has no column 'carier'. Did you mean 'carrier'"),
        ({"entity": "flightid"}, ConfigError, "no column 'flightid'. Did you mean 'flight_id'"),
        ({"label": "late"}, ConfigError, "'arrivals' has no column 'late'. Did you mean 'late_15'"),
        ({"label": "arr_delay", "problem": "binary"}, DataError, "of type double, and not true or false"),
        ({"entity": "carrier"}, DataError, "rows of 'departures' have a 'carrier' that is null or not their own"),
        ({"as_of": day(15)}, DataError, "labels have not come far enough(.|\n)*2013-01-01 up to 2013-01-13"),
        ({"as_of": day(2)}, DataError, "No label has matured yet"),
        ({"window": timedelta(days=4)}, DataError, "The train split has no rows"),
        ({"as_of": datetime.now(UTC) + timedelta(days=1)}, ConfigError, "cannot know the future"),
    ],
)  # fmt: skip
def test_what_cannot_be_built_is_explained(flights, changes, error, words):
    before = sorted(flights.glob("snapshots/*"))
    with pytest.raises(error, match=f"{words}(.|\n)*fix:"):
        snapshot_of(flights, **changes)
    assert sorted(flights.glob("snapshots/*")) == before


def test_a_day_without_features_is_not_a_day_of_missing_values(own):
    ensure_applied(Location(REPO, own), ledger_of(own))
    feature_file(own, "route_delays", "2013-01-05").unlink()
    with pytest.raises(DataError, match="'route_delays' for 2013-01-05 were not computed"):
        snapshot_of(own)


def test_what_went_in_is_pinned_the_history_of_the_features_too(flights):
    ledger = ledger_of(flights)
    snapshot = snapshot_of(flights, window=timedelta(days=5), validation=timedelta(days=1), test=timedelta(days=1))
    days = [f"2013-01-{n:02}" for n in range(1, 13)]
    # Predictions from the 7th on see features of the 5th, which saw departures and landings from before the start.
    assert {name: list(keys) for name, keys in snapshot.partitions.items()} == {
        "arrivals": days,
        "departures": days[:-1],
        "weather": days[:-1],
    }
    assert (
        snapshot.partitions["arrivals"]["2013-01-03"] == PartitionStore.under(flights).get("arrivals", days[2]).revision
    )
    [fact] = ledger.facts("snapshot", "flight_delay", key=snapshot.id)
    assert fact.payload["partitions"] == snapshot.partitions
    assert (
        snapshot_of(flights, window=timedelta(days=5), validation=timedelta(days=1), test=timedelta(days=1)) == snapshot
    )
    assert len(ledger.facts("snapshot", "flight_delay", key=snapshot.id)) == 1


def test_split_by_aircraft(flights):
    rule = SplitRule(kind="entity", column="tailnum")
    snapshot = snapshot_of(flights, split_rule=rule, window=timedelta(days=10))
    assert snapshot.split_rule == SplitRule(kind="entity", column="tailnum", validation=0.2, test=0.2)
    assert {(split.start, split.end) for split in snapshot.splits.values()} == {(day(2), day(12))}
    store = PartitionStore.under(flights)
    departures = store.read(store.list("departures", None, None), ["flight_id", "tailnum"]).to_pandas()
    tails = departures.set_index("flight_id")["tailnum"]
    tables = {name: read_split(snapshot, name) for name in snapshot.splits}
    sides = [set(tails.loc[table["flight_id"].to_pylist()]) for table in tables.values()]
    assert sum(map(len, sides)) == len(set.union(*sides)) > 1000
    assert "tailnum" not in tables["train"].column_names
    assert 0.15 < tables["test"].num_rows / sum(table.num_rows for table in tables.values()) < 0.25
    with pytest.raises(ConfigError, match=r"has no column 'tailnumber'\. Did you mean 'tailnum'"):
        snapshot_of(flights, split_rule=rule.model_copy(update={"column": "tailnumber"}))


# --- labels that are late, or corrected -------------------------------------------------------------------


def seal_changed(home: Path, feed: str, key: str, change) -> None:
    """Seal a day again as a changed copy of what landed."""
    folder = spoil(landed(home / "lake", feed, date.fromisoformat(key)), change)
    store = PartitionStore.under(home)
    store.seal(feed, key, folder, event_time=EVENT_TIMES[feed], batch_hash=None, suite_hash=None)


def test_labels_that_are_not_all_there_are_refused_not_used(own):
    ensure_applied(Location(REPO, own), ledger_of(own))
    shutil.rmtree(own / "partitions" / "arrivals" / "2013-01-11")
    with pytest.raises(
        DataError, match=r"complete from 2013-01-01 up to 2013-01-11 00:00 UTC(.|\n)*as_of up to 2013-01-11"
    ):
        snapshot_of(own)
    assert snapshot_of(own, as_of=day(11)).label_cut == day(10)


def test_a_corrected_label_counts_from_when_it_was_corrected(own):
    """On the 12th the feed says that a flight of the 9th was late after all; nothing else changes."""
    ensure_applied(Location(REPO, own), ledger_of(own))
    before = read_split(snapshot_of(own), "test").to_pandas().set_index("flight_id")["late_15"]
    on_time = before.index[~before][0]

    def correct(frame: pd.DataFrame) -> pd.DataFrame:
        again = frame.iloc[[0]].assign(
            flight_id=on_time, late_15=True, arr_delay=np.nan, landed_at=frame["landed_at"].max()
        )
        return pd.concat([frame, again])

    seal_changed(own, "arrivals", "2013-01-12", correct)
    after = read_split(snapshot_of(own), "test").to_pandas().set_index("flight_id")["late_15"]
    assert after.index.equals(before.index)
    assert after.index[after != before].tolist() == [on_time]
    early = read_split(snapshot_of(own, as_of=day(12)), "test").to_pandas().set_index("flight_id")["late_15"]
    assert not early.get(on_time, default=True), "nobody knew on the 12th"


# --- late data and exclusions -----------------------------------------------------------------------------


def test_only_stale_days_of_the_window_are_in_the_way(own):
    ensure_applied(Location(REPO, own), ledger_of(own))
    seal_changed(own, "departures", "2013-01-11", lambda frame: frame.iloc[:-3])
    assert snapshot_of(own, as_of=day(12)).label_cut == day(11), "the 11th is not in this window"
    with pytest.raises(DataError, match=r"features of 1 days were computed from other data(.|\n)*days: 2013-01-11\n"):
        snapshot_of(own)
    compute_day(own, "2013-01-11")
    assert snapshot_of(own).label_cut == day(12)


def test_excluded_rows_are_left_out_and_counted(own):
    ledger = ledger_of(own)
    ensure_applied(Location(REPO, own), ledger)
    before = snapshot_of(own)
    made = exclude(ledger, "departures", day(4) + timedelta(hours=15), day(4) + timedelta(hours=18), "test data", "ann")
    exclude(ledger, "departures", datetime(2012, 12, 1, tzinfo=UTC), day(1), "long ago", "ann")
    stale = [f"2013-01-{n:02}" for n in range(4, 12)]
    with pytest.raises(DataError, match=f"features of 8 days were computed(.|\n)*days: {', '.join(stale)}"):
        snapshot_of(own)
    for key in stale:
        compute_day(own, key)
    snapshot = snapshot_of(own)
    times = read_split(snapshot, "train")["sched_dep_utc"].to_pandas()
    assert not times.between(made.start, made.end, inclusive="left").any()
    rows = {
        name: sum(split.rows for split in found.splits.values()) for name, found in (("a", before), ("b", snapshot))
    }
    left = rows["a"] + before.unlabelled_rows - rows["b"] - snapshot.unlabelled_rows
    assert snapshot.excluded_rows == left > 100
    assert [one.id for one in snapshot.exclusions] == [made.id], "what is long ago cannot have changed a row"
    assert snapshot.id != before.id
    lift(ledger, made.id, "it was real", "ann")
    for key in stale:
        compute_day(own, key)
    assert snapshot_of(own) == before


def test_one_snapshot_alone_leaves_out_a_day(own):
    """As an emergency training does: the ledger has no exclusion, the snapshot says what it left out."""
    ledger = ledger_of(own)
    ensure_applied(Location(REPO, own), ledger)
    before = snapshot_of(own)
    without = parse_excluded("2013-01-05", "departures", "ann", "a bad day")
    snapshot = snapshot_of(own, without=without)
    times = read_split(snapshot, "train")["sched_dep_utc"].to_pandas()
    assert not times.between(day(5), day(6), inclusive="left").any()
    assert list(snapshot.exclusions) == without
    assert snapshot.excluded_rows > 100
    assert snapshot.id != before.id
    assert snapshot_of(own).id == before.id
    with pytest.raises(DataError, match="Every partition of the window is excluded"):
        snapshot_of(own, without=parse_excluded("2013-01-01/2013-01-31", "departures", "ann", "all of it"))


def test_a_day_without_labels_can_be_excluded_and_takes_its_flights_with_it(own):
    """Of the flights that landed on a lost day only the latest would be left, those that landed after midnight."""
    ledger = ledger_of(own)
    ensure_applied(Location(REPO, own), ledger)
    shutil.rmtree(own / "partitions" / "arrivals" / "2013-01-05")
    with pytest.raises(DataError, match="complete from 2013-01-01 up to 2013-01-05"):
        snapshot_of(own)
    exclude(ledger, "arrivals", day(5), day(6), "the feed was down", "ann")
    for n in range(5, 12):
        compute_day(own, f"2013-01-{n:02}")
    feature_file(own, "route_delays", "2013-01-05").unlink()
    snapshot = snapshot_of(own)
    days = set(read_split(snapshot, "train")["sched_dep_utc"].to_pandas().dt.day)
    assert days == {1, 2, 3, 6, 7}, "labels of the 4th may lie on the 5th"
    assert "2013-01-05" not in snapshot.partitions["arrivals"]
    assert sum(rows_of(snapshot)) == rows_sealed(own, day(12))
    assert snapshot.excluded_rows > 1000, "the 4th and the 5th"


def rows_of(snapshot: Snapshot) -> tuple[int, int, int]:
    """Rows in the splits, without a label, and excluded."""
    return sum(split.rows for split in snapshot.splits.values()), snapshot.unlabelled_rows, snapshot.excluded_rows


def rows_sealed(home: Path, end: datetime) -> int:
    store = PartitionStore.under(home)
    times = store.read(store.list("departures", None, None), ["sched_dep_utc"])["sched_dep_utc"].to_pandas()
    return int((times < end).sum())


@pytest.mark.parametrize("matures_after", [timedelta(days=1), timedelta(hours=30)], ids=["whole days", "cuts a day"])
def test_every_row_of_the_window_is_in_a_split_or_counted(own, matures_after):
    ledger = ledger_of(own)
    ensure_applied(Location(REPO, own), ledger)
    exclude(ledger, "arrivals", day(3), day(4), "the feed was down", "ann")
    exclude(ledger, "departures", day(11), day(12), "test data", "ann")
    for n in range(3, 12):
        compute_day(own, f"2013-01-{n:02}")
    snapshot = snapshot_of(own, matures_after=matures_after)
    assert sum(rows_of(snapshot)) == rows_sealed(own, day(13) - matures_after)
    last = PartitionStore.under(own).get("departures", "2013-01-11")
    for file in last.files:
        (own / "partitions" / "departures" / last.key / last.revision / file.name).unlink()
    shutil.rmtree(snapshot.uri)
    assert snapshot_of(own, matures_after=matures_after).id == snapshot.id, "what is left out is not in the way"


def test_a_day_excluded_whole_that_is_sealed_or_lost_later_does_not_change_the_snapshot(own):
    ledger = ledger_of(own)
    ensure_applied(Location(REPO, own), ledger)
    lost, kept = own / "partitions" / "departures" / "2013-01-05", own / "kept"
    exclude(ledger, "departures", day(5), day(6), "test data", "ann")
    for n in range(5, 12):
        compute_day(own, f"2013-01-{n:02}")
    sealed = snapshot_of(own)
    assert sealed.excluded_rows == PartitionStore.under(own).get("departures", "2013-01-05").rows > 0
    lost.rename(kept)
    assert snapshot_of(own) == sealed, "the first count stays"
    shutil.rmtree(sealed.uri)
    rebuilt = rebuild_snapshot(
        Location(REPO, own),
        sealed,
        store=PartitionStore.under(own),
        source_dataset="departures",
        label_dataset="arrivals",
    )
    assert rebuilt == sealed
    shutil.rmtree(sealed.uri)
    unsealed = snapshot_of(own)
    assert (unsealed.id, unsealed.excluded_rows) == (sealed.id, 0)


def test_a_window_that_is_excluded_whole_is_explained(own):
    ledger = ledger_of(own)
    ensure_applied(Location(REPO, own), ledger)
    exclude(ledger, "arrivals", day(1), day(13), "the feed was down", "ann")
    with pytest.raises(DataError, match="Every partition of the window is excluded"):
        snapshot_of(own)


def test_a_ledger_that_does_not_answer_is_not_one_without_exclusions(flights):
    before = sorted(flights.glob("snapshots/*"))
    with pytest.raises(TransientError):
        snapshot_of(flights, ledger=Ledger("postgresql+psycopg2://nobody@127.0.0.1:1/none"))
    assert sorted(flights.glob("snapshots/*")) == before


def test_slices_that_one_training_leaves_out_are_in_none_of_its_splits_and_it_can_be_rebuilt(flights):
    usual = snapshot_of(flights)
    without = {"carrier": ["AA", "UA"], "origin": ["JFK"]}
    made = snapshot_of(flights, without_slices=without, max_join_drop=1.0)
    assert made.id != usual.id
    assert made.without_slices == {"carrier": ("AA", "UA"), "origin": ("JFK",)}
    rows = pa.concat_tables([read_split(made, name) for name in made.splits])
    assert not {"AA", "UA"} & set(rows["carrier"].to_pylist())
    assert "JFK" not in set(rows["origin"].to_pylist())
    kept = sum(split.rows for split in made.splits.values()) + made.unlabelled_rows
    assert kept + made.excluded_rows == sum(split.rows for split in usual.splits.values()) + usual.unlabelled_rows
    shutil.rmtree(made.uri)
    again = rebuild_snapshot(
        Location(REPO, flights), made, store=PartitionStore.under(flights), source_dataset="departures",
        label_dataset="arrivals",
    )  # fmt: skip
    assert again == made
    with pytest.raises(ConfigError, match="There is no row with carrier=AX"):
        snapshot_of(flights, without_slices={"carrier": ["AX"]})
    with pytest.raises(ConfigError, match=r"has no column 'carier'\. Did you mean 'carrier'"):
        snapshot_of(flights, without_slices={"carier": ["AA"]})
    with pytest.raises(ConfigError, match="has no column 'importance'"):
        snapshot_of(flights, weight="importance")
