"""The environment is part of a training, and a server is held against it."""

from __future__ import annotations

import json
import platform
from pathlib import Path

import pytest

from airflow_mlops.contracts import TrainingSpec
from airflow_mlops.engine.serving.compatibility import check_server, trained_with
from airflow_mlops.engine.training.environment import environment, packages_hash
from airflow_mlops.exceptions import GateError
from tests.training_fixtures import make_snapshot, make_spec


def test_another_tensorflow_is_another_training(home: Path):
    here = make_spec(make_snapshot(home, 40), environment=environment())
    assert here.environment.keys() == {"python", "airflow-mlops", "keras", "numpy", "tensorflow"}
    assert here.environment["python"] == platform.python_version()
    upgraded = here.model_copy(update={"environment": {**here.environment, "tensorflow": "9.9.9"}})
    assert upgraded.hash != here.hash


def test_what_was_trained_before_this_was_said_keeps_its_name(home: Path):
    spec = make_spec(make_snapshot(home, 40))
    written = json.loads(spec.to_json())
    del written["environment"], written["golden"]
    assert TrainingSpec.from_json(json.dumps(written)).hash == spec.hash


def test_the_packages_are_told_apart_also_where_one_is_installed_by_halves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.syspath_prepend(str(tmp_path))
    seen = [packages_hash()]
    assert seen == [packages_hash()]
    for version in ("1.0", "1.1"):
        half, whole = tmp_path / "half-1.0.dist-info", tmp_path / "whole.dist-info"
        half.mkdir(exist_ok=True)
        whole.mkdir(exist_ok=True)
        (whole / "METADATA").write_text(f"Metadata-Version: 2.1\nName: whole\nVersion: {version}\n")
        seen.append(packages_hash())
    assert len(set(seen)) == 3


def test_what_made_a_model_is_read_from_its_manifest(tmp_path: Path):
    assert trained_with(tmp_path) is None
    (tmp_path / "assets.extra").mkdir()
    (tmp_path / "assets.extra" / "manifest.json").write_text(json.dumps({"versions": {"tensorflow": "2.21.0"}}))
    assert trained_with(tmp_path) == "2.21.0"


@pytest.mark.parametrize("server", ["2.21.0", "2.22.1", "2.21.0-rc1", "3.0"])
def test_the_same_or_a_newer_server_loads_it(server: str, caplog: pytest.LogCaptureFixture):
    check_server("s", server, "2.21.3")
    assert not caplog.text


@pytest.mark.parametrize(("server", "says"), [("2.20.0", "older than the 2.21.0"), (None, "is not known")])
def test_an_older_minor_or_an_unknown_one_is_warned_of(server: str | None, says: str, caplog: pytest.LogCaptureFixture):
    check_server("s", server, "2.21.0")
    assert says in caplog.text


@pytest.mark.parametrize("server", ["1.15.5", "4.0.0"])
def test_beyond_what_is_promised_it_is_refused(server: str):
    with pytest.raises(GateError, match=r"need not load a model of TensorFlow 2\.21\.0(.|\n)*Upgrade the server"):
        check_server("s", server, "2.21.0")
