"""Operators on the data itself: freeze what landed and was validated."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from airflow_mlops.exceptions import ConfigError
from airflow_mlops.hooks.ledger import LedgerHook
from airflow_mlops.operators.base import MlopsOperator, require, required_key

if TYPE_CHECKING:
    from airflow.sdk import Context, XComArg

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


def located(task: MlopsOperator | MlopsSensor, uri: str | None, name: str) -> Path:
    """Return where a rendered path points; a relative one starts at the home folder.

    :raises ConfigError: when it is empty, or not a path.
    """
    rendered = require(uri, name, "Did the task whose XCom it comes from succeed?")
    if "://" in rendered:
        raise ConfigError(
            f"{name} is not a path.",
            detail=f"{name}={rendered!r}",
            hint="Give a folder that the workers see, such as a mount of the bucket.",
        )
    path = Path(rendered)
    return path if path.is_absolute() else task.home_path / path


class SealPartitionOperator(MlopsOperator):
    """Freeze a validated day as a partition, and write down in the ledger that it is there.

    What is sealed is, byte for byte, what was validated, or the task fails. Sealing the same bytes again gives
    the same revision.

    :param dataset: Name of the dataset.
    :param uri: Folder with the day's Parquet files; a relative path starts at the home folder.
    :param event_time: Column of times, all of which must lie within the key's UTC day.
    :param validation: What :class:`~airflow_mlops.operators.gx.GXValidateDataOperator` returned for these files.
    :param key: Partition key, a UTC day.
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
        key: str = PARTITION_KEY,
        ledger_conn_id: str = LedgerHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.dataset = dataset
        self.uri = uri
        self.event_time = event_time
        self.validation = validation
        self.key = key
        self.ledger_conn_id = ledger_conn_id

    def perform(self, context: Context) -> SealedPartition:
        """Seal, record, and return what is there now."""
        from airflow_mlops.engine.data.partitions import seal

        key = required_key(self.key)
        landed = located(self, self.uri, "uri")
        validation = self.validation
        if not isinstance(validation, Mapping) or not {"batch_hash", "suite_hash"} <= validation.keys():
            raise ConfigError(
                "There is no validation of what is to be sealed.",
                detail=f"validation={validation!r} after rendering",
                hint="Pass validation=<task of GXValidateDataOperator>.output; only validated data is sealed.",
            )
        partition = seal(
            self.home_path,
            require(self.dataset, "dataset", "Name the dataset."),
            key,
            landed,
            event_time=self.event_time,
            batch_hash=validation["batch_hash"],
            suite_hash=validation["suite_hash"],
        )
        sealed = SealedPartition(
            dataset=partition.dataset,
            key=partition.key,
            revision=partition.revision,
            rows=partition.rows,
            bytes=partition.bytes,
            uri=partition.uri,
        )
        fact = {**sealed, "suite_hash": partition.suite_hash}
        LedgerHook(self.ledger_conn_id).get_conn().record("partition", partition.dataset, fact)
        self.log.info("Sealed %s %s: %s rows, revision %s.", partition.dataset, key, partition.rows, partition.revision)
        return sealed
