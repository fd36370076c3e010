"""Operators that put a model version into service and take it back: publish, load, verify, promote, roll back.

Each step can be repeated, by a retry or by hand, and none of them needs the registry. What a server should hold
is kept in the ledger; see :mod:`airflow_mlops.engine.serving.rollout`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, cast, get_args

from airflow.sdk.exceptions import AirflowSkipException

from airflow_mlops.exceptions import ConfigError, did_you_mean
from airflow_mlops.hooks.ledger import LedgerHook
from airflow_mlops.hooks.tf_serving import TFServingHook
from airflow_mlops.links.tf_serving import TFServingModelLink
from airflow_mlops.operators.base import MlopsOperator, require, said, whole_version
from airflow_mlops.operators.runbook import HoldsUntil, PersonOperator

if TYPE_CHECKING:
    from airflow.sdk import BaseOperatorLink, Context

    from airflow_mlops.engine.serving.model_store import SignatureChanges
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
    """The version that answers callers again and is pinned, the one it took over from, and until when it is pinned."""

    model: str
    version: int
    from_version: int | None
    until: str | None


class PinnedVersion(TypedDict):
    """The version that serves; whether it is pinned now, by whom, why and until when."""

    model: str
    version: int | None
    pinned: bool
    who: str
    reason: str
    until: str | None


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
    override_by: str | None
    override_reason: str | None

    def check_features(self, model: str, version: int) -> None:
        """Refuse a version whose features have moved on, unless somebody answers for it; from the ledger alone."""
        from airflow_mlops.engine.features.governance.consumers import Override, check_features

        override = Override.of(said(self.override_by), said(self.override_reason))
        check_features(LedgerHook(self.ledger_conn_id).get_conn(), model, version, override)


class HeldAgainstVerdict(ModelVersionOperator):
    """Base of the operators that bring a version towards callers: the very bytes must have passed their gates.

    While the model is halted it is skipped.

    :param require_verdict: Refuse bytes that no verdict PASS in the ledger is about. False, in a DAG of one's own, lets
        them pass; that is written down with the deployment.
    """

    stopped_by_halt = "surely"

    def __init__(self, *, require_verdict: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.require_verdict = require_verdict

    def check_verdict(self, version: int, folder: Path) -> None:
        """Refuse bytes without a verdict."""
        from airflow_mlops.engine.evaluation.approvals import check_verdict

        if self.require_verdict:
            check_verdict(LedgerHook(self.ledger_conn_id).get_conn(), self.model, version, folder)

    @property
    def overrides(self) -> tuple[str, ...]:
        """The guards that this task leaves out, in words."""
        return () if self.require_verdict else ("no verdict was required",)


class TFServingPublishModelOperator(HeldAgainstFeatures, HeldAgainstVerdict):
    """Put a SavedModel into the model store that the server reads, complete and proven, or not at all.

    Use it first of the four that bring a version into service: publish, load, verify, promote.

    A model is refused when no verdict PASS is about its bytes, when it does not answer its golden predictions or a
    golden case (``airflow-mlops golden add``), when its signature is not that of the version which serves now, or when
    its features are not what it was trained on any more.

    :param source: Folder of the SavedModel.
    :param tolerance: Largest absolute difference between a golden prediction and the answer now.
    :param signature_changes: What may be different for callers of the version that serves now: nothing (``refuse``),
        new inputs (``additive``), or ``any``.
    :param require_golden: Refuse a model without golden predictions. Without them nothing shows that it answers as it
        did where it was made; that is said in the log.
    :param override_by: Who answers for publishing it although its features have moved on; kept in the ledger.
    :param override_reason: Why; needed with ``override_by``.
    """

    template_fields = (
        *ModelVersionOperator.template_fields,
        "source",
        "signature_changes",
        "override_by",
        "override_reason",
    )

    def __init__(
        self,
        *,
        source: str,
        tolerance: float = 1e-5,
        signature_changes: str = "refuse",
        require_golden: bool = False,
        override_by: str | None = None,
        override_reason: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.source = source
        self.override_by = override_by
        self.override_reason = override_reason
        self.tolerance = tolerance
        self.signature_changes = signature_changes
        self.require_golden = require_golden

    def perform(self, context: Context) -> PublishedVersion:
        """Publish and return where it lies."""
        from airflow_mlops.engine.data.shared import fetch
        from airflow_mlops.engine.registry.elsewhere import check_seen
        from airflow_mlops.engine.serving.compatibility import check_server, trained_with
        from airflow_mlops.engine.serving.golden_cases import cases
        from airflow_mlops.engine.serving.model_store import publish

        version = whole_version(self.version)
        source = require(self.source, "source", "Did the task whose XCom it comes from succeed?")
        self.check_features(self.model, version)
        hook = TFServingHook(self.tf_serving_conn_id)
        fetch(Path(source))
        check_seen(LedgerHook(self.ledger_conn_id).get_conn(), self.model, version, Path(source))
        check_server(self.tf_serving_conn_id, hook.tensorflow_version(), trained_with(Path(source)))
        with self.rollout(context) as rollout:
            path = publish(
                Path(source),
                rollout.base,
                version,
                serving=rollout.deployment().stable,
                signature_changes=_signature_changes(self.signature_changes),
                tolerance=self.tolerance,
                require_golden=self.require_golden,
                cases=cases(rollout.ledger, self.model),
                check=partial(self.check_verdict, version),
            )
        return PublishedVersion(model=self.model, version=version, path=str(path))


def _signature_changes(asked: str) -> SignatureChanges:
    """Return which changes are allowed, once rendered."""
    from airflow_mlops.engine.serving.model_store import SignatureChanges

    known = get_args(SignatureChanges)
    if asked not in known:
        raise ConfigError(
            f"signature_changes={asked!r} is unknown.{did_you_mean(asked, known)}",
            hint=f"It is one of: {', '.join(known)}.",
        )
    return cast("SignatureChanges", asked)


class TFServingLoadVersionOperator(HeldAgainstVerdict):
    """Tell the model server to load a published version beside those in service.

    It is refused when no verdict PASS is about its bytes: callers who name no label get the highest version that is
    loaded. While another version is pinned it is skipped. Follow it with
    :class:`~airflow_mlops.sensors.tf_serving.TFServingVersionSensor`, which waits for it.
    """

    def perform(self, context: Context) -> LoadedVersion:
        """Ask for it and return what the server is to hold."""
        from airflow_mlops.engine.serving.deployments import PinnedError

        version = whole_version(self.version)
        with self.rollout(context) as rollout:
            folder = rollout.base / str(version)
            try:
                deployment = rollout.load(
                    version, lambda number: self.check_verdict(number, folder), overrides=self.overrides
                )
            except PinnedError as error:
                raise AirflowSkipException(str(error)) from None
        return LoadedVersion(model=self.model, version=version, loaded=list(deployment.loaded))


class TFServingVerifyVersionOperator(ModelVersionOperator):
    """Ask the model server for the golden predictions of a version, before anyone else asks it anything.

    Use it when the version is loaded, and before it is promoted: that a server has loaded a version proves nothing.

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


class TFServingPromoteVersionOperator(HeldAgainstFeatures, HeldAgainstVerdict):
    """Let a version answer callers: point the label ``stable`` to it, and confirm that the server follows.

    Use it last of the four that bring a version into service.

    The version that the label pointed to stays loaded, so that a rollback is one more move of the label. While another
    is pinned the task is skipped, and the version unloaded. It is refused when no verdict PASS is about its bytes, or
    when the features are not what it was trained on any more. So it is when it was rolled back, or knows older data
    than the one that serves, unless somebody asked for it by number.

    :param keep: How many other versions that served well can be gone back to.
    :param passed: Guards that somebody passed by asking for this version, in words; kept with the deployment.
    :param override_by: Who answers for promoting it although its features have moved on; kept in the ledger.
    :param override_reason: Why; needed with ``override_by``.
    """

    template_fields = (*ModelVersionOperator.template_fields, "passed", "override_by", "override_reason")

    def __init__(
        self,
        *,
        keep: int = 3,
        passed: Sequence[str] = (),
        override_by: str | None = None,
        override_reason: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.keep = keep
        self.passed = passed
        self.override_by = override_by
        self.override_reason = override_reason

    def perform(self, context: Context) -> ServingVersion:
        """Move the label and return what serves."""
        from airflow_mlops.engine.evaluation.approvals import check_not_older
        from airflow_mlops.engine.serving.deployments import PinnedError

        version = whole_version(self.version)
        with self.rollout(context) as rollout:
            folder = rollout.base / str(version)

            def check(number: int) -> None:
                self.check_features(self.model, number)
                self.check_verdict(number, folder)
                check_not_older(rollout.ledger, rollout.deployment(), number)

            overrides = (*self.overrides, *self.passed)
            try:
                deployment = rollout.promote(version, check, keep=self.keep, overrides=overrides)
            except PinnedError as error:
                rollout.retire(version, "another one is pinned")
                raise AirflowSkipException(str(error)) from None
        return ServingVersion(model=self.model, version=version, previous=deployment.previous)


class ByPerson(OnModelServer, PersonOperator):
    """Base of what a person does to what serves.

    :param tf_serving_conn_id: Airflow connection of type ``tf_serving``.
    """

    template_fields = (*PersonOperator.template_fields, "tf_serving_conn_id")

    def __init__(self, *, tf_serving_conn_id: str = TFServingHook.default_conn_name, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.tf_serving_conn_id = tf_serving_conn_id


class TFServingRollbackOperator(HoldsUntil, HeldAgainstFeatures, ByPerson):
    """Let an earlier version answer again, and pin it. Needs the ledger and the server, and nothing else.

    Use it when what serves is bad, and an earlier version was good.

    A retry of the same run goes back once, not twice. It is refused when the features of that version are not what it
    was trained on any more: it would answer, and wrongly.

    :param to: The version to go back to, any that is kept; empty means the last one that served well.
    :param served_on: Instead of a number: the version that served at this moment, or at the end of this day.
    :param trained_before: Instead of a number: the newest kept version that knows no data from this day, or moment, on.
    :param until: When the pin runs out; empty means that it holds until it is lifted.
    :param override_by: Who answers for going back although the features have moved on; kept in the ledger.
    :param override_reason: Why; needed with ``override_by``.
    """

    template_fields = (
        *ByPerson.template_fields,
        "to",
        "served_on",
        "trained_before",
        "until",
        "override_by",
        "override_reason",
    )

    def __init__(
        self,
        *,
        to: int | str | None = None,
        served_on: str | None = None,
        trained_before: str | None = None,
        until: str | None = None,
        override_by: str | None = None,
        override_reason: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.to = to
        self.served_on = served_on
        self.trained_before = trained_before
        self.until = until
        self.override_by = override_by
        self.override_reason = override_reason

    def perform(self, context: Context) -> RolledBackVersion:
        """Roll back and return from where to where."""
        from airflow_mlops.engine.evaluation.approvals import check_bytes
        from airflow_mlops.engine.serving.going_back import version_to_go_back_to

        ti = context["ti"]
        who, reason = self.answered_for(context)
        until = self.ends()
        ledger = LedgerHook(self.ledger_conn_id).get_conn()
        number = whole_version(said(self.to)) if said(self.to) else None
        to = version_to_go_back_to(
            ledger, self.tf_serving_conn_id, self.model, number, said(self.served_on), said(self.trained_before)
        )
        with self.rollout(context) as rollout:

            def check(number: int) -> None:
                self.check_features(self.model, number)
                check_bytes(ledger, self.model, number, rollout.base / str(number))

            deployment = rollout.rollback(
                who,
                reason,
                to,
                until,
                check,
                request=f"rolled back by {ti.dag_id} {ti.run_id}",
            )
        assert deployment.stable is not None
        ends = deployment.pin.until.isoformat() if deployment.pin and deployment.pin.until else None
        return RolledBackVersion(
            model=self.model, version=deployment.stable, from_version=deployment.previous, until=ends
        )


class TFServingPinVersionOperator(HoldsUntil, ByPerson):
    """Keep the version that serves, whatever passes its gates. Needs the ledger, and nothing else.

    Use it when nothing new is to be deployed for a while.

    Trainings go on and register; ``<model>.deploy`` ends with the words of the pin.

    :param until: When the pin runs out; empty means that it holds until it is lifted.
    """

    template_fields = (*ByPerson.template_fields, "until")

    def __init__(self, *, until: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.until = until

    def perform(self, context: Context) -> PinnedVersion:
        """Pin, and return what is pinned."""
        from airflow_mlops.engine.serving.deployments import pin

        who, reason = self.answered_for(context)
        until = self.ends()
        ledger = LedgerHook(self.ledger_conn_id).get_conn()
        state = pin(ledger, self.tf_serving_conn_id, self.model, who, reason, until)
        self.log.info("%s", state.pin)
        return PinnedVersion(
            model=self.model,
            version=state.stable,
            pinned=True,
            who=who,
            reason=reason,
            until=until.isoformat() if until else None,
        )


class TFServingUnpinVersionOperator(ByPerson):
    """Lift the pin: the next version that passes its gates is deployed again. Needs the ledger, and nothing else.

    Use it when the reason of the pin is over.
    """

    def perform(self, context: Context) -> PinnedVersion:
        """Lift it, and return what serves."""
        from airflow_mlops.engine.serving.deployments import unpin

        who, reason = self.answered_for(context)
        state = unpin(LedgerHook(self.ledger_conn_id).get_conn(), self.tf_serving_conn_id, self.model, who, reason)
        return PinnedVersion(model=self.model, version=state.stable, pinned=False, who=who, reason=reason, until=None)
