"""Operators that decide whether a model is trained: look and decide, let a run go on, watch the age of what serves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypedDict

from airflow.sdk.exceptions import AirflowSkipException

from airflow_mlops.durations import parse_duration
from airflow_mlops.exceptions import DataError
from airflow_mlops.hooks.ledger import LedgerHook
from airflow_mlops.hooks.tf_serving import TFServingHook
from airflow_mlops.operators.base import MlopsOperator, owner_of

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_mlops.engine.ledger import Ledger

_EVENTS = 100
"""Newest events of an asset that are read at each look."""


class DecidedTraining(TypedDict):
    """The training to start: the run's id, the request that it answers, and why, in words."""

    model: str
    run_id: str
    request: int
    why: str


class ServedAge(TypedDict):
    """How old the newest labels are that the serving version knows, in seconds; None where nothing serves."""

    model: str
    version: int | None
    seconds: float | None
    too_old: bool


class DecideTrainingOperator(MlopsOperator):
    """Look whether something asks for a training of a model, and decide which request starts one. Skipped when none.

    Use it in a DAG that wakes when data arrives: what it returns is the run of the training to start.

    What asks is read from the ledger: it does not matter which event woke this, or whether one was lost or came twice.
    Why nothing starts is in the task's log and its XCom ``held``, and `airflow-mlops why MODEL` says it.

    :param model: Name of the model.
    :param watch: What to look at: the arguments of :class:`~airflow_mlops.engine.retraining.triggers.Watch` beside
        ``model`` and ``server``, with durations as text.
    :param cooldown: Least time between the starts of two trainings that nobody asked for by hand.
    :param assets: Names of assets whose events ask for a training.
    :param tf_serving_conn_id: Airflow connection of the server on which the model serves.
    :param ledger_conn_id: Airflow connection of type ``mlops_ledger``.
    """

    template_fields = (
        *MlopsOperator.template_fields,
        "model",
        "watch",
        "cooldown",
        "assets",
        "tf_serving_conn_id",
        "ledger_conn_id",
    )

    def __init__(
        self,
        *,
        model: str,
        watch: Mapping[str, Any],
        cooldown: str,
        assets: Sequence[str] = (),
        tf_serving_conn_id: str = TFServingHook.default_conn_name,
        ledger_conn_id: str = LedgerHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.watch = watch
        self.cooldown = cooldown
        self.assets = assets
        self.tf_serving_conn_id = tf_serving_conn_id
        self.ledger_conn_id = ledger_conn_id

    def perform(self, context: Context) -> DecidedTraining:
        """Ask for what is asked for, and decide."""
        from airflow_mlops.engine.retraining.decide import Policy
        from airflow_mlops.engine.retraining.looking import look_and_decide
        from airflow_mlops.engine.retraining.requests import finish, settle
        from airflow_mlops.engine.retraining.rollup import Rollup
        from airflow_mlops.engine.retraining.triggers import Watch

        ledger = LedgerHook(self.ledger_conn_id).get_conn()
        self._hear(context, ledger)
        given = {**self.watch, "matures_after": parse_duration(self.watch["matures_after"])}
        if given.get("rollup"):
            given["rollup"] = Rollup.of(given["rollup"])
        given |= {name: tuple(given[name]) for name in ("inputs", "decay") if given.get(name)}
        made = look_and_decide(
            ledger,
            self.partition_store(ledger),
            self.home_path,
            watch=Watch(model=self.model, server=self.tf_serving_conn_id, **given),
            policy=Policy(parse_duration(self.cooldown)),
            who=self.dag_id,
            running=settle(ledger, self.model, lambda run: run_state(context, run)),
        )
        if made.start is None:
            raise self._held(context, made.why)
        run_id = f"retrain__{made.start.id}"
        state = run_state(context, f"{self.model}.train {run_id}")
        if state in ("failed", "success"):
            finish(ledger, made.start, "failed", f"its run {run_id} ended before its training began: {state}")
        if state is not None:
            raise self._held(context, f"request {made.start.id} has a run already, {run_id}: {state}")
        self.log.info("A training starts: %s", made.why)
        return DecidedTraining(model=self.model, run_id=run_id, request=made.start.id, why=made.why)

    def _held(self, context: Context, why: str) -> AirflowSkipException:
        held = f"No training starts: {why}."
        context["ti"].xcom_push("held", held)
        return AirflowSkipException(held)

    def _hear(self, context: Context, ledger: Ledger) -> None:
        """Ask for a training for each event of the assets: those of the last days, whether they woke this or not."""
        from airflow_mlops.engine.retraining.requests import ask, started_last

        last, now = started_last(ledger, self.model), datetime.now(UTC)
        since = None if last is None else last.started_at
        if since is not None and since > now:  # written by a clock that was wrong: it has seen no event
            since = None
        for name in self.assets:
            for event in self._events(name):
                if since is not None and event.timestamp <= since:
                    continue
                source = event.source_dag_id or "Airflow's REST API"
                ask(
                    ledger,
                    self.model,
                    "asset",
                    f"{name}, event of {event.timestamp:%Y-%m-%d %H:%M} UTC by {source}",
                    key=f"asset:{name}:{event.timestamp.isoformat()}",
                    who=self.dag_id,
                )

    def _events(self, name: str) -> list[Any]:
        """Return the newest events of an asset. As an inlet, one that is not there yet would fail the task."""
        from airflow.sdk.exceptions import AirflowRuntimeError
        from airflow.sdk.execution_time.context import InletEventsAccessor

        try:
            return list(InletEventsAccessor(asset_name=name).ascending(False).limit(_EVENTS))
        except AirflowRuntimeError as error:
            self.log.warning("The events of asset %r cannot be read: %s", name, error)
            return []


class CheckServedAgeOperator(MlopsOperator):
    """Warn when the version that serves has learned from nothing newer than so long ago, whoever should have trained a
    newer one.

    Use it on a schedule, to hear of a model whose trainings have quietly stopped.

    The warning comes once a day, by the notifiers; where nobody is notified the task fails.

    :param model: Name of the model.
    :param max_age: How old the newest labels may be that it knows.
    :param notify: Airflow notifiers, or functions that take a context.
    :param tf_serving_conn_id: Airflow connection of the server on which it serves.
    :param ledger_conn_id: Airflow connection of type ``mlops_ledger``.
    """

    template_fields = (*MlopsOperator.template_fields, "model", "max_age", "tf_serving_conn_id", "ledger_conn_id")

    def __init__(
        self,
        *,
        model: str,
        max_age: str,
        notify: Sequence[Callable[..., Any]] = (),
        tf_serving_conn_id: str = TFServingHook.default_conn_name,
        ledger_conn_id: str = LedgerHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.max_age = max_age
        self.notify = notify
        self.tf_serving_conn_id = tf_serving_conn_id
        self.ledger_conn_id = ledger_conn_id

    def perform(self, context: Context) -> ServedAge:
        """Look at the ledger, and tell or fail."""
        from airflow_mlops.engine.retraining.looking import served_age
        from airflow_mlops.metrics import gauge

        ledger, now = LedgerHook(self.ledger_conn_id).get_conn(), datetime.now(UTC)
        version, age = served_age(ledger, self.tf_serving_conn_id, self.model, now)
        if age is None:
            self.log.info("Nothing of %s serves on %s whose age is known.", self.model, self.tf_serving_conn_id)
            return ServedAge(model=self.model, version=version, seconds=None, too_old=False)
        gauge("mlops.served_age_seconds", age.total_seconds(), model=self.model)
        too_old = age > parse_duration(self.max_age)
        self.log.info(
            "Version %s of %s knows labels up to %s ago, %s are allowed.", version, self.model, age, self.max_age
        )
        if too_old:
            self._tell(context, ledger, f"{version} {now:%Y-%m-%d}", DataError(
                f"What serves of {self.model!r} is too old: its newest labels are {age.days} days old.",
                detail=f"version {version} on {self.tf_serving_conn_id}; {self.max_age} are allowed",
                hint=f"`airflow-mlops why {self.model}` says why nothing newer was trained; see the last runs of "
                f"{self.model}.train and {self.model}.deploy, and whether they are paused.",
            ))  # fmt: skip
        return ServedAge(model=self.model, version=version, seconds=age.total_seconds(), too_old=too_old)

    def _tell(self, context: Context, ledger: Ledger, key: str, error: DataError) -> None:
        if not self.notify:
            raise error
        if ledger.facts("age_told", self.model, key=key, limit=1):
            return
        from airflow_mlops.notifications import Notice, tell

        tell(
            self.notify,
            Notice(
                event="served_too_old",
                model=self.model,
                owner=owner_of(self),
                headline=error.headline,
                detail=error.detail,
                hint=error.hint,
            ),
            context,
        )
        ledger.record("age_told", self.model, {"headline": error.headline}, key=key)


def run_of(context: Context) -> str:
    """Return DAG and run, as requests and manifests name them."""
    ti = context["ti"]
    return f"{ti.dag_id} {ti.run_id}"


def user_of(context: Context) -> str:
    """Return who triggered the run; the DAG where nobody did."""
    return getattr(context["dag_run"], "triggering_user_name", None) or context["ti"].dag_id


def run_state(context: Context, run: str) -> str | None:
    """Return the state of a run, named as DAG and run; None when it is not there."""
    dag_id, _, run_id = run.partition(" ")
    ti: Any = context["ti"]
    if not ti.get_dr_count(dag_id, run_ids=[run_id]):
        return None
    state = ti.get_dagrun_state(dag_id, run_id)
    return str(getattr(state, "value", state))
