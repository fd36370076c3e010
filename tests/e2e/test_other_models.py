"""Under the main job's Airflow: seven classes by a script, an amount, what was made elsewhere, functions, partitions.

Most of it is started at once, so that what one waits for is worked on beside the others; then each is looked at.
"""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

import numpy as np
import pytest

from airflow_mlops import cli
from airflow_mlops.bootstrap.watch import Watcher
from airflow_mlops.contracts import Snapshot
from airflow_mlops.engine.data.partitions import PartitionStore
from airflow_mlops.engine.data.snapshots import load_snapshot
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.engine.serving.client import ServingClient
from airflow_mlops.engine.serving.deployments import deployment
from airflow_mlops.engine.serving.golden import Golden
from airflow_mlops.stack.ports import HOST
from airflow_mlops.stack.stack import Stack
from tests.conftest import ROOT
from tests.e2e.shops import LAST, ORDERS, SHOPS, write_elsewhere, write_functions, write_shops
from tests.shop import REASONS, guide_commands

pytestmark = pytest.mark.e2e

AMOUNT, CLASSES = SHOPS
DAGS = ("history", "features", "train", "deploy", "rollback")
BEFORE = "2024-01-25"
FIRST_TIME, SECOND_TIME = ({"as_of": f"2024-01-{day}T00:00:00Z"} for day in (26, 27))


class Live:
    """What a person does with a stack that runs."""

    def __init__(self, stack: Stack, watcher: Watcher) -> None:
        self.stack, self.watcher, self.airflow = stack, watcher, watcher.airflow
        self.home = stack.layout.home
        self.ledger = Ledger(stack.database.url("mlops_ledger"))
        self.runs: dict[str, str] = {}
        self.answers: dict[str, dict[str, str]] = {}

    def start(self, dag_id: str, conf: dict[str, Any] | None = None, key: str | None = None) -> None:
        self.runs[dag_id] = self.airflow.trigger(dag_id, conf, key)["dag_run_id"]

    def finish(self, dag_id: str) -> None:
        self.watcher.finish(dag_id, self.runs[dag_id])

    def woken(self, dag_id: str, times: int = 1, key: str | None = None) -> str:
        """Wait for the end of the run that an asset started, and return its id."""

        def woken() -> list[dict[str, Any]]:
            return [run for run in self.airflow.runs(dag_id) if run["partition_key"] == key]

        self.watcher.until(lambda: len(woken()) == times)
        run = woken()[0]
        assert run["run_type"] == "asset_triggered"
        self.watcher.finish(dag_id, run["dag_run_id"])
        return str(run["dag_run_id"])

    def snapshot(self, shop: str) -> Snapshot:
        """Return what its last training was on, which is of the problem type that the label says."""
        told = self.airflow.xcom(f"{shop}.train", self.runs[f"{shop}.train"], "snapshot")
        snapshot = load_snapshot(self.home, told["id"])
        assert snapshot.problem == shop.removeprefix("shop_")
        return snapshot

    def served_first(self, shop: str) -> None:
        """Wait until its first version serves, which was judged by the gates of its problem type, and ask it."""
        self.finish(f"{shop}.train")
        self.woken(f"{shop}.deploy")
        assert self.serves(shop) == (1, ())
        verdict = self.ledger.facts("verdict", shop)[0].payload
        assert verdict["status"] == "PASS"
        assert verdict["gates"]
        self.answers[shop] = self.answer(shop, 1)

    def command(self, *arguments: str) -> str:
        place = ["--home", str(self.home)]
        if arguments[0] == "ask":
            place += ["--repo", str(self.stack.dags.parent / f"repo_{arguments[1]}")]
        before = dict(os.environ)
        with redirect_stdout(io.StringIO()) as said, redirect_stderr(said):
            status = cli.main([*arguments, *place])
        os.environ.clear()
        os.environ.update(before)
        assert status == 0, said.getvalue()
        return said.getvalue()

    def answer(self, model: str, version: int) -> dict[str, str]:
        """Ask as the guide does, and return output → answer of the version that must serve."""
        [[_, _, *values]] = guide_commands("ask")
        said = self.command("ask", model, *values)
        assert '"return_rate": NaN' not in said, "the customer is known online"
        return dict(re.findall(rf"^(\w+): (.*?)  \(version {version} of {model}\)", said, re.MULTILINE | re.DOTALL))

    def serves(self, model: str) -> tuple[int | None, tuple[int, ...]]:
        state, _ = deployment(self.ledger, "tf_serving_default", model)
        return state.stable, tuple(state.good)


@pytest.fixture(scope="module")
def live(stack: Stack, watcher: Watcher, tmp_path_factory: pytest.TempPathFactory) -> Live:
    """First versions of all kinds serve, and the last day is predicted. The stack is the main job's, if it ran."""
    write_shops(stack.dags.parent)
    write_elsewhere(stack.dags)
    write_functions(stack.dags)
    stack.up()
    live, made = Live(stack, watcher), tmp_path_factory.mktemp("colleague")
    script = [sys.executable, str(ROOT / "tests" / "colleague.py"), stack.mlflow_url, str(made)]
    with subprocess.Popen(script, cwd=made, env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}) as colleague:
        dags = [f"{CLASSES}.{dag}" for dag in (*DAGS, "batch_predict")]
        watcher.ready([*dags, "functions", "buy", "serve_bought", "serve_colleague"])
        live.start(f"{CLASSES}.history", {"last": "2024-01-24"})
        live.start("functions")
        live.finish(f"{CLASSES}.history")
        live.start(f"{CLASSES}.features", key=BEFORE)
        assert colleague.wait(300) == 0
    live.start("buy", {"source": str(made / "several")})
    live.start("serve_colleague", {"version": 1})
    live.finish(f"{CLASSES}.features")
    live.start(f"{CLASSES}.train", FIRST_TIME)
    live.finish("buy")
    live.start("serve_bought", {"version": 1})
    live.finish("serve_colleague")
    live.start("serve_colleague", {"version": 2})
    live.served_first(CLASSES)
    live.start(f"{CLASSES}.features", key=LAST)
    for dag_id in ("serve_bought", "serve_colleague", f"{CLASSES}.features"):
        live.finish(dag_id)
    live.woken(f"{CLASSES}.batch_predict", key=LAST)
    return live


def test_seven_classes_by_a_script(live: Live) -> None:
    assert live.snapshot(CLASSES).classes == tuple(REASONS)
    test = live.snapshot(CLASSES).splits["test"]
    assert sum(test.labels.values()) == test.rows
    chances = np.array(live.answers[CLASSES]["probabilities"].strip("[]").split(), dtype=float)
    assert chances.sum() == pytest.approx(1, abs=1e-5)
    assert REASONS[int(chances.argmax())] == "colour", "of an order of 40"
    comes_and_goes_back(live, CLASSES)


@pytest.mark.slow
def test_an_amount(live: Live) -> None:
    live.watcher.ready([f"{AMOUNT}.{dag}" for dag in DAGS])
    live.start(f"{AMOUNT}.history", {"last": BEFORE})
    live.finish(f"{AMOUNT}.history")
    live.start(f"{AMOUNT}.features", key=LAST)
    live.finish(f"{AMOUNT}.features")
    live.start(f"{AMOUNT}.train", FIRST_TIME)
    live.served_first(AMOUNT)
    assert live.snapshot(AMOUNT).weight == "weight"
    assert set(live.snapshot(AMOUNT).splits["train"].labels) == {"mean", "std", "min", "max"}
    assert float(live.answers[AMOUNT]["prediction"]) != 0
    comes_and_goes_back(live, AMOUNT)


def comes_and_goes_back(live: Live, shop: str) -> None:
    """A second version of a pipeline serves, and its runbook has the first serve again."""
    live.start(f"{shop}.train", SECOND_TIME)
    live.finish(f"{shop}.train")
    live.woken(f"{shop}.deploy", 2)
    assert live.serves(shop) == (2, (1,))
    assert live.answer(shop, 2) != live.answers[shop]
    live.start(f"{shop}.rollback", {"reason": "it is worse"})
    live.finish(f"{shop}.rollback")
    assert live.serves(shop)[0] == 1
    assert live.answer(shop, 1) == live.answers[shop]
    assert "repeats: PASS" in live.command("rejudge", shop, "1")


def test_a_partition_is_predicted_when_its_features_are_done(live: Live) -> None:
    """The scheduler starts it by the asset, for that partition; until something serves it is skipped."""
    [early] = [run for run in live.airflow.runs(f"{CLASSES}.batch_predict") if run["partition_key"] == BEFORE]
    [predict] = live.airflow.tasks(f"{CLASSES}.batch_predict", early["dag_run_id"])
    assert predict["state"] == "skipped"
    store, dataset = PartitionStore.under(live.home, live.ledger), f"{CLASSES}.predictions"
    assert store.keys(dataset) == [LAST]
    table = store.read([store.get(dataset, LAST)])
    assert table.num_rows == ORDERS
    assert {"order_id", "customer", "ordered_at", "probabilities"} <= set(table.column_names)
    assert set(table["version"].to_pylist()) == {"1"}


def test_what_was_made_elsewhere_serves_and_goes_back(live: Live) -> None:
    """A SavedModel that was bought; and of a colleague's two versions the first again, as MLflow's example says."""
    assert live.serves("bought") == (1, ())
    assert live.serves("colleague") == (2, (1,))
    live.command("rollback", "colleague", "--reason", "it is worse")
    golden = Golden.read(live.stack.layout.models / "colleague" / "1")
    inputs = {name: np.asarray(values, dtype=np.float32) for name, values in golden.inputs.items()}
    [output] = golden.outputs
    with ServingClient(HOST, live.stack.ports.serving_grpc) as client:
        assert client.metadata("bought", label="stable")[0] == 1
        assert client.metadata("colleague", label="stable")[0] == 1
        assert client.predict("colleague", inputs, label="stable")[output].tolist() == golden.outputs[output]


def test_a_function_runs_in_a_process_of_its_own(live: Live) -> None:
    """Its XComs, its log, what is skipped and what no retry can cure."""
    airflow, run = live.airflow, live.runs["functions"]
    assert airflow.run("functions", run)["state"] == "failed"
    found, layers, parts = airflow.xcom("functions", run, "keep")
    assert found == {"total": 30.0, "layers": [3], "run_id": run, "n": 4, "name": "functions"}
    assert layers == [3]
    assert parts == [10.0, 20.0]
    states: dict[str, list[tuple[str, int]]] = {}
    for task in airflow.tasks("functions", run):
        states.setdefault(task["task_id"], []).append((task["state"], task["try_number"]))
    assert states.pop("misplaced") == [("failed", 1)], "what no retry can cure is not tried again"
    assert states.pop("skipped") == [("skipped", 1)]
    assert {state for tries in states.values() for state, _ in tries} == {"success"}
    said = "\n".join(airflow.log("functions", run, "misplaced", 1))
    assert "/nowhere/4/python: No such file" in said
    assert "summing" in "\n".join(airflow.log("functions", run, "train", 1))
