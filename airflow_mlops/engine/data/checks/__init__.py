"""Checks of a landed day that an expectation on one batch cannot make: against its history, contract and twin."""

from airflow_mlops.engine.data.checks.acceptance import accept, accepted
from airflow_mlops.engine.data.checks.contract import Column, SchemaContract, check_schema, name_readers, uses_of
from airflow_mlops.engine.data.checks.partition import CheckedBatch, check_partition
from airflow_mlops.engine.data.checks.reconcile import reconcile_partitions
from airflow_mlops.engine.data.checks.references import comparable, references
from airflow_mlops.engine.data.checks.rows import reconcile_rows
from airflow_mlops.engine.data.checks.run import as_result, run_checks
from airflow_mlops.engine.data.checks.sql import check_invariants, reconcile_sources

__all__ = [
    "CheckedBatch",
    "Column",
    "SchemaContract",
    "accept",
    "accepted",
    "as_result",
    "check_invariants",
    "check_partition",
    "check_schema",
    "comparable",
    "name_readers",
    "reconcile_partitions",
    "reconcile_rows",
    "reconcile_sources",
    "references",
    "run_checks",
    "uses_of",
]
