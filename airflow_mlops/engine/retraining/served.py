"""What became of the version that a run of the training made: whether it serves, or why it never will."""

from __future__ import annotations

from datetime import UTC, datetime

from airflow_mlops.engine.evaluation.approvals import last_verdicts
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.engine.retraining.registered import FACT, SAVED
from airflow_mlops.engine.retraining.requests import requests
from airflow_mlops.engine.serving.deployments import deployment
from airflow_mlops.exceptions import GateError, TrainingError


def version_of(ledger: Ledger, model: str, run: str) -> int | None:
    """Return the version that a run of the training made, or that was known to be this very training; None: none yet.

    :param run: DAG and run.
    """
    made = [fact.payload["version"] for fact in ledger.facts(FACT, model) if fact.payload["run"] == run]
    return made[0] if made else next((fact.payload["version"] for fact in ledger.facts(SAVED, model, key=run)), None)


def serving_version(ledger: Ledger, server: str, model: str, run: str, state: str | None) -> int | None:
    """Return the version that a run of the training made, once it serves or has served well; None: not yet.

    :param server: Airflow connection of the server on which it is to serve.
    :param run: DAG and run.
    :param state: State of the run, where that is known.
    :raises TrainingError: when the run failed, or trained nothing.
    :raises GateError: when the version cannot come to serve: it failed its gates, something else is pinned, or it was
        rolled back.
    """
    if state == "failed":
        raise TrainingError(
            f"The training of {model!r} failed.", detail=f"run {run}", hint="Clear that run, then this task."
        )
    version = version_of(ledger, model, run)
    if version is None:
        if state == "success":
            said = "; ".join(one.said for one in requests(ledger, model, run=run) if one.said)
            raise TrainingError(
                f"Nothing was trained of {model!r}.",
                detail=f"run {run}{': ' + said if said else ''}",
                hint="The run's skipped tasks say why. Clear them, then this task.",
            )
        return None
    now = deployment(ledger, server, model)[0]
    if version == now.stable or version in now.good:
        return version
    told = f"version {version}, run {run}"
    verdict = last_verdicts(ledger, model).get(version)
    if verdict is not None and verdict["status"] != "PASS":
        raise GateError(
            f"The new version of {model!r} did not pass its gates: {verdict['status']}.",
            detail=told,
            hint="The log of the task `judge` says which. What serves stays.",
        )
    if version in now.rolled_back:
        raise GateError(f"The new version of {model!r} was rolled back.", detail=told, hint="See why, and train anew.")
    if now.pin is not None and now.pin.holds(datetime.now(UTC)):
        raise GateError(
            f"The new version of {model!r} is not deployed while another one is pinned.",
            detail=f"{told}; {now.pin}",
            hint="Unpin it, run the deployment, and clear this task.",
        )
    return None
