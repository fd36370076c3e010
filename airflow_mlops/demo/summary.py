"""The end of the story: what serves, how good it is, one real prediction, and where to look."""

from __future__ import annotations

from collections.abc import Iterator

import httpx

from airflow_mlops.demo import example, prediction
from airflow_mlops.engine.serving.requests import curl
from airflow_mlops.exceptions import MlopsError
from airflow_mlops.stack.airflow_api import AirflowApi
from airflow_mlops.stack.stack import Stack


def summary(airflow: AirflowApi, stack: Stack, training: str, trained: int, deployment: str) -> str:
    """Ask what serves, ask it for one prediction, and return all of it in words.

    :param training: Run of the train DAG.
    :param trained: Version that this run registered.
    :param deployment: Run of the deploy DAG.
    :raises MlopsError: when registry and model server do not agree.
    """
    server = prediction.ModelServer(stack.serving_url, example.MODEL)
    version = server.stable()
    registered = champion(stack)
    if version is None or version != registered:
        raise MlopsError(
            "Registry and model server do not agree on what serves.",
            detail=f"label stable on the server: version {version}; alias champion in MLflow: version {registered}",
            hint=f"Trigger {example.DEPLOY} with the version that should serve.",
        )
    flight = prediction.flight_after(example.LAST_DAYS[1])
    request = prediction.request_for(stack, flight.row)
    probability = server.predict([request])[0]
    lines = [
        "",
        f"{example.MODEL} version {version} serves.",
        *(_metrics(airflow, training) if version == trained else [_OTHER]),
        "",
        f"A real prediction: will {flight.words}, arrive more than 15 minutes late?",
        "  Nobody computed anything for it: the timetable and Feast's online store say what is known. Ask yourself:",
        "",
        f"  {curl(server.url, request)}",
        "",
        f"  answer: {probability:.3f}, by version {version}.  What happened: {flight.outcome()}.",
        "",
        f"Airflow  {stack.airflow_url}",
        f"         training    {airflow.run_page(example.TRAIN, training)}",
        f"         deployment  {airflow.run_page(example.DEPLOY, deployment)}",
        f"MLflow   {stack.mlflow_url}",
        f"         version {version}   {stack.mlflow_url}/#/models/{example.MODEL}/versions/{version}",
        f"Serving  {server.url}/labels/stable",
        "",
        "Stop it with `make down`, remove it with `make clean`.",
    ]
    return "\n".join(lines)


def champion(stack: Stack) -> int | None:
    """Return the version that MLflow calls champion."""
    url = f"{stack.mlflow_url}/api/2.0/mlflow/registered-models/alias"
    response = httpx.get(url, params={"name": example.MODEL, "alias": "champion"}, timeout=10, trust_env=False)
    return int(response.json()["model_version"]["version"]) if response.is_success else None


_OTHER = "  It is not the version that this demo trained: somebody deployed or rolled back since."


def _metrics(airflow: AirflowApi, training: str) -> Iterator[str]:
    evaluated = airflow.xcom(example.TRAIN, training, "evaluate")
    metrics = evaluated["metrics"]
    yield f"  {'test split, ' + format(evaluated['rows'], ',') + ' flights':30} {'model':>8} {'baseline':>9}"
    for name, value in metrics["challenger"].items():
        yield f"  {name.replace('_', ' '):30} {_figure(value):>8} {_figure(metrics['baseline'].get(name)):>9}"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
