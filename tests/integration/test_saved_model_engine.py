"""The C-API engine on real SavedModels."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from airflow_mlops.contracts import TensorSpec
from airflow_mlops.engine.serving.codes import Code
from airflow_mlops.engine.serving.saved_model import ModelClosedError, SavedModel, TensorFlowError
from airflow_mlops.exceptions import DataError
from tests.model_server import damaged
from tests.serving_reference import reference

ROWS = {"carrier": np.array(["UA", "b" * 100]), "distance": np.array([1.0, 2.5]), "hour": np.array([3, 4])}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return reference().make(tmp_path_factory.mktemp("models") / "2", weight=2.0)


@pytest.fixture(scope="module")
def model(exported: Path):
    with SavedModel(exported) as loaded:
        yield loaded


def test_signature(model: SavedModel):
    assert model.signature.inputs == {
        "carrier": TensorSpec(dtype="string", shape=(-1,)),
        "distance": TensorSpec(dtype="float32", shape=(-1,)),
        "hour": TensorSpec(dtype="int64", shape=(-1,)),
    }
    assert set(model.signature.outputs) == {"carrier_bytes", "carrier_text", "score"}
    assert set(model.signatures) == {"serving_default", "echo", "pair", "slow"}
    assert model.signatures["slow"].inputs == {"loops": TensorSpec(dtype="int32", shape=())}
    assert model.signatures["pair"].inputs == {"x": TensorSpec(dtype="float32", shape=(-1, 2))}


def test_run_casts_what_keeps_its_value(model: SavedModel):
    outputs = model.run({**ROWS, "hour": np.array([3, 4], np.int16)})
    assert outputs["score"].dtype == np.float32
    assert outputs["score"].tolist() == [5.0, 9.0]
    assert outputs["carrier_bytes"].tolist() == [b"UA", b"b" * 100]
    assert outputs["carrier_text"].tolist() == [b"ua", b"b" * 100]


def test_every_type_survives(model: SavedModel):
    specs = model.signatures["echo"].inputs
    inputs = {name: np.array([0, 1, 127, 7], name) for name in specs if name not in {"bool", "string"}}
    inputs["bool"] = np.array([True, False, True, True])
    inputs["string"] = np.array([b"\x00\xff", "é", b"x" * 22, b"x" * 23], dtype=object)  # 22 is where TString changes
    outputs = model.run(inputs, "echo")
    for name in specs:
        expected = [b"\x00\xff", "é".encode(), b"x" * 22, b"x" * 23] if name == "string" else inputs[name].tolist()
        assert outputs[f"{name}_out"].tolist() == expected, name
        assert outputs[f"{name}_out"].dtype == (object if name == "string" else np.dtype(name))


def test_scalars_empty_batches_and_strided_arrays(model: SavedModel):
    assert model.run({"loops": np.int32(1)}, "slow")["trace"] == 128.0
    empty = {"carrier": np.array([], dtype=object), "distance": np.array([]), "hour": np.array([], np.int64)}
    assert model.run(empty)["score"].shape == (0,)
    transposed = np.array([[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]], np.float32).T
    assert model.run({"x": transposed}, "pair")["y"].tolist() == [22.0, 44.0, 66.0]
    assert model.run({"x": transposed[::2]}, "pair")["y"].tolist() == [22.0, 66.0]


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ({"carrier": ROWS["carrier"]}, "missing: ['distance', 'hour']"),
        ({**ROWS, "hours": ROWS["hour"]}, "Did you mean 'hour'?"),
        ({**ROWS, "hour": np.array([0.5, 1.0])}, "Input 'hour' has type float64, and the model takes int64"),
        ({**ROWS, "distance": np.array(["1", "2"])}, "Input 'distance' has type"),
        ({**ROWS, "carrier": np.array(["UA", None], dtype=object)}, "a string tensor has no null"),
        ({**ROWS, "distance": np.array([1.0, 2.0, 3.0])}, "INVALID_ARGUMENT"),
    ],
    ids=["missing", "extra", "fraction", "text", "null", "length"],
)  # fmt: skip
def test_wrong_inputs_are_named(model: SavedModel, inputs: dict[str, np.ndarray], says: str):
    if says.startswith("Did"):
        inputs = {name: array for name, array in inputs.items() if name != "hour"}
    with pytest.raises(DataError) as error:
        model.run(inputs)
    assert says in str(error.value)


def test_integers_that_would_change_are_refused(model: SavedModel):
    inputs = {name: np.array([1]) for name in model.signatures["echo"].inputs}
    inputs |= {"bool": np.array([True]), "string": np.array(["x"]), "int8": np.array([300])}
    with pytest.raises(DataError, match="'int8'"):
        model.run(inputs, "echo")


def test_unknown_signature(model: SavedModel):
    with pytest.raises(DataError, match=r"no signature 'pairs'\. Did you mean 'pair'"):
        model.run({}, "pairs")


def test_several_models_at_once_from_many_threads(model: SavedModel, tmp_path: Path):
    reference().make(tmp_path / "3", weight=3.0)
    with SavedModel(tmp_path / "3") as other, ThreadPoolExecutor(8) as pool:

        def call(index: int) -> bool:
            distance = np.arange(index, index + 3, dtype=np.float32)
            inputs = {"carrier": np.array(["a", "b", "c"]), "distance": distance, "hour": np.zeros(3, np.int64)}
            loaded, weight = (model, 2.0) if index % 2 else (other, 3.0)
            return loaded.run(inputs)["score"].tolist() == (weight * distance).tolist()

        assert all(pool.map(call, range(400)))


def test_close_waits_for_those_it_let_in(exported: Path):
    loaded = SavedModel(exported)
    inside, closing, order = threading.Event(), threading.Event(), []

    def caller() -> None:
        with loaded.hold():
            inside.set()
            assert closing.wait(5)
            time.sleep(0.1)  # let close() get to its wait
            order.append(loaded.call({"loops": np.array(100, np.int32)}, "slow")["trace"].item())

    def closer() -> None:
        closing.set()
        loaded.close()
        order.append("closed")

    threads = [threading.Thread(target=caller), threading.Thread(target=closer)]
    threads[0].start()
    assert inside.wait(5)
    threads[1].start()
    for thread in threads:
        thread.join()
    assert order == [128.0, "closed"]
    with pytest.raises(ModelClosedError):
        loaded.run(ROWS)
    loaded.close()


def test_memory_of_closed_models_and_calls_is_given_back(exported: Path):
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    def use() -> None:
        with SavedModel(exported) as loaded:
            for _ in range(20):
                loaded.run(
                    {"carrier": np.array(["x" * 1000] * 1000), "distance": np.zeros(1000), "hour": np.zeros(1000, int)}
                )

    for _ in range(3):
        use()
    before = resident()
    for _ in range(8):
        use()
    # 8 loads of a few MB each, and 160 calls that copy 2 MB of strings: leaked, that would be 300 MB and more.
    assert resident() - before < 60e6


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        ("empty", Code.NOT_FOUND),
        ("truncated graph", Code.OUT_OF_RANGE),
        ("no data file", Code.NOT_FOUND),
        ("truncated data", Code.OUT_OF_RANGE),
        ("flipped bytes", Code.DATA_LOSS),
    ],
)
def test_damaged_models_do_not_load(exported: Path, tmp_path: Path, damage: str, code: Code):
    with pytest.raises(TensorFlowError) as error:
        SavedModel(damaged(exported, tmp_path / "model", damage))
    assert error.value.code == code
    assert "cannot be loaded" in str(error.value)


def test_a_model_without_variables_loads_and_then_fails(exported: Path, tmp_path: Path):
    # What the loader of TensorFlow does, and why only a prediction proves a model.
    with (
        SavedModel(damaged(exported, tmp_path / "model", "graph only")) as loaded,
        pytest.raises(TensorFlowError) as error,
    ):
        loaded.run(ROWS)
    assert error.value.code == Code.FAILED_PRECONDITION
    assert "Could not find variable" in error.value.message


def test_missing_tags(exported: Path):
    with pytest.raises(DataError, match="NOT_FOUND"):
        SavedModel(exported, tags=("train",))


def test_tensorflow_may_be_imported_afterwards(exported: Path):
    code = f"""
import sys, numpy as np
from pathlib import Path
from airflow_mlops.engine.serving.saved_model import SavedModel
model = SavedModel(Path({str(exported)!r}))
x = {{"x": np.ones((1, 2), np.float32)}}
assert model.run(x, "pair")["y"].tolist() == [4.0]
assert not {{"tensorflow", "keras"}} & set(sys.modules)
import pandas, pyarrow, sklearn.linear_model, tensorflow as tf
assert (tf.constant([1.0]) + 1).numpy().tolist() == [2.0]
assert model.run(x, "pair")["y"].tolist() == [4.0]
model.close()
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_starting_costs_no_tensorflow_import(exported: Path):
    code = f"""
import time
from pathlib import Path
from airflow_mlops.engine.serving.saved_model import SavedModel
SavedModel(Path({str(exported)!r}))
print(time.process_time())
"""
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert float(run.stdout) < 4  # CPU seconds; measured: 1.0, where importing TensorFlow alone takes 6 to 9
