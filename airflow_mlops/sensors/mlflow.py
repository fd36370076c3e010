"""Sensors that wait for MLflow: for an alias, for the tag of a version, for a run."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

from airflow_mlops.hooks.mlflow import MLflowHook
from airflow_mlops.links.mlflow import MLflowModelVersionLink, MLflowRunLink
from airflow_mlops.operators.base import require, said, version_or_alias, whole_version
from airflow_mlops.sensors.base import MlopsSensor

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_mlops.engine.registry.lookup import AliasLook, FinishedRun, TagLook
    from airflow_mlops.engine.registry.registry import Registry
    from airflow_mlops.triggers.mlflow import MLflowAliasTrigger, MLflowModelVersionTagTrigger, MLflowRunTrigger


class ModelVersionSensor(MlopsSensor):
    """A sensor that ends with a version of a registered model, and links to it.

    :param model: Name of the model in the registry.
    :param mlflow_conn_id: Airflow connection of type ``mlflow``.
    """

    template_fields = (*MlopsSensor.template_fields, "model", "mlflow_conn_id")
    operator_extra_links = (MLflowModelVersionLink(),)

    def __init__(self, *, model: str, mlflow_conn_id: str = MLflowHook.default_conn_name, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.mlflow_conn_id = mlflow_conn_id

    def look(self, context: Context) -> dict[str, Any] | None:
        """Look once; link to the version when the wait is over."""
        require(said(self.model), "model", "Name the registered model.")
        found, self.seen = self.look_in(MLflowHook(self.mlflow_conn_id).get_conn(lookups_only=True))
        return None if found is None else self._linked(context, found)

    @abstractmethod
    def look_in(self, registry: Registry) -> tuple[Any | None, str]:
        """Look once: what was waited for, or in words what is there instead."""

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        """Take the trigger's result."""
        return self._linked(context, super().execute_complete(context, event))

    def _linked(self, context: Context, found: dict[str, Any]) -> dict[str, Any]:
        url = MLflowHook(self.mlflow_conn_id).version_url(self.model, str(found["version"]))
        MLflowModelVersionLink.persist(context, url)
        return found


class MLflowAliasSensor(ModelVersionSensor):
    """Wait until an alias of a registered model exists, or points to another version than the one given.

    Use it before a task that needs a model which serves already.

    The model may be registered later too. The result says to which version it points, and the run that made that.

    :param alias: Which alias.
    :param other_than: Version that it is not to point to; empty for any.
    """

    template_fields = (*ModelVersionSensor.template_fields, "alias", "other_than")

    def __init__(
        self,
        *,
        alias: str = "champion",
        other_than: int | str = "",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.alias = alias
        self.other_than = other_than

    def look_in(self, registry: Registry) -> AliasLook:
        """Look once where the alias points."""
        from airflow_mlops.engine.registry.lookup import look_at_alias

        alias = require(said(self.alias), "alias", "Name one, such as champion.")
        return look_at_alias(registry, self.model, alias, self._other_than)

    def trigger(self, deadline: float) -> MLflowAliasTrigger:
        """Go on looking in the triggerer."""
        from airflow_mlops.triggers.mlflow import MLflowAliasTrigger

        return MLflowAliasTrigger(
            model=self.model,
            alias=self.alias,
            other_than=self._other_than,
            mlflow_conn_id=self.mlflow_conn_id,
            poll_interval=self.poke_interval,
            deadline=deadline,
        )

    @property
    def _other_than(self) -> int | None:
        return whole_version(self.other_than) if said(self.other_than) else None

    def describe(self) -> str:
        """Say what is waited for, and what is there instead, if that is known."""
        other = f" points to another version than {self.other_than}" if said(self.other_than) else " exists"
        return f"alias {self.alias!r} of {self.model!r}{other}" + (f" ({self.seen})" if self.seen else "")


class MLflowModelVersionTagSensor(ModelVersionSensor):
    """Wait until a version of a registered model has a tag with a value, such as ``validated_by=qa``.

    Use it to wait for a person, or for another system that writes its decision to the version.

    A version that is named by its number must be there; an alias may come later.

    :param version: Number or alias of the version.
    :param tag: Name of the tag.
    :param value: Its value.
    """

    template_fields = (*ModelVersionSensor.template_fields, "version", "tag", "value")

    def __init__(self, *, version: int | str, tag: str, value: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.version = version
        self.tag = tag
        self.value = value

    def look_in(self, registry: Registry) -> TagLook:
        """Look once at the version's tags."""
        from airflow_mlops.engine.registry.lookup import look_at_tag

        tag = require(said(self.tag), "tag", "Name the tag.")
        return look_at_tag(registry, self.model, version_or_alias(self.version), tag, str(self.value))

    def trigger(self, deadline: float) -> MLflowModelVersionTagTrigger:
        """Go on looking in the triggerer."""
        from airflow_mlops.triggers.mlflow import MLflowModelVersionTagTrigger

        return MLflowModelVersionTagTrigger(
            model=self.model,
            version=version_or_alias(self.version),
            tag=self.tag,
            value=str(self.value),
            mlflow_conn_id=self.mlflow_conn_id,
            poll_interval=self.poke_interval,
            deadline=deadline,
        )

    def describe(self) -> str:
        """Say what is waited for, and what is there instead, if that is known."""
        seen = f" ({self.seen})" if self.seen else ""
        return f"tag {self.tag}={self.value!r} on version {self.version} of {self.model!r}{seen}"


class MLflowRunSensor(MlopsSensor):
    """Wait until a run in MLflow has ended well. One that failed or was killed fails the sensor, with what the run says
    of it.

    Use it where something outside of Airflow trains.

    :param run_id: Id of the run.
    :param mlflow_conn_id: Airflow connection of type ``mlflow``.
    """

    template_fields = (*MlopsSensor.template_fields, "run_id", "mlflow_conn_id")
    operator_extra_links = (MLflowRunLink(),)

    def __init__(self, *, run_id: str, mlflow_conn_id: str = MLflowHook.default_conn_name, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.run_id = run_id
        self.mlflow_conn_id = mlflow_conn_id

    def look(self, context: Context) -> FinishedRun | None:
        """Look once at the run's status."""
        from airflow_mlops.engine.registry.lookup import look_at_run

        run_id = require(said(self.run_id), "run_id", "Did the task that starts the run succeed?")
        hook = MLflowHook(self.mlflow_conn_id)
        MLflowRunLink.persist(context, hook.run_url("", run_id))
        return look_at_run(hook.get_conn(lookups_only=True), run_id)

    def trigger(self, deadline: float) -> MLflowRunTrigger:
        """Go on looking in the triggerer."""
        from airflow_mlops.triggers.mlflow import MLflowRunTrigger

        return MLflowRunTrigger(
            run_id=said(self.run_id),
            mlflow_conn_id=self.mlflow_conn_id,
            poll_interval=self.poke_interval,
            deadline=deadline,
        )

    def describe(self) -> str:
        """Say what is waited for."""
        return f"MLflow run {self.run_id} finished"
