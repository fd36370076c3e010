"""The model store: a version appears complete and proven, or not at all."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from airflow_mlops.contracts import Signature, TensorSpec
from airflow_mlops.engine.data.files import tree_hash
from airflow_mlops.engine.serving.golden import GOLDEN_FILE, Golden
from airflow_mlops.engine.serving.model_store import check_signature, publish
from airflow_mlops.exceptions import DataError, GateError, MlopsError, TransientError
from tests.serving_fixtures import INPUTS, make_saved_model


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    make_saved_model(folder / "a", 0.5)
    make_saved_model(folder / "b", 0.9)
    make_saved_model(folder / "renamed", 0.5, {**{n: t for n, t in INPUTS.items() if n != "hour"}, "hours": "int64"})
    return folder


@pytest.fixture
def source(models: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(models / "a", tmp_path / "source"))


def versions(base: Path) -> set[str]:
    """Return what a model server would see, and anything left lying about."""
    return {path.name for path in base.iterdir()} - {".publish.lock"}


def test_publishes_under_the_number(source, tmp_path):
    path = publish(source, tmp_path / "store", 7)
    assert path == tmp_path / "store" / "7"
    assert tree_hash(path) == tree_hash(source)
    assert versions(tmp_path / "store") == {"7"}


def test_again_changes_nothing(source, tmp_path):
    path = publish(source, tmp_path, 7)
    before = path.stat().st_ino
    assert publish(source, tmp_path, 7).stat().st_ino == before


def test_a_number_never_changes_its_model(models, tmp_path):
    path = publish(models / "a", tmp_path, 1)
    before = tree_hash(path)
    with pytest.raises(GateError, match="Version 1 is taken"):
        publish(models / "b", tmp_path, 1)
    assert tree_hash(path) == before


def test_sweeps_what_a_dead_publisher_left(source, tmp_path):
    base = tmp_path / "store"
    shutil.copytree(source, base / ".tmp-7-dead")
    remove_graph(base / ".tmp-7-dead")
    publish(source, base, 8)
    assert versions(base) == {"8"}


def test_two_at_once_publish_one_model(source, tmp_path):
    base = tmp_path / "store"
    with ThreadPoolExecutor(4) as pool:
        paths = set(pool.map(lambda _: publish(source, base, 3), range(4)))
    assert paths == {base / "3"}
    assert versions(base) == {"3"}


def remove_variables(folder: Path) -> None:
    shutil.rmtree(folder / "variables")


def remove_index(folder: Path) -> None:
    (folder / "variables" / "variables.index").unlink()


def remove_graph(folder: Path) -> None:
    (folder / "saved_model.pb").unlink()


def truncate_graph(folder: Path) -> None:
    graph = folder / "saved_model.pb"
    graph.write_bytes(graph.read_bytes()[:-100])


def flip_a_byte(folder: Path) -> None:
    [data] = (folder / "variables").glob("variables.data-*")
    content = bytearray(data.read_bytes())
    content[0] ^= 0xFF
    data.write_bytes(content)


def remove_golden(folder: Path) -> None:
    (folder / GOLDEN_FILE).unlink()


def empty_golden(folder: Path) -> None:
    (folder / GOLDEN_FILE).write_text('{"inputs": {"hour": []}, "outputs": {"probability": []}}')


def rewrite_golden(folder: Path, value: float) -> None:
    golden = json.loads((folder / GOLDEN_FILE).read_text())
    golden["outputs"]["probability"][-1] = value
    (folder / GOLDEN_FILE).write_text(json.dumps(golden))


def other_answer(folder: Path) -> None:
    rewrite_golden(folder, 0.123)


def nan_answer(folder: Path) -> None:
    rewrite_golden(folder, float("nan"))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (remove_variables, "index of its variables is missing"),
        (remove_index, "index of its variables is missing"),
        (remove_graph, "no SavedModel to publish"),
        (truncate_graph, "cannot be loaded"),
        (flip_a_byte, "cannot be loaded"),
        (remove_golden, "no golden predictions, so nothing would show"),
        (empty_golden, "prove nothing"),
        (other_answer, "does not answer what it answered at training time"),
        (nan_answer, "does not answer what it answered at training time"),
    ],
)
def test_refuses_a_damaged_model_and_leaves_nothing(source, tmp_path, damage, words):
    damage(source)
    base = tmp_path / "store"
    with pytest.raises(MlopsError, match=words) as refused:
        publish(source, base, 1, require_golden=True)
    assert not refused.value.retryable
    assert not base.exists() or not versions(base)


def test_a_model_without_golden_predictions_is_published_where_none_are_required(source, tmp_path, caplog):
    remove_golden(source)
    assert publish(source, tmp_path / "store", 1).is_dir()
    assert "nothing shows that it answers as it did" in caplog.text


def test_a_store_that_cannot_be_written_is_worth_a_retry(source, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(TransientError, match="workers may write there"):
        publish(source, tmp_path / "file" / "store", 1)


def test_a_wider_tolerance_lets_a_small_difference_pass(source, tmp_path):
    golden = Golden.read(source)
    rewrite_golden(source, golden.outputs["probability"][-1] + 1e-3)
    with pytest.raises(GateError, match=r"largest difference 0.001 over 4 rows, tolerance 1e-05"):
        publish(source, tmp_path, 1)
    publish(source, tmp_path, 1, tolerance=0.01)


# --- signatures -------------------------------------------------------------------------------------------


def test_refuses_a_renamed_input_and_says_so(models, tmp_path):
    publish(models / "a", tmp_path, 1)
    with pytest.raises(GateError, match="input 'hour' is gone; input 'hours' is new"):
        publish(models / "renamed", tmp_path, 2, serving=1)
    assert versions(tmp_path) == {"1"}
    publish(models / "renamed", tmp_path, 2)


def test_same_signature_passes(models, tmp_path):
    publish(models / "a", tmp_path, 1)
    publish(models / "b", tmp_path, 2, serving=1)
    assert versions(tmp_path) == {"1", "2"}


def test_a_serving_version_that_is_gone_from_the_store_is_not_taken_for_agreement(models, tmp_path):
    with pytest.raises(DataError, match="not in the model store"):
        publish(models / "a", tmp_path, 2, serving=1)


FLOAT, INT = TensorSpec(dtype="float32", shape=(-1,)), TensorSpec(dtype="int64", shape=(-1,))
MATRIX = TensorSpec(dtype="float32", shape=(-1, 1))
CURRENT = Signature(inputs={"x": FLOAT, "n": INT}, outputs={"y": FLOAT})


@pytest.mark.parametrize(
    ("candidate", "words"),
    [
        (Signature(inputs={"x": FLOAT}, outputs={"y": FLOAT}), "input 'n' is gone"),
        (Signature(inputs={"x": FLOAT, "n": INT, "z": INT}, outputs={"y": FLOAT}), "input 'z' is new"),
        (Signature(inputs={"x": FLOAT, "n": FLOAT}, outputs={"y": FLOAT}), "'n' was int64.* and is float32"),
        (Signature(inputs={"x": MATRIX, "n": INT}, outputs={"y": FLOAT}), r"'x' was float32\[-1\] and .*\[-1, 1\]"),
        (Signature(inputs=CURRENT.inputs, outputs={"p": FLOAT}), "output 'y' is gone; output 'p' is new"),
        (Signature(inputs=CURRENT.inputs, outputs={"y": FLOAT, "p": FLOAT}), "output 'p' is new"),
    ],
)
def test_any_change_of_signature_breaks_a_caller(candidate, words):
    check_signature(CURRENT, CURRENT)
    with pytest.raises(GateError, match=words):
        check_signature(candidate, CURRENT)
