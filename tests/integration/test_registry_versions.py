"""Aliases, tags, comparing, copying and deleting, on versions that somebody made with MLflow's own client."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import Asset
from airflow.sdk.exceptions import AirflowFailException
from airflow.sdk.execution_time.context import OutletEventAccessors
from mlflow import MlflowClient

from airflow_mlops.contracts import Deployment, Pin, RegisteredModel, Signature, TensorSpec, Verdict, VerdictStatus
from airflow_mlops.engine.evaluation.approvals import record_verdict
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.engine.registry import copying, deleting
from airflow_mlops.engine.registry.lookup import versions_of
from airflow_mlops.engine.registry.registry import TRAINING_ID, Registry
from airflow_mlops.engine.serving.deployments import pointer_name
from airflow_mlops.exceptions import TransientError
from airflow_mlops.moments import parse_moment
from airflow_mlops.operators.mlflow import MLflowSetAliasOperator
from airflow_mlops.operators.mlflow_registry import (
    MLflowCompareModelsOperator,
    MLflowCopyModelVersionOperator,
    MLflowDeleteAliasOperator,
    MLflowDeleteModelTagOperator,
    MLflowDeleteModelVersionsOperator,
    MLflowSetModelTagOperator,
)
from tests.conftest import ROOT
from tests.training_fixtures import mlflow_server

NUMBERS = count(1)
ELSEWHERE = "s3://nobody/has/this"


class TaskInstance:
    """The little of a task instance that the operators use."""

    def __init__(self) -> None:
        self.pushed: dict[str, Any] = {}

    def xcom_push(self, key: str, value: Any) -> None:
        self.pushed[key] = value


class Plain:
    """A registered model as others make it: no tags of ours, and versions without a run too."""

    def __init__(self, client: MlflowClient) -> None:
        self.client = client
        self.name = f"plain-{next(NUMBERS)}"
        client.create_registered_model(self.name)
        self.experiment = client.create_experiment(self.name)

    def trained(self, tags: dict[str, str] | None = None, **metrics: float) -> str:
        """Return the number of a version that a run made."""
        run = self.client.create_run(self.experiment).info.run_id
        for name, value in metrics.items():
            self.client.log_metric(run, name, value)
        self.client.log_param(run, "depth", "3")
        self.client.log_text(run, "flavors: {}\n", "model/MLmodel")
        self.client.log_text(run, "0123", "model/data/weights")
        self.client.set_terminated(run)
        made = self.client.create_model_version(self.name, f"runs:/{run}/model", run_id=run, tags=tags)
        return str(made.version)

    def bare(self) -> str:
        """Return the number of a version that is a source only."""
        return str(self.client.create_model_version(self.name, ELSEWHERE).version)

    def alias(self, alias: str, version: str) -> None:
        self.client.set_registered_model_alias(self.name, alias, version)

    @property
    def versions(self) -> list[int]:
        return sorted(int(one.version) for one in self.client.search_model_versions(f"name = '{self.name}'"))


@pytest.fixture(scope="module")
def client() -> MlflowClient:
    uri = mlflow_server()
    return MlflowClient(uri, uri)


@pytest.fixture
def plain(client: MlflowClient) -> Plain:
    return Plain(client)


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    """An empty ledger, with the connections to it and to MLflow in place."""
    url = f"sqlite:///{tmp_path}/ledger.db"
    connections = {
        "mlflow_default": {"conn_type": "mlflow", "host": mlflow_server()},
        "mlflow_same": {"conn_type": "mlflow", "host": f"{mlflow_server()}/"},
        "mlops_ledger_default": {"conn_type": "mlops_ledger", "host": url},
    }
    for name, connection in connections.items():
        monkeypatch.setenv(f"AIRFLOW_CONN_{name.upper()}", json.dumps(connection))
    return Ledger(url)


@pytest.fixture
def run(ledger: Ledger) -> Callable[..., Any]:
    """Execute an operator as Airflow executes it; ``run.links`` are the links of the last one."""

    def run(operator: type, /, **arguments: Any) -> Any:
        ti, outlets = TaskInstance(), OutletEventAccessors()
        result = operator(task_id="t", **arguments).execute({"ti": ti, "outlet_events": outlets})
        run.links, run.events = ti.pushed, outlets
        return json.loads(json.dumps(result, allow_nan=False))

    return run


def test_the_examples_of_the_guides_are_dags_that_parse():
    pages = ("registry.md", "registry-copies.md", "registry-waiting.md")
    guides = "".join((ROOT / "docs" / "registry" / page).read_text() for page in pages)
    examples = re.findall(r"^```python\n(.*?)^```$", guides, re.MULTILINE | re.DOTALL)
    made: dict[str, Any] = {}
    for example in examples:
        exec(example, made)
    assert len(examples) > 5
    assert made["release"].task_ids == ["compare", "ask", "approved", "move"]
    [watcher] = made["moved"].watchers
    assert watcher.trigger.alias == "champion"


# --- aliases and tags -------------------------------------------------------------------------------------


def test_alias_is_set_and_deleted_again_also_of_a_version_without_a_run(run, plain: Plain):
    version = plain.bare()
    assert run(MLflowSetAliasOperator, model=plain.name, version=version, alias="shadow")["version"] == 1
    deleted = {"model": plain.name, "alias": "shadow", "version": 1}
    assert run(MLflowDeleteAliasOperator, model=plain.name, alias="shadow") == deleted
    assert run.links["mlflow_model_version_link"].endswith(f"#/models/{plain.name}/versions/1")
    assert run(MLflowDeleteAliasOperator, model=plain.name, alias="shadow") == {**deleted, "version": None}
    assert plain.client.get_registered_model(plain.name).aliases == {}


def test_tags_of_a_version_and_of_the_model(run, plain: Plain):
    number = plain.bare()
    plain.alias("candidate", number)
    tags = {"validated_by": "qa", "rows": 12}
    done = run(MLflowSetModelTagOperator, model=plain.name, version="candidate", tags=tags)
    assert done == {"model": plain.name, "version": 1, "tags": ["rows", "validated_by"]}
    assert plain.client.get_model_version(plain.name, number).tags == {"validated_by": "qa", "rows": "12"}
    for _ in range(2):
        run(MLflowDeleteModelTagOperator, model=plain.name, version=1, tags=["rows"])
    assert plain.client.get_model_version(plain.name, number).tags == {"validated_by": "qa"}

    assert run(MLflowSetModelTagOperator, model=plain.name, tags={"domain": "flights"})["version"] is None
    assert run.links["mlflow_model_version_link"].endswith(f"#/models/{plain.name}")
    assert plain.client.get_registered_model(plain.name).tags == {"domain": "flights"}
    run(MLflowDeleteModelTagOperator, model=plain.name, tags=["domain"])
    assert plain.client.get_registered_model(plain.name).tags == {}
    assert plain.client.get_model_version(plain.name, number).tags == {"validated_by": "qa"}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model": "plane-0"}, r"no registered model 'plane-0'\. Did you mean 'plain-\d+'\?"),
        ({"model": "{{ nothing }}"[:0]}, "model is empty"),
        ({"version": "champoin"}, r"has the alias 'champoin'\. Did you mean 'champion'\?(.|\n)*champion → 1"),
        ({"version": "7"}, r"has no version 7(.|\n)*1 versions: 1"),
        ({"version": "None"}, "version is empty"),
        ({"version": 0}, "not a version"),
        ({"tags": {}}, "no tag to set"),
        ({"tags": {"a": None}}, "tag 'a' is empty(.|\n)*MLflowDeleteModelTagOperator"),
        ({"tags": {"mlops.verdict": "PASS"}}, "this package's own"),
        ({"tags": {"a$b": "1"}}, "does not accept it(.|\n)*a\\$b"),
        ({"mlflow_conn_id": "nowhere"}, "no Airflow connection 'nowhere'"),
    ],
)
def test_wrong_names_are_told_with_the_right_ones(run, plain: Plain, changes: dict[str, Any], says: str):
    plain.alias("champion", plain.bare())
    with pytest.raises(AirflowFailException, match=says):
        run(MLflowSetModelTagOperator, **{"model": plain.name, "version": "champion", "tags": {"a": "1"}, **changes})
    assert plain.client.get_model_version(plain.name, "1").tags == {}


# --- comparing --------------------------------------------------------------------------------------------


def test_versions_are_compared_and_the_better_is_named_where_that_is_known(run, plain: Plain):
    same = {"mlops.snapshot_id": "s1"}
    plain.trained(same, auc=0.7, log_loss=0.5, accuracy=0.9, steps=10)
    plain.trained(same, auc=0.8, log_loss=math.nan, accuracy=0.9, steps=20)
    plain.trained(same, auc=0.75, log_loss=0.6)
    plain.alias("champion", "1")
    found = run(MLflowCompareModelsOperator, model=plain.name, versions=["champion", 2, "3", "1"])
    assert found["versions"] == [1, 2, 3]
    assert found["table"] == {
        "auc": {"1": 0.7, "2": 0.8, "3": 0.75},
        "log_loss": {"1": 0.5, "2": None, "3": 0.6},
        "accuracy": {"1": 0.9, "2": 0.9, "3": None},
    }
    assert found["best"] == {"auc": 2, "log_loss": 1, "accuracy": None}
    assert found["same_data"] is True

    plain.trained(auc=0.9, steps=5)
    found = run(MLflowCompareModelsOperator, model=plain.name, versions=[1, 4], metrics=["steps"])
    assert (found["table"], found["best"]) == ({"steps": {"1": 10, "4": 5}}, {"steps": None})
    assert found["same_data"] is False


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"versions": [1, "champion"]}, "two versions or more(.|\n)*same version"),
        ({"versions": "champion"}, "no list of names"),
        ({"versions": [1, ""]}, "versions is empty"),
        ({"versions": [1, 3]}, "Version 3 of 'plain-.*' has no run"),
        ({"metrics": ["val_acc"]}, r"no metric|has the metric 'val_acc'\. Did you mean 'val_auc'\?"),
        ({}, "name those that count(.|\n)*val_auc"),
    ],
)
def test_what_cannot_be_compared_is_told(run, plain: Plain, changes: dict[str, Any], says: str):
    plain.trained(val_auc=0.7)
    plain.trained(val_auc=0.8)
    plain.bare()
    plain.alias("champion", "1")
    with pytest.raises(AirflowFailException, match=says):
        run(MLflowCompareModelsOperator, **{"model": plain.name, "versions": [1, 2], **changes})


# --- copying ----------------------------------------------------------------------------------------------


def test_copy_within_a_registry_has_the_files_and_is_made_once(run, plain: Plain, tmp_path: Path):
    plain.trained({"validated_by": "qa"}, auc=0.7)
    plain.alias("candidate", "1")
    target = f"{plain.name}-production"
    asset = Asset("production")
    arguments = {"model": plain.name, "to_model": target, "outlets": [asset]}
    first = run(MLflowCopyModelVersionOperator, version="candidate", **arguments)
    assert first["copied_from"] == f"models:/{plain.name}/1"
    assert run.links["mlflow_model_version_link"].endswith(f"/{target}/versions/1")
    assert run.events[asset].extra == {"model": target, "version": 1}
    assert run(MLflowCopyModelVersionOperator, version=1, to_mlflow_conn_id="mlflow_same", **arguments) == first
    copy = plain.client.get_model_version(target, "1")
    assert copy.tags == {"validated_by": "qa", "mlops.copied_from": f"models:/{plain.name}/1"}
    assert copy.run_id == plain.client.get_model_version(plain.name, "1").run_id

    plain.client.delete_model_version(plain.name, "1")  # the copy keeps its files
    taken = copying.take(Registry(mlflow_server()), target, "1", tmp_path / "taken")
    assert (taken.folder / "data" / "weights").read_text() == "0123"

    # Another model of that name, with the same number: another copy.
    plain.client.delete_registered_model(plain.name)
    plain.client.create_registered_model(plain.name)
    plain.trained(auc=0.1)
    assert run(MLflowCopyModelVersionOperator, version=1, **arguments)["version"] == 2


def test_copy_needs_another_name_or_another_registry(run, plain: Plain):
    plain.bare()
    for more in ({}, {"to_model": plain.name}, {"to_mlflow_conn_id": "mlflow_same"}):
        with pytest.raises(AirflowFailException, match="needs another name"):
            run(MLflowCopyModelVersionOperator, model=plain.name, version=1, **more)


@pytest.fixture
def production(monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    """Another MLflow."""
    uri = mlflow_server("production")
    monkeypatch.setenv("AIRFLOW_CONN_MLFLOW_PRODUCTION", json.dumps({"conn_type": "mlflow", "host": uri}))
    return MlflowClient(uri, uri)


def test_copy_into_another_registry_is_whole_and_made_once(
    run, plain: Plain, production: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    plain.trained({"validated_by": "qa"}, auc=0.7, odd=math.nan)
    plain.client.log_text(plain.client.get_model_version(plain.name, "1").run_id, "{}", "evaluation.json")
    arguments = {"model": plain.name, "version": 1, "to_mlflow_conn_id": "mlflow_production"}

    def killed(*_: Any, **__: Any) -> None:
        raise TransientError("MLflow does not answer.")

    with monkeypatch.context() as patch, pytest.raises(TransientError):
        patch.setattr(MlflowClient, "create_model_version", killed)
        run(MLflowCopyModelVersionOperator, **arguments)
    first = run(MLflowCopyModelVersionOperator, **arguments)
    with monkeypatch.context() as patch:
        patch.setattr(copying, "take", killed)  # what is there is not fetched again
        assert run(MLflowCopyModelVersionOperator, **arguments) == first
    assert first["copied_from"] == f"{mlflow_server()} models:/{plain.name}/1"
    [version] = production.search_model_versions(f"name = '{plain.name}'")
    assert version.tags["validated_by"] == "qa"
    [copied] = production.search_runs([production.get_experiment_by_name(plain.name).experiment_id])
    assert version.run_id == copied.info.run_id == first["run_id"]
    assert copied.info.status == "FINISHED"
    assert (copied.data.metrics, copied.data.params) == ({"auc": 0.7}, {"depth": "3"})
    assert [file.path for file in production.list_artifacts(copied.info.run_id)] == ["evaluation.json"]

    # A copy of the copy, under a name that takes more than that of a logged model: it says where it is from, not what
    # that was from.
    name = f"{plain.name}.returned"
    back = {**arguments, "to_model": name, "mlflow_conn_id": "mlflow_production", "to_mlflow_conn_id": "mlflow_default"}
    returned = [run(MLflowCopyModelVersionOperator, **back) for _ in range(2)]
    assert returned[0] == returned[1]
    assert returned[0]["copied_from"] == f"{mlflow_server('production')} models:/{plain.name}/1"
    copied_from = plain.client.get_run(returned[0]["run_id"]).data.tags["mlops.copied_from"]
    assert copied_from == plain.client.get_model_version(name, "1").tags["mlops.copied_from"]
    assert copied_from == returned[0]["copied_from"]
    taken = copying.take(Registry(mlflow_server()), name, "1", tmp_path / "taken")
    assert (taken.folder / "data" / "weights").read_text() == "0123"


def test_files_that_cannot_be_read_are_told_and_nothing_is_copied(run, plain: Plain, production: MlflowClient):
    plain.bare()
    arguments = {"model": plain.name, "to_mlflow_conn_id": "mlflow_production"}
    with pytest.raises((TransientError, AirflowFailException), match=r"files of version 1(.|\n)*s3://nobody"):
        run(MLflowCopyModelVersionOperator, version=1, **arguments)
    assert not production.search_model_versions(f"name = '{plain.name}'")


# --- deleting ---------------------------------------------------------------------------------------------


def passed(ledger: Ledger, model: str, version: int, status: VerdictStatus = VerdictStatus.PASS) -> None:
    registered = RegisteredModel(model=model, version=str(version), run_id="r", experiment_id="1", source="s")
    record_verdict(ledger, registered, Verdict(model=model, status=status, checks=(), inputs_hash="h"), snapshot_id="s")


def deployed(ledger: Ledger, model: str, **state: Any) -> None:
    value = Deployment(server="tf_serving_default", model=model, **state).model_dump(mode="json")
    assert ledger.swap(pointer_name("tf_serving_default", model), value, None)


def test_old_versions_go_and_what_is_needed_stays(run, ledger: Ledger, plain: Plain):
    for _ in range(12):
        plain.bare()
    plain.alias("audited", "2")
    pin = Pin(version=3, who="me", reason="audit", at=parse_moment("2026-01-01T00:00:00Z", "at"))
    deployed(ledger, plain.name, stable=4, good=(5,), loaded=(4, 6), asked=(7,), pin=pin)
    passed(ledger, plain.name, 8)
    passed(ledger, plain.name, 9, VerdictStatus.FAIL)
    only_said = run(MLflowDeleteModelVersionsOperator, model=plain.name, keep="2", only_say="True")
    assert plain.versions == list(range(1, 13))
    done = run(MLflowDeleteModelVersionsOperator, model=plain.name, keep=2)
    assert done == {**only_said, "only_said": False}
    assert done["deleted"] == [10, 9, 1]
    assert done["spared"] == {
        "12": "is among the newest 2",
        "11": "is among the newest 2",
        "8": "passed its gates last",
        "7": "is asked for on tf_serving_default",
        "6": "is loaded on tf_serving_default",
        "5": "can be gone back to on tf_serving_default",
        "4": "serves on tf_serving_default",
        "3": "is pinned on tf_serving_default",
        "2": "has the alias audited",
    }
    assert plain.versions == [2, 3, 4, 5, 6, 7, 8, 11, 12]
    assert ledger.facts(deleting.FACT, plain.name)[0].payload == {"versions": [10, 9, 1], "keep": 2}
    assert run(MLflowDeleteModelVersionsOperator, model=plain.name, keep=2)["deleted"] == []


def test_a_version_that_somebody_needs_meanwhile_stays(run, plain: Plain, monkeypatch: pytest.MonkeyPatch):
    for _ in range(5):
        plain.bare()
    delete = deleting._delete

    def meanwhile(registry: Registry, model: str, number: int) -> bool:
        if number == 4:
            plain.alias("champion", "2")
            plain.client.delete_model_version(plain.name, "3")
            plain.client.delete_model_version(plain.name, "4")
        return delete(registry, model, number)

    monkeypatch.setattr(deleting, "_delete", meanwhile)
    done = run(MLflowDeleteModelVersionsOperator, model=plain.name, keep=1, ledger_conn_id=None)
    assert done["deleted"] == [1]
    assert done["spared"] == {"5": "is the newest", "2": "has the alias champion"}
    assert plain.versions == [2, 5]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"keep": 0}, "newest version of a model is never deleted"),
        ({"keep": "2 or so"}, "not a number of versions"),
        ({"only_say": "yes"}, "must be clear whether"),
        ({"only_say": ""}, "must be clear whether"),
        ({"model": "nobody"}, "no registered model 'nobody'"),
        ({"ledger_conn_id": "nowhere"}, "no Airflow connection 'nowhere'"),
        ({}, "ledger knows nothing of"),
    ],
)
def test_nothing_is_deleted_when_something_is_wrong(run, plain: Plain, changes: dict[str, Any], says: str):
    plain.trained({TRAINING_ID: "t1"})
    plain.bare()
    with pytest.raises(AirflowFailException, match=says):
        run(MLflowDeleteModelVersionsOperator, **{"model": plain.name, "keep": 1, **changes})
    assert plain.versions == [1, 2]


@pytest.mark.parametrize("quotes", ["it's", 'the "best"', """it's "both\""""])
def test_names_with_quotes(tmp_path: Path, quotes: str):
    registry = Registry(mlflow_server())
    (tmp_path / "saved_model.pb").write_bytes(b"x")
    model = f"{quotes} {next(NUMBERS)}"
    assert registry.find_alias(model, "challenger") is None
    number = TensorSpec(dtype="float32", shape=(-1,))
    signature = Signature(inputs={"a": number}, outputs={"b": number})
    made = registry.register_made_elsewhere(model, tmp_path, signature, "here")
    assert registry.register_made_elsewhere(model, tmp_path, signature, "here").version == made.version == "1"
    assert registry.by_alias(model, "challenger").version == "1"
    assert registry.find_alias(model, "champion") is None
    assert [one.version for one in versions_of(registry, model)] == ["1"]
    assert versions_of(registry, f"{model}r") == []
