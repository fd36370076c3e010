"""How a deferred job of a provider's operator goes, without an Airflow around it: worker, triggerer, worker."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

from airflow.sdk.exceptions import TaskDeferred

from tests.integration.test_gx_floor import TaskInstance

ROLE = "arn:aws:iam::123456789012:role/train"


def aws_connection(endpoint: str, **more: Any) -> str:
    """Return a connection whose services are all at one address, as a variable of the environment has it."""
    extra = {"endpoint_url": endpoint, "region_name": "us-east-1", **more}
    return json.dumps({"conn_type": "aws", "login": "test", "password": "test", "extra": extra})


def context(began: datetime | None = None) -> dict[str, Any]:
    """Return the context of a task in a run that began a while ago."""
    began = began or datetime.now(UTC) - timedelta(minutes=5)
    return {"ti": TaskInstance(), "dag_run": SimpleNamespace(start_date=began)}


class Said:
    """The log of a task, whatever this process has its logging set to."""

    def __init__(self, operator: Any) -> None:
        self.text = ""
        operator._cached_logger = operator.hook._log = self

    def info(self, message: str, *given: object) -> None:
        """Keep a line."""
        self.text += f"{message % given if given else message}\n"

    warning = error = debug = info


def submit(operator: Any, given: dict[str, Any] | None = None) -> TaskDeferred:
    """Run an operator until it waits."""
    try:
        operator.execute(given or context())
    except TaskDeferred as deferred:
        return deferred
    raise AssertionError("it did not wait")


def wait(operator: Any, deferred: TaskDeferred, given: dict[str, Any] | None = None) -> Any:
    """Let the trigger wait as the triggerer would, from what is stored of it, and end the task."""
    path, kwargs = deferred.trigger.serialize()
    cls = type(deferred.trigger)
    assert path == f"{cls.__module__}.{cls.__qualname__}"

    async def event() -> dict[str, Any]:
        async for one in cls(**json.loads(json.dumps(kwargs))).run():
            return one.payload
        raise AssertionError("no event")

    told = asyncio.run(event())
    return operator.resume_execution(
        deferred.method_name, {**(deferred.kwargs or {}), "event": told}, given or context()
    )


def run(operator: Any, given: dict[str, Any] | None = None) -> Any:
    """Run an operator to its end, however long it waits."""
    try:
        return operator.execute(given or context())
    except TaskDeferred as deferred:
        return wait(operator, deferred, given)


def kill(deferred: TaskDeferred) -> None:
    """Do what the triggerer does when a user clears the waiting task, or marks it."""
    asyncio.run(deferred.trigger.on_kill())
