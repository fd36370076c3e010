"""A project that `airflow-mlops new` wrote, up to a served prediction by one command.

The command is run as a user runs it, in the project's folder, on a real stack.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from airflow_mlops import cli
from airflow_mlops.stack.airflow_api import AirflowApi
from airflow_mlops.stack.ports import Ports, variable
from tests.new_projects import OPTIONS, write_orders

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

COMMAND = [sys.executable, "-m", "airflow_mlops.cli"]
UP = ["stack", "up", "--until-served"]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A new project, of which no training can pass; its stack is stopped at the end."""
    monkeypatch.chdir(tmp_path)
    write_orders(tmp_path, days=40)
    assert cli.main(["new", "shop_returns", "--from", "orders.csv", *OPTIONS, "--label", "returned"]) == 0
    for name, port in Ports.free().as_dict().items():
        monkeypatch.setenv(variable(name), str(port))
    folder = tmp_path / "shop_returns"
    gate(folder, 'gates=[Gate("auc", min=0.999)],')
    yield folder
    run(folder, "stack", "down")


def gate(project: Path, line: str) -> None:
    """Have the pipeline's gates be others."""
    file = project / "dags" / "shop_returns.py"
    text = re.sub(r"^    gates=.*\n", "", file.read_text(), flags=re.MULTILINE)
    if line:
        text = text.replace("    FeatureService,\n", "    FeatureService,\n    Gate,\n", "    Gate,\n" not in text)
        text = text.replace("    train=Trainer(", f"    {line}\n    train=Trainer(")
    file.write_text(text)


def run(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], cwd=project, capture_output=True, text=True, check=False)


def test_a_new_project_is_refused_interrupted_served_and_asked(project: Path) -> None:
    refused = run(project, *UP)
    assert refused.returncode == 1
    assert "shop_returns.train runs: http://127.0.0.1:" in refused.stdout
    headline, *detail, fix = refused.stderr.strip().splitlines()
    assert headline.startswith("Task judge of shop_returns.train failed: "), refused.stderr
    assert "auc" in "\n".join([headline, *detail])
    assert fix.strip().startswith("fix:")

    gate(project, "")
    with subprocess.Popen([*COMMAND, *UP], cwd=project, stdout=subprocess.PIPE, text=True) as interrupted:
        assert interrupted.stdout is not None
        for line in interrupted.stdout:
            assert "partitions sealed" not in line or "0 partitions sealed" in line
            if "shop_returns.train runs: " in line:
                interrupted.kill()
                break

    served = run(project, *UP)
    assert served.returncode == 0, served.stderr
    assert "the stack runs already" in served.stdout
    assert re.search(r"shop_returns\.deploy: version 1 in service", served.stdout), served.stdout
    *_, ask, answer = served.stdout.strip().splitlines()
    assert re.fullmatch(r"probability: 0\.\d+  \(version 1 of shop_returns\)", answer), served.stdout
    asked = run(project, *shlex.split(ask)[1:])
    assert asked.stdout.strip().splitlines()[-1] == answer

    with AirflowApi(f"http://127.0.0.1:{os.environ['AIRFLOW_PORT']}") as airflow:
        runs = [run["state"] for run in airflow.runs("shop_returns.train")]
        assert runs == ["success", "success"], "of the interrupted command; and the refused one, which was judged again"
        again = run(project, *UP)
        assert "shop_returns: version 1 serves" in again.stdout
        assert answer in again.stdout
        assert len(airflow.runs("shop_returns.train")) == len(runs)
