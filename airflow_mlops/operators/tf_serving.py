"""Operators that put a model version into service and take it back: publish, load, verify, promote, roll back.

Each step can be repeated, by a retry or by hand, and none of them needs the registry. What a server should hold
is kept in the ledger; see :mod:`airflow_mlops.engine.serving.rollout`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from airflow_mlops.hooks.ledger import LedgerHook
from airflow_mlops.hooks.tf_serving import TFServingHook
from airflow_mlops.links.tf_serving import TFServingModelLink
from airflow_mlops.operators.base import MlopsOperator, require, whole_version

if TYPE_CHECKING:
    from airflow.sdk import BaseOperatorLink, Context

    from airflow_mlops.engine.serving.rollout import Rollout


class PublishedVersion(TypedDict):
    """A version in the model store."""

    model: str
    version: int
    path: str


class LoadedVersion(TypedDict):
    """A version that the server was told to load, and what it then holds."""

    model: str
    version: int
    loaded: list[int]


class VerifiedVersion(TypedDict):
    """A version that answers as it did at training time, and how closely."""

    model: str
    version: int
    rows: int
    max_difference: float


class ServingVersion(TypedDict):
    """The version that answers callers now, and the one that did before."""

    model: str
    version: int
    previous: int | None


class RolledBackVersion(TypedDict):
    """The version that answers callers again, and the one it took over from."""

    model: str
    version: int | None
    from_version: int | None


class OnModelServer:
    """Mixin for tasks about one model on one server."""

    operator_extra_links: Collection[BaseOperatorLink] = (TFServingModelLink(),)

    model: str
    tf_serving_conn_id: str
    ledger_conn_id: str

    @contextmanager
    def rollout(self, context: Context) -> Iterator[Rollout]:
        """Yield the model's rollout, with the link to the server already in place."""
        hook = TFServingHook(self.tf_serving_conn_id)
        model = require(self.model, "model", "Check the template: it must render to the model's name.")
        TFServingModelLink.persist(context, hook.model_url(model))
        with hook.rollout(model, LedgerHook(self.ledger_conn_id).get_conn()) as rollout:
            yield rollout


class ModelVersionOperator(OnModelServer, MlopsOperator):
    """Base of the operators about one version of a model on one server.

    :param model: Name of the model on the server.
    :param version: Number of the version.
    :param tf_serving_conn_id: Airflow connection of type ``tf_serving``.
    :param ledger_conn_id: Airflow connection of type ``mlops_ledger``.
    """

    template_fields = (*MlopsOperator.template_fields, "model", "version", "tf_serving_conn_id", "ledger_conn_id")

    def __init__(
        self,
        *,
        model: str,
        version: int | str,
        tf_serving_conn_id: str = TFServingHook.default_conn_name,
        ledger_conn_id: str = LedgerHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.version = version
        self.tf_serving_conn_id = tf_serving_conn_id
        self.ledger_conn_id = ledger_conn_id


class HeldAgainstFeatures:
    """Mixin for tasks that bring a version into service: its features must still be what it was trained on."""

    ledger_conn_id: str
    override_by: str
    override_reason: str

    def check_features(self, model: str, version: int) -> None:
        """Refuse a version whose features have moved on, unless somebody answers for it; from the ledger alone."""
        from airflow_mlops.engine.features.governance.consumers import Override, check_features

        override = Override.of(self.override_by, self.override_reason)
        check_features(LedgerHook(self.ledger_conn_id).get_conn(), model, version, override)


class TFServingPublishModelOperator(HeldAgainstFeatures, ModelVersionOperator):
    """Put a SavedModel into the model store, complete and proven, or not at all.

    It is refused when it does not answer its golden predictions, when its signature is not that of the version which
    serves now, or when its features are not what it was trained on any more.

    :param source: Folder of the SavedModel.
    :param tolerance: Largest absolute difference between a golden prediction and the answer now.
    :param allow_signature_change: Publish even if callers of the version that serves now would break.
    :param override_by: Who answers for publishing it although its features have moved on; kept in the ledger.
    :param override_reason: Why; needed with ``override_by``.
    """

    template_fields = (*ModelVersionOperator.template_fields, "source", "override_by", "override_reason")

    def __init__(
        self,
        *,
        source: str,
        tolerance: float = 1e-5,
        allow_signature_change: bool = False,
        override_by: str = "",
        override_reason: str = "",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.source = source
        self.override_by = override_by
        self.override_reason = override_reason
        self.tolerance = tolerance
        self.allow_signature_change = allow_signature_change

    def perform(self, context: Context) -> PublishedVersion:
        """Publish and return where it lies."""
        from airflow_mlops.engine.serving.model_store import publish

        version = whole_version(self.version)
        source = require(self.source, "source", "Did the task whose XCom it comes from succeed?")
        self.check_features(self.model, version)
        with self.rollout(context) as rollout:
            stable = None if self.allow_signature_change else rollout.deployment().stable
            path = publish(Path(source), rollout.base, version, same_signature_as=stable, tolerance=self.tolerance)
        return PublishedVersion(model=self.model, version=version, path=str(path))


class TFServingLoadVersionOperator(ModelVersionOperator):
    """Tell the server to load a published version beside those in service.

    Follow it with :class:`~airflow_mlops.sensors.tf_serving.TFServingVersionSensor`, which waits for it.
    """

    def perform(self, context: Context) -> LoadedVersion:
        """Ask for it and return what the server is to hold."""
        version = whole_version(self.version)
        with self.rollout(context) as rollout:
            deployment = rollout.load(version)
        return LoadedVersion(model=self.model, version=version, loaded=list(deployment.loaded))


class TFServingVerifyVersionOperator(ModelVersionOperator):
    """Ask the server for the golden predictions of a version, before anyone else asks it anything.

    A version that fails is unloaded again; the one that serves is not touched.

    :param tolerance: Largest absolute difference between a golden prediction and the server's answer.
    """

    def __init__(
        self,
        *,
        tolerance: float = 1e-5,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.tolerance = tolerance

    def perform(self, context: Context) -> VerifiedVersion:
        """Compare and return how close it came."""
        version = whole_version(self.version)
        with self.rollout(context) as rollout:
            passed = rollout.verify(version, tolerance=self.tolerance)
        return VerifiedVersion(
            model=self.model, version=version, rows=passed.rows, max_difference=passed.max_difference
        )


class TFServingPromoteVersionOperator(HeldAgainstFeatures, ModelVersionOperator):
    """Point the label ``stable`` to a version, and confirm that the server follows.

    The version it pointed to stays loaded, so that a rollback is one more move of the label. It is refused when the
    features are not what the version was trained on any more.

    :param override_by: Who answers for promoting it although its features have moved on; kept in the ledger.
    :param override_reason: Why; needed with ``override_by``.
    """

    template_fields = (*ModelVersionOperator.template_fields, "override_by", "override_reason")

    def __init__(self, *, override_by: str = "", override_reason: str = "", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.override_by = override_by
        self.override_reason = override_reason

    def perform(self, context: Context) -> ServingVersion:
        """Move the label and return what serves."""
        version = whole_version(self.version)
        with self.rollout(context) as rollout:
            deployment = rollout.promote(version, partial(self.check_features, self.model))
        return ServingVersion(model=self.model, version=version, previous=deployment.previous)


class TFServingRollbackOperator(HeldAgainstFeatures, OnModelServer, MlopsOperator):
    """Let the previous version answer again. Needs the ledger and the server, and nothing else.

    A retry of the same run goes back once, not twice. It is refused when the features of the previous version are
    not what it was trained on any more: it would answer, and wrongly.

    :param model: Name of the model on the server.
    :param reason: Why; kept in the ledger.
    :param override_by: Who answers for going back although the features have moved on; kept in the ledger.
    :param override_reason: Why; needed with ``override_by``.
    :param tf_serving_conn_id: Airflow connection of type ``tf_serving``.
    :param ledger_conn_id: Airflow connection of type ``mlops_ledger``.
    """

    template_fields = (
        *MlopsOperator.template_fields,
        "model",
        "reason",
        "override_by",
        "override_reason",
        "tf_serving_conn_id",
        "ledger_conn_id",
    )

    def __init__(
        self,
        *,
        model: str,
        reason: str = "",
        override_by: str = "",
        override_reason: str = "",
        tf_serving_conn_id: str = TFServingHook.default_conn_name,
        ledger_conn_id: str = LedgerHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.reason = reason
        self.override_by = override_by
        self.override_reason = override_reason
        self.tf_serving_conn_id = tf_serving_conn_id
        self.ledger_conn_id = ledger_conn_id

    def perform(self, context: Context) -> RolledBackVersion:
        """Roll back and return from where to where."""
        ti = context["ti"]
        request = f"rolled back by {ti.dag_id} {ti.run_id}"
        with self.rollout(context) as rollout:
            asked = f"{request}: {self.reason}" if self.reason else request
            deployment = rollout.rollback(asked, partial(self.check_features, self.model))
        return RolledBackVersion(model=self.model, version=deployment.stable, from_version=deployment.previous)
