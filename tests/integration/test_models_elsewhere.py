"""Models that somebody else made: registered, fetched, served and rolled back by single operators."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mlflow import MlflowClient

from airflow_mlops.contracts import Signature, TensorSpec
from airflow_mlops.engine.data.files import tree_hash
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.engine.prediction.scorers import InProcess
from airflow_mlops.engine.registry.elsewhere import check_seen, fetch_version, make_servable
from airflow_mlops.engine.registry.registry import Registry
from airflow_mlops.engine.serving.golden import Golden
from airflow_mlops.engine.serving.saved_model import SavedModel
from airflow_mlops.exceptions import DataError, GateError
from tests.conftest import ROOT
from tests.saved_models import make_saved_model
from tests.training_fixtures import mlflow_server


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of what the colleague exported; what he logged is in MLflow."""
    folder = tmp_path_factory.mktemp("colleague")
    script = ROOT / "tests" / "colleague.py"
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, str(script), mlflow_server(), str(folder)],
        cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def registry() -> Registry:
    return Registry(mlflow_server())


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(f"sqlite:///{tmp_path}/ledger.db")


def test_warm_up_records_of_several_signatures_ranks_and_types(made: Path, tmp_path: Path):
    servable = make_servable(made / "several", tmp_path / "model")
    assert servable.golden == 2
    golden = Golden.read(servable.saved_model)
    assert golden.inputs["words"] == [["one"], [{"b64": "//4="}]]
    assert golden.inputs["factor"] == 0.5
    assert golden.outputs == {"score": [13.0, 12.0], "word": ["one", {"b64": "//4="}]}
    with closing(SavedModel(servable.saved_model)) as model:
        assert set(model.signatures) == {"serving_default", "length"}
        assert golden.check(model.run, model.signature, 1e-6).rows == 2


def test_sample_requests_as_parquet_and_as_json(made: Path, tmp_path: Path):
    source = shutil.copytree(made / "several", tmp_path / "source")
    shutil.rmtree(source / "assets.extra")
    request = {"inputs": {"words": [["a", "b"]], "pixels": [[[1, 2], [3, 4]]], "factor": 1.0}}
    (tmp_path / "requests.json").write_text(json.dumps(request))
    servable = make_servable(source, tmp_path / "model", tmp_path / "requests.json")
    assert Golden.read(servable.saved_model).outputs["score"] == [21.0]
    table = pa.table({"words": [["a"]], "pixels": [[[1.0, 2.0], [3.0, 4.0]]]})
    pq.write_table(table, tmp_path / "requests.parquet")
    with pytest.raises(DataError, match="There is no column 'factor'"):
        make_servable(source, tmp_path / "model", tmp_path / "requests.parquet")
    assert Golden.read(servable.saved_model).rows == 1, "what was there is still there"


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"inputs": {"words": [["a"]], "pixels": [[[1, 2]]], "factor": 1.0}}, "Input 'pixels' has another shape"),
        ({"inputs": {"words": [[1]], "pixels": [[[1, 2], [3, 4]]], "factor": 1.0}}, "do not fit the model"),
        ({"inputs": {"words": [], "pixels": [], "factor": 1.0}}, "do not fit|are empty"),
        ({"inputs": {"wrods": [["a"]]}}, "do not fit the model"),
        (["a"], "do not fit the model"),
        ({"signature_name": "length", "inputs": {"words": [["a"]]}}, "They are for the signature 'length'"),
        (
            {"inputs": {"words": [["a"], ["b"]], "pixels": [[[1, 2], [3, 4]]], "factor": 1.0}},
            "inputs are of different lengths",
        ),
        ("{", "do not fit the model"),
    ],
)
def test_samples_that_do_not_fit(made: Path, tmp_path: Path, request_: Any, words: str):
    source = shutil.copytree(made / "several", tmp_path / "source")
    shutil.rmtree(source / "assets.extra")
    file = tmp_path / "requests.json"
    file.write_text(request_ if isinstance(request_, str) else json.dumps(request_))
    with pytest.raises(DataError, match=words):
        make_servable(source, tmp_path / "model", file)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["requests.json", "source"]


def test_samples_of_a_model_that_nobody_can_ask_them(made: Path, tmp_path: Path):
    (tmp_path / "requests.json").write_text('{"inputs": {"words": [["a"]]}}')
    with pytest.raises(DataError, match=r"no signature 'serving_default'(.|\n)*it has length"):
        make_servable(made / "other", tmp_path / "model", tmp_path / "requests.json")


def test_what_was_fetched_first_is_what_is_published(made: Path, registry: Registry, ledger: Ledger, tmp_path: Path):
    first = fetch_version(registry, ledger, "colleague", 1, tmp_path / "1")
    elsewhere = fetch_version(registry, ledger, "colleague", 1, tmp_path / "other worker" / "1")
    assert tree_hash(first.saved_model) == tree_hash(elsewhere.saved_model)
    check_seen(ledger, "colleague", 1, first.saved_model)
    with pytest.raises(GateError, match="not what the registry has as that"):
        check_seen(ledger, "colleague", 1, made / "several")


def test_without_samples_it_says_what_is_unproven(made: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    assert make_servable(made / "other", tmp_path / "model").golden == 0
    assert "no golden predictions" in caplog.text


def test_what_is_no_model(made: Path, tmp_path: Path):
    with pytest.raises(DataError, match="no signature"):
        make_servable(made / "unsigned", tmp_path / "model")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no model that TensorFlow Serving can serve"):
        make_servable(tmp_path / "empty", tmp_path / "model")
    with pytest.raises(DataError, match="3 models are there"):
        make_servable(made, tmp_path / "model")
    (tmp_path / "keras").mkdir()
    (tmp_path / "keras" / "model.keras").write_text("nothing")
    with pytest.raises(DataError, match="Keras cannot load model"):
        make_servable(tmp_path / "keras", tmp_path / "model")
    half = shutil.copytree(made / "other", tmp_path / "half")
    (half / "saved_model.pb").write_bytes((half / "saved_model.pb").read_bytes()[:200])
    with pytest.raises(DataError, match="cannot be loaded"):
        make_servable(half, tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("lost", ["variables/variables.index", "variables"])
def test_half_a_model_is_refused_without_samples_too(made: Path, tmp_path: Path, lost: str):
    half = shutil.copytree(made / "other", tmp_path / "half")
    shutil.rmtree(half / lost) if lost == "variables" else (half / lost).unlink()
    for ask in (lambda: make_servable(half, tmp_path / "model"), lambda: InProcess(half, model="half")):
        with pytest.raises(DataError, match=r"index of its variables is missing(.|\n)*fix: .*a complete export"):
            ask()


def test_a_model_without_variables_needs_no_index(tmp_path: Path):
    model = make_saved_model(tmp_path / "m", 0.1, {"distance": "float32"}, answers="bfloat16")
    shutil.rmtree(model / "variables")
    for _ in range(2):
        with closing(SavedModel(model)) as loaded:
            loaded.check_whole()
        (model / "variables").mkdir(exist_ok=True)


def test_any_version_is_fetched_and_its_files_are_written_down(
    made: Path, registry: Registry, ledger: Ledger, tmp_path: Path
):
    first = fetch_version(registry, ledger, "colleague", 1, tmp_path / "1")
    with closing(SavedModel(first.saved_model)) as model:
        assert set(model.signature.inputs) == {"price", "vector"}
    assert first.golden == 2, "from MLflow's input example"
    assert fetch_version(registry, ledger, "colleague", 1, tmp_path / "1") == first
    assert len(ledger.facts("model_seen", "colleague")) == 1
    with pytest.raises(DataError, match="MLflow does not have it"):
        fetch_version(registry, ledger, "colleague", 99, tmp_path / "99")


def test_files_that_changed_or_are_gone(made: Path, registry: Registry, ledger: Ledger, tmp_path: Path):
    seen = {"model": "colleague", "version": 2, "files": "other", "content": "other"}
    ledger.record("model_seen", "colleague", seen, key="2")
    with pytest.raises(GateError, match="not those that were there at first"):
        fetch_version(registry, ledger, "colleague", 2, tmp_path / "2")

    client = MlflowClient(mlflow_server())
    client.create_registered_model("gone")
    run = client.create_run("0").info
    client.create_model_version("gone", source=f"{run.artifact_uri}/model", run_id=run.run_id)
    with pytest.raises(DataError, match="files are gone"):
        fetch_version(registry, ledger, "gone", 1, tmp_path / "gone")
    assert not (tmp_path / "gone").exists()


def test_a_saved_model_is_registered_once(made: Path, registry: Registry, tmp_path: Path):
    servable = make_servable(made / "several", tmp_path / "model")
    first = registry.register_made_elsewhere("once", servable.saved_model, servable.signature, "s3://there")
    assert registry.register_made_elsewhere("once", servable.saved_model, servable.signature, "s3://there") == first
    assert registry.by_alias("once", "challenger").version == first.version == "1"
    assert registry.download("once", "1", tmp_path / "again") == tmp_path / "again"
    assert Golden.read(tmp_path / "again").rows == 2


def test_complex_numbers_are_refused_in_words(tmp_path: Path):
    model = make_saved_model(tmp_path / "m", 0.1, {"distance": "float32"}, answers="complex")
    (model / "assets.extra" / "golden.json").unlink()
    samples = tmp_path / "requests.json"
    samples.write_text('{"instances": [{"distance": 1.0}]}')
    for given in (samples, None):
        with pytest.raises(DataError, match=r"answers 'wave' in complex numbers(.|\n)*complex64(.|\n)*tf.math.real"):
            make_servable(model, tmp_path / "made", given)


def test_a_type_that_cannot_be_served_is_refused_before_anything_is_registered(tmp_path: Path, registry: Registry):
    model = make_saved_model(tmp_path / "m", 0.1, {"distance": "float32"}, answers="bfloat16")
    with pytest.raises(DataError, match=r"output 'half' is of type bfloat16(.|\n)*Cast inside the model"):
        make_servable(model, tmp_path / "made")
    one = TensorSpec(dtype="float32", shape=(-1,))
    unknown = Signature(inputs={"distance": one}, outputs={"half": one.model_copy(update={"dtype": "unheard_of"})})
    with pytest.raises(TypeError, match="unheard_of"):  # whatever fails before a version is made
        registry.register_made_elsewhere("half", model, unknown, "somewhere")
    assert not registry.client.search_registered_models("name = 'half'")
