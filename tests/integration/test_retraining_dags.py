"""`<model>.retrain` and the first step of `<model>.train` in real DAG runs: one request, one run, its reasons."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.engine.retraining.requests import Request, requests
from tests.airflow_home import airflow_home
from tests.conftest import ROOT
from tests.retraining_fixtures import ROWS, TRAINED, trained_world

DAG = """
import json, sys
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from airflow.sdk import Asset
from airflow_mlops import FeatureService, Label, ModelPipeline, Partitions, Retrain, Trainer

def feed(name):
    return Partitions(f"lake/{name}", event_time="at", suite="suites:all", start=date(2026, 1, 5))

pipeline = ModelPipeline(
    model="m",
    source=feed("orders"),
    entity="id",
    label=Label("late", source=feed("outcomes"), matures_after="1d"),
    features=FeatureService("m_v1", transform="code:compute", suite="suites:snapshot"),
    train=Trainer("code:build", window="20d", validation="2d", test="2d", params={"hidden": 64}),
    retrain=Retrain(new_rows=300, drift_psi=0.2, on_assets=["bell"], cooldown="1d", max_age="3d"),
)
globals().update(pipeline.dags())

if __name__ == "__main__":
    from airflow.dag_processing.bundles.manager import DagBundlesManager
    from airflow.dag_processing.dagbag import DagBag, sync_bag_to_db
    from airflow.models.asset import AssetActive, AssetEvent, AssetModel
    from airflow.models.dagrun import DagRun
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session
    from sqlalchemy import select

    DagBundlesManager().sync_bundles_to_db()
    bag = DagBag(__file__)
    assert not bag.import_errors, bag.import_errors
    sync_bag_to_db(bag, "dags-folder", None)
    others = "snapshot|validate|train|evaluate|register|judge"
    found = {}

    def run(name, dag, **conf):
        marked = {"mark_success_pattern": others} if dag == "train" else {}
        made = DagBag(__file__).dags[f"m.{dag}"].test(run_conf=conf, **marked)
        with create_session() as session:
            rows = session.scalars(select(XComModel).where(XComModel.run_id == made.run_id)).all()
            xcoms = {row.task_id + "." + row.key: row.value for row in rows if row.task_id in ("decide", "admit")}
        states = {ti.task_id: str(ti.state) for ti in made.get_task_instances()}
        found[name] = {"state": str(made.state), "tasks": states, "xcoms": xcoms}

    def notes():
        # What the scheduler says of a run that it starts, and of those that have ended here.
        from airflow.models.serialized_dag import SerializedDagModel
        from airflow.utils.types import DagRunTriggeredByType, DagRunType

        told = {}
        with create_session() as session:
            dag = SerializedDagModel.get("m.train", session=session).dag
            for one in session.scalars(select(DagRun).where(DagRun.run_id.like("manual__%"))):
                if one.dag_id == "m.train":
                    one.dag = dag
                    one.notify_dagrun_state_changed(msg="success")
                    told[one.run_id] = one.note
            made = {"scheduled": {}, "backfill": {"backfill_id": None}, "manual": {"conf": {"reason": "labels came"}}}
            for number, (kind, more) in enumerate(made.items()):
                at = datetime(2026, 2, 1 + number, tzinfo=UTC)
                one = dag.create_dagrun(
                    run_id=f"a_{kind}_run", run_type=DagRunType(kind), logical_date=at, run_after=at,
                    data_interval=(at, at), triggered_by=DagRunTriggeredByType.TEST, state="running",
                    triggering_user_name="ann" if kind == "manual" else None, session=session, **more,
                )
                one.dag = dag
                one.notify_dagrun_state_changed(msg="started")
                told[kind] = one.note
                one.note = told[kind] if kind == "scheduled" else "mine"
                one.set_state("success")
                one.notify_dagrun_state_changed(msg="success")
                told[kind + " after"] = one.note
        return told

    run("first", "retrain")
    with create_session() as session:
        started = session.scalars(select(DagRun).where(DagRun.dag_id == "m.train")).all()
        found["started"] = [[one.run_id, one.conf, one.note] for one in started]
    run("again", "retrain")
    run("train", "train", request=1)
    run("done", "retrain")
    run("priced", "train", only_say=True, window="10d")
    run("short", "train", only_say=True, window="4d")
    run("unreasoned", "train", window="10d")
    with create_session() as session:
        bell = session.merge(AssetModel(name="bell", uri="bell", group="asset"))
        session.flush()
        session.add(AssetActive.for_asset(bell))
        for second in range(12):
            at = datetime.now(UTC) + timedelta(seconds=second)
            session.add(AssetEvent(asset_id=bell.id, extra={}, timestamp=at))
    run("storm", "retrain")
    asked = {"exclude": "2026-01-20", "slices": "carrier=AA", "weight": "km", "model_params": {"hidden": 8}}
    run("special", "train", window="10d", reason="a bad day", **asked)
    run("mistyped", "train", only_say=True, exclude="2025-01-20")
    run("brought", "train", only_say=True, data="lake/orders/2026-01-20")
    run("both", "train", reason="why", data="lake/orders/2026-01-20", window="10d")
    run("query", "train", reason="why", data="SELECT * FROM 'lake/*.parquet'")
    found["notes"] = notes()
    Path(sys.argv[1]).write_text(json.dumps(found, default=str))
"""


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    home = tmp_path_factory.mktemp("home")
    world = trained_world(home)
    world.seal_days(TRAINED + 1, TRAINED + 4)
    return world.ledger


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, ledger: Ledger) -> dict:
    folder = tmp_path_factory.mktemp("dags")
    (folder / "m.py").write_text(textwrap.dedent(DAG))
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "AIRFLOW_HOME": str(airflow_home(folder / "airflow")),
        "AIRFLOW__CORE__DAGS_FOLDER": str(folder),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__MLOPS__HOME": str(Path(ledger.url.removeprefix("sqlite:///")).parent),
        "AIRFLOW_CONN_MLOPS_LEDGER_DEFAULT": json.dumps({"conn_type": "mlops_ledger", "host": ledger.url}),
    }
    command = [sys.executable, folder / "m.py", folder / "found.json"]
    done = subprocess.run(
        command, env=environment, cwd=folder, capture_output=True, text=True, timeout=400, check=False
    )
    assert (folder / "found.json").exists(), done.stdout[-6000:] + done.stderr[-6000:]
    return json.loads((folder / "found.json").read_text())


def by_id(ledger: Ledger) -> dict[int, Request]:
    return {one.id: one for one in requests(ledger, "m")}


def test_new_rows_start_a_training_whose_note_says_so(runs, ledger):
    assert runs["first"]["tasks"]["decide"] == "success"
    assert runs["first"]["tasks"]["start"] == "success"
    [[run_id, conf, note]] = runs["started"]
    assert (run_id, conf) == ("retrain__1", {"request": 1})
    assert note.startswith(f"new_rows: {3 * ROWS} new rows since 2026-01-25")


def test_a_bell_that_rings_twice_starts_nothing_more(runs):
    assert runs["again"]["tasks"]["decide"] == "skipped"
    assert runs["again"]["tasks"]["start"] == "skipped"
    assert "has a run already, retrain__1: queued" in runs["again"]["xcoms"]["decide.held"]


def test_the_run_answers_its_request(runs, ledger):
    assert runs["train"]["tasks"]["admit"] == "success"
    assert by_id(ledger)[1].state == "done"
    assert by_id(ledger)[1].run.startswith("m.train ")
    assert "cooling down" in runs["done"]["xcoms"]["decide.held"]


def test_a_dry_run_says_what_it_would_take_and_asks_for_nothing(runs, ledger):
    assert runs["priced"]["tasks"]["admit"] == "skipped"
    assert runs["priced"]["tasks"]["judge"] == "skipped"
    words = runs["priced"]["xcoms"]["admit.held"]
    assert words.startswith("Dry run: it would train on 2,000 rows of 10 partitions, from 2026-01-")
    assert "about 0:00:57 of training, cost about 0.24" in words
    assert runs["mistyped"]["tasks"]["admit"] == "failed", "of another year: it leaves nothing out"


def test_a_dry_run_refuses_a_window_that_is_held_out_whole(runs):
    assert runs["short"]["tasks"]["admit"] == "failed", "validation and test take four days"
    assert "admit.held" not in runs["short"]["xcoms"]


def test_what_is_other_than_usual_needs_a_reason_and_is_written_down(runs, ledger):
    assert runs["unreasoned"]["tasks"]["admit"] == "failed"
    assert runs["special"]["tasks"]["admit"] == "success"
    special = {
        "window": "10d", "exclude": "2026-01-20", "slices": "carrier=AA", "weight": "km", "model_params": {"hidden": 8},
    }  # fmt: skip
    told = runs["special"]["xcoms"]
    assert json.loads(json.dumps(told["admit.without_slices"])) in ({"carrier": ["AA"]}, '{"carrier": ["AA"]}')
    assert (told["admit.weight"].strip('"'), told["admit.data"].strip('"')) == ("km", "")
    assert json.loads(json.dumps(told["admit.special"])) in (special, json.dumps(special))
    [request] = [one for one in requests(ledger, "m") if one.reason == "emergency"]
    assert (request.special, request.detail) == (special, "a bad day")
    assert request.state in ("started", "done")


def test_rows_that_are_brought_along_are_counted_and_ask_for_nothing_else(runs):
    assert runs["brought"]["xcoms"]["admit.held"].strip('"') == (
        f"Dry run: it would train on {ROWS} rows of lake/orders/2026-01-20. Nothing was trained."
    )
    assert runs["both"]["tasks"]["admit"] == "failed"
    assert runs["query"]["tasks"]["admit"] == "failed"


def test_twelve_events_in_a_minute_wait_together(runs, ledger):
    assert "cooling down" in runs["storm"]["xcoms"]["decide.held"]
    events = [one for one in requests(ledger, "m") if one.reason == "asset"]
    assert len(events) == 12
    assert {one.state for one in events} == {"waiting"}, "a special training answers none of them"


def test_every_run_that_trains_notes_why(runs):
    notes = runs["notes"]
    assert notes["scheduled"] == notes["scheduled after"] == "cron: the schedule, due 2026-02-01T00:00:00+00:00"
    assert notes["backfill"] == "backfill: Airflow's backfill None, for 2026-02-02T00:00:00+00:00"
    assert notes["manual"] == "hand by ann: labels came"
    assert notes["manual after"] == "mine", "what a person wrote stays"
    ended = [note for name, note in notes.items() if name.startswith("manual__")]
    assert None not in ended, notes
    assert any(note.startswith("emergency: a bad day") for note in ended)
    assert any(note.startswith("Dry run: ") for note in ended)
    assert any(note.startswith(f"new_rows: {3 * ROWS} new rows") for note in ended)


def test_what_serves_is_too_old_whoever_should_have_trained(runs):
    assert runs["first"]["tasks"]["check_served_age"] == "failed", "nobody is notified, so the grid must say it"
    assert runs["first"]["tasks"]["start"] == "success"
