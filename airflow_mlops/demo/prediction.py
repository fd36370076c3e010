"""One real prediction, asked for as any caller would: features read online, a request over REST."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import httpx
import pyarrow.compute as pc

from airflow_mlops.demo.example import MODEL, SERVICE
from airflow_mlops.demo.flights import read_feed
from airflow_mlops.engine.features.online.reader import OnlineReader
from airflow_mlops.engine.features.project.location import Location
from airflow_mlops.engine.serving.client import ServingClient
from airflow_mlops.exceptions import DataError, TransientError
from airflow_mlops.stack.ports import HOST
from airflow_mlops.stack.stack import Stack


class ModelServer:
    """The REST side of one model on the model server.

    :param url: REST address of the server.
    :param model: Name of the model.
    """

    def __init__(self, url: str, model: str) -> None:
        self.url = f"{url}/v1/models/{model}"
        self._http = httpx.Client(timeout=10, trust_env=False)

    def stable(self) -> int | None:
        """Return the version that the label ``stable`` points to, or None when there is none."""
        response = self._request("GET", "/labels/stable/metadata")
        return int(response.json()["model_spec"]["version"]) if response.is_success else None

    def predict(self, instances: list[dict[str, Any]], target: str = "labels/stable") -> list[float]:
        """Return a probability an instance.

        :param target: ``labels/<label>`` or ``versions/<N>``.
        :raises DataError: when the server refuses the request.
        """
        response = self._request("POST", f"/{target}:predict", content=json.dumps({"instances": instances}))
        if not response.is_success:
            raise DataError(
                f"The model server refused the request with {response.status_code}.",
                detail=response.text[:500],
                hint=f"Compare the request with {self.url}/labels/stable/metadata",
            )
        return [float(value) for value in response.json()["predictions"]]

    def _request(self, method: str, path: str, **kwargs: Any) -> httpx.Response:
        try:
            return self._http.request(method, f"{self.url}{path}", **kwargs)
        except httpx.TransportError as error:
            raise TransientError(
                "The model server does not answer.",
                detail=f"{method} {self.url}{path}: {error}",
                hint="See whether the stack runs: airflow-mlops stack status",
            ) from None


@dataclass(frozen=True)
class Flight:
    """A flight of tomorrow: the online store knows nothing of it, only its timetable is known."""

    row: dict[str, Any]

    @property
    def words(self) -> str:
        """Which flight it is."""
        row = self.row
        departure = f"{row['sched_dep_utc']:%Y-%m-%d %H:%M} UTC"
        return f"{row['carrier']} {row['flight']} from {row['origin']} to {row['dest']}, scheduled {departure}"

    def outcome(self) -> str:
        """What the flight did in the end: known to the world only after the prediction."""
        day = self.row["sched_dep_utc"].date()
        arrivals = read_feed("arrivals", day, day + timedelta(days=1))
        landed = arrivals.filter(pc.equal(arrivals["flight_id"], self.row["flight_id"])).to_pylist()
        if not landed or landed[0]["arr_delay"] is None:
            return "it never arrived where it was going"
        delay = landed[0]["arr_delay"]
        return f"it arrived {abs(delay):.0f} minutes {'late' if delay > 0 else 'early'}"


def flight_after(day: date) -> Flight:
    """Return the first flight of the day after a UTC day.

    :raises DataError: when there is none.
    """
    departures = read_feed("departures", day + timedelta(days=1), day + timedelta(days=1))
    if not departures.num_rows:
        raise DataError(f"There is no flight on the day after {day}.", hint="Choose another day.")
    return Flight(departures.slice(0, 1).to_pylist()[0])


def request_for(stack: Stack, flight: dict[str, Any]) -> dict[str, Any]:
    """Return what a caller sends to ask about a flight: its keys and timetable are known, the rest is read online.

    What is too old to be used in training is not used here either.
    """
    reader = OnlineReader(Location(stack.feature_repo, stack.layout.home), SERVICE)
    with ServingClient(HOST, stack.ports.serving_grpc) as client:
        _, signature = client.metadata(MODEL, label="stable")
    known = {name: flight[name] for name in {**reader.keys, **reader.request}}
    own = {name: flight[name] for name in reader.own_inputs(signature)}
    return reader.inputs([known | own], signature, as_of=flight["sched_dep_utc"])[0]
