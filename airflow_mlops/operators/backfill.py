"""Plan a backfill, have it approved, execute it in shares, verify what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypedDict, cast

from airflow.providers.standard.exceptions import HITLRejectException, HITLTimeoutError
from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import conf

from airflow_mlops.exceptions import ConfigError, GateError
from airflow_mlops.hooks.databases import database
from airflow_mlops.hooks.feast import FeastHook
from airflow_mlops.hooks.ledger import LedgerHook
from airflow_mlops.moments import parse_day
from airflow_mlops.operators.base import MlopsOperator, beneath, check_form, doc_of, failing_clearly, require, said
from airflow_mlops.operators.history import LoadedHistory, told
from airflow_mlops.operators.retraining import run_of, run_state

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_mlops.engine.backfill.plan import Plan
    from airflow_mlops.engine.backfill.survey import Site
    from airflow_mlops.engine.ledger import Ledger
    from airflow_mlops.pipeline import ModelPipeline

_ORDERS = ("oldest", "newest")
_YES = ("true", "false")
_ACTIVE = ("queued", "running")


class PlannedBackfill(TypedDict):
    """A plan: its name and hash, how many partitions it works on, why it must be approved (empty: it need not be), and
    all of it in words.
    """

    plan: str
    hash: str
    partitions: int
    approval: str
    words: str


class Share(TypedDict):
    """A share of a plan: which, from 0, and of how many."""

    share: int
    of: int


class VerifiedBackfill(TypedDict):
    """Whether what was planned is what changed, and in words what changed."""

    as_planned: bool
    words: list[str]


def approve_above() -> int:
    """Return from how many partitions on a person must approve: option ``[mlops] backfill_approve_above``."""
    return conf.getint("mlops", "backfill_approve_above", fallback=31)


def price_per_hour() -> float:
    """Return what an hour of one process costs: option ``[mlops] price_per_hour``; 0: it is not priced."""
    return conf.getfloat("mlops", "price_per_hour", fallback=0.0)


def tasks_at_once() -> int:
    """Return how many tasks of one backfill work at once: option ``[mlops] backfill_tasks``."""
    return conf.getint("mlops", "backfill_tasks", fallback=2)


class BackfillOperator(MlopsOperator):
    """Base of the operators of a backfill.

    :param pipeline: The pipeline.
    :param feast_conn_id: Airflow connection of type ``feast``.
    :param ledger_conn_id: Airflow connection of type ``mlops_ledger``.
    """

    template_fields = (*MlopsOperator.template_fields, "feast_conn_id", "ledger_conn_id")

    def __init__(
        self,
        *,
        pipeline: ModelPipeline,
        feast_conn_id: str = FeastHook.default_conn_name,
        ledger_conn_id: str = LedgerHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.pipeline = pipeline
        self.feast_conn_id = feast_conn_id
        self.ledger_conn_id = ledger_conn_id

    def site(self) -> Site:
        """Return where the backfill works."""
        from airflow_mlops.engine.backfill.survey import Site

        ledger = LedgerHook(self.ledger_conn_id).get_conn()
        return Site(
            pipeline=self.pipeline,
            location=FeastHook(self.feast_conn_id).location(self.home_path),
            store=self.partition_store(ledger),
            ledger=ledger,
            code_path=self.code_path,
            locate=partial(beneath, self.home_path),
            databases=database,
        )


class PlanBackfillOperator(BackfillOperator):
    """Plan a backfill: what there is to do in a window of days, what it costs, and who saw what it replaces. Nothing
    else is changed.

    Use it first, when days of the past must be sealed or computed again.

    :param first: First day; empty: that of the source.
    :param last: Last day; empty: the last that has ended.
    :param order: ``oldest`` or ``newest``: which partitions come first.
    :param ordered: ``true`` or ``false``: whether one that is refused stops those after it.
    """

    template_fields = (*BackfillOperator.template_fields, "first", "last", "order", "ordered")

    def __init__(
        self,
        *,
        first: str = "",
        last: str = "",
        order: str = "oldest",
        ordered: str = "false",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.first = first
        self.last = last
        self.order = order
        self.ordered = ordered

    def perform(self, context: Context) -> PlannedBackfill:
        """Plan, and say it in the log."""
        from airflow_mlops.engine.backfill.make import plan_backfill

        check_form(self, context, self.pipeline.model)
        first, last = (
            parse_day(said(day), name) if said(day) else None
            for day, name in ((self.first, "first"), (self.last, "last"))
        )
        order, ordered = str(self.order).lower(), str(self.ordered).lower()
        if order not in _ORDERS or ordered not in _YES:
            raise ConfigError(
                "The form of the backfill is not filled in.",
                detail=f"order={self.order!r}, ordered={self.ordered!r}",
                hint="order is oldest or newest, ordered true or false.",
            )
        run = context["dag_run"]
        plan = plan_backfill(
            self.site(),
            first,
            last,
            who=getattr(run, "triggering_user_name", None) or f"whoever triggered {run.run_id}",
            order=cast("Literal['oldest', 'newest']", order),
            ordered=ordered == "true",
            hourly_price=price_per_hour(),
            approve_above=approve_above(),
        )
        for line in plan.lines():
            self.log.info("%s", line)
        return PlannedBackfill(
            plan=plan.id,
            hash=plan.hash,
            partitions=len(plan.work),
            approval=plan.approval,
            words="\n".join(f"- {line}" for line in plan.lines()),
        )


class ApproveBackfillOperator(ApprovalOperator):
    """Ask a person, in the Airflow UI, whether a planned backfill may run. No answer in time is a no, and so is an
    answer to another plan.

    Use it after the plan, where the plan says that it must be approved.

    :param plan_hash: Hash of the plan that ``body`` shows.
    :param ledger_conn_id: Airflow connection of type ``mlops_ledger``.
    """

    # A timeout with a default would be an answer that nobody gave; a cleared task even keeps its old one.
    FIXED_ARGS = [*ApprovalOperator.FIXED_ARGS, "defaults"]
    template_fields = (*ApprovalOperator.template_fields, "plan_hash", "ledger_conn_id")
    deferrable = True
    _SHOWN = "shown"

    def __init__(self, *, plan_hash: str, ledger_conn_id: str = LedgerHook.default_conn_name, **kwargs: Any) -> None:
        super().__init__(**{"doc_md": doc_of(type(self)), "fail_on_reject": True, **kwargs})
        self.plan_hash = plan_hash
        self.ledger_conn_id = ledger_conn_id

    def execute(self, context: Context) -> Any:
        """Ask, and keep what was shown: until the answer comes, a plan may be made anew.

        Who has answered is not asked again: Airflow may fail a task whose answer comes in its first seconds, and begin
        it anew.
        """
        from airflow_mlops.engine.backfill.run import approved_by

        with failing_clearly():
            plan = self._plan()
            if who := approved_by(self._ledger(), plan):
                self.log.info("Backfill %s was approved by %s.", plan.id, who)
                return None
        context["ti"].xcom_push(self._SHOWN, self.plan_hash)
        return super().execute(context)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        """Write the answer into the ledger; fail unless it is a yes."""
        from airflow_mlops.engine.backfill.run import approve, refuse

        with failing_clearly():
            user = event.get("responded_by_user") or {}
            who = str(user.get("name") or user.get("id") or "")
            try:
                answer = super().execute_complete(context, event)
            except HITLTimeoutError:
                raise self._no("nobody answered in time") from None
            except HITLRejectException:
                refuse(self._ledger(), self._plan(), who)
                raise self._no(f"{who} said no") from None
            shown = context["ti"].xcom_pull(task_ids=self.task_id, key=self._SHOWN)
            approve(self._ledger(), self._plan(), str(shown), who)
        return answer

    def _ledger(self) -> Ledger:
        return LedgerHook(self.ledger_conn_id).get_conn()

    def _plan(self) -> Plan:
        from airflow_mlops.engine.backfill.plan import find

        return find(self._ledger(), self.plan_hash)

    def _no(self, why: str) -> GateError:
        return GateError(
            f"Backfill {self.plan_hash[:12]} is not executed: {why}.",
            hint="Nothing was changed. Trigger the DAG again to plan it anew.",
        )


class _OfPlanOperator(BackfillOperator):
    """Base of what executes a plan.

    :param plan: Name of the plan.
    """

    template_fields = (*BackfillOperator.template_fields, "plan")

    def __init__(self, *, plan: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.plan = plan

    def found(self, site: Site) -> Plan:
        """Return the plan."""
        from airflow_mlops.engine.backfill.plan import find

        return find(site.ledger, require(said(self.plan), "plan", "Did the task that planned succeed?"))


class BeginBackfillOperator(_OfPlanOperator):
    """Begin a planned backfill, if it is approved and nothing changed since, and return its shares: one for each task
    that works on it.

    Use it after the plan, and map :class:`RunBackfillOperator` over what it returns.

    :param partitions: How many partitions a task works on.
    """

    template_fields = (*_OfPlanOperator.template_fields, "partitions")

    def __init__(self, *, partitions: int | str = 100, **kwargs: Any) -> None:
        super().__init__(**{"multiple_outputs": False, **kwargs})  # the XCom is the list that others map over
        self.partitions = partitions

    def perform(self, context: Context) -> list[Share]:
        """Check, begin, and cut."""
        from airflow_mlops.engine.backfill.run import begin
        from airflow_mlops.engine.backfill.shares import shares

        if not str(self.partitions).isdecimal() or int(self.partitions) < 1:
            raise ConfigError(f"{self.partitions!r} is not a number of partitions.", hint="It is 1 or more.")
        site = self.site()
        plan = self.found(site)
        begin(site, plan, run=run_of(context), ended=lambda other: run_state(context, other) not in _ACTIVE)
        of = shares(plan, int(self.partitions), tasks_at_once())
        return [Share(share=share, of=of) for share in range(of)]


class ProbeBackfillOperator(_OfPlanOperator):
    """Try a planned backfill on the first partition of each dataset, and say how long the rest takes.

    Use it before the rest is done: a mistake shows after one day, and not after a year of them.
    """

    def perform(self, context: Context) -> dict[str, str]:
        """Probe."""
        from airflow_mlops.engine.backfill.run import probe

        site = self.site()
        words = probe(site, self.found(site))
        self.log.info("%s", words)
        return {"eta": words}


class RunBackfillOperator(_OfPlanOperator):
    """Do a share of a planned backfill: seal its partitions, or compute their features. What is done is not done twice.

    While shares before it are not done, only what needs nothing of them is done, and kept: a last task without a share
    goes on from there. So all is checked against what came before it, however many tasks work at once.

    :param share: From :class:`BeginBackfillOperator`; None: what all of them only worked out ahead.
    :param work: ``seal`` or ``compute``.
    """

    template_fields = (*_OfPlanOperator.template_fields, "share", "work")

    def __init__(self, *, work: str, share: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.share = share
        self.work = work

    def perform(self, context: Context) -> LoadedHistory:
        """Work, and say what was refused and how much is left."""
        from airflow_mlops.engine.backfill.run import eta
        from airflow_mlops.engine.backfill.shares import work_on, work_on_rest

        site = self.site()
        plan = self.found(site)
        work = cast("Literal['seal', 'compute']", self.work)
        if self.share is None:
            loaded = work_on_rest(site, plan, work)
        else:
            loaded = work_on(site, plan, work, int(self.share["share"]), int(self.share["of"]))
        self.log.info("%s. %s.", loaded, eta(site.ledger, plan))
        return told(self, loaded)


class VerifyBackfillOperator(_OfPlanOperator):
    """Compare what a backfill changed with what it planned. It fails when something is not as planned, and lists it.

    Use it last, after all shares.

    :param retrain: ``true`` or ``false``: whether a training of each model is asked for that saw what was replaced.
    """

    template_fields = (*_OfPlanOperator.template_fields, "retrain")

    def __init__(self, *, retrain: str = "false", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.retrain = retrain

    def perform(self, context: Context) -> VerifiedBackfill:
        """Look at every partition again."""
        from airflow_mlops.engine.backfill.verify import verify

        retrain = str(self.retrain).lower()
        if retrain not in _YES:
            raise ConfigError(f"retrain={self.retrain!r} is not said clearly.", hint="It is true or false.")
        site = self.site()
        found = verify(site, self.found(site), retrain=retrain == "true")
        for line in found.lines():
            self.log.info("%s", line)
        found.check()
        return VerifiedBackfill(as_planned=found.as_planned, words=found.lines())
