"""Pipelines in YAML, pipelines derived from another, what a change changes, and pipelines in words."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import get_type_hints

import pytest

from airflow_mlops import ModelPipeline, Retrain, SQLSource
from airflow_mlops.changes import differences
from airflow_mlops.cli import main
from airflow_mlops.exceptions import ConfigError
from airflow_mlops.explain import explain
from airflow_mlops.launchers import Kubernetes, launcher_of
from airflow_mlops.pipeline_yaml import PARTS, json_schema, read_pipeline
from airflow_mlops.resources import GPU, Resources

ROOT = Path(__file__).parent.parent.parent
CHURN = """
model: churn
source:
  uri: lake/orders
  event_time: ordered_at
  suite: code:orders
  start: 2024-01-01
  partitioning: daily@Europe/Berlin
  checks: {slices: [country]}
entity: order_id
label: {column: returned, known_at: decided_at, matures_after: 30d}
features:
  name: churn_v1
  transform: code:features
  suite: code:snapshot
  sources:
    - {conn_id: shop_db, table: prices, event_time: valid_from, suite: code:prices, start: 2024-01-01}
  view_checks:
    price: {volatile: [price]}
  rows:
    - {view: price, dataset: prices}
train:
  entrypoint: code:build
  window: 90d
  params: {source: {layers: 3}}
  resources: {count: 2, or_cpu: true}
gates:
  - {metric: auc, min: 0.7}
  - {metric: log_loss, max: 0.9, by: {column: country}}
batch: {columns: [country]}
retrain: {cron: "@weekly", new_rows: 5000, drift_psi: 0.2, decay: [auc, 0.02], cooldown: 1d, max_age: 60d}
"""


@pytest.fixture
def file(tmp_path) -> Path:
    (tmp_path / "churn.yaml").write_text(CHURN)
    return tmp_path / "churn.yaml"


@pytest.fixture
def churn(file) -> ModelPipeline:
    return ModelPipeline.from_yaml(file)


# --- YAML -------------------------------------------------------------------------------------------------------------


def test_yaml_gives_the_pipeline_that_python_gives(churn):
    assert churn.source.partitioning.timezone == "Europe/Berlin"
    assert isinstance(churn.features.sources[0], SQLSource)
    assert churn.train.resources == GPU(2, or_cpu=True)
    assert churn.train.params == {"source": {"layers": 3}}
    assert churn.gates[1].by.column == "country"
    assert churn.features.view_checks["price"].volatile == ["price"]
    assert churn.batch.columns == ["country"]
    assert {"churn.features", "churn.train", "churn.batch_predict"} <= {dag.dag_id for dag in churn.dags().values()}


def test_one_file_may_have_several(tmp_path):
    file = tmp_path / "all.yaml"
    file.write_text(
        "".join(f"{name}:{CHURN.replace('churn', name).replace(chr(10), chr(10) + '  ')}\n" for name in "ab")
    )
    assert read_pipeline(file, "b").model == "b"
    with pytest.raises(ConfigError, match="no pipeline 'c'"):
        read_pipeline(file, "c")
    with pytest.raises(ConfigError, match=r"several pipelines, and none is named(?s:.*)from_yaml\(file, 'a'\)"):
        read_pipeline(file)
    file.write_text(file.read_text() + "a: {}\n")
    with pytest.raises(ConfigError, match="'a' is there twice"):
        read_pipeline(file, "b")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("entity:", "entiti:", r"churn.yaml has an unknown key 'entiti'. Did you mean 'entity'"),
        ("matures_after", "matures_aftr", r"churn.yaml: label has an unknown key .* Did you mean 'matures_after'"),
        ("{metric: auc, min", "{metrik: auc, min", r"churn.yaml: gates\[0\] has an unknown key 'metrik'"),
        ("window: 90d", "window: 90 days", r"churn.yaml: train: .*'90 days' is not a duration"),
        ("window: 90d", "window: 10d", r"churn.yaml: train: The window leaves nothing to train on"),
        ("start: 2024-01-01\n  part", "start: soon\n  part", r"churn.yaml: source: .*start"),
        ("table: prices, ", "", r"churn.yaml: features: sources\[0\]: "),
        ("gates:", "gates: 3\nx:", r"unknown key 'x'"),
        ("batch: {columns: [country]}", "batch: {columns: [country]}\nnotify: [x]", "unknown key 'notify'"),
        ("model: churn", "model: [", "is not YAML"),
        ("window: 90d", "window: 90d\n  window: 30d", "is not YAML(?s:.*)'window' is there twice"),
        ("label: {", "label: returned #", "churn.yaml: "),
    ],
)
def test_a_mistake_is_said_with_its_place(file, old, new, said):
    assert old in CHURN
    file.write_text(CHURN.replace(old, new))
    with pytest.raises(ConfigError, match=said):
        ModelPipeline.from_yaml(file)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.yaml cannot be read"):
        ModelPipeline.from_yaml(tmp_path / "none.yaml")


def test_no_part_is_forgotten():
    """Every argument that holds a part is in the table by which files are read."""
    seen, waiting = set(), [ModelPipeline, *(cls for some in PARTS.values() for cls in some)]
    for cls in waiting:
        for name, kind in get_type_hints(cls).items():
            text = str(kind)
            if re.search(r"airflow_mlops\.(feeds|parts|batch|resources|launchers)\.", text):
                seen.add(name)
    assert seen - {"batch", "launcher"} <= set(PARTS)
    assert all(is_dataclass(cls) and fields(cls) for some in PARTS.values() for cls in some)


def test_the_schema_knows_what_the_reader_takes(churn):
    import jsonschema
    import yaml

    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    check = jsonschema.Draft202012Validator(schema).is_valid
    said = json.loads(json.dumps(yaml.safe_load(CHURN), default=str))
    assert check(said)
    assert not check({**said, "entiti": "x"})
    assert not check({**said, "label": {**said["label"], "colum": "x"}})
    assert not check({**said, "features": {**said["features"], "sources": [{"uri": 3}]}})
    window = schema["$defs"]["Trainer"]["properties"]["window"]
    assert window["description"].startswith("How much history the snapshot covers")
    assert schema["$defs"]["Partitions"]["properties"]["suite"]["description"]


# --- derived ----------------------------------------------------------------------------------------------------------


def test_a_pipeline_like_another(churn):
    source = {"uri": "lake/it", "dataset": "orders_it"}
    own = {"model": "churn_it", "source": source, "features": {"name": "churn_it_v1"}}
    other = churn.derive(**own, window="120d", deploy={"timeout": "20m"})
    assert (other.model, other.train.window, other.source.uri) == ("churn_it", "120d", "lake/it")
    assert other.deploy.timeout == "20m"
    assert other.source.dataset == "orders_it"
    assert churn.train.window == "90d"
    back = {"source": {"uri": "lake/orders", "dataset": "orders"}, "features": {"name": "churn_v1"}}
    assert other.derive(model="churn", window="90d", **back, deploy=churn.deploy) == churn


def test_a_lake_that_moved_is_the_same_dataset(churn):
    assert churn.derive(source={"uri": "s3://aws_default@lake/orders"}).source.dataset == "orders"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"windw": "1d"}, "No part of the pipeline has an argument 'windw'. Did you mean 'window'"),
        ({"timeout": "1d"}, "Several parts of the pipeline have an argument 'timeout': train, deploy"),
        ({"train": {"windw": "1d"}}, "Trainer has no argument 'windw'. Did you mean 'window'"),
        ({"window": "10d"}, "leaves nothing to train on"),
        ({"train": {"window": "60d"}, "window": "90d"}, "One argument is changed twice"),
        ({"cooldown": "2d", "retrain": Retrain(cron="@daily")}, "One argument is changed twice"),
        ({"model": "churn_it", "uri": "lake/it"}, "different data as one dataset, 'orders'"),
        ({"model": "churn_it", "source": {"uri": "lake/it", "dataset": "it"}}, "features of one service, 'churn_v1'"),
    ],
)
def test_what_cannot_be_derived(churn, changes, said):
    with pytest.raises(ConfigError, match=said):
        churn.derive(**changes)


# --- changes ----------------------------------------------------------------------------------------------------------


def test_what_a_change_changes(churn):
    after = churn.derive(window="120d", owner="shop", gates=[*churn.gates[:1]], deploy={"keep": 5})
    found = {change.argument: change for change in differences(churn, after)}
    assert (found["train.window"].before, found["train.window"].after) == ("90d", "120d")
    assert "other rows" in found["train.window"].follows
    assert "No model changes" in found["owner"].follows
    assert "next deployment" in found["deploy.keep"].follows
    assert "Challengers" in found["gates[1].metric"].follows
    assert differences(churn, churn) == []


def test_a_change_of_a_feed_is_named_by_its_dataset(churn):
    prices = SQLSource("shop_db", table="prices", event_time="valid_from", suite="code:other", start=churn.source.start)
    [change] = differences(churn, churn.derive(features={"sources": [prices]}))
    assert change.argument == "features.sources[prices].suite"
    assert "What is sealed stays" in change.follows


# --- commands ---------------------------------------------------------------------------------------------------------


def test_explain_says_what_starts_and_what_blocks(file, capsys):
    assert main(["explain", str(file)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    for words in (
        "For each order_id of orders, at its ordered_at: returned",
        "A row counts for training 30 days after its time",
        "prices: table prices of connection shop_db, one day (UTC) a run from 2024-01-01",
        "learns from rows of T-120d to T-44d",
        "only on Sunday (UTC)",
        "starts it when 5,000 new rows have matured labels, a column has drifted by a PSI of 0.2 or auc is 0.02 worse",
        "Nobody is notified: churn.retrain fails when the data of what serves is older than 60 days.",
        "waits while an upstream has announced trouble, and while the model is halted",
        "auc at least 0.7.",
        "log_loss at most 0.9 in every country with 500 rows or more.",
        "A partition of orders or prices that fails",
        "churn.batch_predict predicts each partition after each run of churn.features.",
    ):
        assert words in said


@pytest.mark.parametrize(
    "changes",
    [
        {"retrain": {"cron": None}},
        {"retrain": {"cron": "7 3 * * 1-5", "cooldown": "12h"}},
        {"train": {"split": "entity", "split_column": "customer"}},
    ],
)
def test_explain_takes_any_pipeline(churn, changes):
    assert "churn.train starts" in explain(churn.derive(**changes))


def test_explain_takes_the_example(capsys):
    assert main(["explain", f"{ROOT}/dags/flight_delay.py:flight_delay"]) == 0
    assert "late_15" in capsys.readouterr().out


def test_changes_since_a_commit_and_from_another(file, tmp_path, capsys):
    def git(*words: str) -> None:
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *words], cwd=tmp_path, check=True)

    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "one")
    (tmp_path / "before.yaml").write_text(CHURN)
    file.write_text(CHURN.replace("window: 90d", "window: 120d"))
    for against in (["--since", "HEAD"], ["--from", str(tmp_path / "before.yaml")]):
        assert main(["changes", str(file), *against]) == 0
        assert "train.window: '90d' -> '120d'" in capsys.readouterr().out
    assert main(["changes", str(file), "--since", "nowhere"]) == 1
    assert "git has no churn.yaml of 'nowhere'" in capsys.readouterr().err
    file.write_text(CHURN)
    assert main(["changes", str(file), "--since", "HEAD"]) == 0
    assert capsys.readouterr().out == "Nothing is different.\n"


def test_where_a_dag_file_lies_is_no_change_of_it(tmp_path, monkeypatch, capsys):
    dags = tmp_path / "dags"
    dags.mkdir()
    file = dags / "placed.py"
    file.write_text(
        "from __future__ import annotations\n\nfrom pathlib import Path\n\nfrom airflow_mlops import ModelPipeline\n\n"
        f"churn = ModelPipeline.from_yaml({str(tmp_path / 'churn.yaml')!r}).derive(\n"
        "    window='90d', source={'uri': str(Path(__file__).parent.parent / 'landing')}\n)\n"
    )
    (tmp_path / "churn.yaml").write_text(CHURN)
    for words in (["init", "-q"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "one"]):
        subprocess.run(["git", *words], cwd=dags, check=True)
    file.write_text(file.read_text().replace("90d", "120d"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert main(["changes", f"{file}:churn", "--since", "HEAD"]) == 0
    found = capsys.readouterr().out
    assert "train.window: '90d' -> '120d'" in found
    assert "source.uri" not in found


def test_the_schema_is_printed(capsys):
    assert main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out)["title"] == "ModelPipeline"


def test_nothing_heavy_is_imported():
    code = "import sys, airflow_mlops.pipeline_yaml, airflow_mlops.changes, airflow_mlops.explain; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"airflow", "pandas", "tensorflow", "mlflow", "feast"} & set(done.stdout.split())


def test_where_a_training_runs_is_one_word_or_one_with_settings(file):
    def launcher(said: str):
        file.write_text(CHURN.replace("window: 90d", f"window: 90d\n  launcher: {said}"))
        return ModelPipeline.from_yaml(file).train.launcher

    assert launcher_of(launcher("kubernetes")) == Kubernetes()
    assert launcher("{kubernetes: {memory: 16Gi}}") == Kubernetes(memory="16Gi")
    for said, words in (
        ("{kubernets: {}}", "launcher names no launcher. Did you mean 'kubernetes'"),
        ("{kubernetes: {memry: 16Gi}}", "launcher: kubernetes has an unknown key 'memry'. Did you mean 'memory'"),
    ):
        with pytest.raises(ConfigError, match=words):
            launcher(said)


def test_resources_are_told_apart(file):
    file.write_text(CHURN.replace("{count: 2, or_cpu: true}", "{queue: big, retries: 1}"))
    assert ModelPipeline.from_yaml(file).train.resources == Resources(queue="big", retries=1)
