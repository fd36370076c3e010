"""The guide's first pipeline, as it is printed: from a folder of orders to a served prediction."""

from __future__ import annotations

import csv
import json
import random
import re
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from airflow_mlops import cli
from airflow_mlops.commands.history import load_pipeline
from airflow_mlops.engine.data.snapshots import load_snapshot
from airflow_mlops.engine.features.governance.consumers import record_model
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.engine.serving.model_store import publish
from tests.serving_fixtures import put_into_service, rollout_of, running_server
from tests.training_fixtures import make_spec
from tests.warm_trainer import train

GUIDE = Path(__file__).parent.parent.parent / "docs" / "first-pipeline.md"
FILES = {
    "dags/shop.py": "shop = ModelPipeline(",
    "dags/shop_model.py": "def build(train, seed)",
    "feature_repo/feature_store.yaml": "project: shop",
    "feature_repo/definitions.py": "shop_v1 = FeatureService(",
    "feature_repo/shop_features.py": "def compute(day, data)",
}
FIRST = datetime(2024, 1, 1, tzinfo=UTC)
DAYS = 90


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The guide's files, and ninety days of orders: some customers send much back, and dear things come back often."""
    blocks = re.findall(r"^```(?:python|yaml)\n(.*?)^```$", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
    for name, has in FILES.items():
        [body] = [block for block in blocks if has in block]
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(body)
    rng = random.Random(3)
    fussy = {f"c{n}": rng.random() for n in range(40)}
    for n in range(DAYS):
        day = FIRST + timedelta(days=n)
        folder = tmp_path / "lake" / "orders" / f"dt={day.date()}"
        folder.mkdir(parents=True)
        with (folder / "orders.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["order_id", "customer", "ordered_at", "price", "returned", "decided_at"])
            for i in range(40):
                customer, price = rng.choice(sorted(fussy)), round(rng.uniform(5, 200), 2)
                at = day + timedelta(minutes=30 * i)
                returned = rng.random() < 0.7 * fussy[customer] + price / 800
                decided = at + timedelta(days=rng.uniform(1, 6))
                rows.writerow([f"{n}-{i}", customer, at.isoformat(), price, returned, decided.isoformat()])
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
    monkeypatch.setenv("AIRFLOW__MLOPS__HOME", str(home))
    monkeypatch.setenv("AIRFLOW_CONN_FEAST_DEFAULT", json.dumps({"conn_type": "feast", "host": f"{shop}/feature_repo"}))
    connection = {"conn_type": "mlops_ledger", "host": ledger.url}
    monkeypatch.setenv("AIRFLOW_CONN_MLOPS_LEDGER_DEFAULT", json.dumps(connection))
    place = ["--home", str(home), "--ledger", ledger.url]
    commands = re.findall(r"^\$ airflow-mlops (?:history|features) .*$", GUIDE.read_text(), re.MULTILINE)
    assert len(commands) == 2
    for command in commands:
        assert cli.main([*command.split()[2:], *place]) == 0, capsys.readouterr().err
    assert f"{DAYS} partitions sealed, features of {DAYS} computed, 0 were there, 0 refused" in capsys.readouterr().out

    _, pipeline = load_pipeline("dags/shop.py:shop")
    task = pipeline.dags()["shop_train"].get_task("snapshot")
    task.as_of = "2024-03-31T00:00:00+00:00"
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
        [ask] = [line for line in GUIDE.read_text().splitlines() if line.startswith("$ airflow-mlops ask ")]
        assert cli.main([*ask.split()[2:], *place]) == 0, capsys.readouterr().err
        said = capsys.readouterr().out
    assert re.search(r"^probability: 0\.\d+  \(version 1 of shop\)", said, re.MULTILINE)
    assert '"return_rate": NaN' not in said, "the customer is known online"
