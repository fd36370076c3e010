"""Is it up? Asked the way a user would: over HTTP, and by the heartbeats that Airflow's components leave."""

from __future__ import annotations

from datetime import datetime
from types import TracebackType
from typing import Self

import httpx

from airflow_mlops.stack.processes import ProcessRecord

_HEARTBEATS = {
    "scheduler": "latest_scheduler_heartbeat",
    "dag-processor": "latest_dag_processor_heartbeat",
    "triggerer": "latest_triggerer_heartbeat",
}


class HealthCheck:
    """Ask components until each has answered once.

    :param airflow_url: Address of Airflow's API server.
    :param mlflow_url: Address of the MLflow server.
    :param serving_url: REST address of the model server.
    """

    def __init__(self, airflow_url: str, mlflow_url: str, serving_url: str) -> None:
        self._urls = {
            "mlflow": f"{mlflow_url}/health",
            # There is no such model, and saying so is an answer.
            "serving": f"{serving_url}/v1/models/none",
            "api-server": f"{airflow_url}/api/v2/monitor/health",
        }
        self._client = httpx.Client(timeout=5, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def ready(self, record: ProcessRecord) -> bool:
        """Whether a component answers; of the ones without a port, whether it has a heartbeat.

        A heartbeat counts only if it is younger than the process: the one before it may have died a second ago.
        """
        if record.name in self._urls:
            return self._get(record.name) is not None
        if record.name in _HEARTBEATS:
            answer = self._get("api-server")
            report = answer.json()[record.name.replace("-", "_")] if answer else {}
            beat = report.get(_HEARTBEATS[record.name])
            return beat is not None and datetime.fromisoformat(beat).timestamp() >= record.started
        return True

    def _get(self, name: str) -> httpx.Response | None:
        try:
            response = self._client.get(self._urls[name])
        except httpx.HTTPError:
            return None
        wanted = 404 if name == "serving" else 200
        return response if response.status_code == wanted else None
