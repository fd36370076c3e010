"""Features through a real Feast: applied once, joined as known at the time, materialised in order."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from airflow_mlops.engine.features.apply import apply_repo, ensure_applied
from airflow_mlops.engine.features.location import Location
from airflow_mlops.engine.features.materialize import materialize
from airflow_mlops.engine.features.schema import feature_file
from airflow_mlops.engine.features.store import open_store
from airflow_mlops.exceptions import ConfigError, DataError
from tests.feast_fixtures import REPO, compute_day, ledger_of, make_home

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


def online(home: Path, feature: str, **keys) -> float | None:
    store = open_store(Location(REPO, home))
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
    applied = ensure_applied(Location(repo, home), ledger)
    assert applied.services[SERVICE].views == ("flight_schedule", "origin_traffic", "carrier_delays", "route_delays")
    assert applied.views["origin_traffic"].keys == {"origin": "string"}
    assert ensure_applied(Location(repo, home), ledger) == applied
    assert len(ledger.facts("feature_repo", "flight_delay")) == 1

    definitions = repo / "features.py"
    definitions.write_text(definitions.read_text().replace('"landings_7d"', '"landings_week"'))
    changed = ensure_applied(Location(repo, home), ledger)
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
        apply_repo(Location(repo, home), ledger_of(home))
    assert Path.cwd() == folder


def test_settings_that_are_wrong_are_explained(home, tmp_path):
    with pytest.raises(ConfigError, match="no Feast repository"):
        open_store(Location(tmp_path / "nowhere", home))
    settings = tmp_path / "feature_store.yaml"
    for text, words in (("project: [", "not valid YAML"), ("provider: local", "names no project")):
        settings.write_text(text)
        with pytest.raises(ConfigError, match=f"{words}(.|\n)*fix:"):
            open_store(Location(tmp_path, home))
    settings.write_text("project: p\nprovider: local\nregistry: r.db\nonline_store: {type: sqlight}\n")
    with pytest.raises(ConfigError, match="does not accept"):
        open_store(Location(tmp_path, home))


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
        apply_repo(Location(repo, home), ledger_of(home))
        stores[name] = open_store(Location(repo, home))
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


# --- online -----------------------------------------------------------------------------------------------


def test_materialises_in_order_and_never_backwards(own):
    ledger = ledger_of(own)
    first = materialize(Location(REPO, own), SERVICE, until=day(9), ledger=ledger)
    assert first["views"]["carrier_delays"] == {
        "online": True, "start": day(8).isoformat(), "watermark": day(9).isoformat(),
    }  # fmt: skip
    assert first["views"]["route_delays"]["start"] == day(7).isoformat(), "its time to live is two days"

    older = materialize(Location(REPO, own), SERVICE, until=day(12), ledger=ledger)
    assert older["views"]["carrier_delays"]["start"] == day(11).isoformat(), "older values may not be served"
    newest = online(own, "carrier_delays:landings_24h", carrier="UA")
    offline = pq.read_table(feature_file(own, "carrier_delays", "2013-01-11")).to_pandas()
    assert newest == offline[offline["carrier"] == "UA"].iloc[-1]["landings_24h"]

    compute_day(own, "2013-01-06")
    again = materialize(Location(REPO, own), SERVICE, until=day(7), ledger=ledger)
    assert {view["online"] for view in again["views"].values()} == {False}
    assert {view["watermark"] for view in again["views"].values()} == {day(12).isoformat()}
    assert online(own, "carrier_delays:landings_24h", carrier="UA") == newest
    assert materialize(Location(REPO, own), SERVICE, until=day(12), ledger=ledger)["views"]["carrier_delays"]["online"]


def test_a_day_that_was_not_computed_is_not_skipped(own):
    ledger = ledger_of(own)
    materialize(Location(REPO, own), SERVICE, until=day(9), ledger=ledger)
    feature_file(own, "route_delays", "2013-01-09").unlink()
    with pytest.raises(DataError, match="'route_delays' for 2013-01-09 were not computed"):
        materialize(Location(REPO, own), SERVICE, until=day(11), ledger=ledger)
    compute_day(own, "2013-01-09")
    done = materialize(Location(REPO, own), SERVICE, until=day(11), ledger=ledger)
    assert done["views"]["route_delays"]["start"] == day(9).isoformat()


def test_the_future_and_unknown_services_are_refused(flights):
    with pytest.raises(ConfigError, match="into the future"):
        materialize(
            Location(REPO, flights), SERVICE, until=datetime.now(UTC) + timedelta(hours=1), ledger=ledger_of(flights)
        )
    with pytest.raises(ConfigError, match="Did you mean 'flight_delay_v1'"):
        materialize(Location(REPO, flights), "flight_delay", until=day(9), ledger=ledger_of(flights))


def test_killed_before_the_watermark_moves_nothing_is_lost(own):
    ledger = ledger_of(own)
    materialize(Location(REPO, own), SERVICE, until=day(9), ledger=ledger)
    script = f"""
        import os, signal
        from datetime import UTC, datetime
        from pathlib import Path
        from airflow_mlops.engine.features.location import Location
        from airflow_mlops.engine.features.materialize import materialize
        from airflow_mlops.engine.ledger import Ledger

        class Dying(Ledger):
            def swap(self, name, value, expected):
                os.kill(os.getpid(), signal.SIGKILL)

        materialize(
            Location(Path({str(REPO)!r}), Path({str(own)!r})), {SERVICE!r},
            until=datetime(2013, 1, 10, tzinfo=UTC), ledger=Dying({ledger.url!r}),
        )
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], timeout=120, check=False)
    assert done.returncode == -9
    assert ledger.pointer("feature_watermark:flight_delay:flight_schedule").value == {"until": day(9).isoformat()}
    again = materialize(Location(REPO, own), SERVICE, until=day(10), ledger=ledger)
    assert {view["watermark"] for view in again["views"].values()} == {day(10).isoformat()}
    assert again["views"]["flight_schedule"]["start"] == day(9).isoformat()
