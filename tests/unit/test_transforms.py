"""Transforms that are wrong, and shipped code beside other code of the same names."""

from __future__ import annotations

import hashlib
import json
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from airflow_mlops import Trainer
from airflow_mlops.contracts import Signature, TensorSpec, TrainingSpec
from airflow_mlops.engine.entrypoints import check_named, check_script, load_object
from airflow_mlops.engine.serving.asking import as_asked
from airflow_mlops.engine.serving.transform import TRANSFORM, Transform, load_transform
from airflow_mlops.engine.training.inputs import read_inputs
from airflow_mlops.engine.training.source import source_files
from airflow_mlops.engine.training.transform import given
from airflow_mlops.engine.training.workdir import Workdir
from airflow_mlops.exceptions import ConfigError, DataError, MlopsError, TransientError
from tests.training_fixtures import make_snapshot, make_spec

INPUTS = {"size": {"dtype": "float32", "shape": [-1]}, "city": {"dtype": "string", "shape": [-1]}}
ROWS = {"size": [1.0, 2.0, 4.0], "city": ["Bonn", "", "Köln"]}


def shipped(saved_model: Path, *, inputs: dict[str, Any] | None = None, **files: str) -> Path:
    """Write a SavedModel's transform ``pre:transform`` as a training does; ``__`` in a name is a folder."""
    folder = saved_model / TRANSFORM
    digests = {}
    for name, content in files.items():
        file = folder / f"{name.replace('__', '/')}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
        digests[file.relative_to(folder).as_posix()] = hashlib.sha256(content.encode()).hexdigest()
    told = {"function": "pre:transform", "files": digests, "inputs": INPUTS if inputs is None else inputs}
    (folder / "transform.json").write_text(json.dumps(told))
    return saved_model


def transform_of(saved_model: Path, body: str) -> Transform:
    code = f"import numpy as np\ndef transform(columns):\n    {body}\n"
    made = load_transform(shipped(saved_model, pre=code))
    assert made is not None
    return made


def test_a_model_without_one(tmp_path: Path):
    (tmp_path / "saved_model.pb").touch()
    assert load_transform(tmp_path) is None


def test_no_model_is_none_without_one(tmp_path: Path):
    with pytest.raises(DataError, match=r"There is no model(.|\n)*nix has no saved_model.pb"):
        load_transform(tmp_path / "nix")


@pytest.mark.parametrize("file", ["golden.json", "manifest.json"])
def test_a_lost_one_is_named_by_what_is_left(tmp_path: Path, file: str):
    (tmp_path / "saved_model.pb").touch()
    (tmp_path / "assets.extra").mkdir()
    naming = tmp_path / "assets.extra" / file
    naming.write_text('{"transform": "pre:transform"}')
    with pytest.raises(DataError, match=rf"transform 'pre:transform' is lost(.|\n)*{file} names it"):
        load_transform(tmp_path)
    for other in ('{"transform": ""}', "{}", "[1]", "{"):  # none, none yet, and what others refuse
        naming.write_text(other)
        assert load_transform(tmp_path) is None


def test_what_it_gives_has_the_types_of_features(tmp_path: Path):
    body = """return {
        "double": columns["size"].astype("float64"), "small": columns["size"].astype("int8"),
        "true": columns["size"] > 1, "text": np.char.upper(columns["city"].astype(str)),
        "matrix": np.ones((3, 2), "int64"), "list": [1, 2, 3],
        "none": np.array([None, "a", b"b"], dtype=object)}"""
    made = transform_of(tmp_path, body)(ROWS)
    kinds = {name: (values.dtype.name, values.shape) for name, values in made.items()}
    assert kinds == {
        "double": ("float32", (3,)), "small": ("int64", (3,)), "true": ("bool", (3,)), "text": ("object", (3,)),
        "matrix": ("float32", (3, 2)), "list": ("int64", (3,)), "none": ("object", (3,)),
    }  # fmt: skip
    assert made["text"].tolist() == ["BONN", "", "KÖLN"]
    assert made["none"].tolist() == ["", "a", b"b"]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("return None", "returned nothing"),
        ("return {}", "returned a dict without a column"),
        ("return [1]", "returned a list"),
        ("return {'a': columns['size'][:2]}", "made 2 rows of 3 in 'a'"),
        ("return {'a': np.repeat(columns['size'], 2)}", "made 6 rows of 3 in 'a'"),
        ("return {'a': 1.0}", "returned 'a' with 0 dimensions"),
        ("return {'a': np.ones((3, 2, 2))}", "returned 'a' with 3 dimensions"),
        ("return {'a': [[1], [1, 2], [3]]}", "returned 'a' with rows of unequal lengths"),
        ("return {'a': np.array(['2020-01-01'] * 3, 'datetime64[s]')}", r"returned 'a' as datetime64\[s\]"),
        ("return {'a': columns['size'] * 1j}", "returned 'a' as complex64, which no model takes"),
        ("return {'a': np.array([{}, 1, 'x'], dtype=object)}", "returned 'a' with values of type dict, int"),
        ("return {'a': np.array([2**63] * 3, 'uint64')}", "returned 'a' as uint64"),
    ],
)
def test_what_it_must_not_return(tmp_path: Path, body: str, says: str):
    with pytest.raises(DataError, match=f"The transform 'pre:transform' {says}"):
        transform_of(tmp_path, body)(ROWS)


def test_what_it_raises_is_said_without_a_rows_value(tmp_path: Path):
    with pytest.raises(DataError, match=r"raised ValueError(.|\n)*pre.py:3 in transform: float\(") as refused:
        transform_of(tmp_path / "a", "float(columns['city'][0])")(ROWS)
    assert "Bonn" not in str(refused.value)
    with pytest.raises(TransientError, match="raised ConnectionError"):
        transform_of(tmp_path / "b", "raise ConnectionError(columns['city'][0])")(ROWS)


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"size": [1.0], "citty": ["a"]}, r"those that the transform takes. Did you mean 'city'(.|\n)*missing: city"),
        ({**ROWS, "more": [1, 2, 3]}, "unknown: more"),
        ({**ROWS, "size": ["a", "b", "c"]}, "Column 'size' is not what the transform takes: float32"),
        ({**ROWS, "city": [1, 2, 3]}, "Column 'city' is not what the transform takes: string"),
        ({**ROWS, "size": 1.0}, "Column 'size' is not what"),
        ({**ROWS, "size": [1.0]}, r"different lengths(.|\n)*size 1, city 3"),
    ],
)
def test_what_it_is_not_given(tmp_path: Path, columns: dict[str, Any], says: str):
    made = transform_of(tmp_path, "return columns")
    with pytest.raises(DataError, match=says):
        made(columns)
    arrays = {name: np.array(values) for name, values in columns.items()}
    with pytest.raises(DataError, match=says):
        made(arrays)


def test_files_that_are_not_as_they_were_shipped(tmp_path: Path):
    good = "def transform(columns): return columns\n"
    changed = shipped(tmp_path / "a", pre=good)
    (changed / TRANSFORM / "pre.py").write_text(good.replace("columns)", "columns, scale=2)"))
    with pytest.raises(DataError, match=r"was changed after it was shipped: pre\.py"):
        load_transform(changed)
    gone = shipped(tmp_path / "b", pre=good)
    (gone / TRANSFORM / "pre.py").unlink()
    with pytest.raises(DataError, match=r"cannot be read(.|\n)*FileNotFoundError"):
        load_transform(gone)


def test_what_it_imports_is_not_here(tmp_path: Path):
    with pytest.raises(DataError, match=r"imports what is not here: nowhere_to_be_found(.|\n)*Install it wherever"):
        load_transform(shipped(tmp_path / "a", pre="import nowhere_to_be_found"))
    with pytest.raises(DataError, match=r"is no function. Did you mean 'transforms'"):
        load_transform(shipped(tmp_path / "b", pre="def transforms(columns): return columns"))
    with pytest.raises(DataError, match=r"raised ZeroDivisionError(.|\n)*pre.py:1"):
        load_transform(shipped(tmp_path / "c", pre="x = 1 / 0"))
    code = "import os\nimport keras.ops\ndef transform(columns): return columns\n"
    says = r"cannot import keras(.|\n)*module 'pre'(.|\n)*inside the function that builds"
    with pytest.raises(DataError, match=says):
        load_transform(shipped(tmp_path / "e", pre=code))
    late = load_transform(shipped(tmp_path / "d", pre="def transform(columns):\n    import nowhere_to_be_found"))
    assert late is not None
    with pytest.raises(DataError, match=r"raised ModuleNotFoundError(.|\n)*import nowhere_to_be_found"):
        late(ROWS)


def test_two_models_with_files_of_the_same_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Whatever is imported how, and whatever else of these names there is: each finds its own."""
    (tmp_path / "beside").mkdir()
    (tmp_path / "beside" / "helper.py").write_text("BY = -1\n")
    monkeypatch.syspath_prepend(str(tmp_path / "beside"))
    import helper  # type: ignore[import-not-found]

    code = """
import json
import pack.deep.inner
import pack.deep.inner as inner
from pack import by
from pack.deep import inner as again

def transform(columns):
    import helper

    assert inner is again is pack.deep.inner and inner.HELPER is helper and json.dumps({})
    return {"size": columns["size"] * helper.BY * by.BY}
"""
    packs = {
        "pack____init__": "",
        "pack__by": "from ..pack.deep.inner import HELPER\nfrom . import deep\nBY = 2\n",
        "pack__deep__inner": "import helper as HELPER\n",
    }
    made = [
        load_transform(shipped(tmp_path / str(by), pre=code, helper=f"BY = {by}\n", **packs)) for by in (1, 10)
    ]  # fmt: skip
    got: dict[int, list[float]] = {}

    def call(place: int) -> None:
        transform = made[place]
        assert transform is not None
        for _ in range(50):
            got[place] = transform(ROWS)["size"].tolist()

    threads = [threading.Thread(target=call, args=(place,)) for place in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == {0: [2.0, 4.0, 8.0], 1: [20.0, 40.0, 80.0]}
    assert helper.BY == -1
    assert sys.modules["helper"] is helper
    assert "pack" not in sys.modules
    assert not list(tmp_path.glob("*/assets.extra/**/__pycache__"))


def test_columns_that_are_not_the_models_inputs(tmp_path: Path):
    signature = Signature(inputs={"sizes": TensorSpec(dtype="float32", shape=(-1,))}, outputs={})
    asked, answer = as_asked(transform_of(tmp_path, "return {'size': columns['size']}"), signature, dict)
    assert set(asked.inputs) == {"size", "city"}
    with pytest.raises(DataError, match=r"gives no 'sizes', which the model takes. Did you mean 'size'"):
        answer(ROWS)
    unchanged, answer = as_asked(None, signature, dict)
    assert unchanged is signature


# --- in a training -----------------------------------------------------------------------------------------


def training(tmp_path: Path, code: str, **changes: Any) -> tuple[TrainingSpec, Workdir]:
    (tmp_path / "pre_of_test.py").write_text(f"import numpy as np\ndef transform(columns):\n{code}\n")
    snapshot = make_snapshot(tmp_path, rows=50)
    features = {"distance_miles": "double", "carrier": "string"}
    told = {"transform": "pre_of_test:transform", "code_path": str(tmp_path)} | changes
    return make_spec(snapshot.model_copy(update={"features": features}), **told), Workdir(tmp_path / "t")


def test_the_rows_that_the_model_sees(tmp_path: Path):
    code = """    return {"pair": np.stack([columns["distance_miles"]] * 2, axis=1), "tags": np.array([[one, ""] for one
        in columns["carrier"]], dtype=object), "carrier": columns["carrier"], "raw": np.array([b"x\\xff"] *
        len(columns["carrier"]), dtype=object)}"""
    spec, workdir = training(tmp_path, code)
    with given(spec, workdir) as sees:
        snapshot = sees.spec.snapshot
        assert list(snapshot.features) == ["pair", "tags", "carrier", "raw"]
        import pyarrow.parquet as pq

        table = pq.read_table(Path(snapshot.uri) / "train.parquet")
        inputs = read_inputs(table, snapshot.features)
        before = read_inputs(pq.read_table(Path(spec.snapshot.uri) / "train.parquet"), spec.snapshot.features)
        np.testing.assert_array_equal(inputs["pair"][:, 1], before["distance_miles"])
        np.testing.assert_array_equal(inputs["tags"][:, 0], before["carrier"])
        assert inputs["raw"][0] == b"x\xff"
        assert {"flight_id", "sched_dep_utc", "late_15"} <= set(table.column_names)
        assert sees.features == spec.snapshot
    assert not list(workdir.path.glob(".tmp-*"))


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("    return {'d': columns['distance_miles'][1:]}", "made 49 rows of 50 in 'd'"),
        ("    return {'late_15': columns['distance_miles']}", "gives a column 'late_15', and the snapshot has one"),
        (
            "    return {'d': columns['distance_miles'] - np.nanmean(columns['distance_miles'])}",
            r"gives a row another 'd' when it comes alone(.|\n)*must follow from the row itself",
        ),
        (
            "    return {'d': np.zeros(len(columns['carrier']), 'i8' if len(columns['carrier']) == 10 else 'f4')}",
            r"gives other columns for some rows(.|\n)*at first d \(float\); in the validation split d \(int64\)",
        ),
        ("    import pre_beside_of_test\n    return columns", "raised ModuleNotFoundError"),
    ],
)
def test_what_a_training_refuses(tmp_path: Path, code: str, says: str):
    spec, workdir = training(tmp_path, code)
    with pytest.raises(MlopsError, match=says), given(spec, workdir):
        pytest.fail("it was trained on")
    assert not list(workdir.path.glob(".tmp-*"))


def test_what_it_imports_from_beside_is_shipped_and_only_that(tmp_path: Path):
    (tmp_path / "pack").mkdir()
    for name, text in {
        "one.py": "import two\nfrom pack.a import b\nimport numpy\n",
        "two.py": "import three\n",
        "three.py": "",
        "four.py": "",
        "pack/a.py": "",
        "pack/c.py": "",
    }.items():
        (tmp_path / name).write_text(text)
    files = source_files("one:transform", str(tmp_path))
    assert set(files) == {"one.py", "two.py", "three.py", "pack/a.py", "pack/c.py"}
    assert files["pack/a.py"] == tmp_path / "pack" / "a.py"
    assert source_files("pack.a:transform", str(tmp_path)).keys() == {"pack/a.py", "pack/c.py"}
    assert source_files("nothing_of_the_kind:transform", str(tmp_path)) == {}
    spec, workdir = training(tmp_path, "    return columns", transform="nothing_of_the_kind:transform")
    with pytest.raises(ConfigError, match="no Python files of the transform"), given(spec, workdir):
        pytest.fail("it was trained on")


def test_a_trainer_takes_it():
    assert Trainer("code:build", window="60d", transform="code:transform").transform == "code:transform"
    with pytest.raises(ConfigError):
        Trainer("code:build", window="60d", transform="transform")


# --- names of code -----------------------------------------------------------------------------------------


def test_a_name_is_looked_for_without_importing(tmp_path: Path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "deep.py").write_text(
        "raise SystemExit('imported')\nif True:\n    def fit(): pass\nfrom x import y as given\nother = fit\n"
    )
    for name in ("fit", "given", "other"):
        check_named(f"mine.deep:{name}", "fit function", str(tmp_path))
    with pytest.raises(ConfigError, match=r"fit function 'mine.deep:fitt' is not there(.|\n)*Did you mean 'fit'"):
        check_named("mine.deep:fitt", "fit function", str(tmp_path))
    with pytest.raises(ConfigError, match=r"model function 'mine.deeper:fit'(.|\n)*no module 'mine.deeper'"):
        check_named("mine.deeper:fit", "model function", str(tmp_path))
    with pytest.raises(ConfigError, match=r"fit function 'mine.fit' names no function(.|\n)*'mine:fit'"):
        check_named("mine.fit", "fit function", str(tmp_path))
    (tmp_path / "train11.py").touch()
    check_script("train11.py", str(tmp_path))
    with pytest.raises(ConfigError, match=r"no script 'trian11.py'\. Did you mean 'train11.py'"):
        check_script("trian11.py", str(tmp_path))
    with pytest.raises(ConfigError, match=r"no module 'min'. Did you mean 'mine'"):
        check_named("min:fit", "fit function", str(tmp_path))
    (tmp_path / "mine" / "dynamic.py").write_text("globals()['fit'] = print\n")
    check_named("mine.dynamic:fit", "fit function", str(tmp_path))
    check_named("json:dumps", "fit function", None)


def test_a_module_beside_the_dag_file_may_have_the_name_of_one_of_pythons(tmp_path: Path):
    import code as pythons

    (tmp_path / "code.py").write_text("def build(): return 7\n")
    try:
        assert load_object("code:build", str(tmp_path))() == 7
        assert load_object("code:build", str(tmp_path)) is load_object("code:build", str(tmp_path))
        assert pythons.InteractiveConsole
    finally:
        sys.path.remove(str(tmp_path))
        sys.modules["code"] = pythons
