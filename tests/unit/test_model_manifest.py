"""Where a model comes from: code, lock file, source hash."""

from __future__ import annotations

import hashlib
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest

from airflow_mlops.contracts import ModelManifest, Signature, TrainingResult
from airflow_mlops.engine.registry.manifest import code_version, lock_hash, pack_manifest
from airflow_mlops.engine.training.source import source_hash
from tests.training_fixtures import START, make_snapshot, make_spec


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.com"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repo" / "dags"
    (folder / "flights").mkdir(parents=True)
    (folder / "flights" / "model.py").write_text("x = 1\n")
    git(folder.parent, "init", "--quiet")
    git(folder.parent, "add", ".")
    git(folder.parent, "commit", "--quiet", "-m", "first")
    return folder


def test_clean_commit(repository: Path):
    assert code_version(str(repository)) == (git(repository, "rev-parse", "HEAD"), False)


@pytest.mark.parametrize("name", ["model.py", "new.py"])
def test_edited_or_new_file_is_dirty(repository: Path, name: str):
    (repository / "flights" / name).write_text("x = 2\n")
    assert code_version(str(repository))[1] is True


def test_change_elsewhere_is_not(repository: Path):
    (repository.parent / "notes.txt").write_text("later")
    assert code_version(str(repository))[1] is False


def test_outside_git_is_unknown(tmp_path: Path):
    assert code_version(str(tmp_path)) == ("unknown", False)
    assert code_version(None) == ("unknown", False)


def test_lock_hash_is_found_upwards(repository: Path):
    (repository.parent / "uv.lock").write_text("locked")
    assert lock_hash(str(repository)) == hashlib.sha256(b"locked").hexdigest()


def test_source_hash_follows_the_code_not_its_place(tmp_path: Path):
    hashes = []
    for place, text in (("a", "x = 1"), ("b", "x = 1"), ("c", "x = 2")):
        package = tmp_path / place / "pack_under_test"
        package.mkdir(parents=True)
        (package / "model.py").write_text(text)
        (package / "__init__.py").touch()
        hashes.append(source_hash("pack_under_test.model:build", str(tmp_path / place)))
    assert hashes[0] == hashes[1] != hashes[2]


def test_source_hash_of_one_file_and_of_nothing(tmp_path: Path):
    (tmp_path / "lone_module.py").write_text("x = 1")
    assert source_hash("lone_module:build", str(tmp_path)) == hashlib.sha256(b"x = 1").hexdigest()
    assert source_hash("no_such_module:build", str(tmp_path)) is None


def test_source_hash_follows_what_is_imported_from_beside(tmp_path: Path):
    (tmp_path / "lone_module.py").write_text("import os\nfrom units_beside import UNITS\n")
    (tmp_path / "units_beside.py").write_text("import more_beside\nUNITS = 4\n")
    (tmp_path / "more_beside.py").write_text("import lone_module\n")
    (tmp_path / "other.py").write_text("x = 1\n")
    first = source_hash("lone_module:build", str(tmp_path))
    (tmp_path / "other.py").write_text("x = 2\n")
    assert source_hash("lone_module:build", str(tmp_path)) == first
    for name in ("units_beside", "more_beside"):
        (tmp_path / f"{name}.py").write_text((tmp_path / f"{name}.py").read_text() + "# changed\n")
        assert source_hash("lone_module:build", str(tmp_path)) != first
        first = source_hash("lone_module:build", str(tmp_path))


def test_packed_manifest_stays_what_it_was(tmp_path: Path):
    spec = make_spec(make_snapshot(tmp_path, rows=20))
    result = TrainingResult(
        spec_hash=spec.hash,
        snapshot_id="snap1",
        saved_model=str(tmp_path / "saved_model"),
        signature=Signature(inputs={}, outputs={}),
        history={"loss": [0.5]},
        examples=20,
        seconds=1.0,
        examples_per_second=20.0,
        oldest_event_time=START,
        newest_event_time=START + timedelta(days=1),
        hardware="cpu",
        versions={},
    )
    first = pack_manifest(spec, result, parent_version=None, triggered_by="run 1")
    again = pack_manifest(spec, result, parent_version="4", triggered_by="run 2")
    assert again == first
    packed = (tmp_path / "saved_model" / "assets.extra" / "manifest.json").read_bytes()
    assert ModelManifest.from_json(packed) == first
    assert first.spec_hash == spec.hash
    assert first.feature_service == "flight_delay_v1"

    other = result.model_copy(update={"spec_hash": "another training"})
    assert pack_manifest(spec, other, parent_version="4", triggered_by="run 3").triggered_by == "run 3"
