"""Features through a real Feast: applied once, joined as known at the time, materialised in order."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from airflow_mlops.engine.data.partitions import list_partitions, read_partitions
from airflow_mlops.engine.data.snapshots import read_split
from airflow_mlops.engine.features.freshness import freshness
from airflow_mlops.engine.features.materialize import materialize
from airflow_mlops.engine.features.store import apply_repo, ensure_applied, feature_file, open_store
from airflow_mlops.engine.features.training_data import build_training_snapshot
from airflow_mlops.exceptions import ConfigError, DataError
from tests.feast_fixtures import FIRST, REPO, compute_day, ledger_of, make_home

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
    return build_training_snapshot(home, REPO, **{**arguments, **changes})


def online(home: Path, feature: str, **keys) -> float | None:
    store = open_store(REPO, home)
    return store.get_online_features([feature], [keys]).to_dict()[feature.partition(":")[2]][0]


# --- definitions ------------------------------------------------------------------------------------------


def test_feast_apply_accepts_the_repository(home):
    (home / "feast").mkdir()
    done = subprocess.run(
        [Path(sys.executable).parent / "feast", "-c", REPO, "apply"],
        env={**os.environ, "MLOPS_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert f"Created feature service {SERVICE}" in done.stdout


def test_is_applied_once_and_again_when_a_file_changed(home, tmp_path):
    repo, ledger = tmp_path / "repo", ledger_of(home)
    shutil.copytree(REPO, repo)
    applied = ensure_applied(repo, home, ledger)
    assert applied.services[SERVICE].views == ("flight_schedule", "origin_traffic", "carrier_delays", "route_delays")
    assert applied.views["origin_traffic"].keys == {"origin": "string"}
    assert ensure_applied(repo, home, ledger) == applied
    assert len(ledger.facts("feature_repo", "flight_delay")) == 1

    definitions = repo / "features.py"
    definitions.write_text(definitions.read_text().replace('"landings_7d"', '"landings_week"'))
    changed = ensure_applied(repo, home, ledger)
    assert "landings_week" in changed.views["route_delays"].features
    assert changed.definition_hash(SERVICE) != applied.definition_hash(SERVICE)
    assert len(ledger.facts("feature_repo", "flight_delay")) == 2
    assert "features" not in sys.modules
    assert "MLOPS_HOME" not in os.environ


def test_definitions_that_do_not_import_are_explained(home, tmp_path):
    repo = tmp_path / "repo"
    shutil.copytree(REPO, repo)
    (repo / "broken.py").write_text("import no_such_module\n")
    folder = Path.cwd()
    with pytest.raises(ConfigError, match=r"cannot be loaded(.|\n)*no_such_module(.|\n)*fix:"):
        apply_repo(repo, home, ledger_of(home))
    assert Path.cwd() == folder


def test_settings_that_are_wrong_are_explained(home, tmp_path):
    with pytest.raises(ConfigError, match="no Feast repository"):
        open_store(tmp_path / "nowhere", home)
    settings = tmp_path / "feature_store.yaml"
    for text, words in (("project: [", "not valid YAML"), ("provider: local", "names no project")):
        settings.write_text(text)
        with pytest.raises(ConfigError, match=f"{words}(.|\n)*fix:"):
            open_store(tmp_path, home)
    settings.write_text("project: p\nprovider: local\nregistry: r.db\nonline_store: {type: sqlight}\n")
    with pytest.raises(ConfigError, match="does not accept"):
        open_store(tmp_path, home)


# --- the point-in-time join -------------------------------------------------------------------------------

JOIN_REPO = """
from datetime import timedelta
from feast import Entity, FeatureView, Field, FileSource, ValueType
from feast.data_format import ParquetFormat
from feast.types import Float64

key = Entity(name="key", join_keys=["k"], value_type=ValueType.STRING)
def view(name, ttl):
    source = FileSource(
        name=name + "_source", path={path!r}, file_format=ParquetFormat(), timestamp_field="happened",
        created_timestamp_column="written", field_mapping={{"raw": name + "_value"}},
    )
    return FeatureView(
        name=name, entities=[key], ttl=ttl, schema=[Field(name=name + "_value", dtype=Float64)], source=source
    )
short, endless = view("short", timedelta(hours=3)), view("endless", None)
"""


@pytest.fixture(scope="module")
def joining(tmp_path_factory):
    """One made-up view with late, corrected and doubled rows; a store with Feast's join, and one with ours."""
    folder, random = tmp_path_factory.mktemp("join"), np.random.default_rng(5)
    n = 400
    happened = pd.Series([pd.Timestamp(day(1))] * n) + pd.to_timedelta(random.integers(0, 48, n), unit="h")
    late = pd.to_timedelta(random.choice([-30, 0, 0, 30, 90, 600], n), unit="min")
    rows = pd.DataFrame(
        {
            "k": random.choice(["a", "b", "c"], n),
            "raw": np.arange(n, dtype=float),
            "happened": happened,
            "written": happened + late + pd.to_timedelta(np.arange(n), unit="s"),
        }
    )
    (folder / "rows").mkdir()
    rows.iloc[:200].to_parquet(folder / "rows" / "1.parquet")
    rows.iloc[200:].to_parquet(folder / "rows" / "2.parquet")
    asked = pd.DataFrame(
        {
            "k": random.choice(["a", "b", "c", "unheard of"], 300),
            "event_timestamp": pd.Timestamp(day(1)) + pd.to_timedelta(random.integers(-2, 60, 300) * 60, unit="min"),
            "asked": np.arange(300),
        }
    )
    stores = {}
    for name, kind in (("feast", "duckdb"), ("ours", "airflow_mlops.engine.features.asof.AsofOfflineStore")):
        repo, home = folder / name, folder / f"{name}-home"
        repo.mkdir()
        home.mkdir()
        settings = (REPO / "feature_store.yaml").read_text()
        (repo / "feature_store.yaml").write_text(
            settings.replace("airflow_mlops.engine.features.asof.AsofOfflineStore", kind)
        )
        (repo / "views.py").write_text(JOIN_REPO.format(path=str(folder / "rows" / "*.parquet")))
        apply_repo(repo, home, ledger_of(home))
        stores[name] = open_store(repo, home)
        assert stores[name].config.offline_store.type == kind
    return rows, asked, stores


@pytest.mark.parametrize("as_created", [True, False])
@pytest.mark.parametrize("full_names", [True, False])
def test_the_asof_join_gives_the_values_of_feasts_own_join(joining, as_created, full_names):
    _, asked, stores = joining
    answers = {
        name: store.get_historical_features(
            asked,
            ["short:short_value", "endless:endless_value"],
            filter_by_created_timestamp=as_created,
            full_feature_names=full_names,
        ).to_df()
        for name, store in stores.items()
    }
    ours, theirs = (answers[name].sort_values("asked", ignore_index=True) for name in ("ours", "feast"))
    assert len(ours) == len(asked)
    pd.testing.assert_frame_equal(ours[theirs.columns], theirs, check_dtype=False)


def test_the_asof_join_sees_only_what_was_written_by_then(joining):
    rows, asked, stores = joining
    answer = (
        stores["ours"]
        .get_historical_features(asked, ["endless:endless_value"], filter_by_created_timestamp=True)
        .to_df()
    )
    written, happened = rows["written"].to_numpy(), rows["happened"].to_numpy()
    found = answer.dropna(subset=["endless_value"])
    assert len(found) > 100
    moments = found["event_timestamp"].dt.tz_convert(None).to_numpy()
    number = found["endless_value"].astype(int).to_numpy()
    assert (rows["written"].dt.tz_convert(None).to_numpy()[number] <= moments).all()
    assert (rows["happened"].dt.tz_convert(None).to_numpy()[number] <= moments).all()
    assert (written > happened).any()


# --- training data ----------------------------------------------------------------------------------------


def test_snapshot_holds_what_was_known(flights):
    snapshot = snapshot_of(flights)
    assert list(snapshot.features)[:4] == ["carrier", "origin", "dest", "distance"]
    assert len(snapshot.features) == 18
    assert snapshot.as_of == day(13)
    assert snapshot.label_cut == day(12)
    assert [(split.start.day, split.end.day) for split in snapshot.splits.values()] == [(1, 8), (8, 10), (10, 12)]
    tables = [read_split(snapshot, name) for name in snapshot.splits]
    for table, split in zip(tables, snapshot.splits.values(), strict=True):
        assert table.column_names == ["flight_id", "sched_dep_utc", *snapshot.features, "late_15"]
        times = pc.min_max(table["sched_dep_utc"]).as_py()
        assert split.start <= times["min"] <= times["max"] < split.end
    departures = read_partitions(list_partitions(flights, "departures", FIRST, date(2013, 1, 11)))
    assert sum(table.num_rows for table in tables) + snapshot.unlabelled_rows == departures.num_rows
    assert snapshot.unlabelled_rows > pc.sum(departures["cancelled"]).as_py() > 0


def test_features_are_those_of_the_last_stamp_before_departure(flights):
    rows = read_split(snapshot_of(flights), "test").to_pandas()
    flight = rows[(rows["sched_dep_utc"].dt.minute > 0) & (rows["carrier"] == "UA")].iloc[50]
    arrivals = read_partitions(list_partitions(flights, "arrivals", None, None)).to_pandas()
    stamp = flight["sched_dep_utc"].floor("h")
    known = arrivals["landed_at"].between(stamp - pd.Timedelta(days=1), stamp, inclusive="right")
    landed = arrivals[(arrivals["carrier"] == "UA") & known]
    assert flight["landings_24h"] == len(landed) > 0
    assert flight["arr_delay_mean_24h"] == pytest.approx(landed["arr_delay"].mean())
    assert flight["late_15"] == arrivals.set_index("flight_id").loc[flight["flight_id"], "late_15"]


def test_the_same_again_is_the_same_snapshot(flights):
    assert snapshot_of(flights) == snapshot_of(flights, as_of=day(13) + timedelta(hours=5))


def test_rows_written_later_than_the_prediction_do_not_count(flights, own):
    """A day computed again later, and honestly dated, must not improve the past."""
    ensure_applied(REPO, own, ledger_of(own))
    before = read_split(snapshot_of(own), "test")
    for key in ("2013-01-10", "2013-01-11"):
        file = feature_file(own, "carrier_delays", key)
        rows = pq.read_table(file)
        later = pc.add(rows["created_timestamp"], pa.scalar(timedelta(days=3)))
        again = rows.set_column(rows.schema.get_field_index("created_timestamp"), "created_timestamp", later)
        again = again.set_column(2, again.column_names[2], pc.add(again.column(2), 1000.0))
        pq.write_table(again, file.with_name(f"{key}-again.parquet"))
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
        ({"label": "arr_delay"}, ConfigError, "of type double, not bool"),
        ({"entity": "carrier"}, DataError, "rows of 'departures' have a 'carrier' that is null or not their own"),
        ({"as_of": day(15)}, DataError, "days of 'departures' are not sealed; the first is 2013-01-13"),
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
    ensure_applied(REPO, own, ledger_of(own))
    feature_file(own, "route_delays", "2013-01-05").unlink()
    with pytest.raises(DataError, match="'route_delays' for 2013-01-05 were not computed"):
        snapshot_of(own)


# --- online -----------------------------------------------------------------------------------------------


def test_materialises_in_order_and_never_backwards(own):
    ledger = ledger_of(own)
    first = materialize(REPO, own, SERVICE, until=day(9), ledger=ledger)
    assert first["views"]["carrier_delays"] == {
        "online": True, "start": day(8).isoformat(), "watermark": day(9).isoformat(),
    }  # fmt: skip
    assert first["views"]["route_delays"]["start"] == day(7).isoformat(), "its time to live is two days"

    older = materialize(REPO, own, SERVICE, until=day(12), ledger=ledger)
    assert older["views"]["carrier_delays"]["start"] == day(11).isoformat(), "older values may not be served"
    newest = online(own, "carrier_delays:landings_24h", carrier="UA")
    offline = pq.read_table(feature_file(own, "carrier_delays", "2013-01-11")).to_pandas()
    assert newest == offline[offline["carrier"] == "UA"].iloc[-1]["landings_24h"]

    compute_day(own, "2013-01-06")
    again = materialize(REPO, own, SERVICE, until=day(7), ledger=ledger)
    assert {view["online"] for view in again["views"].values()} == {False}
    assert {view["watermark"] for view in again["views"].values()} == {day(12).isoformat()}
    assert online(own, "carrier_delays:landings_24h", carrier="UA") == newest
    assert materialize(REPO, own, SERVICE, until=day(12), ledger=ledger)["views"]["carrier_delays"]["online"]


def test_freshness_is_that_of_values_really_online(own):
    ledger = ledger_of(own)
    ensure_applied(REPO, own, ledger)
    assert set(freshness(REPO, own, SERVICE, as_of=day(9)).values()) == {None}
    materialize(REPO, own, SERVICE, until=day(9), ledger=ledger)
    hour = 3600.0
    wanted = {"flight_schedule": 24 * hour, "origin_traffic": hour, "carrier_delays": hour, "route_delays": 6 * hour}
    assert freshness(REPO, own, SERVICE, as_of=day(9)) == wanted
    later = {view: age + 48 * hour for view, age in wanted.items()}
    # Flights are new every day: those of the 10th cannot be read at all.
    assert freshness(REPO, own, SERVICE, as_of=day(11)) == {**later, "flight_schedule": None}
    materialize(REPO, own, SERVICE, until=day(13), ledger=ledger)
    assert set(freshness(REPO, own, SERVICE, as_of=day(9)).values()) == {0.0}, "a backfilled day finds newer values"


def test_a_day_that_was_not_computed_is_not_skipped(own):
    ledger = ledger_of(own)
    materialize(REPO, own, SERVICE, until=day(9), ledger=ledger)
    feature_file(own, "route_delays", "2013-01-09").unlink()
    with pytest.raises(DataError, match="'route_delays' for 2013-01-09 were not computed"):
        materialize(REPO, own, SERVICE, until=day(11), ledger=ledger)
    compute_day(own, "2013-01-09")
    done = materialize(REPO, own, SERVICE, until=day(11), ledger=ledger)
    assert done["views"]["route_delays"]["start"] == day(9).isoformat()


def test_the_future_and_unknown_services_are_refused(flights):
    with pytest.raises(ConfigError, match="into the future"):
        materialize(REPO, flights, SERVICE, until=datetime.now(UTC) + timedelta(hours=1), ledger=ledger_of(flights))
    with pytest.raises(ConfigError, match="Did you mean 'flight_delay_v1'"):
        materialize(REPO, flights, "flight_delay", until=day(9), ledger=ledger_of(flights))


def test_killed_before_the_watermark_moves_nothing_is_lost(own):
    ledger = ledger_of(own)
    materialize(REPO, own, SERVICE, until=day(9), ledger=ledger)
    script = f"""
        import os, signal
        from datetime import UTC, datetime
        from pathlib import Path
        from airflow_mlops.engine.features.materialize import materialize
        from airflow_mlops.engine.ledger import Ledger

        class Dying(Ledger):
            def swap(self, name, value, expected):
                os.kill(os.getpid(), signal.SIGKILL)

        materialize(
            Path({str(REPO)!r}), Path({str(own)!r}), {SERVICE!r},
            until=datetime(2013, 1, 10, tzinfo=UTC), ledger=Dying({ledger.url!r}),
        )
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], timeout=120, check=False)
    assert done.returncode == -9
    assert ledger.pointer("feature_watermark:flight_delay:flight_schedule").value == {"until": day(9).isoformat()}
    again = materialize(REPO, own, SERVICE, until=day(10), ledger=ledger)
    assert {view["watermark"] for view in again["views"].values()} == {day(10).isoformat()}
    assert again["views"]["flight_schedule"]["start"] == day(9).isoformat()
