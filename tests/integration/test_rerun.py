"""A registered version trained again: the same comes out, or what does not is named."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from airflow_mlops.cli import main
from airflow_mlops.contracts import RegisteredModel, TrainingSpec
from airflow_mlops.engine.evaluation.evaluate import evaluate
from airflow_mlops.engine.registry.manifest import pack_manifest
from airflow_mlops.engine.registry.registry import Registry
from airflow_mlops.engine.training.environment import environment, packages_hash
from airflow_mlops.engine.training.launch import train
from airflow_mlops.engine.training.rerun import rerun
from airflow_mlops.engine.training.source import code_hash
from airflow_mlops.exceptions import DataError, GateError
from tests.training_fixtures import make_snapshot, make_spec, mlflow_server

MODEL = """
from pathlib import Path

def build(train, seed, units):
    import keras
    inputs = {name: keras.Input((), name=name, dtype="string" if values.dtype == object else values.dtype.name)
              for name, values in train.items()}
    hour = keras.ops.cast(inputs["sched_hour"], "float32")[:, None]
    hidden = keras.layers.Dense(int(Path(units).read_text()), activation="relu")(hour)
    model = keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid")(hidden))
    model.compile("adam", "binary_crossentropy")
    return model
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rerun")


def git(folder: Path, *arguments: str) -> None:
    who = ["-c", "user.name=me", "-c", "user.email=me@example.org"]
    subprocess.run(["git", "-C", str(folder), *who, *arguments], check=True, capture_output=True)


@pytest.fixture(scope="module")
def code(place: Path) -> Path:
    """A folder of DAG files in a git repository, whose model reads its width from a file elsewhere."""
    folder = place / "repo" / "dags"
    folder.mkdir(parents=True)
    (folder / "small_model.py").write_text(MODEL)
    (place / "units").write_text("3")
    git(folder.parent, "init", "-q")
    git(folder.parent, "add", ".")
    git(folder.parent, "commit", "-qm", "The model")
    return folder


@pytest.fixture(scope="module")
def spec(place: Path, code: Path) -> TrainingSpec:
    spec = make_spec(
        make_snapshot(place, rows=300),
        model="again", entrypoint="small_model:build", code_path=str(code), epochs=1, batch_size=64,
        params={"units": str(place / "units")}, environment=environment(),
    )  # fmt: skip
    return spec.model_copy(update={"code_hash": code_hash(spec, str(code))})


@pytest.fixture(scope="module")
def version(place: Path, spec: TrainingSpec) -> RegisteredModel:
    lock = Path(spec.code_path or "") / "uv.lock"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLOPS_IMAGE", "registry/train@sha256:1")
        result = train(spec, place / "trainings" / "t", timeout=300)
    lock.write_text("of then")
    manifest = pack_manifest(spec, result, parent_version=None, triggered_by="me")
    lock.write_text("of now")
    assert result.packages_hash == manifest.packages_hash == packages_hash()
    registry = Registry(mlflow_server())
    evaluation = evaluate(spec.snapshot, Path(result.saved_model))
    return registry.register(registry.open_run(spec), result, manifest, evaluation)


def again(place: Path, version: RegisteredModel, **more: str):
    return rerun(Registry(mlflow_server()), place, version.model, version.version, timeout=300, **more)


def test_code_of_then_from_git_gives_the_same_bytes(
    place: Path, code: Path, version: RegisteredModel, capsys, monkeypatch
):
    (code / "small_model.py").write_text(MODEL.replace("relu", "tanh"))
    git(code, "commit", "-qam", "Another model")
    monkeypatch.setenv("MLOPS_IMAGE", "registry/train@sha256:2")
    monkeypatch.setenv("AIRFLOW_CONN_MLFLOW_DEFAULT", json.dumps({"conn_type": "mlflow", "host": mlflow_server()}))
    assert main(["rerun", "again", "1", "--home", str(place)]) == 0
    said = capsys.readouterr().out
    assert "again 1: the snapshot is whole, the weights are the same to the last bit." in said
    scores, *other = said.partition("Test split: auc 0.")[2].splitlines()
    assert " then, " not in scores
    assert [line.partition(":")[0] for line in other if line] == [
        "Another image",
        "Another uv.lock",
        "Another commit, with the same code of the training,",
        "Its folder had changes then that were not committed.",
    ]
    assert "Another image: registry/train@sha256:1 then, registry/train@sha256:2 now." in said


def test_what_comes_out_otherwise_is_refused_with_the_numbers(
    place: Path, code: Path, version: RegisteredModel, spec: TrainingSpec
):
    (place / "units").write_text("5")
    shutil.copytree(code, place / "as_it_was")
    (place / "as_it_was" / "small_model.py").write_text(MODEL)
    made = again(place, version, code_path=str(place / "as_it_was"))
    assert not made.agrees
    assert made.largest_difference > 0
    with pytest.raises(
        GateError, match=r"does not come out the same(.|\n)*the weights differ(.|\n)* then, "
    ) as refused:
        made.check()
    assert "golden predictions by 0." in refused.value.detail


def test_all_that_is_missing_is_named(place: Path, code: Path, version: RegisteredModel, spec: TrainingSpec):
    (code / "small_model.py").write_text(MODEL.replace("relu", "elu"))
    shutil.rmtree(code.parent / ".git")
    file = Path(spec.snapshot.uri) / "test.parquet"
    kept = file.read_bytes()
    file.write_bytes(kept[:-1])
    try:
        with pytest.raises(DataError, match="cannot be trained again") as refused:
            again(place, version)
    finally:
        file.write_bytes(kept)
    assert "The test split of snapshot 'snap1' is not what was written." in refused.value.detail
    assert "the code of the entrypoint 'small_model:build' is neither here nor in commit" in refused.value.detail
    assert "`airflow-mlops rebuild snap1`. Say where the code of then lies, with --code" in refused.value.hint
    for model, number, says in (("again", "99", "has no version 99"), ("agian", "1", "Did you mean 'again'")):
        with pytest.raises(DataError, match=says):
            rerun(Registry(mlflow_server()), place, model, number, timeout=300)
