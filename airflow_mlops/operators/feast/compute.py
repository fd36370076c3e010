"""Compute a partition's feature rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from functools import partial
from typing import TYPE_CHECKING, Any, TypedDict

from airflow.sdk.exceptions import AirflowSkipException

from airflow_mlops.durations import parse_duration
from airflow_mlops.hooks.feast import FeastHook
from airflow_mlops.hooks.ledger import LedgerHook
from airflow_mlops.links.gx import GXValidationReportLink
from airflow_mlops.moments import parse_day
from airflow_mlops.operators.base import MlopsOperator, required_key
from airflow_mlops.operators.other_runs import WaitsForOtherRuns
from airflow_mlops.operators.reports import publish_report
from airflow_mlops.partitioning import Partitioning
from airflow_mlops.parts import Checks, Rows

if TYPE_CHECKING:
    from airflow.sdk import Context


class RecomputedFeatures(TypedDict):
    """What was computed: the partition, feature view → rows, and the later partitions that were computed again."""

    key: str
    views: dict[str, int]
    recomputed: list[str]


class FeastComputeFeaturesOperator(WaitsForOtherRuns):
    """Compute the feature rows of one partition from sealed datasets, by the user's transform.

    Use it when a partition was sealed, and before its features are written online or trained on.

    Computing a partition again replaces its rows, and those of the later partitions within ``history`` that were
    computed from what is no longer there, or by other code: late data, or an exclusion, is worked in by one cleared
    task. Rows that somebody excluded are left out. What comes out is checked against the feature repository, which is
    applied first when one of its files changed.

    :param transform: ``module:function`` beside the DAG file or in the Feast repository, called with the day and
        dataset → rows.
    :param datasets: Sealed datasets to hand over.
    :param history: How far back they reach, such as ``7d``.
    :param start: First day that the datasets have (ISO), or dataset → its own. Before each has a whole partition there
        is nothing to compute from: the task is skipped, and says so.
    :param late: Dataset → a column that is known later than its row, such as a label, and the column of when: the
        transform is given both as null where that is not before the end of the partition.
    :param ahead: Datasets whose partitions are there when their time begins: the one counts in which the run's begins.
    :param suites: Feature view → ``module:function`` with the expectations that its rows must meet. Such a view is held
        against its own earlier days too. When one view is refused, none is written.
    :param checks: Feature view → arguments of :class:`~airflow_mlops.parts.Checks`, where the defaults do not fit.
    :param rows: Arguments of :class:`~airflow_mlops.parts.Rows`, one for each view whose number of rows follows from
        that of a dataset.
    :param key: Partition to compute.
    :param partitioning: Of which ``key`` is one: ``daily``, ``hourly@Europe/Berlin``.
    :param feast_conn_id: Airflow connection of type ``feast``.
    :param ledger_conn_id: Airflow connection of type ``mlops_ledger``.
    """

    operator_extra_links = (GXValidationReportLink(),)
    template_fields = (
        *MlopsOperator.template_fields,
        "transform",
        "datasets",
        "history",
        "start",
        "late",
        "suites",
        "checks",
        "rows",
        "key",
        "feast_conn_id",
        "ledger_conn_id",
    )

    def __init__(
        self,
        *,
        transform: str,
        datasets: Sequence[str],
        history: str,
        start: str | Mapping[str, str],
        late: Mapping[str, Sequence[str]] | None = None,
        ahead: Sequence[str] = (),
        suites: Mapping[str, str] | None = None,
        checks: Mapping[str, Mapping[str, Any]] | None = None,
        rows: Sequence[Mapping[str, Any]] = (),
        key: str = "{{ partition_key }}",
        partitioning: str = "daily",
        feast_conn_id: str = FeastHook.default_conn_name,
        ledger_conn_id: str = LedgerHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.transform = transform
        self.datasets = datasets
        self.history = history
        self.start = start
        self.late = late
        self.ahead = ahead
        self.suites = suites
        self.checks = checks
        self.rows = rows
        self.key = key
        self.partitioning = partitioning
        self.feast_conn_id = feast_conn_id
        self.ledger_conn_id = ledger_conn_id

    def perform(self, context: Context) -> RecomputedFeatures:
        """Compute the partition's rows, and those of later partitions that they make stale."""
        from airflow_mlops.engine.features.computing.code import code_identity, import_folders
        from airflow_mlops.engine.features.computing.compute import NotYetError, compute_features
        from airflow_mlops.engine.features.computing.provenance import stale_days
        from airflow_mlops.engine.features.governance.apply import ensure_applied

        key, partitioning = required_key(self.key), Partitioning.parse(self.partitioning)
        ledger = LedgerHook(self.ledger_conn_id).get_conn()
        store = self.partition_store(ledger)
        location = FeastHook(self.feast_conn_id).location(self.home_path)
        folders = import_folders(self.code_path, location)
        compute = partial(
            compute_features,
            self.home_path,
            store=store,
            ledger=ledger,
            repo=ensure_applied(location, ledger),
            transform=self.transform,
            code_paths=folders,
            datasets=self.datasets,
            history=parse_duration(self.history),
            start=self._starts(),
            partitioning=partitioning,
            late=self.late or {},
            ahead=self.ahead,
            suites=self.suites or {},
            checks={view: Checks(**given) for view, given in (self.checks or {}).items()},
            rows=[Rows(**given) for given in self.rows],
            show=partial(publish_report, self, context),
        )
        try:
            with self.other_runs_minded(context):
                computed = compute(key)
        except NotYetError as error:
            raise AirflowSkipException(str(error)) from None
        end = partitioning.interval(key)[1]
        following = end, end + parse_duration(self.history)
        code = code_identity(self.transform, folders, self.late or {})
        stale = stale_days(self.home_path, store, list(computed["views"]), *following, ledger=ledger, code=code)
        for day in stale:
            self.log.info("%s was computed from data or by code that was replaced since: computing it again.", day)
            compute(day)
        return RecomputedFeatures(key=computed["key"], views=computed["views"], recomputed=stale)

    def _starts(self) -> dict[str, date]:
        """Return dataset → its first day."""
        given = self.start if isinstance(self.start, Mapping) else dict.fromkeys(self.datasets, self.start)
        return {name: parse_day(given[name], "start") for name in self.datasets}
