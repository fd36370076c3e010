"""What ``airflow-mlops stack up --until-served`` does: each pipeline's history, features, training, deployment, answer.

Every step looks first at what is there, so that a second run is quick and an interrupted one goes on.
"""

from __future__ import annotations

import math
import os
import shlex
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from airflow_mlops.bootstrap.connections import bring_connections
from airflow_mlops.bootstrap.pipelines import Found, pipelines_in
from airflow_mlops.bootstrap.train import deploy, train
from airflow_mlops.bootstrap.watch import Watcher
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.exceptions import ConfigError, DataError
from airflow_mlops.stack.airflow_api import AirflowApi
from airflow_mlops.stack.stack import Stack

if TYPE_CHECKING:
    from airflow_mlops.engine.data.partitions import PartitionStore
    from airflow_mlops.engine.features.project.location import Location
    from airflow_mlops.feeds import Feed


def until_served(stack: Stack, models: Sequence[str] = ()) -> None:
    """Bring a first version of each pipeline that serves nothing yet into service, and ask it.

    The environment of this program becomes that of the stack's processes, for the user's code and for Airflow's hooks.

    :param stack: It runs.
    :param models: Of these models only; default is all that the DAG files have.
    :raises MlopsError: what failed; of a task, in the words of its log.
    """
    shell = dict(os.environ)
    os.environ.clear()
    # As Airflow's own commands: without it, connections in its database are not looked for.
    os.environ.update(
        stack.environment,
        AIRFLOW__LOGGING__LOGGING_LEVEL="WARNING",
        _AIRFLOW_PROCESS_CONTEXT="server",
        MLOPS_HOME=str(stack.layout.home),
    )
    stack.console.step("reading the DAG files")
    found = pipelines_in(stack.dags, models)
    with AirflowApi(stack.airflow_url) as airflow:
        watcher = Watcher(airflow, stack, timeout=math.inf)
        for one in found:
            _First(watcher, stack, one).serve(shell)


class _First:
    """The first version of one pipeline."""

    def __init__(self, watcher: Watcher, stack: Stack, found: Found) -> None:
        self.watcher, self.stack, self.found = watcher, stack, found
        self.console, self.pipeline = watcher.console, found.pipeline
        self.ledger = Ledger(stack.database.url("mlops_ledger"))

    def serve(self, shell: Mapping[str, str]) -> None:
        """Bring it into service, unless one is, and ask it."""
        from airflow_mlops.engine.serving.deployments import deployment

        model = self.pipeline.model
        state, _ = deployment(self.ledger, self.pipeline.deploy.server, model)
        if state.stable is not None:
            self.console.say(f"{model}: version {state.stable} serves")
        else:
            bring_connections(self.watcher, self.pipeline, shell)
            end = self._load()
            self._materialize()
            self.watcher.ready(self.found.dag_ids)
            deploy(self.watcher, model, train(self.watcher, model, end).version)
        self._ask()

    @cached_property
    def _location(self) -> Location:
        from airflow_mlops.hooks.feast import FeastHook

        return FeastHook(self.pipeline.features.conn_id).location(self.stack.layout.home)

    @cached_property
    def _store(self) -> PartitionStore:
        from airflow_mlops.operators.base import partition_store

        return partition_store(self.stack.layout.home, self.ledger)

    def _load(self) -> datetime:
        """Load what has landed, and return the moment up to which it is there."""
        from airflow_mlops.engine.history.landed import load_landed
        from airflow_mlops.hooks.databases import database
        from airflow_mlops.operators.base import beneath

        began, model, home = time.monotonic(), self.pipeline.model, self.stack.layout.home
        landed = load_landed(
            self.pipeline,
            location=self._location,
            store=self._store,
            ledger=self.ledger,
            code_path=str(self.found.file.parent),
            locate=partial(beneath, home),
            databases=database,
            workers=os.cpu_count() or 1,
            say=partial(self.console.step, f"{model}: history"),
        )
        self.console.say(f"{model}: {landed.loaded}, up to {landed.end:%Y-%m-%d %H:%M} UTC ({_seconds(began)})")
        return landed.end

    def _materialize(self) -> None:
        from airflow_mlops.engine.features.materialization.materialize import computed_until, materialize

        began, model, service = time.monotonic(), self.pipeline.model, self.pipeline.features.name
        self.console.step(f"{model}: bringing features online")
        until = computed_until(self._location, service, self.ledger)
        materialize(self._location, service, until=until, ledger=self.ledger)
        self.console.say(
            f"{model}: features of {service} are online up to {until:%Y-%m-%d %H:%M} UTC ({_seconds(began)})"
        )

    def _ask(self) -> None:
        """Ask what serves about a row that has landed, and say how to ask it."""
        from airflow_mlops.commands.ask import asked

        model, server = self.pipeline.model, self.pipeline.deploy.server
        self.console.step(f"{model}: asking for a prediction")
        ask = ["airflow-mlops", "ask", model]
        with asked(model, server, location=self._location, ledger=self.ledger) as serving:
            given = [f"{name}={value}" for name, value in example(self.pipeline.source, self._store, serving.wanted)]
            try:
                answer = serving.answer(serving.sent(serving.request(serving.values(given))))
            except (ConfigError, DataError) as error:  # it wants what no row has: only a caller knows it
                given, answer = [], [f"It says what the model wants: {error.headline}"]
        self.console.text("\n".join(["", shlex.join([*ask, *given]), *answer]))


def _seconds(began: float) -> str:
    return f"{time.monotonic() - began:.0f} s"


def example(feed: Feed, store: PartitionStore, wanted: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yield columns and their values, as one types them, of a row that has landed: the newest that lacks the least.

    What the feed does not have is missing.
    """
    row = next(_newest(feed, store, list(wanted)), {})
    for name in wanted:
        yield name, _typed(row.get(name))


def _newest(feed: Feed, store: PartitionStore, wanted: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield of each partition that has rows, the newest first, the row that lacks the least of these columns."""
    for key in reversed(store.keys(feed.dataset)):
        partition = store.get(feed.dataset, key)
        there = [name for name in wanted if name in partition.columns]
        if partition.rows and there:
            rows = store.read([partition], there).to_pylist()
            yield min(rows, key=lambda row: list(row.values()).count(None))


def _typed(value: Any) -> str:
    """Return a value as one types it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    return value.isoformat() if isinstance(value, datetime) else str(value)
