"""The operator that removes what is older than it need be."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from airflow.sdk.exceptions import AirflowNotFoundException

from airflow_mlops.durations import parse_duration
from airflow_mlops.exceptions import ConfigError
from airflow_mlops.hooks.ledger import LedgerHook
from airflow_mlops.hooks.tf_serving import TFServingHook
from airflow_mlops.operators.base import MlopsOperator, require, said

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_mlops.engine.ledger import Ledger
    from airflow_mlops.engine.sweep import SweepReport


class Sweep(TypedDict):
    """How many files, folders and revisions went, or would go; and how many old ones a kept model needs."""

    removed: int
    bytes: int
    kept: int
    only_said: bool


class SweepHomeOperator(MlopsOperator):
    """Remove what nobody touched for longer than ``keep``: snapshots, trainings with their evaluations, replaced
    feature files and partitions, reports, quarantined batches, the registry's cache, versions in model stores.

    Use it on a schedule, so that the disk does not fill.

    What serves, is loaded, is pinned, can be gone back to or passed its gates last is never touched, nor what it can be
    built again from. The log says what goes before anything does.

    :param keep: Age that stays, such as ``90d``; a day at least.
    :param keep_data: Age of the days of sealed partitions that stay; empty keeps all days.
    :param only_say: Say what would go, and remove nothing.
    :param ledger_conn_id: Airflow connection of type ``mlops_ledger``.
    """

    template_fields = (*MlopsOperator.template_fields, "keep", "keep_data", "only_say", "ledger_conn_id")

    def __init__(
        self,
        *,
        keep: str,
        keep_data: str | None = None,
        only_say: bool | str = False,
        ledger_conn_id: str = LedgerHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.keep = keep
        self.keep_data = keep_data
        self.only_say = only_say
        self.ledger_conn_id = ledger_conn_id

    def perform(self, context: Context) -> Sweep:
        """Say what is old, and let it go."""
        from airflow_mlops.engine.sweep import sweep

        keep = parse_duration(require(self.keep, "keep", "Say what age stays, such as 90d."))
        days = said(self.keep_data)
        keep_data = parse_duration(days) if days else None
        ledger = LedgerHook(self.ledger_conn_id).get_conn()
        stores, unknown = model_stores(ledger)
        if unknown:
            self.log.warning("No connection says where the models of %s lie: they stay.", ", ".join(unknown))
        only_say = str(self.only_say).strip().lower() == "true"

        def swept(dry_run: bool) -> SweepReport:
            return sweep(
                self.home_path,
                ledger,
                self.partition_store(ledger),
                keep=keep,
                keep_data=keep_data,
                model_stores=stores,
                now=datetime.now(UTC),
                dry_run=dry_run,
            )

        report = swept(True)
        for one in report.going:
            self.log.info("goes: %s %s, %s bytes", one.kind, one.path, one.bytes)
        for one in report.staying:
            self.log.info("stays: %s %s, needed by %s", one.kind, one.path, ", ".join(one.needed_by))
        for found in report.datasets:
            for revision in found.removed:
                self.log.info("goes: %s %s %s, %s", found.dataset, revision.key, revision.revision, revision.reason)
        if not only_say:
            report = swept(False)
        kept = len(report.staying) + sum(len(found.kept) for found in report.datasets)
        return Sweep(removed=report.count, bytes=report.bytes, kept=kept, only_said=only_say)


def model_stores(ledger: Ledger) -> tuple[dict[str, Path], list[str]]:
    """Return model server → the folder of its models, for all on which something was deployed; and those unknown."""
    from airflow_mlops.engine.serving.deployments import deployments

    stores: dict[str, Path] = {}
    unknown = []
    for server in sorted({state.server for state in deployments(ledger)}):
        try:
            stores[server] = TFServingHook(server).model_store
        except (ConfigError, AirflowNotFoundException):
            unknown.append(server)
    return stores, unknown
