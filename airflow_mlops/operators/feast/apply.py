"""Register a Feast repository."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypedDict

from airflow_mlops.hooks.feast import FeastHook
from airflow_mlops.hooks.ledger import LedgerHook
from airflow_mlops.operators.base import MlopsOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

_SHOWN = 100


class AppliedFeatures(TypedDict):
    """An applied Feast project: its name, feature views, feature services, and the hash of its files; and the plan:
    effect → how many changes, the first 100 changes in words, and whether they were only planned.
    """

    project: str
    hash: str
    views: list[str]
    services: list[str]
    effects: dict[str, int]
    changes: list[str]
    planned_only: bool


class FeastApplyOperator(MlopsOperator):
    """Register the definitions of a Feast repository, as ``feast apply`` does, and say first what that changes.

    Use it when definitions have changed and a DAG is to register them before anything needs them.

    Definitions that break a rule (no owner, a blocked feature in a service), or would change what a served model
    version reads, are refused. The other operators apply by themselves when a file of the repository changed; this
    one always does. Give it a pool with a single slot, so that those of several DAGs take turns.

    :param plan_only: Say what would change, fail if it would be refused, and register nothing.
    :param feast_conn_id: Airflow connection of type ``feast``.
    :param ledger_conn_id: Airflow connection of type ``mlops_ledger``.
    """

    template_fields = (*MlopsOperator.template_fields, "feast_conn_id", "ledger_conn_id")

    def __init__(
        self,
        *,
        plan_only: bool = False,
        feast_conn_id: str = FeastHook.default_conn_name,
        ledger_conn_id: str = LedgerHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.plan_only = plan_only
        self.feast_conn_id = feast_conn_id
        self.ledger_conn_id = ledger_conn_id

    def perform(self, context: Context) -> AppliedFeatures:
        """Plan, and apply unless that is all."""
        from airflow_mlops.engine.features.governance.apply import apply_planned
        from airflow_mlops.engine.features.governance.lint import check_lint
        from airflow_mlops.engine.features.governance.plan import check_served, plan

        location = FeastHook(self.feast_conn_id).location(self.home_path)
        ledger = LedgerHook(self.ledger_conn_id).get_conn()
        if self.plan_only:
            planned = plan(location, ledger)
            for line in planned.lines():
                self.log.info("%s", line)
            check_lint(planned.definitions)
            check_served(planned)
        else:
            planned = apply_planned(location, ledger)[1]
        definitions = planned.definitions
        return AppliedFeatures(
            project=definitions.project,
            hash=definitions.hash,
            views=sorted(definitions.views),
            services=sorted(definitions.services),
            effects=planned.counts,
            changes=[str(change) for change in planned.changes[:_SHOWN]],
            planned_only=self.plan_only,
        )
