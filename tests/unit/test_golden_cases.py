"""Golden cases: what every later version of a model must answer."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from airflow_mlops import cli
from airflow_mlops.contracts import Signature, TensorSpec
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.engine.serving.golden import Golden
from airflow_mlops.engine.serving.golden_cases import add_case, cases, read_case
from airflow_mlops.engine.serving.model_store import publish
from airflow_mlops.exceptions import ConfigError, DataError, GateError
from tests.saved_models import make_saved_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_saved_model(tmp_path_factory.mktemp("model") / "1", 0.3)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(f"sqlite:///{tmp_path}/ledger.db")


def known(ledger: Ledger, model: str = "m") -> None:
    """Let a model have been judged."""
    ledger.record("verdict", model, {"version": 1})


def case_of(model: Path, file: Path, **other: object) -> Path:
    """Write what the model answers to its first golden row as a case."""
    golden = Golden.read(model)
    case = {
        "inputs": {name: values[:1] for name, values in golden.inputs.items()},
        "outputs": {"probability": golden.outputs["probability"][:1]},
        "tolerance": 0.01,
    }
    file.write_text(json.dumps({**case, **other}))
    return file


def test_a_version_that_answers_otherwise_is_not_published(model: Path, ledger: Ledger, tmp_path: Path):
    known(ledger)
    add_case(ledger, "m", read_case(case_of(model, tmp_path / "right.json"), "ann", "as it was"))
    assert publish(model, tmp_path / "store", 1, cases=cases(ledger, "m")).is_dir()
    wrong = case_of(model, tmp_path / "wrong.json", outputs={"probability": [0.99]})
    add_case(ledger, "m", read_case(wrong, "ann", "a refund was missed"))
    with pytest.raises(GateError, match=r"golden case \w+ as it must: a refund was missed(.|\n)*added by ann"):
        publish(model, tmp_path / "store", 2, cases=cases(ledger, "m"))
    assert not (tmp_path / "store" / "2").exists()


def test_a_version_with_other_inputs_is_not_asked(
    model: Path, ledger: Ledger, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    known(ledger)
    case = case_of(model, tmp_path / "case.json", inputs={"price": [1.0]}, outputs={"probability": [0.99]})
    add_case(ledger, "m", read_case(case, "ann", "before"))
    publish(model, tmp_path / "store", 1, cases=cases(ledger, "m"))
    assert "is not asked: it has the inputs price" in caplog.text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[1]", "no JSON object"),
        ("{", "cannot be read"),
        ('{"input": {}}', "unknown key 'input'. Did you mean 'inputs'"),
        ('{"inputs": {"a": [1]}}', "does not say what is asked and what must be answered"),
        ('{"instances": [{"a": 1}, {"b": 1}], "outputs": {"p": [1]}}', "does not say what is asked"),
        ('{"inputs": {"a": [1]}, "outputs": {"p": [1]}, "tolerance": "wide"}', "tolerance is no number"),
        ('{"inputs": {"a": [1]}, "outputs": {"p": [NaN]}}', "expects of 'p' what no version can answer"),
        ('{"inputs": {"a": [1]}, "outputs": {"p": [null]}}', "expects of 'p' what no version can answer"),
        ('{"inputs": {"a": [1]}, "outputs": {"p": [1, "x"]}}', "expects of 'p' what no version can answer"),
        ('{"inputs": {"a": [1]}, "outputs": {"p": [[1], [1, 2]]}}', "expects of 'p' what no version can answer"),
        ('{"inputs": {"a": [1]}, "outputs": {"p": [{"b": 1}]}}', "expects of 'p' what no version can answer"),
        ('{"inputs": {"a": [1]}, "outputs": {"p": []}}', "expects of 'p' what no version can answer"),
    ],
)
def test_what_is_no_case(tmp_path: Path, text: str, words: str):
    (tmp_path / "case.json").write_text(text)
    with pytest.raises(DataError, match=words):
        read_case(tmp_path / "case.json", "ann", "why")


def test_of_a_model_that_is_not_there_nobody_would_be_asked(model: Path, ledger: Ledger, tmp_path: Path):
    known(ledger)
    with pytest.raises(ConfigError, match=r"no model 'mm'\. Did you mean 'm'"):
        add_case(ledger, "mm", read_case(case_of(model, tmp_path / "case.json"), "ann", "why"))


def test_an_output_of_another_name_is_said(model: Path, ledger: Ledger, tmp_path: Path):
    known(ledger)
    add_case(ledger, "m", read_case(case_of(model, tmp_path / "c.json", outputs={"probabilty": [0.9]}), "ann", "why"))
    with pytest.raises(GateError, match=r"does not have: 'probabilty'\. Did you mean 'probability'"):
        publish(model, tmp_path / "store", 1, cases=cases(ledger, "m"))


ROW = {"distance": [1.0], "hour": [2], "carrier": ["AA"]}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"inputs": {**ROW, "distance": ["far"]}}, r"no request of this model(.|\n)*distance|distance"),
        ({"inputs": {**ROW, "hour": [2.5]}}, "no request of this model"),
        ({"inputs": {**ROW, "carrier": [7]}}, "no request of this model"),
        ({"inputs": {**ROW, "distance": [[1.0, 2.0]]}}, r"Input 'distance' has the shape \[1, 2\]"),
        ({"inputs": {**ROW, "hour": [2, 3]}}, r"different lengths(.|\n)*distance 1, hour 2"),
        ({"outputs": {"probability": ["0.5"]}}, "expects texts of 'probability', which is float32"),
    ],
    ids=["text", "fraction", "number", "vector", "rows", "expected text"],
)
def test_a_case_must_fit_the_version_that_is_here(
    model: Path, ledger: Ledger, tmp_path: Path, changes: dict[str, object], words: str
):
    known(ledger)
    case = read_case(case_of(model, tmp_path / "case.json", **changes), "ann", "why")
    (tmp_path / "registry" / "m").mkdir(parents=True)
    (tmp_path / "registry" / "m" / "3").symlink_to(model)
    with pytest.raises(DataError, match=rf"The case does not fit the model: (.|\n)*{words}"):
        add_case(ledger, "m", case, tmp_path)
    assert not cases(ledger, "m")
    add_case(ledger, "m", case)
    with pytest.raises(DataError, match=rf"Golden case {case.id} cannot be asked: (.|\n)*added by ann"):
        publish(model, tmp_path / "store", 1, cases=cases(ledger, "m"))


def test_a_case_that_fits_is_taken_and_another_output_is_said_at_once(model: Path, ledger: Ledger, tmp_path: Path):
    known(ledger)
    (tmp_path / "registry" / "m").mkdir(parents=True)
    (tmp_path / "registry" / "m" / "3").symlink_to(model)
    add_case(ledger, "m", read_case(case_of(model, tmp_path / "a.json"), "ann", "why"), tmp_path)
    assert len(cases(ledger, "m")) == 1
    named = read_case(case_of(model, tmp_path / "b.json", outputs={"probabilty": [0.9]}), "ann", "why")
    with pytest.raises(DataError, match=r"not have: 'probabilty'\. Did you mean 'probability'"):
        add_case(ledger, "m", named, tmp_path)
    price = read_case(case_of(model, tmp_path / "c.json", inputs={"price": ["x"]}), "ann", "of the version to come")
    add_case(ledger, "m", price, tmp_path)
    assert len(cases(ledger, "m")) == 2


@pytest.mark.parametrize(
    ("dtype", "value"),
    [("float16", 0.5), ("string", {"b64": "/w=="}), ("bool", True), ("uint8", 3), ("float32", math.nan)],
)
def test_every_type_of_input_can_be_asked(tmp_path: Path, dtype: str, value: object):
    (tmp_path / "c.json").write_text(json.dumps({"inputs": {"a": [value]}, "outputs": {"p": [1]}}))
    one, out = TensorSpec(dtype=dtype, shape=(-1,)), TensorSpec(dtype="bool", shape=(-1,))
    read_case(tmp_path / "c.json", "ann", "why").check_fits(Signature(inputs={"a": one}, outputs={"p": out}))


def test_nobody_answers_for_it(model: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match="needs a name and a reason"):
        read_case(case_of(model, tmp_path / "case.json"), "ann", " ")


def test_by_command(model: Path, ledger: Ledger, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = case_of(model, tmp_path / "case.json")
    known(ledger)
    known(ledger, "other")
    add_case(ledger, "other", read_case(file, "ann", "elsewhere"))
    place = ["--home", str(tmp_path), "--ledger", ledger.url]
    assert cli.main(["golden", "list", "m", *place]) == 0
    assert "m has no golden cases" in capsys.readouterr().out
    for _ in range(2):
        assert cli.main(["golden", "add", "m", str(file), "--reason", "it was wrong", *place]) == 0
    [case] = cases(ledger, "m")
    assert cli.main(["golden", "list", "m", *place]) == 0
    assert f"{case.id}  " in capsys.readouterr().out
    assert cli.main(["golden", "remove", "m", "nothing", "--reason", "done", *place]) == 1
    assert f"lists them: {case.id}" in capsys.readouterr().err
    assert cli.main(["golden", "remove", "m", case.id, "--reason", "done", *place]) == 0
    assert not cases(ledger, "m")
    assert cli.main(["golden", "add", "m", str(file), "--reason", "again", *place]) == 0
    assert [one.reason for one in cases(ledger, "m")] == ["again"]
