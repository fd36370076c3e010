"""A training set built again: from what it pinned, as known then, or refused with what is missing."""

from __future__ import annotations

import json
import shutil
from datetime import timedelta

import pytest

from airflow_mlops.cli import main
from airflow_mlops.contracts import SplitRule
from airflow_mlops.engine.data.exclusions import exclude
from airflow_mlops.engine.data.snapshots import load_snapshot, read_split
from airflow_mlops.engine.features.computing.files import superseded_file
from airflow_mlops.engine.features.governance.apply import ensure_applied
from airflow_mlops.engine.features.project.schema import feature_file
from airflow_mlops.engine.features.training.training_data import rebuild_snapshot
from airflow_mlops.exceptions import ConfigError, DataError
from airflow_mlops.operators.feast import FeastRebuildTrainingDataOperator
from tests.rides import Rides, key_of, midnight, rides_of

DAYS = 8


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Rides:
    return Rides.make(tmp_path_factory.mktemp("rides"), DAYS)


@pytest.fixture
def own(world, tmp_path) -> Rides:
    return world.copy(tmp_path / "own")


@pytest.mark.parametrize("rule", [SplitRule(), SplitRule(kind="entity", column="driver", salt="x")])
def test_a_lost_snapshot_is_rebuilt_from_what_it_pinned(own, rule):
    exclude(own.ledger, "ends", midnight(3), midnight(3) + timedelta(hours=2), "radar was down", "ann")
    own.compute(*range(3, DAYS))
    snapshot = own.snapshot(DAYS, split_rule=rule, window=timedelta(days=7))
    assert snapshot.exclusions
    shutil.rmtree(snapshot.uri)
    # What happens later is not the snapshot's business: other labels arrive, another window is excluded.
    own.seal("ends", 7, rides_of(6) + rides_of(7)[5:])
    exclude(own.ledger, "rides", midnight(6), midnight(7), "test data", "ann")
    assert own.rebuild(snapshot) == snapshot
    assert read_split(snapshot, "train").num_rows == snapshot.splits["train"].rows
    with pytest.raises(ConfigError, match=r"not built from 'ride'\. Did you mean 'rides'"):
        rebuild_snapshot(own.location, snapshot, store=own.store, source_dataset="ride", label_dataset="ends")


def test_features_computed_again_since_do_not_count(own):
    snapshot = own.snapshot(DAYS)
    shutil.rmtree(snapshot.uri)
    own.seal("rides", 6, rides_of(6)[:-9])
    own.edit("ride_units.py", "/ 60", "/ 3600")
    own.compute(*range(DAYS))
    assert own.snapshot(DAYS).id != snapshot.id
    assert own.rebuild(snapshot) == snapshot


@pytest.mark.parametrize("damage", ["removed", "changed"])
def test_a_file_that_is_gone_is_named(own, damage):
    snapshot = own.snapshot(DAYS)
    shutil.rmtree(snapshot.uri)
    own.edit("ride_units.py", "/ 60", "/ 3600")
    own.compute(*range(DAYS))
    revision = snapshot.feature_files["last_ride"][key_of(2)]
    file = superseded_file(own.home, "last_ride", key_of(2), revision)
    if damage == "removed":
        file.unlink()
    else:
        file.write_bytes(feature_file(own.home, "last_ride", key_of(2)).read_bytes())
    with pytest.raises(
        DataError, match=rf"1 of the feature files(.|\n)*: last_ride {key_of(2)} {revision}\n(.|\n)*fix:"
    ):
        own.rebuild(snapshot)
    assert not list(own.home.glob("snapshots/*"))
    own.edit("ride_units.py", "/ 3600", "/ 60")
    own.compute(2)
    assert own.rebuild(snapshot) == snapshot, "the same code and partitions compute the same bytes"


def test_a_definition_that_means_something_else_now_is_named(own):
    snapshot = own.snapshot(DAYS)
    shutil.rmtree(snapshot.uri)
    own.edit("definitions.py", "ttl=timedelta(days=2)", "ttl=timedelta(hours=2)")
    ensure_applied(own.location, own.ledger)
    with pytest.raises(DataError, match=rf"{snapshot.id!r} comes out differently(.|\n)*different: feature_definition"):
        own.rebuild(snapshot)
    assert not list(own.home.glob("snapshots/*"))


def test_by_command_and_by_operator(own, monkeypatch, capsys):
    snapshot = own.snapshot(DAYS)
    command = ["rebuild", snapshot.id, "--source", "rides", "--labels", "ends"]
    command += ["--home", str(own.home), "--repo", str(own.repo), "--ledger", own.ledger.url]
    training = own.home / "trainings" / "t"
    training.mkdir(parents=True)
    (training / "spec.json").write_text(json.dumps({"snapshot": json.loads(snapshot.to_json())}))

    # A file is lost: it is not called whole. The folder is lost: what the training wrote down is enough.
    (own.home / "snapshots" / snapshot.id / snapshot.splits["test"].file).unlink()
    assert main(command) == 1
    assert "Remove the folder and build the snapshot again" in capsys.readouterr().err
    shutil.rmtree(snapshot.uri)
    assert main(command) == 0
    assert f"Snapshot {snapshot.id} is, byte for byte, what it was" in capsys.readouterr().out
    assert load_snapshot(own.home, snapshot.id) == snapshot

    shutil.rmtree(snapshot.uri)
    monkeypatch.setenv("AIRFLOW_CONN_FEAST_DEFAULT", json.dumps({"conn_type": "feast", "host": str(own.repo)}))
    operator = FeastRebuildTrainingDataOperator(
        task_id="rebuild", home=str(own.home), snapshot=snapshot.id, source_dataset="rides", label_dataset="ends"
    )
    assert operator.perform({})["id"] == snapshot.id
    assert load_snapshot(own.home, snapshot.id) == snapshot
    assert main(["rebuild", "nothing", *command[2:]]) == 1
    assert "There is no snapshot 'nothing'" in capsys.readouterr().err
