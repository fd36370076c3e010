"""Run the example DAGs in the order in which they need each other: a script in a process of its own.

Its folder is that of a shop; what became of each task is written there, to `states.json`.
"""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

EXAMPLES, SHOP = Path(sys.argv[1]), Path.cwd()
states: dict[str, str] = {}


def run(file: str, name: str = "dag", **conf: Any) -> dict[str, Any]:
    """Run one, alone in the folder, as Airflow reads all of it before each. Return task → what it returned."""
    alone = Path(shutil.copy(EXAMPLES / f"{file}.py", SHOP / "dags"))
    done = getattr(importlib.import_module(file), name).test(run_conf=conf)
    tasks = done.get_task_instances()
    states.update({f"{file}.{name} {task.task_id} {task.map_index}": str(task.state) for task in tasks})
    (SHOP / "states.json").write_text(json.dumps(states))
    failed = [task for task, state in states.items() if state != "success"]
    if failed:
        sys.exit(f"not well: {failed}")
    alone.unlink()
    return {task.task_id: task.xcom_pull(task.task_id) for task in tasks}


run("land", lake=str(SHOP / "lake"))
run("table")
run("history")
trained = run("train", as_of="2024-02-13T00:00:00+00:00")
run("backfill")
run("features")
run("deploy")
run("predict")
run("again", snapshot=trained["snapshot"]["id"])
run(
    "own",
    snapshot=trained["snapshot"]["id"],
    data=trained["snapshot"]["uri"],
    saved_model=trained["train"]["saved_model"],
)
run("retrain", cooldown="1s")
run("train", seed=1)
run("deploy")
run("registry", run_id=trained["register"]["run_id"])
run("elsewhere", saved_model=str(SHOP / "bought"))
run("runbook")
run("upkeep", "sweep")
run("upkeep", "announcements")
run("checkpoint", project=str(SHOP / "project"))
run("function", "function")
run("alias")
