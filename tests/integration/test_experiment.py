"""A pipeline tried without Airflow: the guide's shop, by command and in a notebook."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from airflow_mlops import cli
from airflow_mlops.commands.history import load_pipeline
from airflow_mlops.engine.data.snapshots import load_snapshot
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.engine.registry.manifest import pack_manifest
from airflow_mlops.engine.registry.registry import Registry
from airflow_mlops.exceptions import ConfigError
from tests.shop import connections, guide_commands, write_shop
from tests.training_fixtures import mlflow_server


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    write_shop(tmp_path)
    monkeypatch.chdir(tmp_path)
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db")
    for name, value in connections(tmp_path, ledger.url).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AIRFLOW_CONN_MLFLOW_DEFAULT", json.dumps({"conn_type": "mlflow", "host": mlflow_server()}))
    yield tmp_path
    for name in ("shop", "shop_model", "shop_features", "definitions"):
        sys.modules.pop(name, None)


def test_to_metrics_and_no_further(shop: Path, capsys: pytest.CaptureFixture[str]):
    place = ["--home", str(shop / ".mlops"), "--ledger", f"sqlite:///{shop}/ledger.db"]
    [history] = guide_commands("history")
    assert cli.main([*history, *place]) == 0, capsys.readouterr().err
    capsys.readouterr()

    tried = ["experiment", "dags/shop.py:shop", "--set", "window=45d", "--set", "train.seed=3", "--set", "epochs=2"]
    assert cli.main([*tried, *place]) == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    assert "challenger      baseline" in said
    assert "\nauc " in said
    assert "gates: " in said
    run_id = said.rpartition("MLflow run ")[2].strip()
    registry = Registry(mlflow_server())
    run = registry.client.get_run(run_id)
    assert run.data.tags["mlops.experimental"] == "true"
    assert run.data.params["seed"] == "3"
    assert run.info.status == "FINISHED"
    assert 0 < run.data.metrics["auc"] < 1
    assert registry.find_alias("shop", "challenger") is None, "nothing is registered"
    assert not registry.client.search_model_versions("name = 'shop'")
    assert not (shop / ".mlops" / "trainings").exists()

    _, pipeline = load_pipeline("dags/shop.py:shop")
    again = pipeline.run(
        "train", window="45d", train={"seed": 3, "epochs": 2}, home=place[1], ledger=place[3], repo="feature_repo"
    )
    assert again.run_id is None
    assert again.spec == again.spec.model_copy(update={"experimental": True})
    assert f"as of {again.snapshot.as_of:%Y-%m-%d}" in str(again)
    assert load_snapshot(shop / ".mlops", again.snapshot.id).splits == again.snapshot.splits
    assert again.result.seconds == pytest.approx(float(run.data.metrics["training_seconds"])), "it is not trained twice"
    with pytest.raises(ConfigError, match="is an experiment, and is not registered"):
        pack_manifest(again.spec, again.result, parent_version=None, triggered_by="somebody")
    with pytest.raises(ConfigError, match="no stage 'deploy' to try"):
        pipeline.run("deploy")


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("window", "--set window says no value"),
        ("windw=1d", "Did you mean 'window'"),
        ("train.windw=1d", "Did you mean 'window'"),
    ],
)
def test_a_setting_that_is_none(shop: Path, capsys: pytest.CaptureFixture[str], said: str, words: str):
    assert cli.main(["experiment", "dags/shop.py:shop", "--set", said]) == 1
    assert words in capsys.readouterr().err
