"""Triggers that wait for MLflow: for an alias, a tag, a run; and the one that tells of every move of an alias."""

from __future__ import annotations

import asyncio
import hashlib
import json
from abc import abstractmethod
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowRuntimeError
from airflow.triggers.base import BaseEventTrigger, TriggerEvent

from airflow_mlops.exceptions import ConfigError, MlopsError, TransientError
from airflow_mlops.hooks.mlflow import MLflowHook
from airflow_mlops.triggers.base import PollTrigger

if TYPE_CHECKING:
    from airflow.sdk.execution_time.context import AssetStateStoreAccessors

    from airflow_mlops.engine.registry.lookup import AliasLook, AliasTarget, FinishedRun, TaggedVersion
    from airflow_mlops.engine.registry.registry import Registry

_PERSISTED_AFTER = 3.0
"""Seconds after which the triggerer has written an event down: it does so about once a second."""


class MLflowPollTrigger(PollTrigger):
    """Wait for something in MLflow. That MLflow does not answer for a while is waited out, up to the deadline.

    :param mlflow_conn_id: Airflow connection of type ``mlflow``.
    """

    def __init__(self, *, mlflow_conn_id: str, poll_interval: float, deadline: float, **arguments: Any) -> None:
        super().__init__(poll_interval=poll_interval, deadline=deadline, mlflow_conn_id=mlflow_conn_id, **arguments)
        self._hook = MLflowHook(mlflow_conn_id)
        self._registry: Registry | None = None

    async def prepare(self) -> None:
        """Look the connection up."""
        await self._hook.prefetch()

    def poll(self) -> Mapping[str, object] | None:
        """Ask MLflow once."""
        try:
            if self._registry is None:
                self._registry = self._hook.get_conn(lookups_only=True)
            return self.look(self._registry)
        except TransientError as error:
            self.seen = f"{error.headline} {error.detail}"
            return None

    @abstractmethod
    def look(self, registry: Registry) -> Mapping[str, object] | None:
        """Look once; what is there instead goes into :attr:`seen`."""


class MLflowAliasTrigger(MLflowPollTrigger):
    """Wait until an alias of a registered model exists, or points to another version than one.

    :param model: Name of the model in the registry.
    :param alias: Which alias.
    :param other_than: The version that it is not to point to; None for any.
    :param mlflow_conn_id: Airflow connection of type ``mlflow``.
    :param poll_interval: Seconds between polls.
    :param deadline: Wall-clock time at which to give up.
    """

    def __init__(
        self,
        *,
        model: str,
        alias: str,
        other_than: int | None,
        mlflow_conn_id: str,
        poll_interval: float,
        deadline: float,
    ) -> None:
        super().__init__(
            mlflow_conn_id=mlflow_conn_id,
            poll_interval=poll_interval,
            deadline=deadline,
            model=model,
            alias=alias,
            other_than=other_than,
        )
        self._model = model
        self._alias = alias
        self._other_than = other_than

    def look(self, registry: Registry) -> AliasTarget | None:
        """Look where the alias points."""
        from airflow_mlops.engine.registry.lookup import look_at_alias

        found, self.seen = look_at_alias(registry, self._model, self._alias, self._other_than)
        return found


class MLflowModelVersionTagTrigger(MLflowPollTrigger):
    """Wait until a version of a registered model has a tag with a value.

    :param model: Name of the model in the registry.
    :param version: Number or alias of the version.
    :param tag: Name of the tag.
    :param value: Its value.
    :param mlflow_conn_id: Airflow connection of type ``mlflow``.
    :param poll_interval: Seconds between polls.
    :param deadline: Wall-clock time at which to give up.
    """

    def __init__(
        self,
        *,
        model: str,
        version: str,
        tag: str,
        value: str,
        mlflow_conn_id: str,
        poll_interval: float,
        deadline: float,
    ) -> None:
        super().__init__(
            mlflow_conn_id=mlflow_conn_id,
            poll_interval=poll_interval,
            deadline=deadline,
            model=model,
            version=version,
            tag=tag,
            value=value,
        )
        self._model = model
        self._version = version
        self._tag = tag
        self._value = value

    def look(self, registry: Registry) -> TaggedVersion | None:
        """Look at the tags of the version."""
        from airflow_mlops.engine.registry.lookup import look_at_tag

        found, self.seen = look_at_tag(registry, self._model, self._version, self._tag, self._value)
        return found


class MLflowRunTrigger(MLflowPollTrigger):
    """Wait until a run in MLflow has ended; one that failed is an error.

    :param run_id: Id of the run.
    :param mlflow_conn_id: Airflow connection of type ``mlflow``.
    :param poll_interval: Seconds between polls.
    :param deadline: Wall-clock time at which to give up.
    """

    def __init__(self, *, run_id: str, mlflow_conn_id: str, poll_interval: float, deadline: float) -> None:
        super().__init__(mlflow_conn_id=mlflow_conn_id, poll_interval=poll_interval, deadline=deadline, run_id=run_id)
        self._run_id = run_id

    def look(self, registry: Registry) -> FinishedRun | None:
        """Look at the run's status."""
        from airflow_mlops.engine.registry.lookup import look_at_run

        self.seen = ""
        return look_at_run(registry, self._run_id)


class MLflowAliasEventTrigger(BaseEventTrigger):
    """Tell of every move of an alias to another version, so that DAGs run when it moves: for an ``AssetWatcher``.

    The payload of the event is ``{"model", "alias", "version", "run_id"}``. What the alias points to when it is first
    looked at is no move, and that it was deleted is none either. Of several moves between two looks only the last is
    told.

    Where it pointed last is kept in Airflow's state store of the asset. So a triggerer that starts again tells of a
    move that happened meanwhile, and tells no move twice; unless it is killed within seconds of telling, before that
    was kept: then it tells again rather than never. Two assets with the same trigger share one and have no place in
    the store: then what moves while no triggerer runs is not told.

    It never ends: while MLflow does not answer, or the connection is wrong, it says so in the triggerer's log and looks
    again, with the connection as it is then.

    :param model: Name of the model in the registry; it may be registered later.
    :param alias: Which alias.
    :param mlflow_conn_id: Airflow connection of type ``mlflow``.
    :param poll_interval: Seconds between looks.
    :raises ConfigError: when one of these cannot be.
    """

    def __init__(
        self,
        *,
        model: str,
        alias: str = "champion",
        mlflow_conn_id: str = MLflowHook.default_conn_name,
        poll_interval: float = 60.0,
    ) -> None:
        if not isinstance(poll_interval, int | float) or poll_interval <= 0:
            raise ConfigError(
                "A watcher looks again after some seconds.",
                detail=f"poll_interval={poll_interval!r}",
                hint="Give a number of seconds above 0.",
            )
        if not model or not alias or "{{" in model + alias + mlflow_conn_id:
            raise ConfigError(
                "A watcher needs a model and an alias, as they are: nothing is rendered for it.",
                detail=f"model={model!r}, alias={alias!r}, mlflow_conn_id={mlflow_conn_id!r}",
                hint="Write the names out, or take them from where the DAG file is run.",
            )
        super().__init__()
        self.model = model
        self.alias = alias
        self.mlflow_conn_id = mlflow_conn_id
        self.poll_interval = poll_interval
        self._registry: Registry | None = None
        self._store: AssetStateStoreAccessors | None = None
        self._said = ""

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and every constructor argument."""
        return f"{type(self).__module__}.{type(self).__qualname__}", {
            "model": self.model,
            "alias": self.alias,
            "mlflow_conn_id": self.mlflow_conn_id,
            "poll_interval": self.poll_interval,
        }

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look for ever; yield an event for each move."""
        self._store = self.asset_state_store
        kept = last = await self._recall()
        while True:
            look = await self._look()
            if look is not None:
                version, target = look
                if last is not None and version != last and target is not None:
                    yield TriggerEvent(dict(target))
                    # Written down before the event is, a move could be lost for good.
                    await asyncio.sleep(_PERSISTED_AFTER)
                last = version
            if last is not None and last != kept and await self._keep(last):
                kept = last
            await asyncio.sleep(self.poll_interval)

    async def _recall(self) -> int | None:
        """Return where the alias pointed when that was last written down, 0 for nowhere; None when it never was."""
        while self._store is not None:
            try:
                kept = await self._store.aget(self._key)
            except (AttributeError, ValueError):  # an older Airflow; or several assets have this trigger
                self._say("Airflow keeps no state for this trigger: moves while no triggerer runs will not be told")
                self._store = None
            except AirflowRuntimeError as error:
                self._say(f"what was told last cannot be read: {error}")
                await asyncio.sleep(self.poll_interval)
            else:
                version = kept.get("version") if isinstance(kept, dict) else None
                return version if isinstance(version, int) else None
        return None

    async def _keep(self, version: int) -> bool:
        """Write down where the alias points; return False when that must be tried again."""
        if self._store is None:
            return True
        try:
            await self._store.aset(self._key, {"model": self.model, "alias": self.alias, "version": version})
        except AirflowRuntimeError as error:
            self._say(f"what was told cannot be kept: {error}")
            return False
        return True

    async def _look(self) -> tuple[int, AliasTarget | None] | None:
        """Look once: the version, 0 when the alias points nowhere; None when MLflow cannot be asked."""
        try:
            hook = MLflowHook(self.mlflow_conn_id)
            if self._registry is None:
                await hook.prefetch()
            found, seen = await asyncio.to_thread(self._ask, hook)
        except (MlopsError, ImportError) as error:
            self._registry = None  # once the connection is corrected, nobody need restart the triggerer
            self._say(str(error))
            return None
        self._say(seen)
        return (0, None) if found is None else (found["version"], found)

    def _ask(self, hook: MLflowHook) -> AliasLook:
        from airflow_mlops.engine.registry.lookup import look_at_alias

        if self._registry is None:
            self._registry = hook.get_conn(lookups_only=True)
        return look_at_alias(self._registry, self.model, self.alias)

    @property
    def _key(self) -> str:
        """Under which the state is kept; several watchers may have one asset."""
        named = json.dumps([self.mlflow_conn_id, self.model, self.alias])
        return f"mlflow_alias_{hashlib.sha256(named.encode()).hexdigest()[:16]}"

    def _say(self, words: str) -> None:
        """Log what keeps it from its work, once."""
        if words and words != self._said:
            self.log.warning("Alias %r of %r: %s", self.alias, self.model, words)
        self._said = words
