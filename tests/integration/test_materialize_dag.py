"""Plan, mapped tasks and freshness check in a real DAG run: an empty plan skips nothing, a failed chunk fails it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap

import pytest

from tests.airflow_home import airflow_home
from tests.conftest import ROOT
from tests.feast_fixtures import ledger_of
from tests.small_features import shops

DAG = """
import json, os, sys
from airflow.sdk import DAG, TriggerRule
from airflow_mlops.engine.features.project.schema import feature_file
from airflow_mlops.operators.feast import FeastMaterializeOperator, FeastPlanMaterializationOperator
from airflow_mlops.sensors.feast import FeastFeatureFreshnessSensor
from pathlib import Path

with DAG("materialize", schedule=None) as dag:
    plan = FeastPlanMaterializationOperator(
        task_id="plan_materialization", service="shop_v1", key="{{ params.key }}", chunk_bytes="1500"
    )
    materialize = FeastMaterializeOperator.partial(task_id="materialize").expand(chunk=plan.output)
    fresh = FeastFeatureFreshnessSensor(
        task_id="check_freshness",
        service="shop_v1",
        key="{{ params.key }}",
        max_age="25h",
        trigger_rule=TriggerRule.NONE_FAILED_MIN_ONE_SUCCESS,
    )
    plan >> [materialize, fresh]
    materialize >> fresh
dag.params["key"] = ""

if __name__ == "__main__":
    found = []
    for key in ("2024-03-03", "2024-03-03", "2024-03-04"):
        if key == "2024-03-04":  # a page of its file is damaged, not the footer
            file = feature_file(Path(os.environ["AIRFLOW__MLOPS__HOME"]), "item_price", key)
            content = bytearray(file.read_bytes())
            content[4:60] = bytes(56)
            file.write_bytes(content)
        run = dag.test(run_conf={"key": key})
        states = {}
        for task in run.get_task_instances():
            states.setdefault(task.task_id, []).append(str(task.state))
        found.append([str(run.state), {name: sorted(some) for name, some in states.items()}])
    Path(sys.argv[1]).write_text(json.dumps(found))
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> list:
    """Three runs: a day, the same day again, and one whose file is damaged."""
    folder = tmp_path_factory.mktemp("dag")
    location = shops(folder, days=4)
    (folder / "dag.py").write_text(textwrap.dedent(DAG))
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "AIRFLOW_HOME": str(airflow_home(folder / "airflow")),
        "AIRFLOW__CORE__DAGS_FOLDER": str(folder),
        "AIRFLOW__MLOPS__HOME": str(location.home),
        "AIRFLOW_CONN_FEAST_DEFAULT": json.dumps({"conn_type": "feast", "host": str(location.repo)}),
        "AIRFLOW_CONN_MLOPS_LEDGER_DEFAULT": json.dumps(
            {"conn_type": "mlops_ledger", "host": ledger_of(location.home).url}
        ),
    }
    command = [sys.executable, folder / "dag.py", folder / "found.json"]
    done = subprocess.run(
        command, env=environment, cwd=folder, capture_output=True, text=True, timeout=400, check=False
    )
    assert (folder / "found.json").exists(), done.stdout[-4000:] + done.stderr[-4000:]
    return json.loads((folder / "found.json").read_text())


def test_every_chunk_is_a_task_and_freshness_is_checked(runs):
    state, tasks = runs[0]
    assert state == "success"
    assert len(tasks["materialize"]) > 3
    assert set(tasks["materialize"]) == {"success"}
    assert tasks["check_freshness"] == ["success"]


def test_an_empty_plan_does_not_skip_the_freshness_check(runs):
    state, tasks = runs[1]
    assert tasks == {
        "plan_materialization": ["success"], "materialize": ["skipped"], "check_freshness": ["success"],
    }  # fmt: skip
    assert state == "success"


def test_a_failed_chunk_fails_the_run(runs):
    state, tasks = runs[2]
    assert {"success", "failed"} == set(tasks["materialize"])
    assert tasks["check_freshness"] == ["upstream_failed"]
    assert state == "failed"


def test_the_generated_dag_is_wired_like_that():
    from flight_delay import flight_delay as pipeline

    [dag] = [one for one in pipeline.dags().values() if one.dag_id.endswith(".features")]
    fresh = dag.get_task("check_freshness")
    assert fresh.upstream_task_ids == {"plan_materialization", "materialize"}
    assert dag.get_task("plan_materialization").upstream_task_ids == {"compute_features"}
    assert dag.get_task("compute_features").upstream_task_ids == {"apply"}
    assert dag.get_task("apply").upstream_task_ids == {
        *(f"{feed.dataset}.seal" for feed in pipeline.feeds),
        *(f"reconcile_{pair.left}_with_{pair.right}" for pair in pipeline.reconcile),
    }
    assert dag.get_task("apply").pool == "default_pool"
