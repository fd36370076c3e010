"""The tutorials, as they are printed: what a new user types, and what comes of it."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from airflow.sdk import DAG
from airflow.sdk.execution_time.context import OutletEventAccessors

from airflow_mlops import cli
from airflow_mlops.engine.serving.model_store import publish
from airflow_mlops.engine.serving.rollout import Rollout
from airflow_mlops.engine.training import launch
from tests.integration.test_model_operators import TaskInstance
from tests.new_projects import check_project, commands, run_to_a_prediction
from tests.serving_fixtures import put_into_service
from tests.training_fixtures import make_spec, mlflow_server

DOCS = Path(__file__).parent.parent.parent / "docs"


def blocks(page: str) -> list[str]:
    """Return the Python of a page."""
    return re.findall(r"^```python\n(.*?)^```$", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL)


def typed(page: str, *verbs: str) -> list[list[str]]:
    """Return the arguments of a page's commands that begin with one of these verbs."""
    lines = re.findall(rf"^\$ airflow-mlops ((?:{'|'.join(verbs)}) .*)$", (DOCS / page).read_text(), re.MULTILINE)
    return [shlex.split(line) for line in lines]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Path:
    """The project of the first tutorial."""
    monkeypatch.chdir(tmp_path)
    [made] = blocks("tutorial.md")
    exec(made, {})
    assert cli.main(typed("tutorial.md", "new")[0]) == 0
    return tmp_path / "shop_returns"


def test_the_first_tutorial_ends_with_a_model_that_was_rolled_back(project, monkeypatch, capsys):
    said = capsys.readouterr().out
    [shown] = re.findall(r"^```\n(column .*?)^```$", (DOCS / "tutorial.md").read_text(), re.MULTILINE | re.DOTALL)
    assert shown in said
    check_project(project)
    steps = ("history", "features", "stack")
    in_order = [one for one in typed("tutorial.md", *steps) if one != ["stack", "down"]]
    assert list(map(tuple, commands(project, *steps))) == list(dict.fromkeys(map(tuple, in_order)))

    def go_back(place: list[str], rollout: Rollout, model: Path) -> None:
        answered = capsys.readouterr().out
        assert "0 refused" in answered
        assert re.search(r"^probability: 0\.\d+  \(version 1 of shop_returns\)", answered, re.MULTILINE)
        assert '_13d": NaN' not in answered, "the customer is known online"
        publish(model, rollout.base, 2)
        put_into_service(rollout, 2)
        for command in typed("tutorial.md", "deployments", "rollback", "unpin"):
            assert cli.main([*command, *place]) == 0, capsys.readouterr().err
        assert "Version 1 of shop_returns answers again, in place of 2." in capsys.readouterr().out
        [ask] = typed("tutorial.md", "ask")
        assert cli.main([*ask, *place]) == 0, capsys.readouterr().err
        assert "(version 1 of shop_returns)" in capsys.readouterr().out

    run_to_a_prediction(project, monkeypatch, go_back, ask=typed("tutorial.md", "ask")[0])


@pytest.mark.slow
def test_the_training_script_of_the_second_tutorial_trains(project, monkeypatch):
    snapshot = run_to_a_prediction(project, monkeypatch)
    script, trainer = blocks("tutorial-own-training.md")
    (project / "dags" / "train.py").write_text(script)
    told = dict(re.findall(r"(\w+)=([^,)\n]+)", trainer))
    code = {"entrypoint": "", "script": json.loads(told["script"]), "code_path": str(project / "dags")}
    spec = make_spec(snapshot, model="shop_returns", epochs=int(told["epochs"]), batch_size=64, **code)
    trained = launch.train(spec, project / "trained", timeout=300)
    assert set(trained.signature.inputs) == set(snapshot.features)


@pytest.mark.slow
def test_the_operators_of_the_third_tutorial_run_one_after_another(tmp_path, monkeypatch):
    leads = tmp_path / "leads"
    made, dag_file, code = (block.replace("/tmp/leads", str(leads)) for block in blocks("tutorial-operators.md"))
    exec(made, {})
    (tmp_path / "dags").mkdir()
    (tmp_path / "dags" / "leads_code.py").write_text(code)
    found: dict[str, DAG] = {}
    exec(dag_file, found)
    assert found["dag"].task_ids == ["validate", "train", "evaluate", "register", "judge"]
    monkeypatch.setenv("AIRFLOW_CONN_MLFLOW_DEFAULT", json.dumps({"conn_type": "mlflow", "host": mlflow_server()}))
    ledger = {"conn_type": "mlops_ledger", "host": f"sqlite:///{tmp_path}/ledger.db"}
    monkeypatch.setenv("AIRFLOW_CONN_MLOPS_LEDGER_DEFAULT", json.dumps(ledger))
    monkeypatch.setenv("AIRFLOW__MLOPS__HOME", str(tmp_path / "home"))
    done: dict[str, dict] = {}
    for task in found["dag"].topological_sort():
        task.dag.fileloc = str(tmp_path / "dags" / "leads.py")
        for name in task.template_fields:
            value = getattr(task, name)
            if getattr(value, "operator", None) is not None:  # what another task returned
                key = value.key
                setattr(
                    task,
                    name,
                    done[value.operator.task_id] if key == "return_value" else done[value.operator.task_id][key],
                )
        done[task.task_id] = task.execute({"ti": TaskInstance(), "outlet_events": OutletEventAccessors()})
    assert done["judge"]["status"] == "PASS"
