"""The same facts cut by the hour, by New York's day, by the week, give the same training set, to the last value."""

from __future__ import annotations

import shutil
import sys
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_mlops.contracts import Snapshot
from airflow_mlops.engine.data.exclusions import exclude
from airflow_mlops.engine.data.partitions import PartitionStore
from airflow_mlops.engine.data.readiness import Source, latest_complete, readiness, watermark
from airflow_mlops.engine.data.snapshots import read_split
from airflow_mlops.engine.features.computing.code import code_identity
from airflow_mlops.engine.features.computing.compute import NotYetError, compute_features
from airflow_mlops.engine.features.computing.provenance import stale_days
from airflow_mlops.engine.features.governance.apply import ensure_applied
from airflow_mlops.engine.features.materialization.materialize import materialize
from airflow_mlops.engine.features.online.freshness import freshness
from airflow_mlops.engine.features.project.location import Location
from airflow_mlops.engine.features.project.schema import feature_file
from airflow_mlops.engine.features.training.training_data import rebuild_snapshot
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.exceptions import ConfigError, DataError
from airflow_mlops.partitioning import Partitioning
from tests import rides, small_features
from tests.rides import EVENT_TIMES, FIRST, SERVICE, Rides

DAYS = 12
"""From the first of March 2024: New York's clocks go forward on the tenth."""
END = rides.midnight(DAYS)
HOURLY, NEW_YORK, WEEKLY = Partitioning("hourly"), Partitioning("daily", "America/New_York"), Partitioning("weekly")
SETTLED = rides.midnight(4)
"""From here on every cut has the whole history that features look back on."""

FEATURES = (
    rides.FEATURES.replace("def compute(day, data):", "def compute(day, data, interval):")
    .replace('start = pd.Timestamp(day, tz="UTC").as_unit("us")', "start, stop = map(pd.Timestamp, interval)")
    .replace(
        'pd.date_range(start, periods=24, freq="h", unit="us")',
        'pd.date_range(start, stop, freq="h", unit="us", inclusive="left")',
    )
    .replace('between(start, start + pd.Timedelta("1D"), inclusive="left")', 'between(start, stop, inclusive="left")')
)


COLUMNS = {
    "rides": ("ride_id", "called_at", "zone", "driver", "rider", "km"),
    "ends": ("ride_id", "ended_at", "late"),
}
KINDS = {
    "called_at": pa.timestamp("us", "UTC"),
    "ended_at": pa.timestamp("us", "UTC"),
    "km": pa.float64(),
    "late": pa.bool_(),
}


class CutRides(Rides):
    """The rides of twelve days, cut into partitions of some size."""

    cut: Partitioning

    @classmethod
    def of(cls, folder: Path, cut: Partitioning) -> CutRides:
        made = Rides.make(folder, 0)
        world = cls(folder)
        world.cut = cut
        (made.repo / "ride_features.py").write_text(FEATURES)
        about = [one for n in range(-3, DAYS + 1) for one in rides.rides_of(n)]
        for key in world.ended():
            begin, end = cut.interval(key)
            for dataset, event in EVENT_TIMES.items():
                store = world.store
                store.declare(dataset, cut)
                rows = [one for one in about if begin <= one[event] < end]
                columns = COLUMNS[dataset]
                schema = pa.schema([(name, KINDS.get(name, pa.string())) for name in columns])
                landed = world.home / "lake" / dataset / key
                landed.mkdir(parents=True)
                pq.write_table(
                    pa.Table.from_pylist([{n: one[n] for n in columns} for one in rows], schema), landed / "a.parquet"
                )
                store.seal(dataset, key, landed, event_time=event, batch_hash=None, suite_hash=None, may_be_empty=True)
        for key in world.ended():
            world.compute_key(key)
        return world

    def ended(self) -> list[str]:
        """The partitions that have ended."""
        return list(self.cut.keys(self.cut.first(FIRST), self.cut.floor(END)))

    def compute_key(self, key: str, start: Any = FIRST) -> None:
        compute_features(
            self.home,
            key,
            store=self.store,
            ledger=self.ledger,
            repo=ensure_applied(self.location, self.ledger),
            transform=rides.TRANSFORM,
            code_paths=[str(self.dags), str(self.repo)],
            datasets=list(EVENT_TIMES),
            history=timedelta(days=2),
            start=start,
            partitioning=self.cut,
        )

    def train(self, **changes: Any) -> Snapshot:
        """Freeze what is known at the end of the last partition."""
        return self.snapshot(changes.pop("as_of", END), **changes)


def rows_of(world: Rides, snapshot: Snapshot) -> dict[str, dict[str, Any]]:
    """Ride → label and features, of the rides for which every cut has the same history."""
    tables = [read_split(snapshot, name) for name in ("train", "validation", "test")]
    return {row["ride_id"]: row for table in tables for row in table.to_pylist() if row["called_at"] >= SETTLED}


@pytest.fixture(scope="module")
def by_utc_day(tmp_path_factory):
    world = Rides.make(tmp_path_factory.mktemp("days"), DAYS)
    return rows_of(world, world.snapshot(DAYS))


@pytest.fixture(scope="module", params=[HOURLY, NEW_YORK, WEEKLY], ids=str)
def world(request, tmp_path_factory):
    return CutRides.of(tmp_path_factory.mktemp("cut"), request.param)


def test_the_same_rides_get_the_same_labels_and_features(world, by_utc_day):
    snapshot = world.train()
    assert snapshot.as_of == world.cut.floor(END)
    found = rows_of(world, snapshot)
    assert len(found) > 200
    shared = found.keys() & by_utc_day.keys()
    assert len(shared) >= min(len(found), len(by_utc_day)) - 2, "but for the hours at the ends of the windows"
    differing = [ride for ride in shared if found[ride] != by_utc_day[ride]]
    assert differing == []


def test_a_training_set_is_built_again_byte_for_byte(world):
    snapshot = world.train()
    assert world.rebuild(snapshot).id == snapshot.id


def test_the_watermark_moves_by_partitions_and_a_gap_holds_it(world, tmp_path):
    copy = CutRides(tmp_path)
    copy.cut = world.cut
    world.copy(tmp_path)
    store, ledger, end = copy.store, copy.ledger, world.cut.floor(END)
    sources = [Source(name, FIRST) for name in EVENT_TIMES]
    assert watermark(store, ledger, "ends", FIRST) == latest_complete(store, ledger, sources) == end
    needs = [source.need(end, world.cut) for source in sources]
    assert readiness(store, ledger, needs) == []
    gone = world.ended()[-1]
    (store.folder("ends", gone) / "current.json").unlink()
    [reason] = readiness(store, ledger, needs)
    assert f"ends: partition {gone} is not sealed" in reason
    with pytest.raises(DataError, match="labels have not come far enough"):
        copy.train()
    begin, stop = world.cut.interval(gone)
    exclude(ledger, "ends", begin, stop, "lost", "ann")
    assert watermark(store, ledger, "ends", FIRST) == end


def test_features_go_online_up_to_the_end_of_the_partition(world):
    until = world.cut.floor(END)
    done = materialize(world.location, SERVICE, until=until, ledger=world.ledger)
    assert {view["watermark"] for view in done["views"].values()} == {until.isoformat()}
    assert freshness(world.location, SERVICE, as_of=until, max_age=timedelta(hours=2)).fresh
    again = materialize(world.location, SERVICE, until=until, ledger=world.ledger)
    assert {view["start"] for view in again["views"].values()} == {None}, "nothing is due"


def test_late_data_makes_stale_what_looked_back_on_it(world, tmp_path):
    copy = CutRides(tmp_path)
    copy.cut = world.cut
    world.copy(tmp_path)
    late = world.cut.key(rides.midnight(5))
    landed = copy.home / "lake" / "ends" / late
    table = pq.read_table(landed / "a.parquet")
    pq.write_table(table.slice(0, max(table.num_rows - 1, 0)), landed / "a.parquet")
    copy.store.seal("ends", late, landed, event_time="ended_at", batch_hash=None, suite_hash=None, may_be_empty=True)
    stale = stale_days(copy.home, copy.store, ["zone_delays"], FIRST, END, ledger=copy.ledger)
    begin, end = world.cut.interval(late)
    assert stale == [key for key in world.ended() if begin <= world.cut.interval(key)[0] < end + timedelta(days=2)]


def test_another_cut_of_the_same_dataset_is_refused(world):
    other = Partitioning("monthly")
    with pytest.raises(ConfigError, match="cut into other partitions already"):
        PartitionStore.under(world.home).declare("rides", other)


@pytest.mark.parametrize("key", ["2024-03-05", "2024-03", "2024-03-05T07", "x"])
def test_a_key_of_another_size_is_refused(tmp_path, key):
    store = PartitionStore.under(tmp_path)
    store.declare("rides", HOURLY)
    with pytest.raises(ConfigError, match=r"is not a partition key(.|\n)*an hour's start in UTC such as"):
        store.get("rides", key)


def test_event_times_of_the_neighbouring_local_day_are_refused(tmp_path):
    store = PartitionStore.under(tmp_path)
    store.declare("rides", NEW_YORK)
    late = datetime(2024, 3, 6, 2, tzinfo=UTC)  # the evening of the fifth in New York
    folder = tmp_path / "lake"
    folder.mkdir()
    pq.write_table(pa.table({"at": pa.array([late], pa.timestamp("us", "UTC"))}), folder / "a.parquet")
    assert store.seal("rides", "2024-03-05", folder, event_time="at", batch_hash=None, suite_hash=None).rows == 1
    with pytest.raises(DataError, match="2024-03-06 02:00"):
        store.seal("rides", "2024-03-06", folder, event_time="at", batch_hash=None, suite_hash=None)


# --- feeds that begin later, and labels in the source itself ----------------------------------------------


def seal_whole(world: CutRides) -> None:
    """Seal a dataset that carries everything of a ride, its outcome too."""
    columns = [*COLUMNS["rides"], "ended_at", "late"]
    schema = pa.schema([(name, KINDS.get(name, pa.string())) for name in columns])
    about = [one for n in range(-3, DAYS + 1) for one in rides.rides_of(n)]
    store = world.store
    store.declare("whole", world.cut)
    for key in world.ended():
        begin, end = world.cut.interval(key)
        rows = [{name: one[name] for name in columns} for one in about if begin <= one["called_at"] < end]
        folder = world.home / "lake" / "whole" / key
        folder.mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(rows, schema), folder / "a.parquet")
        store.seal(
            "whole", key, folder, event_time="called_at", batch_hash=None, suite_hash=None, may_be_empty=True
        )  # fmt: skip


def test_a_label_may_be_a_column_of_the_source_that_is_known_later(world, tmp_path):
    copy = CutRides(tmp_path)
    copy.cut = world.cut
    world.copy(tmp_path)
    seal_whole(copy)
    itself = {"source_dataset": "whole", "label_dataset": "whole", "label_known_at": "ended_at"}
    snapshot = copy.train(**itself)
    assert snapshot.label_known_at == "ended_at"
    assert rows_of(copy, snapshot) == rows_of(copy, copy.train())
    again = rebuild_snapshot(
        copy.location, snapshot, store=copy.store, source_dataset="whole", label_dataset="whole"
    )  # fmt: skip
    assert again.id == snapshot.id
    # Whose ride had not ended at the cut has no label, though its row says what it will be.
    early = copy.train(**itself, matures_after=timedelta(minutes=1), max_join_drop=1.0)
    ended = {one["ride_id"]: one["ended_at"] for n in range(DAYS + 1) for one in rides.rides_of(n)}
    assert max(ended[ride] for ride in rows_of(copy, early)) < early.as_of
    assert early.unlabelled_rows > snapshot.unlabelled_rows


def test_a_transform_is_not_given_what_was_not_known_yet(world, tmp_path):
    """Neither the label nor that it would be known; in a day computed later no more than on the day itself."""
    copy = CutRides(tmp_path)
    copy.cut = world.cut
    world.copy(tmp_path)
    seal_whole(copy)
    code = "seen = []\ndef compute(day, data):\n    seen.append(data['whole'])\n    return {}\n"
    (copy.dags / "peeking.py").write_text(code)
    key = copy.cut.key(rides.midnight(5))
    end = copy.cut.interval(key)[1]
    sys.modules.pop("peeking", None)
    compute_features(
        copy.home, key, store=copy.store, ledger=copy.ledger, repo=ensure_applied(copy.location, copy.ledger),
        transform="peeking:compute", code_paths=[str(copy.dags)], datasets=["whole"], history=timedelta(days=2),
        start=FIRST, partitioning=copy.cut, late={"whole": ["late", "ended_at"]},
    )  # fmt: skip
    [seen] = sys.modules.pop("peeking").seen
    known = seen[seen["ended_at"].notna()]
    assert (known["ended_at"] < end).all()
    hidden = seen[seen["ended_at"].isna()]
    assert len(hidden) > 0 or copy.cut == WEEKLY, "of a week of which all rides have ended nothing is hidden"
    assert hidden["late"].isna().all()


@pytest.mark.parametrize("timezone", ["UTC", "America/New_York"])
def test_a_date_is_known_when_it_is_over(tmp_path, timezone):
    world = Rides.make(tmp_path, 0)
    store, cut = world.store, Partitioning("daily", timezone)
    store.declare("loans", cut)
    at = cut.interval("2024-03-05")[0]
    days = [date(2024, 3, 4), date(2024, 3, 5), date(2024, 3, 6), None]
    rows = pa.table({
        "id": list("abcd"), "at": pa.array([at] * 4, pa.timestamp("us", "UTC")), "late": [True, False, True, None],
        "decided_on": pa.array(days, pa.date32()),
    })  # fmt: skip
    (folder := tmp_path / "landed").mkdir()
    pq.write_table(rows, folder / "a.parquet")
    store.seal("loans", "2024-03-05", folder, event_time="at", batch_hash=None, suite_hash=None)
    code = "seen = []\ndef compute(day, data):\n    seen.append(data['loans'])\n    return {}\n"
    (world.dags / "peeking.py").write_text(code)
    arguments = {
        "store": store, "ledger": world.ledger, "repo": ensure_applied(world.location, world.ledger),
        "transform": "peeking:compute", "code_paths": [str(world.dags)], "datasets": ["loans"],
        "history": timedelta(0), "start": date(2024, 3, 5), "partitioning": cut,
    }  # fmt: skip
    compute_features(world.home, "2024-03-05", **arguments, late={"loans": ["late", "decided_on"]})
    [seen] = sys.modules.pop("peeking").seen
    assert seen["late"].tolist() == [True, None, None, None], "the fifth is not over when its partition ends"
    for wrong, words in (("decided", "no column 'decided'(.|\n)*Did you mean 'decided_on'"), ("id", "no moment")):
        with pytest.raises(DataError, match=words):
            compute_features(world.home, "2024-03-05", **arguments, late={"loans": ["late", wrong]})


def test_what_the_transform_is_not_shown_is_part_of_its_code(tmp_path):
    world = Rides.make(tmp_path, 0)
    folders = [str(world.dags), str(world.repo)]
    plain = code_identity(rides.TRANSFORM, folders)
    late = code_identity(rides.TRANSFORM, folders, {"ends": ["late", "ended_at"]})
    other = code_identity(rides.TRANSFORM, folders, {"ends": ["late", "read_at"]})
    assert len({one.of("zone_delays") for one in (plain, late, other)}) == 3


def test_a_label_in_the_source_without_a_time_is_a_leak_and_refused(world):
    with pytest.raises(ConfigError, match="Nothing says since when the label 'late' is known"):
        world.train(source_dataset="rides", label_dataset="rides")


def test_a_cut_without_a_zone_is_refused(world):
    with pytest.raises(ConfigError, match="as_of has no time zone"):
        world.train(as_of=END.replace(tzinfo=None))


def test_a_label_known_at_no_time_is_refused(world, tmp_path):
    copy = CutRides(tmp_path)
    copy.cut = world.cut
    world.copy(tmp_path)
    seal_whole(copy)
    with pytest.raises(ConfigError, match="'km', when the label 'late' is known, is of type double"):
        copy.train(source_dataset="whole", label_dataset="whole", label_known_at="km")


def test_features_begin_with_the_first_partition_that_every_feed_has(world, tmp_path):
    copy = CutRides(tmp_path)
    copy.cut = world.cut
    world.copy(tmp_path)
    later = date(2024, 3, 9)
    first = copy.cut.first(later)
    before, begins = copy.cut.key(first - timedelta(minutes=1)), copy.cut.key(first)
    with pytest.raises(NotYetError, match=f"features of {before} from yet: 'ends' begins on 2024-03-09"):
        copy.compute_key(before, start={"rides": FIRST, "ends": later})
    for gone in copy.cut.keys(copy.cut.first(FIRST), first):
        shutil.rmtree(copy.store.folder("ends", gone))
    copy.compute_key(begins, start={"rides": FIRST, "ends": later})


@pytest.mark.parametrize("rows", [0, 3])
def test_a_view_without_a_row_in_its_first_partitions_is_not_waited_for(tmp_path, rows):
    home = tmp_path / "home"
    location = Location(small_features.write_repo(tmp_path / "repo"), home)
    small_features.write_days(home, 1)
    for view in ("shop_sales", "item_price"):
        file = feature_file(home, view, str(small_features.FIRST))
        pq.write_table(pq.read_table(file).slice(0, rows), file)
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db")
    ensure_applied(location, ledger)
    until = small_features.day(1)
    assert freshness(location, small_features.SERVICE, as_of=until, max_age=timedelta(days=2)).fresh == (rows == 0)
    materialize(location, small_features.SERVICE, until=until, ledger=ledger)
    assert freshness(location, small_features.SERVICE, as_of=until, max_age=timedelta(days=2)).fresh
    assert not freshness(location, small_features.SERVICE, as_of=small_features.day(9), max_age=timedelta(days=2)).fresh
