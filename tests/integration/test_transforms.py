"""A transform outside the model: trained through, shipped, published, and applied by all that ask with features."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from airflow.sdk import DAG

from airflow_mlops.contracts import TrainingSpec
from airflow_mlops.engine.data.partitions import PartitionStore
from airflow_mlops.engine.evaluation.evaluate import evaluate, score
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.engine.prediction.batch import predict_partition
from airflow_mlops.engine.prediction.plan import Plan
from airflow_mlops.engine.prediction.rows import rows_of_entities
from airflow_mlops.engine.prediction.scorers import InProcess, Scorer, ThroughServer
from airflow_mlops.engine.registry.elsewhere import make_servable
from airflow_mlops.engine.registry.manifest import pack_manifest
from airflow_mlops.engine.registry.records import params_of
from airflow_mlops.engine.serving.asking import FeatureClient
from airflow_mlops.engine.serving.golden import Golden
from airflow_mlops.engine.serving.golden_cases import GoldenCase
from airflow_mlops.engine.serving.model_store import publish
from airflow_mlops.engine.serving.rollout import Rollout
from airflow_mlops.engine.serving.saved_model import SavedModel
from airflow_mlops.engine.serving.transform import load_transform
from airflow_mlops.engine.training.inputs import read_inputs
from airflow_mlops.engine.training.launch import train
from airflow_mlops.engine.training.script import run_script
from airflow_mlops.engine.training.source import code_hash, source_hash
from airflow_mlops.engine.training.workdir import Workdir
from airflow_mlops.exceptions import DataError, MlopsError, TrainingError
from airflow_mlops.operators.predict import TensorFlowPredictOperator, TFServingPredictOperator
from tests import warm_trainer
from tests.model_server import FLAGS, ModelServer, config_text, model_text
from tests.training_fixtures import make_snapshot, make_spec

FEATURES = {"carrier": "string", "distance_miles": "double", "sched_hour": "int64"}
KEY = "2013-02-10"

HELPERS = "KNOWN = {'AA': 1, 'UA': 2}\nSCALE = 10.0\n"
CODE = """
import numpy as np
from prep import numbers

def transform(columns):
    columns["distance_miles"] -= 0  # writing to what it is given is its own business
    return {
        "known": numbers.of(columns["carrier"]),
        "near": np.nan_to_num(columns["distance_miles"]) / numbers.scale() + columns["sched_hour"] / 24,
    }

def build(train, seed):
    import keras

    assert set(train) == {"known", "near"}, train
    known, near = keras.Input((), name="known", dtype="int64"), keras.Input((), name="near")
    both = keras.ops.stack([keras.ops.cast(known, "float32"), near], axis=1)
    model = keras.Model([known, near], keras.layers.Dense(1, activation="sigmoid")(both))
    model.compile(loss="binary_crossentropy", optimizer=keras.optimizers.Adam(0.05))
    return model

def build_of_features(train, seed):
    import keras

    hour = keras.Input((), name="sched_hour", dtype="int64")
    return keras.Model(hour, keras.layers.Dense(1)(keras.ops.cast(hour, "float32")[:, None]))
"""
NUMBERS = """
import numpy as np

def of(texts):
    from vocabulary import KNOWN  # when it is called

    return np.array([KNOWN.get(one, 0) for one in texts])

def scale():
    import vocabulary

    return vocabulary.SCALE
"""


def write_code(folder: Path, helpers: str = HELPERS) -> Path:
    (folder / "prep").mkdir(parents=True)
    (folder / "prep" / "__init__.py").touch()
    (folder / "prep" / "numbers.py").write_text(NUMBERS)
    (folder / "vocabulary.py").write_text(helpers)
    (folder / "code.py").write_text(CODE)  # the standard library has one too
    return folder


def spec_of(home: Path, code: Path, **changes: Any) -> TrainingSpec:
    snapshot = make_snapshot(home, rows=400).model_copy(update={"features": FEATURES})
    how = {
        "entrypoint": "code:build",
        "transform": "code:transform",
        "code_path": str(code),
        "snapshot": snapshot,
        "code_hash": source_hash("code:transform", str(code)),
    }
    return make_spec(**(how | changes))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("transforms")


@pytest.fixture(scope="module")
def spec(folder: Path) -> TrainingSpec:
    return spec_of(folder / "home", write_code(folder / "dags"))


@pytest.fixture(scope="module")
def trained(folder: Path, spec: TrainingSpec) -> Path:
    """The SavedModel of a training in a process of its own; its code is gone since."""
    made = Path(train(spec, folder / "home" / "trainings" / "one", timeout=200).saved_model)
    shutil.rmtree(folder / "dags")
    return made


@pytest.fixture(scope="module")
def other(folder: Path, trained: Path) -> Path:
    """A SavedModel whose transform has the same names, and another scale."""
    code = write_code(folder / "others" / "dags", HELPERS.replace("10.0", "2.0"))
    return Path(warm_trainer.train(spec_of(folder / "others", code), folder / "others" / "two").saved_model)


@pytest.fixture(scope="module")
def store(folder: Path, trained: Path, other: Path) -> Path:
    base = folder / "models" / "late"
    publish(trained, base, 1, require_golden=True)
    publish(other, base, 2, require_golden=True, serving=1)
    return base


@pytest.fixture(scope="module")
def server(folder: Path, store: Path) -> Iterator[ModelServer]:
    config = folder / "models.config"
    config.write_text(config_text(model_text("late", store, [1, 2], stable=1)))
    with ModelServer(f"--model_config_file={config}", *FLAGS) as server:
        server.wait_until_open()
        server.wait_for_states("late", {1: "AVAILABLE", 2: "AVAILABLE"})
        yield server


def features_of(spec: TrainingSpec) -> tuple[Path, dict[str, np.ndarray]]:
    file = Path(spec.snapshot.uri) / "test.parquet"
    return file, read_inputs(pq.read_table(file), FEATURES)


def by_hand(saved_model: Path, columns: dict[str, np.ndarray], scale: float) -> np.ndarray:
    near = np.nan_to_num(columns["distance_miles"]) / scale + columns["sched_hour"] / 24
    known = np.array([{"AA": 1, "UA": 2}.get(one, 0) for one in columns["carrier"]])
    with SavedModel(saved_model) as model:
        return model.run({"known": known, "near": near.astype(np.float32)})["probability"]


def test_golden_predictions_are_of_features(trained: Path):
    golden = Golden.read(trained)
    assert set(golden.inputs) == set(FEATURES)
    types = {"carrier": object, "distance_miles": np.float32, "sched_hour": np.int64}
    columns = {name: np.array(values, types[name]) for name, values in golden.inputs.items()}
    np.testing.assert_allclose(golden.outputs["probability"], by_hand(trained, columns, 10.0), atol=1e-6)


def test_what_is_shipped_is_the_code_and_nothing_is_written_beside_it(trained: Path):
    shipped = trained / "assets.extra" / "transform"
    load_transform(trained)
    files = {path.relative_to(shipped).as_posix() for path in shipped.rglob("*") if path.is_file()}
    assert files == {"code.py", "vocabulary.py", "prep/__init__.py", "prep/numbers.py", "transform.json"}
    assert not list(trained.parent.glob(".tmp-*"))
    sums = json.loads((trained.parent / "saved_model.sha256.json").read_bytes())
    assert {f"assets.extra/transform/{name}" for name in files} <= set(sums)


def test_the_same_numbers_in_process_and_through_the_server(
    spec: TrainingSpec, store: Path, server: ModelServer, tmp_path: Path
):
    file, columns = features_of(spec)
    expected = {1: by_hand(store / "1", columns, 10.0), 2: by_hand(store / "2", columns, 2.0)}
    assert np.abs(expected[1] - expected[2]).max() > 0.01

    def predicted(scorer: Scorer, name: str) -> np.ndarray:
        partitions = PartitionStore.under(tmp_path)
        with rows_of_entities(file) as rows:
            plan = Plan(rows, scorer, "flight_id", "sched_dep_utc", batch_rows=32)
            predict_partition(plan, home=tmp_path, store=partitions, ledger=None, dataset=name, key=KEY)
        return partitions.read([partitions.get(name, KEY)])["probability"].to_numpy()

    for version in (1, 2):
        with InProcess(store / str(version), model="late") as model:
            assert set(model.signature.inputs) == set(FEATURES)
            in_process = predicted(model, f"in.{version}")
        through = ThroughServer(server.client, model="late", version=version, store=store)
        np.testing.assert_allclose(in_process, expected[version], atol=1e-6)
        np.testing.assert_allclose(predicted(through, f"through.{version}"), in_process, atol=1e-6)
    client = FeatureClient(server.client, "late", store)
    answer = client.predict({name: values.tolist() for name, values in columns.items()})
    np.testing.assert_allclose(answer["probability"], expected[1], atol=1e-6)
    rollout = Rollout("s", "late", store, tmp_path / "c", server.client, Ledger(f"sqlite:///{tmp_path}/ledger.db"))
    assert rollout.verify(2).rows == 32


class TaskInstance:
    """As much of a running task as the operators look at."""

    def xcom_push(self, key: str, value: Any) -> None:
        pass


def test_the_operators_apply_it(spec: TrainingSpec, store: Path, server: ModelServer, home: Path, monkeypatch):
    extra = json.dumps({"grpc_port": server.port, "timeout": 20, "model_base_path": str(store.parent)})
    served = {"conn_type": "tf_serving", "host": "127.0.0.1", "port": server.rest_port, "extra": extra}
    ledger = {"conn_type": "mlops_ledger", "host": f"sqlite:///{home}/ledger.db"}
    monkeypatch.setenv("AIRFLOW_CONN_TF_SERVING_DEFAULT", json.dumps(served))
    monkeypatch.setenv("AIRFLOW_CONN_MLOPS_LEDGER_DEFAULT", json.dumps(ledger))
    monkeypatch.setenv("AIRFLOW__MLOPS__HOME", str(home))
    file, columns = features_of(spec)
    how = {"model": "late", "entity": "flight_id", "event_time": "sched_dep_utc", "entities": str(file), "key": KEY}
    with DAG("late", schedule=None):
        in_task = TensorFlowPredictOperator(task_id="a", saved_model=str(store / "1"), dataset="a", **how)
        by_server = TFServingPredictOperator(task_id="b", dataset="b", **how)
    partitions = PartitionStore.under(home)
    for task in (in_task, by_server):
        assert task.execute({"ti": TaskInstance()})["version"] == "1"
        found = partitions.read([partitions.get(task.dataset, KEY)])["probability"].to_numpy()
        np.testing.assert_allclose(found, by_hand(store / "1", columns, 10.0), atol=1e-6)


def test_the_code_of_it_belongs_to_the_training(spec: TrainingSpec, tmp_path: Path):
    code = write_code(tmp_path / "dags")
    (code / "other.py").write_text("def build(train, seed): pass\n")
    plain = spec.model_copy(update={"entrypoint": "other:build", "fit": "", "transform": ""})
    transformed = plain.model_copy(update={"transform": "code:transform"})
    before, alone = code_hash(transformed, str(code)), code_hash(plain, str(code))
    (code / "vocabulary.py").write_text("KNOWN = {}\n")
    assert code_hash(transformed, str(code)) not in (before, alone)
    assert code_hash(plain, str(code)) == alone


def test_a_champion_is_scored_through_its_own(spec: TrainingSpec, trained: Path, other: Path):
    found = evaluate(spec.snapshot, trained, other, "1", slices=["carrier"])
    _, columns = features_of(spec)
    before = columns["distance_miles"].copy()
    np.testing.assert_allclose(score(trained, columns), by_hand(trained, columns, 10.0), atol=1e-6)
    np.testing.assert_allclose(score(other, columns), by_hand(other, columns, 2.0), atol=1e-6)
    np.testing.assert_array_equal(columns["distance_miles"], before, "it wrote to what others are given")
    assert found.unevaluated == {}
    assert found.metrics["champion"] != found.metrics["challenger"]


def test_a_golden_case_is_of_features(trained: Path, tmp_path: Path):
    inputs = {"carrier": ["AA"], "distance_miles": [30.0], "sched_hour": [12]}
    columns = {"carrier": np.array(["AA"], object), "distance_miles": np.array([30.0]), "sched_hour": np.array([12])}
    outputs = {"probability": by_hand(trained, columns, 10.0).tolist()}
    publish(trained, tmp_path / "m", 1, cases=[GoldenCase("c", inputs, outputs, 1e-5, "me", "it was wrong")])
    with pytest.raises(MlopsError, match="golden case c as it must"):
        wrong = GoldenCase("c", inputs, {"probability": [0.999]}, 1e-5, "me", "it was wrong")
        publish(trained, tmp_path / "m", 2, cases=[wrong])


def test_shipped_files_that_were_changed_are_not_published(trained: Path, tmp_path: Path):
    changed = shutil.copytree(trained, tmp_path / "m")
    (changed / "assets.extra" / "transform" / "vocabulary.py").write_text("SCALE = 1\n")
    with pytest.raises(MlopsError, match=r"changed after it was shipped: vocabulary.py"):
        publish(changed, tmp_path / "store", 1)
    assert not list((tmp_path / "store").glob("[0-9]*"))
    with pytest.raises(MlopsError, match="changed after it was shipped"):
        InProcess(changed, model="m")


def test_a_lost_transform_is_refused(trained: Path, tmp_path: Path):
    whole = shutil.copytree(trained, tmp_path / "whole")
    (whole / "assets.extra" / "manifest.json").unlink(missing_ok=True)
    (whole / "assets.extra" / "golden.json").unlink()
    request = {"inputs": {"carrier": ["AA"], "distance_miles": [30.0], "sched_hour": [12]}}
    (tmp_path / "requests.json").write_text(json.dumps(request))
    recorded = make_servable(whole, tmp_path / "recorded", tmp_path / "requests.json").saved_model
    columns = {"carrier": np.array(["AA"], object), "distance_miles": np.array([30.0]), "sched_hour": np.array([12])}
    np.testing.assert_allclose(Golden.read(recorded).outputs["probability"], by_hand(trained, columns, 10.0), atol=1e-6)
    for model in (trained, recorded):
        lost = shutil.copytree(model, tmp_path / "lost", dirs_exist_ok=True)
        shutil.rmtree(lost / "assets.extra" / "transform")
        for ask in (
            lambda folder: InProcess(folder, model="m"),
            lambda folder: make_servable(folder, tmp_path / "made"),
            lambda folder: make_servable(folder, tmp_path / "made", tmp_path / "requests.json"),
            lambda folder: publish(folder, tmp_path / "store", 1),
        ):
            with pytest.raises(DataError, match=r"transform 'code:transform' is lost(.|\n)*golden\.json names it"):
                ask(lost)
    assert not (tmp_path / "made").exists()


def test_another_transform_than_that_of_what_serves_is_said(store: Path, trained: Path, other: Path, caplog):
    with caplog.at_level(logging.WARNING):
        publish(trained, store, 1, serving=1)
        assert "another transform" not in caplog.text
        publish(other, store, 2, serving=1)
    assert "another transform than version 1, which serves" in caplog.text


def test_a_server_whose_store_is_not_seen_here(server: ModelServer, tmp_path: Path, caplog):
    with caplog.at_level(logging.WARNING):
        assert set(ThroughServer(server.client, model="late", version=1, store=tmp_path).signature.inputs) == {
            "known",
            "near",
        }
    assert "Whether version 1 has a transform is not known" in caplog.text


def test_a_copy_that_somebody_registers_anew_keeps_it(trained: Path, tmp_path: Path):
    made = make_servable(trained, tmp_path / "m")
    assert made.golden == 32
    assert set(made.signature.inputs) == {"known", "near"}, "what a server takes"
    assert load_transform(made.saved_model) is not None


def test_what_is_written_down(spec: TrainingSpec, trained: Path):
    assert {one.key: one.value for one in params_of(spec)}["transform"] == "code:transform"
    assert spec.hash != spec.model_copy(update={"transform": ""}).hash
    result = Workdir(trained.parent).finished(spec.hash)
    assert result is not None
    assert set(result.signature.inputs) == {"known", "near"}
    assert pack_manifest(spec, result, parent_version=None, triggered_by="test").transform == "code:transform"
    readme = (trained / "assets.extra" / "README.md").read_text()
    assert "| `carrier` | string |" in readme
    assert "`code:transform`, in `assets.extra/transform/`" in readme


def test_a_caller_needs_neither_airflow_nor_tensorflow(trained: Path):
    code = (
        "import sys; from airflow_mlops.engine.serving.transform import load_transform;"
        "made = load_transform(sys.argv[1])({'carrier': ['AA'], 'distance_miles': [20.0], 'sched_hour': [0]});"
        "assert made['near'].tolist() == [2.0] and made['known'].tolist() == [1], made;"
        "heavy = {'airflow', 'tensorflow', 'pandas', 'pyarrow', 'grpc', 'pydantic'} & set(sys.modules);"
        "sys.exit(', '.join(heavy) or 0)"
    )
    subprocess.run([sys.executable, "-c", code, str(trained)], check=True)
    alone = (
        "import sys, numpy as np; sys.path.insert(0, sys.argv[1] + '/assets.extra/transform'); del sys.modules['code']"
        "\nfrom code import transform\n"
        "print(transform({'carrier': ['UA'], 'distance_miles': np.array([20.0]), 'sched_hour': np.array([0])}))"
    ).replace("; del sys.modules['code']", "; sys.modules.pop('code', None)")
    said = subprocess.run(
        [sys.executable, "-B", "-c", alone, str(trained)], check=True, capture_output=True, text=True
    ).stdout
    assert "2." in said


def test_a_script_is_given_what_the_model_sees(spec: TrainingSpec, trained: Path, tmp_path: Path):
    code = write_code(tmp_path / "dags")
    (code / "train.py").write_text(
        "import json, os, shutil, pyarrow.parquet as pq\n"
        "told = json.load(open(os.environ['MLOPS_TRAINING']))\n"
        "rows = pq.read_table(told['train'])\n"
        "assert told['inputs'] == {'known': 'int64', 'near': 'float'}, told\n"
        "assert rows.column_names[-2:] == ['known', 'near'] and 'carrier' not in rows.column_names\n"
        "assert rows.num_rows == 400 and told['label'] in rows.column_names\n"
        f"shutil.copytree({str(trained)!r}, told['saved_model'])\n"
    )
    how = {"entrypoint": "", "script": "train.py", "transform": "code:transform", "code_path": str(code)}
    workdir = Workdir(tmp_path / "t")
    workdir.path.mkdir()
    result = run_script(make_spec(spec.snapshot, **how), workdir)
    made = Path(result.saved_model)
    assert set(Golden.read(made).inputs) == set(FEATURES)
    _, columns = features_of(spec)
    np.testing.assert_allclose(score(made, columns), by_hand(made, columns, 10.0), atol=1e-6)
    with pytest.raises(TrainingError, match=r"input '\w+' that is none of the snapshot's features"):
        run_script(make_spec(spec.snapshot, **(how | {"transform": "", "script": "copy.py"})), _copying(code, trained))


def _copying(code: Path, saved_model: Path) -> Workdir:
    (code / "copy.py").write_text(
        "import json, os, shutil\n"
        f"shutil.copytree({str(saved_model)!r}, json.load(open(os.environ['MLOPS_TRAINING']))['saved_model'])\n"
    )
    (code.parent / "u").mkdir()
    return Workdir(code.parent / "u")


def test_a_model_that_takes_the_features_all_the_same(spec: TrainingSpec, trained: Path, tmp_path: Path):
    code = write_code(tmp_path / "dags")
    wrong = spec_of(tmp_path, code, entrypoint="code:build_of_features")
    with pytest.raises(AssertionError, match="inputs are not the columns that the transform 'code:transform' gives"):
        warm_trainer.train(wrong, tmp_path / "t")


@pytest.mark.parametrize(
    ("named", "says"),
    [
        ({"transform": "code:transfrom"}, r"transform 'code:transfrom' is not there(.|\n)*Did you mean 'transform'"),
        ({"entrypoint": "cod:build"}, r"model function 'cod:build'(.|\n)*no module 'cod'. Did you mean 'code'"),
        ({"entrypoint": "", "fit": "code:fitt"}, r"The fit function 'code:fitt' is not there: module 'code' has no"),
    ],
)
def test_a_name_that_is_not_there_is_found_before_tensorflow_starts(
    spec: TrainingSpec, trained: Path, tmp_path: Path, named: dict[str, str], says: str
):
    code = write_code(tmp_path / "dags")
    # So that an import of TensorFlow cannot go unseen: it would be this one, which raises.
    (code / "tensorflow.py").write_text("raise SystemExit('TensorFlow was imported')\n")
    asked = make_spec(spec.snapshot, entrypoint="code:build", code_path=str(code)).model_copy(update=named)
    with pytest.raises(TrainingError, match=says):
        train(asked, tmp_path / "t", timeout=60)
