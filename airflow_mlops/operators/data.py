"""Operators on the data itself: hold what landed against its history, and freeze it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from airflow_mlops.exceptions import ConfigError
from airflow_mlops.hooks.feast import FeastHook
from airflow_mlops.hooks.ledger import LedgerHook
from airflow_mlops.links.gx import GXValidationReportLink
from airflow_mlops.operators.base import MlopsOperator, beneath, heads_of, path_of, require, required_key, said
from airflow_mlops.operators.reports import publish_report
from airflow_mlops.partitioning import Partitioning
from airflow_mlops.parts import Checks

if TYPE_CHECKING:
    from airflow.sdk import Context, ObjectStoragePath, XComArg

    from airflow_mlops.engine.ledger import Ledger
    from airflow_mlops.sensors.base import MlopsSensor

PARTITION_KEY = "{{ partition_key }}"
"""The key of the run's partition: a run of a partitioned timetable has one, and so has one triggered with one."""


class SealedPartition(TypedDict):
    """A partition that downstream tasks may read."""

    dataset: str
    key: str
    revision: str
    rows: int
    bytes: int
    uri: str


def located(task: MlopsOperator | MlopsSensor, uri: str | None, name: str) -> Path | ObjectStoragePath:
    """Return where a rendered path points; a relative one starts at the home, wherever that is.

    ``s3://aws_default@bucket/prefix`` points to object storage, opened by the Airflow connection before the ``@``.

    :raises ConfigError: when it is empty.
    """
    rendered = require(uri, name, "Did the task whose XCom it comes from succeed?")
    if "://" in rendered:
        return path_of(rendered)
    path = Path(rendered)
    return beneath(path if path.is_absolute() else task.home_path, rendered)


def located_rows(task: MlopsOperator, entities: str) -> Path | ObjectStoragePath | str:
    """Return where rows of one's own lie, as :func:`located` does; or the query for DuckDB that gives them, as text."""
    is_query = entities.split(None, 1)[0].upper() in ("SELECT", "FROM", "WITH")
    return entities if is_query else located(task, entities, "entities")


class SealPartitionOperator(MlopsOperator):
    """Freeze a validated day as a partition, and write down in the ledger that it is there.

    Use it after validation and checks: features and trainings read sealed partitions only.

    What is sealed is, byte for byte, what was validated, or the task fails. Sealing the same bytes again gives
    the same revision.

    :param dataset: Name of the dataset.
    :param uri: Folder with the day's Parquet files; a relative path starts at the home folder.
    :param event_time: Column of times, all of which must lie within the key's UTC day.
    :param validation: What :class:`~airflow_mlops.operators.gx.GXValidateDataOperator` returned for these files.
    :param may_be_empty: Whether files without a row are a partition, and not a fault of the upstream.
    :param key: Partition key.
    :param partitioning: Of which ``key`` is one: ``daily``, ``hourly@Europe/Berlin``.
    :param ledger_conn_id: Airflow connection of type ``mlops_ledger``.
    """

    template_fields = (
        *MlopsOperator.template_fields,
        "dataset",
        "uri",
        "event_time",
        "validation",
        "key",
        "ledger_conn_id",
    )

    def __init__(
        self,
        *,
        dataset: str,
        uri: str,
        event_time: str,
        validation: Mapping[str, Any] | XComArg,
        may_be_empty: bool = False,
        key: str = PARTITION_KEY,
        partitioning: str = "daily",
        ledger_conn_id: str = LedgerHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.dataset = dataset
        self.uri = uri
        self.event_time = event_time
        self.validation = validation
        self.may_be_empty = may_be_empty
        self.key = key
        self.partitioning = partitioning
        self.ledger_conn_id = ledger_conn_id

    def perform(self, context: Context) -> SealedPartition:
        """Seal, record, and return what is there now."""
        from airflow_mlops.engine.data.lateness import mark_late
        from airflow_mlops.engine.data.partitions import FACT

        key = required_key(self.key)
        dataset = require(self.dataset, "dataset", "Name the dataset.")
        validation = _validated(self.validation)
        ledger = LedgerHook(self.ledger_conn_id).get_conn()
        store = self.partition_store(ledger)
        store.declare(dataset, Partitioning.parse(self.partitioning))
        partition = store.seal(
            dataset,
            key,
            located(self, self.uri, "uri"),
            event_time=self.event_time,
            batch_hash=validation["batch_hash"],
            suite_hash=validation["suite_hash"],
            may_be_empty=self.may_be_empty,
        )
        self.log.info("Sealed %s %s: %s rows, revision %s.", dataset, key, partition.rows, partition.revision)
        # From the ledger, so that an attempt that died in between loses nothing; marking twice changes nothing.
        for fact in ledger.facts(FACT, dataset, key=key):
            if fact.payload["revision"] == partition.revision and fact.payload["replaces"]:
                late = mark_late(ledger, dataset, key, fact.payload["replaces"], partition.revision)
                self.log.warning("%s %s was sealed before, with other content: %s", dataset, key, late)
        return SealedPartition(
            dataset=partition.dataset,
            key=partition.key,
            revision=partition.revision,
            rows=partition.rows,
            bytes=partition.bytes,
            uri=partition.uri,
        )


class CheckedPartition(TypedDict):
    """A day that its own history does not contradict. ``failed`` holds the warnings, as outcomes."""

    dataset: str
    key: str
    rows: int
    checks: int
    references: int
    failed: list[dict[str, Any]]


class CheckPartitionOperator(MlopsOperator):
    """Profile a landed day, and compare it with the last valid days and with rules across its columns.

    Use it after validation, for what an expectation on one batch cannot see: a slice that shrank or vanished while the
    total looks normal, a label rate that moved, repeated rows, another unit or casing, a column that was renamed. The
    profile is kept beside the partition. A finding of severity ``block`` fails the task, unless a person accepted the
    day as real with ``airflow-mlops accept``.

    :param dataset: Name of the dataset.
    :param uri: Folder with the day's Parquet files; a relative path starts at the home folder.
    :param event_time: Column of the event times.
    :param validation: What :class:`~airflow_mlops.operators.gx.GXValidateDataOperator` returned for these files.
    :param checks: Fields of :class:`~airflow_mlops.parts.Checks`.
    :param model: Model that the dataset feeds, named when a change of the schema affects it.
    :param service: The model's Feast feature service, whose feature views are named too.
    :param columns_used: Columns that the model itself reads: entity, label, keys.
    :param label_column: Column that the model is to predict, if this dataset carries it: it must be able to be learned.
    :param problem: Its problem type; empty: by the type of the column.
    :param heads: Further labels beside it: column → problem type, empty likewise.
    :param needs: Columns that a model needs of this dataset.
    :param known_at: Column of when the label became known, if there is one.
    :param key: Partition key.
    :param partitioning: Of which ``key`` is one: ``daily``, ``hourly@Europe/Berlin``.
    :param feast_conn_id: Airflow connection of type ``feast``; empty: there is no Feast.
    :param ledger_conn_id: Airflow connection of type ``mlops_ledger``.
    """

    template_fields = (
        *MlopsOperator.template_fields,
        "dataset",
        "uri",
        "event_time",
        "validation",
        "checks",
        "model",
        "service",
        "columns_used",
        "label_column",
        "key",
        "feast_conn_id",
        "ledger_conn_id",
    )
    operator_extra_links = (GXValidationReportLink(),)

    def __init__(
        self,
        *,
        dataset: str,
        uri: str,
        event_time: str,
        validation: Mapping[str, Any] | XComArg,
        checks: Mapping[str, Any],
        model: str = "",
        service: str = "",
        columns_used: Sequence[str] = (),
        label_column: str = "",
        problem: str = "",
        heads: Mapping[str, str] | None = None,
        needs: Sequence[str] = (),
        known_at: str = "",
        key: str = PARTITION_KEY,
        partitioning: str = "daily",
        feast_conn_id: str = FeastHook.default_conn_name,
        ledger_conn_id: str = LedgerHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.dataset = dataset
        self.uri = uri
        self.event_time = event_time
        self.validation = validation
        self.checks = checks
        self.model = model
        self.service = service
        self.columns_used = columns_used
        self.label_column = label_column
        self.problem = problem
        self.heads = heads
        self.needs = needs
        self.known_at = known_at
        self.key = key
        self.partitioning = partitioning
        self.feast_conn_id = feast_conn_id
        self.ledger_conn_id = ledger_conn_id

    def perform(self, context: Context) -> CheckedPartition:
        """Profile, compare, record, and refuse what is not like the days before."""
        from airflow_mlops.engine.data.checks import accepted, check_partition
        from airflow_mlops.engine.data.validation import enforce, explain

        key = required_key(self.key)
        dataset = require(self.dataset, "dataset", "Name the dataset.")
        ledger = LedgerHook(self.ledger_conn_id).get_conn()
        store = self.partition_store(ledger)
        store.declare(dataset, Partitioning.parse(self.partitioning))
        checked = check_partition(
            store,
            ledger,
            dataset,
            key,
            located(self, self.uri, "uri"),
            event_time=self.event_time,
            validated=_validated(self.validation)["batch_hash"],
            checks=Checks(**self.checks),
            code_path=self.code_path,
            uses=partial(self._uses, ledger, dataset),
            label=self.label_column,
            problem=self.problem,
            heads=heads_of(self.heads),
            needs=self.needs,
            known_at=self.known_at,
        )
        result = checked.result
        ledger.record("validation", dataset, result.model_dump(mode="json"), key=key)
        publish_report(self, context, result, checked.profile, checked.usual)
        if result.blocked and (acceptance := accepted(ledger, dataset, key, result)):
            self.log.warning("%s %s was accepted by %s: %s", dataset, key, acceptance.who, acceptance.reason)
        else:
            enforce(result)
        if result.failed:
            self.log.warning("%s %s passes with warnings:\n%s", dataset, key, explain(result))
        if self.model and getattr(context.get("dag_run"), "run_type", "") == "backfill":
            self._admit(context, ledger, store.current(dataset, key), dataset, key)
        self.log.info("%s checks against %s days hold.", len(result.outcomes), checked.references)
        return CheckedPartition(
            dataset=dataset,
            key=key,
            rows=result.rows,
            checks=len(result.outcomes),
            references=checked.references,
            failed=[outcome.model_dump(mode="json") for outcome in result.failed],
        )

    def _admit(self, context: Context, ledger: Ledger, sealed: str | None, dataset: str, key: str) -> None:
        """Let a run of Airflow's own backfill go on, if a plan might."""
        from airflow_mlops.engine.backfill.elsewhere import admit
        from airflow_mlops.operators.backfill import approve_above

        ti: Any = context["ti"]
        admit(
            ledger,
            self.model,
            dataset,
            key,
            run=f"{ti.dag_id} {ti.run_id}",
            sealed=sealed,
            landed=_validated(self.validation)["batch_hash"][:16],
            queued=ti.get_dr_count(ti.dag_id, states=["queued"]),
            approve_above=approve_above(),
        )

    def _uses(self, ledger: Ledger, dataset: str) -> dict[str, list[str]]:
        """Return column → feature views and models that read it."""
        from airflow_mlops.engine.data.checks import uses_of
        from airflow_mlops.engine.features.governance.apply import last_applied

        conn = said(self.feast_conn_id)
        repo = last_applied(FeastHook(conn).location(self.home_path), ledger) if conn else None
        return uses_of(
            {name: view.tags for name, view in repo.views.items()} if repo else {},
            {name: service.views for name, service in repo.services.items()} if repo else {},
            dataset=dataset,
            models={self.model: self.service} if self.model else {},
            columns_of_models={self.model: self.columns_used} if self.model else {},
        )


def _validated(validation: Mapping[str, Any] | XComArg) -> Mapping[str, Any]:
    """Return the rendered result of a validation.

    :raises ConfigError: when there is none.
    """
    if isinstance(validation, Mapping) and validation.get("batch_hash") and validation.get("suite_hash"):
        return validation
    raise ConfigError(
        "There is no validation of this data.",
        detail=f"validation={validation!r} after rendering",
        hint="Pass validation=<task of GXValidateDataOperator>.output; only validated data is checked and sealed.",
    )
