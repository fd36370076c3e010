"""A small client of Airflow's public REST API (v2): what the stack, the demo and the end-to-end tests need of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, time
from pathlib import Path
from time import sleep
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx

from airflow_mlops.exceptions import ConfigError, TransientError

ACTIVE = ("queued", "running")
_PAGE = 100
_PAUSES = (0.5, 1.0, 2.0)
"""Seconds before a request is repeated: now and then API and scheduler block each other, and the database ends one."""


class AirflowApi:
    """Airflow over HTTP.

    :param url: Address of the API server.
    :param login: User and password; None: as everybody on the laptop stack, which asks for none.
    """

    def __init__(self, url: str, login: tuple[str, str] | None = None) -> None:
        self.url = url
        self._login = login
        self._http = httpx.Client(base_url=url, timeout=30, trust_env=False, transport=httpx.HTTPTransport(retries=3))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    # --- DAGs ---------------------------------------------------------------------------------------------

    def dag_ids(self) -> set[str]:
        """Return the ids of the DAGs that were parsed."""
        return {dag["dag_id"] for dag in self._all("/dags", "dags")}

    def dag_tasks(self, dag_id: str) -> list[dict[str, Any]]:
        """Return the tasks of a DAG as it is written now."""
        return list(self._call("GET", f"/dags/{dag_id}/tasks")["tasks"])

    def import_errors(self, folder: Path | None = None) -> dict[str, str]:
        """Return stack trace by DAG file.

        :param folder: Of the DAG files: one that was changed after its error is left out, for it is parsed again.
        """
        errors = self._all("/importErrors", "import_errors")
        return {one["filename"]: one["stack_trace"] for one in errors if not (folder and _is_stale(one, folder))}

    def unpause(self, dag_id: str) -> None:
        """Let a DAG run."""
        self._call("PATCH", f"/dags/{dag_id}", json={"is_paused": False})

    # --- health and pools ---------------------------------------------------------------------------------

    def health(self) -> dict[str, dict[str, Any]]:
        """Return the state of each component: ``{"scheduler": {"status": "healthy", ...}, ...}``."""
        return dict(self._call("GET", "/monitor/health"))

    def pools(self) -> dict[str, int]:
        """Return the slots of each pool."""
        return {pool["name"]: pool["slots"] for pool in self._all("/pools", "pools")}

    def ensure_pool(self, name: str, slots: int, description: str) -> None:
        """Make a pool, unless there is one of that name; whoever changed its slots meant it."""
        body = {"name": name, "slots": slots, "description": description, "include_deferred": False}
        response = self._send("POST", "/pools", json=body)
        if response.status_code != httpx.codes.CONFLICT:
            self._read(response)

    # --- connections --------------------------------------------------------------------------------------

    def connections(self) -> set[str]:
        """Return the ids of the connections that are kept in its database."""
        return {one["connection_id"] for one in self._all("/connections", "connections")}

    def add_connection(self, conn_id: str, fields: Mapping[str, Any]) -> None:
        """Add a connection.

        :param fields: ``conn_type``, ``host``, ``login`` and so on.
        """
        self._call("POST", "/connections", json={"connection_id": conn_id, **fields})

    # --- assets -------------------------------------------------------------------------------------------

    def post_event(self, asset: str, extra: dict[str, Any]) -> None:
        """Post an event of an asset, as a system outside of Airflow does it."""
        found = self._call("GET", "/assets", params={"name_pattern": asset})["assets"]
        [asset_id] = [entry["id"] for entry in found if entry["name"] == asset]
        self._call("POST", "/assets/events", json={"asset_id": asset_id, "extra": extra})

    # --- runs ---------------------------------------------------------------------------------------------

    def trigger(
        self, dag_id: str, conf: dict[str, Any] | None = None, partition_key: str | None = None
    ) -> dict[str, Any]:
        """Start a run by hand and return it."""
        body: dict[str, Any] = {"logical_date": None, "conf": conf or {}}
        if partition_key is not None:
            body["partition_key"] = partition_key
        return self._call("POST", f"/dags/{dag_id}/dagRuns", json=body)

    def run(self, dag_id: str, run_id: str) -> dict[str, Any]:
        """Return one run."""
        return self._call("GET", f"/dags/{dag_id}/dagRuns/{quote(run_id, safe='')}")

    def runs(self, dag_id: str) -> list[dict[str, Any]]:
        """Return the runs of a DAG, newest first."""
        return list(self._all(f"/dags/{dag_id}/dagRuns", "dag_runs", order_by="-id"))

    def runs_by_key(self, dag_id: str) -> dict[str, dict[str, Any]]:
        """Return the newest run of each partition key."""
        return {run["partition_key"]: run for run in reversed(self.runs(dag_id)) if run["partition_key"]}

    def clear(self, dag_id: str, run_id: str, *, only_failed: bool = True) -> None:
        """Have a run's tasks run again."""
        body = {"dry_run": False, "only_failed": only_failed}
        self._call("POST", f"/dags/{dag_id}/dagRuns/{quote(run_id, safe='')}/clear", json=body)

    def tasks(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """Return the task instances of a run."""
        return list(self._all(f"/dags/{dag_id}/dagRuns/{quote(run_id, safe='')}/taskInstances", "task_instances"))

    def xcom(self, dag_id: str, run_id: str, task_id: str) -> Any:
        """Return what a task returned."""
        path = f"/dags/{dag_id}/dagRuns/{quote(run_id, safe='')}/taskInstances/{task_id}/xcomEntries/return_value"
        return self._call("GET", path)["value"]

    def log(self, dag_id: str, run_id: str, task_id: str, try_number: int, map_index: int = -1) -> list[str]:
        """Return the messages of a task's log, with the error at the end of the one that has it.

        :param map_index: Which of the tasks that one was mapped to; -1 for a task that is not mapped.
        """
        path = f"/dags/{dag_id}/dagRuns/{quote(run_id, safe='')}/taskInstances/{task_id}/logs/{try_number}"
        content = self._call("GET", path, params={"full_content": True, "map_index": map_index})["content"]
        return [line for entry in content for line in _lines(entry)]

    def run_page(self, dag_id: str, run_id: str) -> str:
        """Return the address of a run in the UI."""
        return f"{self.url}/dags/{dag_id}/runs/{quote(run_id, safe=':+')}"

    # --- backfills ----------------------------------------------------------------------------------------

    def backfill(self, dag_id: str, first: date, last: date) -> int | None:
        """Run the partitions ``first`` to ``last`` that have no successful run, in order, one at a time.

        :returns: The backfill's id, or None while an earlier backfill of the DAG is not wound up.
        """
        body = {
            "dag_id": dag_id,
            "from_date": datetime.combine(first, time(), UTC).isoformat(),
            "to_date": datetime.combine(last, time(), UTC).isoformat(),
            "reprocess_behavior": "failed",
            "max_active_runs": 1,
        }
        response = self._send("POST", "/backfills", json=body)
        if response.status_code == httpx.codes.CONFLICT:
            return None
        return int(self._read(response)["id"])

    def cancel_backfills(self, dag_id: str) -> None:
        """Stop the DAG's backfills: runs that did not start are failed."""
        for backfill in self._call("GET", "/backfills", params={"dag_id": dag_id})["backfills"]:
            if backfill["completed_at"] is None:
                self._call("PUT", f"/backfills/{backfill['id']}/cancel")

    # --- HTTP ---------------------------------------------------------------------------------------------

    def _all(self, path: str, key: str, **params: Any) -> Iterator[dict[str, Any]]:
        offset = 0
        while True:
            page = self._call("GET", path, params={**params, "limit": _PAGE, "offset": offset})
            yield from page[key]
            offset += _PAGE
            if offset >= page["total_entries"]:
                return

    def _call(self, method: str, path: str, **kwargs: Any) -> Any:
        response = self._send(method, path, **kwargs)
        for pause in () if method == "POST" else _PAUSES:
            if not response.is_server_error:
                break
            sleep(pause)
            response = self._send(method, path, **kwargs)
        return self._read(response)

    def _send(self, method: str, path: str, **kwargs: Any) -> httpx.Response:
        """Send a request; log in first, and again when the token has expired."""
        try:
            if "Authorization" in self._http.headers:
                response = self._http.request(method, f"/api/v2{path}", **kwargs)
                if response.status_code != httpx.codes.UNAUTHORIZED:
                    return response
            token = self._read(self._log_in())["access_token"]
            self._http.headers["Authorization"] = f"Bearer {token}"
            return self._http.request(method, f"/api/v2{path}", **kwargs)
        except httpx.TransportError as error:
            raise TransientError(
                "Airflow's API does not answer.",
                detail=f"{method} {self.url}/api/v2{path}: {error}",
                hint="See whether the API server runs, at this address; a laptop stack: airflow-mlops stack status",
            ) from None

    def _log_in(self) -> httpx.Response:
        if self._login is None:
            return self._http.get("/auth/token")
        user, password = self._login
        return self._http.post("/auth/token", json={"username": user, "password": password})

    def _read(self, response: httpx.Response) -> Any:
        if response.is_success:
            return response.json()
        kind = TransientError if response.is_server_error else ConfigError
        may_not = response.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN)
        raise kind(
            f"Airflow refused a request with {response.status_code}.",
            detail=f"{response.request.method} {response.request.url.path}: {response.text[:500]}",
            hint="Ask as a user who may: airflow-mlops doctor has --user and --password-file."
            if may_not
            else "The API server's log says more: logs/api-server.log below the home folder.",
        )


def _is_stale(error: Mapping[str, Any], folder: Path) -> bool:
    file = folder / error["filename"]
    return file.exists() and file.stat().st_mtime > datetime.fromisoformat(error["timestamp"]).timestamp()


def _lines(entry: Any) -> Iterator[str]:
    """Turn one entry of the structured log into lines of text."""
    if not isinstance(entry, dict):
        yield str(entry)
        return
    yield from str(entry.get("event", "")).splitlines()
    for error in entry.get("error_detail") or ():
        yield from f"{error.get('exc_type')}: {error.get('exc_value')}".splitlines()
