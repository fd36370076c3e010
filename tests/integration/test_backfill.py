"""A backfill from the plan to what came of it: by hand, by the command, and by the generated DAG."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from airflow_mlops import cli
from airflow_mlops.engine.backfill.run import begin, execute, probe
from airflow_mlops.engine.backfill.shares import in_shares
from airflow_mlops.engine.backfill.verify import verify
from airflow_mlops.engine.data.files import sha256
from airflow_mlops.engine.retraining.requests import requests
from tests import rides
from tests.airflow_home import airflow_home
from tests.backfill_fixtures import DAYS, LAST, SUITE, copied, land_other, landed, plan_of, site_of
from tests.conftest import ROOT
from tests.rides import EVENT_TIMES, FIRST, MODEL, SERVICE, Rides, key_of

__all__ = ["landed"]
DAG = f'''
from datetime import date
from airflow_mlops import FeatureService, Gate, Label, ModelPipeline, Partitions, Trainer

def feed(name, event_time):
    return Partitions(
        f"lake/{{name}}", event_time=event_time, suite="backfill_suite:suite", start=date({FIRST:%Y, %-m, %-d}),
        end=date({LAST:%Y, %-m, %-d}), arrived="still",
    )

ride_delay = ModelPipeline(
    model="{MODEL}",
    source=feed("rides", "{EVENT_TIMES["rides"]}"),
    entity="ride_id",
    label=Label("late", source=feed("ends", "{EVENT_TIMES["ends"]}"), matures_after="1d"),
    features=FeatureService("{SERVICE}", transform="{rides.TRANSFORM}", suite="backfill_suite:suite", history="2d"),
    train=Trainer("backfill_suite:build", window="60d", validation="1d", test="1d"),
    gates=[Gate("auc", min=0.5)],
)

if __name__ == "__main__":
    import json, sys
    from pathlib import Path
    dag = ride_delay.dags()["{MODEL}_backfill"]
    dag.fileloc = __file__  # as Airflow sets it when it reads the file
    found = []
    for conf in ({{"partitions": 9}}, {{}}):
        run = dag.test(run_conf=conf)
        states = {{}}
        for task in run.get_task_instances():
            states.setdefault(task.task_id, []).append(str(task.state))
        found.append(states)
    Path(sys.argv[1]).write_text(json.dumps(found))
else:
    globals().update(ride_delay.dags())
'''


def contents(world: Rides) -> dict[str, str]:
    files = sorted((world.home / "features").glob("*/*.parquet"))
    found = {str(file.relative_to(world.home)): sha256(file) for file in files}
    return found | {
        f"{name} {one.key}": one.revision for name in EVENT_TIMES for one in world.store.list(name, None, None)
    }


def test_late_data_repairs_what_read_it_and_nothing_else(landed, tmp_path):
    world = copied(landed, tmp_path / "world")
    site = site_of(world)
    plan = plan_of(site, order="newest")
    begin(site, plan)
    probe(site, plan)
    for steps in in_shares(plan, 4):
        execute(site, plan, steps)
    found = verify(site, plan)
    assert found.as_planned, found.lines()
    assert (len(found.changed), len(found.computed)) == (2 * DAYS, DAYS)
    by_day = Rides.make(tmp_path / "by_day", DAYS)
    assert contents(world) == contents(by_day), "newest first makes the same bytes as day by day"
    world.snapshot(DAYS)

    written = {file: file.stat().st_mtime_ns for file in (world.home / "features").glob("*/*.parquet")}
    land_other(world, "ends", 2)
    repair = plan_of(site, 2, 2)
    assert [step.name for step in repair.work] == [f"ends {key_of(2)}", *(f"features {key_of(n)}" for n in (2, 3, 4))]
    assert "price in all" in "\n".join(repair.lines())
    assert repair.minutes is not None, "by what the first took"
    [seen] = repair.seen
    assert (seen.model, seen.partitions) == (MODEL, (f"ends {key_of(2)}",))
    begin(site, repair)
    execute(site, repair, repair.work)
    found = verify(site, repair, retrain=True)
    assert found.as_planned, found.lines()
    [request] = requests(site.ledger, MODEL)
    assert (request.reason, request.state, request.asked_by) == ("backfill", "waiting", "ann")
    assert f"request {request.id}: see airflow-mlops why {MODEL}" in found.retrain[0]
    verify(site, repair, retrain=True)
    assert [one.id for one in requests(site.ledger, MODEL)] == [request.id], "once"
    assert found.computed == [key_of(n) for n in (2, 3, 4)]
    now = {file: file.stat().st_mtime_ns for file in (world.home / "features").glob("*/*.parquet")}
    assert {file.stem for file in now if now[file] != written[file]} == {key_of(n) for n in (2, 3, 4)}
    assert {taint.payload["key"] for taint in site.ledger.facts("taint", MODEL)} == {key_of(2)}
    old = world.store.revisions("ends", key_of(2))
    assert len(old) == 2, "the revision before is kept"


@pytest.fixture
def world(landed, tmp_path, monkeypatch):
    world = copied(landed, tmp_path)
    (world.dags / "ride_pipeline.py").write_text(DAG)
    (world.dags / "backfill_suite.py").write_text(SUITE)
    monkeypatch.chdir(tmp_path)
    return world


def test_the_command(world, capsys):
    sys.modules.pop("ride_pipeline", None)
    place = ["--home", str(world.home), "--ledger", world.ledger.url]
    repo = ["--repo", str(world.repo)]
    spec = f"{world.dags}/ride_pipeline.py:ride_delay"
    assert cli.main(["backfill", "status", *place]) == 1, "there is no ledger yet"
    assert cli.main(["backfill", "plan", spec, "--to", str(LAST), "--list", *place, *repo]) == 0
    said = capsys.readouterr().out
    assert f"rides {key_of(0)}  missing  -" in said
    [name] = [line.split()[-1] for line in said.splitlines() if line.startswith("To execute it:")]
    assert cli.main(["backfill", "cancel", name, *place]) == 1
    assert "is not running" in capsys.readouterr().err
    assert cli.main(["backfill", "run", spec, name, "--approve", "x", *place, *repo]) == 1
    assert "the answer is about another plan" in capsys.readouterr().err
    assert cli.main(["backfill", "run", spec, name, "--workers", "1", *place, *repo]) == 0
    assert f"{2 * DAYS} partitions sealed as planned" in capsys.readouterr().out
    assert cli.main(["backfill", "status", *place]) == 0
    assert f"ended, {3 * DAYS} of {3 * DAYS} done\n" in capsys.readouterr().out
    world.ledger.record("backfill_verified", name, {"as_planned": False, "lines": []})
    assert cli.main(["backfill", "status", *place]) == 0
    assert "done, not all is as planned\n" in capsys.readouterr().out
    assert cli.main(["backfill", "status", name, *place]) == 0
    assert "all 18 are done" in capsys.readouterr().out
    assert cli.main(["backfill", "plan", spec, "--to", str(LAST), *place, *repo]) == 0
    assert "Nothing is to be done." in capsys.readouterr().out


def test_the_generated_dag(world, tmp_path):
    feast = {"conn_type": "feast", "host": str(world.repo)}
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "AIRFLOW_HOME": str(airflow_home(tmp_path / "airflow")),
        "AIRFLOW__CORE__DAGS_FOLDER": str(world.dags),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__MLOPS__HOME": str(world.home),
        "AIRFLOW_CONN_FEAST_DEFAULT": json.dumps(feast),
        "AIRFLOW_CONN_MLOPS_LEDGER_DEFAULT": json.dumps({"conn_type": "mlops_ledger", "host": world.ledger.url}),
    }
    command = [sys.executable, "dags/ride_pipeline.py", "found.json"]
    ran = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=400, check=False
    )
    assert (tmp_path / "found.json").exists(), ran.stdout[-4000:] + ran.stderr[-4000:]
    first, again = json.loads((tmp_path / "found.json").read_text())
    assert first == {
        **{name: ["success"] for name in ("plan", "price", "begin", "probe", "seal_rest", "compute_rest", "verify")},
        "approve": ["skipped"],
        "seal": ["success"] * 2,
        "compute": ["success"] * 2,
    }, ran.stdout[-4000:] + ran.stderr[-4000:]
    assert again["verify"] == ["success"], "there is nothing to do, and it says so"
    assert world.store.keys("rides") == [key_of(n) for n in range(DAYS)]
    assert len(list((world.home / "features").glob("*/*.parquet"))) == 2 * DAYS
