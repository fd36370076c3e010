"""Register the definitions of a Feast repository."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypedDict

from airflow_mlops.hooks.feast import FeastHook
from airflow_mlops.hooks.ledger import LedgerHook
from airflow_mlops.operators.base import MlopsOperator

if TYPE_CHECKING:
    from airflow.sdk import Context


class AppliedFeatures(TypedDict):
    """An applied Feast project: its name, feature views, feature services, and the hash of its files."""

    project: str
    hash: str
    views: list[str]
    services: list[str]


class FeastApplyOperator(MlopsOperator):
    """Register the definitions of a Feast repository, as ``feast apply`` does.

    The other operators do it by themselves when a file of the repository changed; this one always does.

    :param feast_conn_id: Airflow connection of type ``feast``.
    :param ledger_conn_id: Airflow connection of type ``mlops_ledger``.
    """

    template_fields = (*MlopsOperator.template_fields, "feast_conn_id", "ledger_conn_id")

    def __init__(
        self,
        *,
        feast_conn_id: str = FeastHook.default_conn_name,
        ledger_conn_id: str = LedgerHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.feast_conn_id = feast_conn_id
        self.ledger_conn_id = ledger_conn_id

    def perform(self, context: Context) -> AppliedFeatures:
        """Apply the repository."""
        from airflow_mlops.engine.features.apply import apply_repo

        ledger = LedgerHook(self.ledger_conn_id).get_conn()
        repo = apply_repo(FeastHook(self.feast_conn_id).location(self.home_path), ledger)
        return {
            "project": repo.project,
            "hash": repo.hash,
            "views": sorted(repo.views),
            "services": sorted(repo.services),
        }
