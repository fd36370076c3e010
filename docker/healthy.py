"""Is a component ready? Exit status 0, or 1 with what is missing: ``healthy.py scheduler``.

Asked the way :mod:`airflow_mlops.stack.health` asks the laptop stack, with little more than the standard library: it is
asked all the time.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import urllib.error
import urllib.request
from datetime import datetime
from pathlib import Path

AIRFLOW = os.environ.get("AIRFLOW_API", "http://api-server:8080")
MLFLOW = os.environ.get("MLFLOW_API", "http://localhost:5000")
HEARTBEATS = {
    "scheduler": "latest_scheduler_heartbeat",
    "dag-processor": "latest_dag_processor_heartbeat",
    "triggerer": "latest_triggerer_heartbeat",
}


def main(name: str) -> str:
    """Return what is missing; nothing when the component is ready."""
    if name == "worker":
        return _worker()
    if name == "mlflow":
        return "" if _get(f"{MLFLOW}/health") == "OK" else "MLflow does not say OK"
    report = json.loads(_get(f"{AIRFLOW}/api/v2/monitor/health"))
    if name == "api-server":
        state = report["metadatabase"]["status"]
        return "" if state == "healthy" else f"the API server says that its database is {state}"
    beat = report[name.replace("-", "_")][HEARTBEATS[name]]
    # The heartbeat of the one before may be a second old.
    if beat is None or datetime.fromisoformat(beat).timestamp() < _started():
        return f"no heartbeat of this {name} yet"
    state = report[name.replace("-", "_")]["status"]
    return "" if state == "healthy" else f"the API server says that the {name} is {state}"


def _started() -> float:
    """Return when this container did."""
    booted = next(line.split()[1] for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime"))
    ticks = Path("/proc/1/stat").read_text().rpartition(")")[2].split()[19]
    return float(booted) + float(ticks) / os.sysconf("SC_CLK_TCK")


def _worker() -> str:
    from celery import Celery

    me = f"celery@{platform.node()}"
    broker = Path("/secrets/airflow/broker_url").read_text()
    answers = Celery(broker=broker).control.ping(destination=[me], timeout=5)
    return "" if answers else f"{me} does not answer over the broker"


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as response:
        return str(response.read().decode())


if __name__ == "__main__":
    try:
        missing = main(sys.argv[1])
    except (OSError, ValueError, KeyError, urllib.error.URLError) as error:
        missing = f"{sys.argv[1]}: {error}"
    if missing:
        raise SystemExit(missing)
