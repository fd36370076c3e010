"""Three labels at once: the guide's pipeline, by its DAGs and in one of one's own, to a prediction and back."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from airflow_mlops import cli
from airflow_mlops.contracts import Snapshot
from airflow_mlops.engine.data.partitions import PartitionStore
from airflow_mlops.engine.data.snapshots import load_snapshot
from airflow_mlops.engine.features.training.training_data import rebuild_snapshot
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.engine.serving.deployments import deployment
from airflow_mlops.hooks.feast import FeastHook
from tests.airflow_home import airflow_home
from tests.conftest import ROOT
from tests.serving_fixtures import RunningServer, running_server
from tests.shop import DAYS, REASONS, connections, guide_commands, write_shop
from tests.training_fixtures import mlflow_server

RUN = """
from airflow.sdk import DAG, task
from airflow_mlops.templates import deploy_group, train_group

AS_OF = "2024-03-31T00:00:00+00:00"


@task
def choose_moment():
    return AS_OF


@task
def tell(served):
    assert served["version"] == 2, served


with DAG("shop_of_ones_own", schedule=None) as own:  # with the better one
    better, moment = shop.derive(seed=1), choose_moment()
    trained, deployed = train_group(better, as_of=moment), deploy_group(better)
    moment >> trained >> deployed >> tell(deployed.output)

if __name__ == "__main__":
    import sys

    dags, found = shop.derive(seed=2).dags(), {}
    for name, dag, conf in (
        ("train", dags[f"{shop.model}_train"], {"as_of": AS_OF}),
        ("deploy", dags[f"{shop.model}_deploy"], {}),
        ("own", own, {}),
    ):
        dag.fileloc = __file__  # as Airflow sets it when it reads the file
        run = dag.test(run_conf=conf)
        found[name] = {task.task_id: str(task.state) for task in run.get_task_instances()}
    import json
    Path(sys.argv[1]).write_text(json.dumps(found))
"""
LABEL = """Label(
        "reason", known_at="decided_at", matures_after="7d", heads={"refund": "regression", "returned": ""}
    )"""
MODEL = {
    'keras.layers.Dense(1, activation="sigmoid")(hidden)': """{
        "reason": keras.layers.Dense(len(classes), activation="softmax")(hidden),
        "refund": keras.layers.Dense(1)(hidden),
        "returned": keras.layers.Dense(1, activation="sigmoid")(hidden),
    }""",
    '"binary_crossentropy"': """{
        "reason": "sparse_categorical_crossentropy", "refund": "mse", "returned": "binary_crossentropy"
    }, loss_weights={"reason": 1, "refund": 0.001, "returned": 1}""",
    'optimizer="adam"': "optimizer=keras.optimizers.Adam(0.02)",
    "def build(train, seed):": "def build(train, seed, classes):",
}


class Shop:
    """A shop that predicts three things, after two trainings and deployments in a real Airflow."""

    model = "shop_heads"

    def __init__(self, folder: Path, server: RunningServer) -> None:
        self.folder, self.server = folder, server
        self.ledger = Ledger(f"sqlite:///{folder}/ledger.db")
        self.place = ["--home", str(folder / ".mlops"), "--ledger", self.ledger.url]
        write_shop(folder, more=True)
        dag, model = folder / "dags" / "shop.py", folder / "dags" / "shop_model.py"
        text = re.sub(r"Label\(.*\)", LABEL, dag.read_text())
        text = text.replace('model="shop"', f'model="{self.model}"')
        text = text.replace('window="60d"', 'window="60d", epochs=300, batch_size=512')
        dag.write_text(re.sub(r"\n    gates=.*\n", "\n", text) + RUN)
        text = model.read_text()
        for old, new in MODEL.items():
            text = text.replace(old, new)
        model.write_text(text)
        self.environment = connections(folder, self.ledger.url) | {
            "AIRFLOW_CONN_MLFLOW_DEFAULT": json.dumps({"conn_type": "mlflow", "host": mlflow_server()}),
            "AIRFLOW_CONN_TF_SERVING_DEFAULT": server.connection(),
        }

    def live(self) -> dict[str, dict[str, str]]:
        """Train and deploy twice; return run → task → state."""
        environment = {
            **os.environ,
            **self.environment,
            "PYTHONPATH": str(ROOT),
            "AIRFLOW_HOME": str(airflow_home(self.folder / "airflow")),
            "AIRFLOW__CORE__DAGS_FOLDER": str(self.folder / "dags"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        }
        where = {"env": environment, "cwd": self.folder, "capture_output": True, "text": True, "timeout": 400}
        ran = subprocess.run([sys.executable, "dags/shop.py", "found.json"], check=False, **where)
        found = json.loads((self.folder / "found.json").read_text()) if ran.returncode == 0 else {}
        assert {state for run in found.values() for state in run.values()} == {"success"}, ran.stdout + ran.stderr
        return found

    @property
    def snapshot(self) -> Snapshot:
        [fact, *_] = self.ledger.facts("snapshot", self.model)
        return load_snapshot(self.folder / ".mlops", fact.key)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    folder = tmp_path_factory.mktemp("heads")
    with running_server(folder / "server") as server:
        yield Shop(folder, server)


def test_to_a_served_prediction_and_back(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(shop.folder)
    for name, value in shop.environment.items():
        monkeypatch.setenv(name, value)
    for command in guide_commands("history", "features"):
        assert cli.main([*command, *shop.place]) == 0, capsys.readouterr().err
    assert f"{DAYS} partitions sealed, features of {DAYS} computed" in capsys.readouterr().out
    for name in ("shop", "shop_model", "shop_features", "definitions"):
        sys.modules.pop(name, None)

    assert {*shop.live()["own"]} >= {"choose_moment", "train.judge", "deploy.set_champion", "tell"}
    snapshot = shop.snapshot
    assert snapshot.problem == "multiclass"
    state, _ = deployment(shop.ledger, "tf_serving_default", shop.model)
    assert (state.stable, state.good) == (2, (1,))
    verdict = shop.ledger.facts("verdict", shop.model)[0].payload
    assert verdict["status"] == "PASS"
    assert verdict["gates"], "those of the problem type"

    [[_, _, *values]] = guide_commands("ask")
    ask = ["ask", shop.model, *values]
    assert cli.main([*ask, *shop.place]) == 0, capsys.readouterr().err
    answer = dict(
        re.findall(r"^(\w+): (.*?)  \(version 2 of shop_\w+\)", capsys.readouterr().out, re.MULTILINE | re.DOTALL)
    )
    assert snapshot.classes == tuple(REASONS)
    assert sum(snapshot.splits["test"].labels.values()) == snapshot.splits["test"].rows
    chances = np.array(answer["probabilities"].strip("[]").split(), dtype=float)
    assert chances.sum() == pytest.approx(1, abs=1e-5)
    assert REASONS[int(chances.argmax())] in answer["class"]
    location = FeastHook().location(shop.folder / ".mlops")
    store = PartitionStore.under(location.home, shop.ledger)
    again = rebuild_snapshot(location, snapshot, store=store, source_dataset="orders", label_dataset="orders")
    assert again == snapshot
    assert {name: one.problem for name, one in snapshot.heads.items()} == {
        "refund": "regression", "returned": "binary",
    }  # fmt: skip
    train = snapshot.splits["train"]
    assert train.heads["refund"].rows == pytest.approx(0.9 * train.rows, rel=0.05)
    assert train.heads["returned"].rows == train.rows
    assert {gate["metric"] for gate in verdict["gates"]} == {"log_loss", "refund.r2", "returned.auc"}
    assert 0 < float(answer["returned_probability"]) < 1
    assert float(answer["refund_prediction"]) > 0

    assert cli.main(["rollback", shop.model, "--reason", "it is worse", *shop.place]) == 0, capsys.readouterr().err
    capsys.readouterr()
    assert cli.main([*ask, *shop.place]) == 0
    assert f"(version 1 of {shop.model})" in capsys.readouterr().out
    assert cli.main(["rejudge", shop.model, "1", *shop.place]) == 0, capsys.readouterr().err
    assert "repeats: PASS" in capsys.readouterr().out
