"""The whole train DAG under a real Airflow against the same engine calls in one plain Python script.

Starts a stack of its own on free ports, lands five months of flights, runs ``flight_delay.train`` once, and then the
same calls, on the same data, into a fresh folder and a fresh registered model, in one process. Prints the seconds of
each task, of each call, what Airflow adds between tasks, and the ratio of the two.

Run: python bench/train_dag.py            (about five minutes on two cores)
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
AS_OF = datetime(2013, 6, 1, tzinfo=UTC)
STEPS = ("snapshot", "validate", "train", "evaluate", "register", "judge")


def plain(home: Path, repo: Path, mlflow_url: str, ledger_url: str) -> dict[str, float]:
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
    from airflow_mlops.engine.training.launch import train
    from airflow_mlops.engine.training.source import source_hash

    code_path = str(ROOT / "dags")
    pipeline = load_object("flight_delay:flight_delay", code_path)
    source, label, features, trainer = pipeline.source, pipeline.label, pipeline.features, pipeline.train
    model = "plain"
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
        as_of=AS_OF,
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
        seed=trainer.seed,
        epochs=trainer.epochs,
        batch_size=trainer.batch_size,
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


def under_airflow(stack: Any) -> tuple[dict[str, float], float]:
    """Run the DAG; return the seconds of each task, and of the run."""
    from airflow_mlops.demo import run as demo
    from airflow_mlops.demo.airflow_api import AirflowApi
    from airflow_mlops.demo.watch import Watcher

    with AirflowApi(stack.airflow_url) as airflow:
        watcher = Watcher(airflow, stack)
        watcher.ready([demo.TRAIN])
        trained = demo.train(watcher, stack, AS_OF.date())
        tasks = {task["task_id"]: float(task["duration"]) for task in airflow.tasks(demo.TRAIN, trained.run_id)}
        return {step: tasks[step] for step in STEPS}, float(airflow.run(demo.TRAIN, trained.run_id)["duration"])


def in_one_script(stack: Any, folder: Path) -> tuple[dict[str, float], float]:
    """Run :func:`plain` in a fresh process on the same partitions; return its seconds, and those of the process."""
    home = folder / "plain"
    home.mkdir()
    for shared in ("partitions", "features", "feast"):
        (home / shared).symlink_to(stack.layout.home / shared)
    (home / "trainings").mkdir()
    command = [sys.executable, __file__, str(home), str(stack.feature_repo), stack.mlflow_url]
    command.append(stack.database.url("mlops_ledger"))
    began = time.perf_counter()
    done = subprocess.run(
        command, env={**stack.environment, "MLOPS_HOME": str(home)}, capture_output=True, text=True, check=False
    )
    wall = time.perf_counter() - began
    if done.returncode != 0:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1]), wall


def main() -> None:
    from airflow_mlops.demo import run as demo
    from airflow_mlops.demo.ports import Ports
    from airflow_mlops.demo.stack import Stack

    with tempfile.TemporaryDirectory() as folder:
        stack = Stack(Path(folder) / "home", Ports.free(), dags=ROOT / "dags", feature_repo=ROOT / "feature_repo")
        try:
            demo.land_history_while_starting(stack, demo.FIRST_DAY, AS_OF.date() - timedelta(days=1))
            tasks, run = under_airflow(stack)
            calls, script = in_one_script(stack, Path(folder))
        finally:
            stack.down()
    print(f"\n{'':12}{'Airflow task':>14}{'plain call':>14}   seconds")
    for step in STEPS:
        print(f"{step:12}{tasks[step]:14.1f}{calls[step]:14.1f}")
    print(f"{'between':12}{run - sum(tasks.values()):14.1f}{script - sum(calls.values()):14.1f}")
    print(f"{'whole':12}{run:14.1f}{script:14.1f}\nratio {run / script:.2f}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(plain(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4])))
    else:
        main()
