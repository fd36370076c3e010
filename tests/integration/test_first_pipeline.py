"""The guide's first pipeline, as it is printed: from a folder of orders to a served prediction."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from airflow_mlops import cli
from airflow_mlops.commands.history import load_pipeline
from airflow_mlops.engine.data.snapshots import load_snapshot
from airflow_mlops.engine.features.governance.consumers import record_model
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.engine.serving.model_store import publish
from tests.serving_fixtures import put_into_service, rollout_of, running_server
from tests.shop import DAYS, connections, guide_commands, write_shop
from tests.training_fixtures import make_spec
from tests.warm_trainer import train


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The guide's files, and ninety days of orders."""
    write_shop(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in ("shop", "shop_model", "shop_features", "definitions"):
        sys.modules.pop(name, None)


class TaskInstance:
    """As much of a running task as the operators look at."""

    def xcom_push(self, key: str, value: object) -> None:
        """Take the link that the task pushes."""


def test_it_runs_as_it_is_printed(shop: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    home, ledger = shop / ".mlops", Ledger(f"sqlite:///{shop}/ledger.db")
    for name, value in connections(shop, ledger.url).items():
        monkeypatch.setenv(name, value)
    place = ["--home", str(home), "--ledger", ledger.url]
    commands = guide_commands("history", "features")
    assert len(commands) == 2
    for command in commands:
        assert cli.main([*command, *place]) == 0, capsys.readouterr().err
    assert f"{DAYS} partitions sealed, features of {DAYS} computed, 0 were there, 0 refused" in capsys.readouterr().out

    _, pipeline = load_pipeline("dags/shop.py:shop")
    task = pipeline.dags()["shop_train"].get_task("snapshot")
    task.as_of, task.window = "2024-03-31T00:00:00+00:00", pipeline.train.window
    task.exclude = task.without_slices = task.entities = task.weight = ""
    made = task.execute({"ti": TaskInstance()})
    snapshot = load_snapshot(home, made["id"])
    assert snapshot.features == {"price": "double", "orders_30d": "double", "return_rate": "double"}
    record_model(ledger, "shop", 1, snapshot)
    code = {"entrypoint": pipeline.train.entrypoint, "code_path": str(shop / "dags")}
    spec = make_spec(snapshot, model="shop", epochs=2, **code)
    trained = train(spec, home / "trainings" / spec.hash[:16])
    with running_server(shop / "server") as server, rollout_of(server, "shop", ledger) as rollout:
        monkeypatch.setenv("AIRFLOW_CONN_TF_SERVING_DEFAULT", server.connection())
        publish(Path(trained.saved_model), rollout.base, 1)
        put_into_service(rollout, 1)
        assert cli.main(["ask", "shop", *place]) == 0
        wants = capsys.readouterr().out
        assert "keys:      customer (string)" in wants
        assert "as it is:  price (float32)" in wants
        [ask] = guide_commands("ask")
        assert cli.main([*ask, *place]) == 0, capsys.readouterr().err
        said = capsys.readouterr().out
    assert re.search(r"^probability: 0\.\d+  \(version 1 of shop\)", said, re.MULTILINE)
    assert '"return_rate": NaN' not in said, "the customer is known online"
