"""What README and the guides say holds: every code block, every command, every name, every link."""

from __future__ import annotations

import ast
import functools
import importlib
import json
import re
import shlex
from datetime import date
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from airflow.sdk import DAG

from airflow_mlops.cli import _parser
from tests.training_fixtures import trained

ROOT = Path(__file__).parent.parent.parent
PAGES = {str(page.relative_to(ROOT)): page.read_text() for page in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"))}
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = [
    pytest.param(language, body, id=f"{page}:{page_text[: found.start()].count(chr(10)) + 1}")
    for page, page_text in PAGES.items()
    for found in BLOCK.finditer(page_text)
    for language, body in [found.groups()]
]
# Words of other tools, and of things that do not exist yet because a reader is to make them.
FOREIGN = {
    "alowed_use",
    "amazon",
    "apis",
    "apt",
    "chromium",
    "churn_de",
    "churn_it",
    "customer_history",
    "decimal_separator",
    "depracated",
    "feature_age_seconds",
    "feature_watermark",
    "incremental",
    "install",
    "leads_code",
    "mariadb",
    "mean_delay",
    "mlflow_research",
    "MLFLOW_TRACKING_URI",
    "my_checks",
    "my_training",
    "none_failed_min_one_success",
    "paid",
    "reconcile_arrivals_with_departures",
    "shop",
    "shop_features",
    "shop_model",
    "shop_returns_model",
    "shop_v1",
    "shop_v2",
    "spent_30d",
    "OfflineStore",
    "origin_weather_v2",
    "pip",
    "setup",
    "tensorflow_model_server",
    "tensorflow_serving",
    "tmp",
    "TEST_KUBECONFIG",
    "TRAIN_IMAGE",
    "VARIABLE",
    "venv",
    "weighted_metrics",
    "WHERE",
    "with",
}
ANOTHERS = {"BatchOperator", "EmptyOperator", "SageMakerTrainingOperator"}
"""Operators of Airflow's own packages that the guides name."""


def blocks(*languages: str) -> list[pytest.param]:
    return [block for block in BLOCKS if block.values[0] in languages]


# --- code blocks ------------------------------------------------------------------------------------------


def test_every_block_is_of_a_kind_that_is_checked_here():
    assert {block.values[0] for block in BLOCKS} <= {"", "python", "console", "yaml", "json", "bash"}


@pytest.mark.parametrize(("language", "body"), blocks("python"))
def test_python_compiles_and_finds_what_it_imports(language: str, body: str):
    for node in ast.walk(ast.parse(body)):
        if isinstance(node, ast.ImportFrom) and node.module:
            module = importlib.import_module(node.module)
            for alias in node.names:
                assert hasattr(module, alias.name), f"{node.module} has no {alias.name}"
        elif isinstance(node, ast.Import):
            for alias in node.names:
                importlib.import_module(alias.name)


@pytest.mark.parametrize(("language", "body"), blocks("python"))
def test_python_gives_our_classes_and_functions_arguments_that_they_have(language: str, body: str):
    from inspect import Parameter, signature

    tree = ast.parse(body)
    theirs = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and not str(node.module).startswith("airflow_mlops")
        for alias in node.names
    }
    public = {name: one for name, one in functools.cache(_public)().items() if name not in theirs}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in public:
            taken = signature(public[node.func.id]).parameters
            if not any(parameter.kind is Parameter.VAR_KEYWORD for parameter in taken.values()):
                assert {keyword.arg for keyword in node.keywords if keyword.arg} <= set(taken), node.func.id


@pytest.mark.parametrize(
    ("language", "body"),
    [
        block
        for block in blocks("python")
        if {node.module for node in ast.walk(ast.parse(block.values[1])) if isinstance(node, ast.ImportFrom)}
        in ({"airflow_mlops"}, {"airflow_mlops", "datetime"})
        and not re.search(r"\.dags\(\)|from_yaml", block.values[1])  # they need files that the reader makes
    ],
)
def test_declarations_are_accepted(language: str, body: str):
    exec(body, {})


@pytest.mark.parametrize(
    ("language", "body"), [b for b in blocks("python") if "def compute(day, data):" in b.values[1]]
)
def test_transforms_count_what_was_known_when_the_day_began(language: str, body: str):
    begin = pd.Timestamp("2024-02-14", tz="UTC")
    at = [begin - pd.Timedelta(days=40 - 10 * n) for n in range(3)] + [begin]
    orders = pd.DataFrame({"customer": "c17", "ordered_at": at, "returned": True, "decided_at": at})
    found: dict[str, Any] = {}
    exec(body, found)
    [row] = found["compute"](date(2024, 2, 14), {"orders": orders})["customer_history"].to_dict("records")
    assert (row["customer"], row["orders_30d"], row["event_timestamp"]) == ("c17", 3, begin)


@pytest.mark.parametrize(("language", "body"), blocks("yaml", "json"))
def test_data_can_be_read(language: str, body: str):
    yaml.safe_load(body) if language == "yaml" else json.loads(body)


@pytest.mark.parametrize(("language", "body"), blocks("console", "bash"))
def test_commands_are_ours_with_their_options(language: str, body: str):
    for line in body.replace("\\\n", " ").splitlines():
        if not (said := re.match(r"\$ (?:\w+=\S+ )*(airflow-mlops|make) (.*)", line)):
            continue
        words = shlex.split(said[2], comments=True)
        if said[1] == "make":
            assert words[0] in _targets(), line
        elif words[0] != "serve":  # whose flags are those of TensorFlow Serving
            _parser().parse_args(words)


def test_the_pipeline_of_the_readme_is_that_of_the_guide_and_makes_the_dags_of_its_table(tmp_path: Path):
    [shown, whole] = [block.values[1] for block in blocks("python") if "shop = ModelPipeline(" in block.values[1]]
    assert shown == whole, "README.md and docs/first-pipeline.md, which the tests of the shop run"
    made: dict[str, object] = {"__file__": str(tmp_path / "dags" / "shop.py")}
    exec(shown, made)
    table = PAGES["README.md"].split("| DAG | runs | does |")[1].split("\n\n")[0]
    assert set(re.findall(r"^\| `([\w.]+)` \|", table, re.MULTILINE)) == {
        dag.dag_id for dag in made.values() if isinstance(dag, DAG)
    }


def test_the_notebook_of_the_guide_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    [shown] = [block.values[1] for block in blocks("python") if "SavedModel(" in block.values[1]]
    workdir = trained()
    home = tmp_path / ".mlops"
    (home / "models" / "flight_delay").mkdir(parents=True)
    (home / "snapshots").symlink_to(workdir.path.parent.parent / "snapshots")
    (home / "models" / "flight_delay" / "1").symlink_to(workdir.saved_model)
    monkeypatch.chdir(tmp_path)
    found: dict[str, object] = {}
    exec(shown, found)
    assert len(found["answers"]) == len(found["test"])


# --- names ------------------------------------------------------------------------------------------------


def test_the_modules_of_the_notebook_have_what_it_names():
    tables = PAGES["docs/pipelines/notebook.md"].split("| module of `airflow_mlops.engine` |")[1:]
    rows = re.findall(r"^\| `([\w.]+)` \| (.+) \|$", "\n".join(tables), re.MULTILINE)
    assert len(rows) > 15
    for module, names in rows:
        engine = importlib.import_module(f"airflow_mlops.engine.{module}")
        for name in re.findall(r"`(\w+)`", names):
            assert hasattr(engine, name), f"airflow_mlops.engine.{module} has no {name}"


@pytest.mark.parametrize("page", PAGES)
def test_names_in_running_text_are_in_the_code(page: str):
    spans = re.findall(r"`([^`\n]+)`", BLOCK.sub("", PAGES[page]))
    unknown = {
        (word, span)
        for span in spans
        if "/" not in span and "…" not in span
        for word in re.findall(r"[A-Za-z_]\w{2,}", span)
        if word not in _words() and word not in FOREIGN
    }
    assert not unknown, "renamed or removed? Else add it to FOREIGN"


@pytest.mark.parametrize("page", PAGES)
def test_paths_and_links_lead_somewhere(page: str):
    here = (ROOT / page).parent
    links = re.findall(r"\]\((?!https?:)([^)#]+)(?:#[\w-]*)?\)", PAGES[page])
    paths = re.findall(r"`((?:airflow_mlops|bench|dags|docs|feature_repo|plugins|tests)/[\w./-]+)`", PAGES[page])
    gone = [link for link in links if not (here / link).exists()]
    gone += [path for path in paths if not (ROOT / path).exists()]
    assert not gone


@pytest.mark.parametrize("page", [page for page in PAGES if not re.search("CHANGELOG|decisions/|reference/", page)])
def test_a_guide_is_read_in_five_minutes(page: str):
    assert len(PAGES[page].split()) <= 1100


@pytest.mark.parametrize("page", PAGES)
def test_every_operator_and_sensor_that_is_named_exists(page: str):
    from tests.contract.classes import OPERATORS, SENSORS

    known = {cls.__name__ for cls in (*OPERATORS, *SENSORS)} | ANOTHERS
    named = set(re.findall(r"(?<![\w…])[A-Z]\w+(?:Operator|Sensor)\b", PAGES[page]))
    assert named <= known, named - known


def test_every_command_can_be_found():
    """Somebody who looks for a command by what it does finds it in the page of wishes."""
    spans = " ".join(re.findall(r"`([^`\n]+)`", PAGES["docs/finding.md"]))
    [commands] = [action.choices for action in _parser()._actions if isinstance(action.choices, dict)]
    assert {name for name in commands if not re.search(rf"(?<![\w-]){name}(?![\w-])", spans)} == set()


def test_the_guarantees_name_every_drill_and_no_other():
    drills = {path.name[5:8].upper() for path in (ROOT / "tests" / "drills").glob("test_d[0-9][0-9]_*.py")}
    assert set(re.findall(r"\bD\d\d\b", PAGES["docs/guarantees.md"])) == drills


def _public() -> dict[str, object]:
    import airflow_mlops

    return {name: getattr(airflow_mlops, name) for name in airflow_mlops.__all__ if name[0].isupper()}


def _targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


@functools.cache
def _words() -> frozenset[str]:
    """Return every word that the product's code says: names, arguments, attributes, texts."""
    folders = ("airflow_mlops", "bench", "dags", "feature_repo", "plugins")
    files = [file for folder in folders for file in (ROOT / folder).rglob("*.py")]
    files += [ROOT / "Makefile", ROOT / "pyproject.toml", ROOT / "feature_repo" / "feature_store.yaml"]
    words = re.findall(r"[A-Za-z_]\w+", "\n".join(file.read_text() for file in files))
    return frozenset(words) | {file.stem for file in files}
