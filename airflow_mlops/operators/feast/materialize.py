"""Bring features online."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_mlops.hooks.feast import FeastHook
from airflow_mlops.hooks.ledger import LedgerHook
from airflow_mlops.operators.base import MlopsOperator, required_key

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_mlops.engine.features.materialize import Materialized


class FeastMaterializeOperator(MlopsOperator):
    """Bring the online store up to the end of a partition, for all feature views of a service.

    It goes on where the last one ended. An older partition stays offline only: it must not overwrite newer
    values. The feature repository is applied first when one of its files changed.

    :param service: Feast feature service.
    :param key: Partition up to whose end values are written.
    :param feast_conn_id: Airflow connection of type ``feast``.
    :param ledger_conn_id: Airflow connection of type ``mlops_ledger``.
    """

    template_fields = (*MlopsOperator.template_fields, "service", "key", "feast_conn_id", "ledger_conn_id")

    def __init__(
        self,
        *,
        service: str,
        key: str = "{{ partition_key }}",
        feast_conn_id: str = FeastHook.default_conn_name,
        ledger_conn_id: str = LedgerHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.service = service
        self.key = key
        self.feast_conn_id = feast_conn_id
        self.ledger_conn_id = ledger_conn_id

    def perform(self, context: Context) -> Materialized:
        """Write the window that is due."""
        from airflow_mlops.engine.data.partitions import day_bounds
        from airflow_mlops.engine.features.materialize import materialize

        return materialize(
            FeastHook(self.feast_conn_id).location(self.home_path),
            self.service,
            until=day_bounds(required_key(self.key))[1],
            ledger=LedgerHook(self.ledger_conn_id).get_conn(),
        )
