"""Operators around the model registry: register, judge, fetch what was approved, move aliases.

A version is deployed only after a verdict PASS in the ledger; the registry's aliases follow what serves. What works on
any version, whoever registered it, is in ``operators/mlflow_registry.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from airflow.sdk.exceptions import AirflowSkipException

from airflow_mlops.exceptions import ConfigError, GateError
from airflow_mlops.hooks.ledger import LedgerHook
from airflow_mlops.hooks.mlflow import MLflowHook
from airflow_mlops.links.mlflow import MLflowModelVersionLink, MLflowRunLink
from airflow_mlops.operators.base import MlopsOperator, owner_of, require, run_tags, said, whole_version
from airflow_mlops.operators.tensorflow import registry_cache

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_mlops.contracts import Verdict


class RegisteredVersion(TypedDict):
    """A version in the registry, and the run that made it."""

    model: str
    version: int
    run_id: str
    experiment_id: str
    source: str


class JudgedVersion(TypedDict):
    """A version that passed its gates."""

    model: str
    version: int
    status: str
    inputs_hash: str


class RejudgedVersion(TypedDict):
    """A version that was judged again: its verdict now, whether that is the one of then, and why not."""

    model: str
    version: int
    status: str
    repeats: bool
    reasons: list[str]


class FetchedVersion(TypedDict):
    """An approved version, where its SavedModel lies on this side of the registry, and which guards were passed by
    asking for it by number.
    """

    model: str
    version: int
    saved_model: str
    passed: list[str]


class AliasedVersion(TypedDict):
    """A version and the alias that points to it."""

    model: str
    version: int
    alias: str


class MLflowRegisterModelOperator(MlopsOperator):
    """Log a training and its evaluation to MLflow and register the model; the newest version is ``challenger``.

    Use it when a training has been evaluated, and before it is judged.

    One run and one version a training, however often this is repeated. Which features it reads goes to the ledger, so
    that they can be held against it when it is to serve, with MLflow and Feast down.

    :param model: Name of the model in the registry.
    :param training: Folder of the finished training.
    :param evaluation: The evaluation's file.
    :param mlflow_conn_id: Airflow connection of type ``mlflow``.
    :param ledger_conn_id: Airflow connection of type ``mlops_ledger``.
    """

    stopped_by_halt = "surely"
    template_fields = (
        *MlopsOperator.template_fields,
        "model",
        "training",
        "evaluation",
        "mlflow_conn_id",
        "ledger_conn_id",
    )
    operator_extra_links = (MLflowRunLink(), MLflowModelVersionLink())

    def __init__(
        self,
        *,
        model: str,
        training: str,
        evaluation: str,
        mlflow_conn_id: str = MLflowHook.default_conn_name,
        ledger_conn_id: str = LedgerHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.training = training
        self.evaluation = evaluation
        self.mlflow_conn_id = mlflow_conn_id
        self.ledger_conn_id = ledger_conn_id

    def perform(self, context: Context) -> RegisteredVersion:
        """Register and return the version."""
        from airflow_mlops.engine.features.governance.consumers import record_model
        from airflow_mlops.engine.registry.manifest import pack_manifest
        from airflow_mlops.engine.retraining.registered import Registered, record_registered, what_started
        from airflow_mlops.engine.training.workdir import finished_training, read_evaluation

        folder = require(self.training, "training", "Did the training task succeed?")
        file = require(self.evaluation, "evaluation", "Did the evaluation task succeed?")
        spec, result = finished_training(Path(folder))
        if spec.model != self.model:
            raise ConfigError(
                f"The training is of {spec.model!r}, not of {self.model!r}.",
                detail=f"training {folder}",
                hint="Give the training task and the registration the same model.",
            )
        evaluation = read_evaluation(Path(file))
        ledger = LedgerHook(self.ledger_conn_id).get_conn()
        run_of_dag = f"{context['ti'].dag_id} {context['ti'].run_id}"
        why, special = what_started(ledger, self.model, run_of_dag)
        manifest = pack_manifest(
            spec,
            result,
            parent_version=evaluation.champion_version,
            triggered_by=run_of_dag,
            trigger=why,
            special=special,
        )
        hook = MLflowHook(self.mlflow_conn_id)
        registry = hook.get_conn()
        run = registry.open_run(spec, run_tags(context, self), started=result.started)
        MLflowRunLink.persist(context, hook.run_url(run.experiment_id, run.run_id))
        registered = registry.register(run, result, manifest, evaluation)
        if owner := owner_of(self):
            registry.set_owner(self.model, owner)
        MLflowModelVersionLink.persist(context, hook.version_url(self.model, registered.version))
        record_model(ledger, self.model, int(registered.version), spec.snapshot)
        record_registered(
            ledger,
            Registered(
                model=self.model,
                version=int(registered.version),
                spec_hash=spec.hash,
                snapshot=spec.snapshot.id,
                run=run_of_dag,
                why=why,
                special=special,
                rows=sum(split.rows for split in spec.snapshot.splits.values()),
                seconds=result.seconds,
                cost=result.resources.get("cost"),
                metrics=evaluation.metrics.get("challenger", {}),
            ),
        )
        return RegisteredVersion(
            model=registered.model,
            version=int(registered.version),
            run_id=registered.run_id,
            experiment_id=registered.experiment_id,
            source=registered.source,
        )


class MLflowJudgeModelOperator(MlopsOperator):
    """Hold a registered version against its gates, which are bounds on metrics. Only PASS succeeds, and only then do
    assets get their event.

    Use it after registration: what brings a version into service looks for its verdict.

    The verdict goes to the ledger, and to the version and its run in MLflow.

    :param model: Name of the model in the registry.
    :param version: Registered version.
    :param evaluation: The evaluation's file.
    :param gates: :class:`~airflow_mlops.pipeline.Gate` as dicts; none: those of the label's problem type.
    :param mlflow_conn_id: Airflow connection of type ``mlflow``.
    :param ledger_conn_id: Airflow connection of type ``mlops_ledger``.
    """

    stopped_by_halt = "surely"
    template_fields = (
        *MlopsOperator.template_fields,
        "model",
        "version",
        "evaluation",
        "gates",
        "mlflow_conn_id",
        "ledger_conn_id",
    )
    operator_extra_links = (MLflowModelVersionLink(),)

    def __init__(
        self,
        *,
        model: str,
        version: int | str,
        evaluation: str,
        gates: Sequence[Mapping[str, Any]] = (),
        mlflow_conn_id: str = MLflowHook.default_conn_name,
        ledger_conn_id: str = LedgerHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.version = version
        self.evaluation = evaluation
        self.gates = gates
        self.mlflow_conn_id = mlflow_conn_id
        self.ledger_conn_id = ledger_conn_id

    def perform(self, context: Context) -> JudgedVersion:
        """Judge, keep the verdict, and fail unless it is PASS."""
        from airflow_mlops.engine.evaluation.approvals import record_verdict
        from airflow_mlops.engine.evaluation.gates import gates_of, judge
        from airflow_mlops.engine.registry.elsewhere import content_of
        from airflow_mlops.engine.retraining.registered import named_special
        from airflow_mlops.engine.training.workdir import evaluated_training, read_evaluation

        version = whole_version(self.version)
        file = require(self.evaluation, "evaluation", "Did the evaluation task succeed?")
        evaluation = read_evaluation(Path(file))
        gates = gates_of(self.gates, evaluation)
        ledger = LedgerHook(self.ledger_conn_id).get_conn()
        verdict = named_special(ledger, version, judge(self.model, gates, evaluation))
        for check in verdict.checks:
            self.log.info("%s  %s: %s", "pass" if check.passed else "FAIL", check.gate, check.reason)

        hook = MLflowHook(self.mlflow_conn_id)
        MLflowModelVersionLink.persist(context, hook.version_url(self.model, str(version)))
        registry = hook.get_conn()
        content = content_of(registry, ledger, self.model, version)
        trained, evaluated = registry.training_of(self.model, str(version)), evaluated_training(Path(file))
        if evaluated not in {trained, content}:
            raise GateError(
                f"The evaluation is not of version {version} of {self.model!r}.",
                detail=f"{file} is of {evaluated[:16]}, the version of {(trained or content)[:16]}",
                hint="Judge a version by the evaluation of its own training, or of its own SavedModel.",
            )
        registered = registry.log_verdict(self.model, str(version), verdict)
        record_verdict(
            ledger,
            registered,
            verdict,
            snapshot_id=evaluation.snapshot_id,
            content=content,
            gates=gates,
            champion_version=evaluation.champion_version,
        )
        _demand_pass(verdict, version)
        for outlet in self.outlets:
            context["outlet_events"][outlet].extra = {
                "model": self.model,
                "version": version,
                "status": verdict.status.value,
                "run_id": registered.run_id,
            }
        return JudgedVersion(
            model=self.model, version=version, status=verdict.status.value, inputs_hash=verdict.inputs_hash
        )


class MLflowRejudgeModelOperator(MlopsOperator):
    """Judge a version again, with the gates and on the data of then: the verdict must repeat. Or say why it does not.

    Use it in an audit, to show that a verdict follows from its data.

    Its snapshot must be there: ``FeastRebuildTrainingDataOperator`` builds a lost one.

    :param model: Name of the model in the registry.
    :param version: Judged version.
    :param snapshot: Id of another snapshot to judge it on, such as one of what the tables say now; empty means that of
        then. On another one it does not fail, and says what differs.
    :param mlflow_conn_id: Airflow connection of type ``mlflow``.
    :param ledger_conn_id: Airflow connection of type ``mlops_ledger``.
    """

    template_fields = (
        *MlopsOperator.template_fields,
        "model",
        "version",
        "snapshot",
        "mlflow_conn_id",
        "ledger_conn_id",
    )
    operator_extra_links = (MLflowModelVersionLink(),)

    def __init__(
        self,
        *,
        model: str,
        version: int | str,
        snapshot: str | None = None,
        mlflow_conn_id: str = MLflowHook.default_conn_name,
        ledger_conn_id: str = LedgerHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.version = version
        self.snapshot = snapshot
        self.mlflow_conn_id = mlflow_conn_id
        self.ledger_conn_id = ledger_conn_id

    def perform(self, context: Context) -> RejudgedVersion:
        """Judge again; fail when the verdict on the same data is another one."""
        from airflow_mlops.engine.evaluation.rejudge import demand_repeat, rejudge_version
        from airflow_mlops.engine.registry.elsewhere import fetch_version

        version = whole_version(self.version)
        hook = MLflowHook(self.mlflow_conn_id)
        MLflowModelVersionLink.persist(context, hook.version_url(self.model, str(version)))

        ledger = LedgerHook(self.ledger_conn_id).get_conn()

        def fetched(number: int) -> Path:
            cache = registry_cache(self.home_path, self.model, number)
            return fetch_version(hook.get_conn(), ledger, self.model, number, cache).saved_model

        again = rejudge_version(ledger, self.home_path, self.model, version, fetched, on=said(self.snapshot))
        for reason in again.reasons:
            self.log.warning("%s", reason)
        if not said(self.snapshot):
            demand_repeat(again, self.model, version)
        return RejudgedVersion(
            model=self.model,
            version=version,
            status=again.verdict.status.value,
            repeats=again.repeats,
            reasons=list(again.reasons),
        )


class MLflowFetchApprovedModelOperator(MlopsOperator):
    """Fetch the SavedModel of the version to deploy: the newest approved one, or the one asked for.

    Use it first in a DAG that deploys.

    What to deploy is read from the ledger. The task is skipped, and says why in its log and in the XCom ``held``, when
    a version is pinned, when the newest was rolled back on this server, or when it was trained on older data than the
    one that serves. Asked for by number, the last two are deployed nevertheless. What came of code that nobody
    committed is refused where ``code`` says so, unless somebody allowed it.

    :param model: Name of the model in the registry.
    :param version: Approved version; empty means the newest.
    :param server: Airflow connection id of the model server that it is for.
    :param code: Of which code a version may be: ``any``, or ``committed``.
    :param mlflow_conn_id: Airflow connection of type ``mlflow``.
    :param ledger_conn_id: Airflow connection of type ``mlops_ledger``.
    """

    stopped_by_halt = "surely"
    template_fields = (
        *MlopsOperator.template_fields,
        "model",
        "version",
        "server",
        "code",
        "mlflow_conn_id",
        "ledger_conn_id",
    )
    operator_extra_links = (MLflowModelVersionLink(),)

    def __init__(
        self,
        *,
        model: str,
        version: int | str = "",
        server: str = "tf_serving_default",
        code: str = "any",
        mlflow_conn_id: str = MLflowHook.default_conn_name,
        ledger_conn_id: str = LedgerHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.version = version
        self.server = server
        self.code = code
        self.mlflow_conn_id = mlflow_conn_id
        self.ledger_conn_id = ledger_conn_id

    def perform(self, context: Context) -> FetchedVersion:
        """Choose, fetch, and return the version."""
        from airflow_mlops.engine.data.shared import send
        from airflow_mlops.engine.evaluation.approvals import choose_version
        from airflow_mlops.engine.evaluation.committed import check_committed
        from airflow_mlops.engine.registry.elsewhere import fetch_version

        asked = whole_version(self.version) if self.version not in (None, "", "None") else None
        ledger = LedgerHook(self.ledger_conn_id).get_conn()
        choice = choose_version(ledger, self.model, self.server, asked)
        if choice.version is None:
            held = f"Nothing is deployed: {choice.why}."
            context["ti"].xcom_push("held", held)
            raise AirflowSkipException(held)
        version = choice.version
        hook = MLflowHook(self.mlflow_conn_id)
        MLflowModelVersionLink.persist(context, hook.version_url(self.model, str(version)))
        cache = registry_cache(self.home_path, self.model, version)
        saved_model = fetch_version(hook.get_conn(), ledger, self.model, version, cache).saved_model
        allowed = check_committed(ledger, self.model, version, saved_model, self.code)
        send(saved_model)  # whoever publishes it may be another worker
        passed = [*choice.overrides, *([allowed] if allowed else [])]
        return FetchedVersion(model=self.model, version=version, saved_model=str(saved_model), passed=passed)


class MLflowSetAliasOperator(MlopsOperator):
    """Point an alias to a version. The version that stops being ``champion`` becomes ``previous``.

    Use it to name the version that serves, or one that somebody is to look at.

    :param model: Name of the model in the registry.
    :param version: Registered version.
    :param alias: Which alias.
    :param mlflow_conn_id: Airflow connection of type ``mlflow``.
    """

    template_fields = (*MlopsOperator.template_fields, "model", "version", "alias", "mlflow_conn_id")
    operator_extra_links = (MLflowModelVersionLink(),)

    def __init__(
        self,
        *,
        model: str,
        version: int | str,
        alias: str = "champion",
        mlflow_conn_id: str = MLflowHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.version = version
        self.alias = alias
        self.mlflow_conn_id = mlflow_conn_id

    def perform(self, context: Context) -> AliasedVersion:
        """Move the alias and return the version."""
        from airflow_mlops.engine.registry.lookup import find_version

        version = whole_version(self.version)
        alias = require(self.alias, "alias", "Name one, such as champion.")
        hook = MLflowHook(self.mlflow_conn_id)
        MLflowModelVersionLink.persist(context, hook.version_url(self.model, str(version)))
        registry = hook.get_conn()
        find_version(registry, self.model, str(version))  # which says what is there, if that is not
        registry.set_alias(self.model, str(version), alias)
        for outlet in self.outlets:
            context["outlet_events"][outlet].extra = {"model": self.model, "version": version, "alias": alias}
        return AliasedVersion(model=self.model, version=version, alias=alias)


def _demand_pass(verdict: Verdict, version: int) -> None:
    """Fail with every failed check, what was seen and what was asked."""
    from airflow_mlops.contracts import VerdictStatus

    if verdict.status is VerdictStatus.PASS:
        return
    failed = [check for check in verdict.checks if not check.passed]
    raise GateError(
        f"Version {version} of {verdict.model!r} failed {len(failed)} of {len(verdict.checks)} checks; "
        "what serves stays.",
        detail="\n         ".join(f"{check.gate}: {check.reason}" for check in failed),
        hint="See the evaluation in the model's MLflow run: wrong data, a worse model, or a gate too strict.",
    )
