"""Features through a real Feast: applied once, joined as known at the time, materialised in order."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from airflow_mlops.engine.features.governance.apply import apply_repo, ensure_applied
from airflow_mlops.engine.features.project.location import Location
from airflow_mlops.engine.features.project.store import open_store
from airflow_mlops.exceptions import ConfigError
from tests.feast_fixtures import REPO, ledger_of, make_home

SERVICE = "flight_delay_v1"
VIEWS = (
    *("origin_traffic", "carrier_delays", "route_delays", "destination_delays"),
    *("aircraft_last_leg", "origin_weather"),
)
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
    assert applied.services[SERVICE].views == VIEWS
    assert applied.views["origin_traffic"].keys == {"origin": "string"}
    assert ensure_applied(Location(repo, home), ledger) == applied
    assert len(ledger.facts("feature_repo", "flight_delay")) == 1

    definitions = repo / "features.py"
    definitions.write_text(definitions.read_text().replace("route_landings_7d=", "route_landings_week="))
    changed = ensure_applied(Location(repo, home), ledger)
    assert "route_landings_week" in changed.views["route_delays"].features
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
