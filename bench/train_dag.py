"""The whole train DAG under a real Airflow against the same engine calls in one plain Python script.

Starts a stack of its own on free ports, lands five months of flights, runs ``flight_delay.train`` once, and then the
same calls, on the same data, into a fresh folder and with another seed, in one process. Prints the seconds of each
task, of each call, what Airflow adds between tasks, and the ratio of the two.

Run: python bench/train_dag.py            (about five minutes on two cores)

Its small setting is part of the end-to-end test, which has a stack already: ``against_one_script``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from _figures import Figures
from _flights import DAGS, REPO

if TYPE_CHECKING:
    from airflow_mlops.stack.airflow_api import AirflowApi
    from airflow_mlops.stack.stack import Stack

TRAIN = "flight_delay.train"
AS_OF = datetime(2013, 6, 1, tzinfo=UTC)
STEPS = ("snapshot", "validate", "train", "evaluate", "register", "judge")


def plain(home: Path, dags: Path, repo: Path, *, mlflow_url: str, ledger_url: str, as_of: datetime) -> dict[str, float]:
    """Do what the DAG's tasks do; return the seconds of each step, imports counted where they happen."""
    began = time.perf_counter()
    seconds: dict[str, float] = {}

    def done(step: str) -> None:
        nonlocal began
        seconds[step], began = time.perf_counter() - began, time.perf_counter()

    from airflow_mlops.contracts import TrainingSpec
    from airflow_mlops.durations import parse_duration
    from airflow_mlops.engine.data.partitions import PartitionStore
    from airflow_mlops.engine.data.validation import enforce, validate
    from airflow_mlops.engine.entrypoints import load_object
    from airflow_mlops.engine.evaluation.approvals import record_verdict
    from airflow_mlops.engine.evaluation.evaluate import evaluate
    from airflow_mlops.engine.evaluation.gates import judge
    from airflow_mlops.engine.features.project.location import Location
    from airflow_mlops.engine.features.training.training_data import build_training_snapshot
    from airflow_mlops.engine.ledger import Ledger
    from airflow_mlops.engine.registry.manifest import pack_manifest
    from airflow_mlops.engine.registry.registry import Registry
    from airflow_mlops.engine.training.environment import environment
    from airflow_mlops.engine.training.launch import train
    from airflow_mlops.engine.training.source import source_hash

    code_path = str(dags)
    pipeline = load_object("flight_delay:flight_delay", code_path)
    source, label, features, trainer = pipeline.source, pipeline.label, pipeline.features, pipeline.train
    model = pipeline.model
    snapshot = build_training_snapshot(
        Location(repo, home),
        store=PartitionStore.under(home),
        ledger=Ledger(ledger_url),
        model=model,
        source_dataset=source.dataset,
        entity=pipeline.entity,
        event_time=source.event_time,
        keys=list(features.keys),
        service=features.name,
        label_dataset=label.source.dataset,
        label=label.column,
        matures_after=parse_duration(label.matures_after),
        window=parse_duration(trainer.window),
        validation=parse_duration(trainer.validation),
        test=parse_duration(trainer.test),
        as_of=as_of,
        start=source.start,
    )
    done("snapshot")
    files = sorted(Path(snapshot.uri).glob("*.parquet"))
    suite = load_object(features.suite, code_path)()
    enforce(validate(files, suite, suite_name=features.suite, batch=snapshot.id))
    done("validate")
    spec = TrainingSpec(
        model=model,
        entrypoint=trainer.entrypoint,
        code_path=code_path,
        code_hash=source_hash(trainer.entrypoint, code_path),
        snapshot=snapshot,
        seed=trainer.seed + 1,  # else it would be the training that Airflow ran, and registered already
        epochs=trainer.epochs,
        batch_size=trainer.batch_size,
        environment=environment(),
    )
    result = train(spec, home / "trainings" / "plain", timeout=3600)
    done("train")
    slices = sorted({gate.by.column for gate in pipeline.gates if gate.by})
    evaluation = evaluate(snapshot, Path(result.saved_model), None, None, slices=slices)
    done("evaluate")
    registry = Registry(mlflow_url)
    manifest = pack_manifest(spec, result, parent_version=None, triggered_by="bench")
    registered = registry.register(registry.open_run(spec), result, manifest, evaluation)
    done("register")
    verdict = judge(model, [asdict(gate) for gate in pipeline.gates], evaluation)
    judged = registry.log_verdict(model, registered.version, verdict)
    record_verdict(Ledger(ledger_url), judged, verdict, snapshot_id=evaluation.snapshot_id)
    done("judge")
    return seconds


def under_airflow(airflow: AirflowApi, run_id: str) -> tuple[dict[str, float], float]:
    """Return the seconds of each task of a run of the train DAG, and of the run."""
    tasks = {task["task_id"]: float(task["duration"]) for task in airflow.tasks(TRAIN, run_id)}
    return {step: tasks[step] for step in STEPS}, float(airflow.run(TRAIN, run_id)["duration"])


def in_one_script(stack: Stack, as_of: datetime) -> tuple[dict[str, float], float]:
    """Run :func:`plain` in a fresh process on the same partitions; return its seconds, and those of the process."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        for shared in ("partitions", "features", "feast"):
            (home / shared).symlink_to(stack.layout.home / shared)
        (home / "trainings").mkdir()
        places = [home, stack.dags, stack.feature_repo, stack.mlflow_url, stack.database.url("mlops_ledger")]
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, __file__, "--plain", *map(str, places), as_of.isoformat()],
            env={**stack.environment, "MLOPS_HOME": folder},
            capture_output=True,
            text=True,
            check=False,
        )
        wall = time.perf_counter() - began
    if done.returncode != 0:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1]), wall


def against_one_script(figures: Figures, airflow: AirflowApi, stack: Stack, run_id: str, as_of: datetime) -> None:
    """Hold a run of the train DAG against the same calls in one script."""
    tasks, run = under_airflow(airflow, run_id)
    calls, script = in_one_script(stack, as_of)
    print(f"\n{'':12}{'Airflow task':>14}{'plain call':>14}   seconds")
    for step in STEPS:
        print(f"{step:12}{tasks[step]:14.1f}{calls[step]:14.1f}")
    print(f"{'between':12}{run - sum(tasks.values()):14.1f}{script - sum(calls.values()):14.1f}")
    print(f"{'whole':12}{run:14.1f}{script:14.1f}")
    figures.hold("the train DAG / one plain script", run / script, at_most=2)


def main() -> None:
    from airflow_mlops.bootstrap.train import train
    from airflow_mlops.bootstrap.watch import Watcher
    from airflow_mlops.demo import run as demo
    from airflow_mlops.stack.airflow_api import AirflowApi
    from airflow_mlops.stack.ports import Ports
    from airflow_mlops.stack.stack import Stack

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plain", nargs=6, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.plain:
        home, dags, repo, mlflow_url, ledger_url, as_of = given.plain
        servers = {"mlflow_url": mlflow_url, "ledger_url": ledger_url}
        took = plain(Path(home), Path(dags), Path(repo), **servers, as_of=datetime.fromisoformat(as_of))
        print(json.dumps(took))
        return
    figures = Figures(small=False)
    with tempfile.TemporaryDirectory() as folder:
        stack = Stack(Path(folder) / "home", Ports.free(), dags=DAGS, feature_repo=REPO)
        try:
            demo.land_history_while_starting(stack, demo.FIRST_DAY, AS_OF.date() - timedelta(days=1))
            with AirflowApi(stack.airflow_url) as airflow:
                watcher = Watcher(airflow, stack)
                watcher.ready([TRAIN])
                trained = train(watcher, demo.MODEL, AS_OF)
                against_one_script(figures, airflow, stack, trained.run_id, AS_OF)
        finally:
            stack.down()
    figures.end()


if __name__ == "__main__":
    main()
