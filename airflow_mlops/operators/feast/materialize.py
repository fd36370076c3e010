"""Bring features online."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from airflow_mlops.exceptions import ConfigError
from airflow_mlops.hooks.feast import FeastHook
from airflow_mlops.hooks.ledger import LedgerHook
from airflow_mlops.operators.base import MlopsOperator, require, required_key
from airflow_mlops.operators.other_runs import WaitsForOtherRuns
from airflow_mlops.partitioning import Partitioning

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_mlops.engine.features.materialization.chunks import Chunk
    from airflow_mlops.engine.features.materialization.materialize import Materialized, MaterializedChunk

_SHOWN = 50


class FeastPlanMaterializationOperator(WaitsForOtherRuns):
    """List what must be written online so that a service is up to date at the end of a partition.

    Use it before :class:`FeastMaterializeOperator`, to let several tasks write.

    Due is what was never written, gaps that failed tasks left, and days that were computed again since they were
    written, as chunks: a feature view and a span of time each. Hand the list to
    ``FeastMaterializeOperator.partial(…).expand(chunk=plan.output)``. It is empty when nothing is due; tasks after the
    mapped one then need the trigger rule ``none_failed_min_one_success``, and this task as an upstream too.

    The feature repository is applied first when one of its files changed.

    :param service: Feast feature service.
    :param key: Partition up to whose end values are written.
    :param chunk_bytes: What a chunk may take in memory, by what the files say of their rows. With a chunk a task,
        option ``[core] max_map_length`` bounds how many there may be.
    :param partitioning: Of which ``key`` is one: ``daily``, ``hourly@Europe/Berlin``.
    :param feast_conn_id: Airflow connection of type ``feast``.
    :param ledger_conn_id: Airflow connection of type ``mlops_ledger``.
    """

    template_fields = (
        *MlopsOperator.template_fields,
        "service",
        "key",
        "chunk_bytes",
        "feast_conn_id",
        "ledger_conn_id",
    )

    def __init__(
        self,
        *,
        service: str,
        key: str = "{{ partition_key }}",
        partitioning: str = "daily",
        chunk_bytes: int | str = 64 * 2**20,
        feast_conn_id: str = FeastHook.default_conn_name,
        ledger_conn_id: str = LedgerHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**{"multiple_outputs": False, **kwargs})  # the XCom is the list that others map over
        self.service = service
        self.key = key
        self.partitioning = partitioning
        self.chunk_bytes = chunk_bytes
        self.feast_conn_id = feast_conn_id
        self.ledger_conn_id = ledger_conn_id

    def perform(self, context: Context) -> list[Chunk]:
        """Plan, and say what."""
        from airflow_mlops.engine.features.materialization.materialize import plan_chunks

        with self.other_runs_minded(context):
            chunks = plan_chunks(
                FeastHook(self.feast_conn_id).location(self.home_path),
                self.service,
                until=Partitioning.parse(self.partitioning).interval(required_key(self.key))[1],
                ledger=LedgerHook(self.ledger_conn_id).get_conn(),
                chunk_bytes=_whole(self.chunk_bytes),
            )
        for chunk in chunks[:_SHOWN]:
            self.log.info("%(view)s from %(start)s to %(end)s: %(rows)s rows, %(bytes)s bytes", chunk)
        self.log.info("%d chunks are due%s.", len(chunks), f"; the first {_SHOWN} are above" if chunks[_SHOWN:] else "")
        return chunks


class FeastMaterializeOperator(MlopsOperator):
    """Write one chunk of features online; without a chunk, all that is due up to the end of a partition.

    Use it when features were computed: from then on requests can be answered with them.

    Tasks may run at once, in any order, and be repeated: rows are guarded by their event time, and the watermark moves
    over contiguous success only. Online reads go on meanwhile. The feature repository is applied first when one of its
    files changed.

    :param service: Feast feature service; not needed with a chunk.
    :param chunk: What to write, from :class:`FeastPlanMaterializationOperator`.
    :param key: Partition up to whose end values are written, without a chunk.
    :param partitioning: Of which ``key`` is one: ``daily``, ``hourly@Europe/Berlin``.
    :param feast_conn_id: Airflow connection of type ``feast``.
    :param ledger_conn_id: Airflow connection of type ``mlops_ledger``.
    """

    template_fields = (
        *MlopsOperator.template_fields,
        "service",
        "chunk",
        "key",
        "feast_conn_id",
        "ledger_conn_id",
    )

    def __init__(
        self,
        *,
        service: str | None = None,
        chunk: Mapping[str, Any] | None = None,
        key: str = "{{ partition_key }}",
        partitioning: str = "daily",
        feast_conn_id: str = FeastHook.default_conn_name,
        ledger_conn_id: str = LedgerHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.service = service
        self.chunk = chunk
        self.key = key
        self.partitioning = partitioning
        self.feast_conn_id = feast_conn_id
        self.ledger_conn_id = ledger_conn_id

    def perform(self, context: Context) -> Materialized | MaterializedChunk:
        """Write what is due."""
        from airflow_mlops.engine.features.materialization.materialize import materialize, materialize_chunk

        location = FeastHook(self.feast_conn_id).location(self.home_path)
        ledger = LedgerHook(self.ledger_conn_id).get_conn()
        if self.chunk is not None:
            return materialize_chunk(location, cast("Chunk", _checked(self.chunk)), ledger=ledger)
        service = require(self.service, "service", "Name a feature service, or hand over a chunk of one.")
        _, until = Partitioning.parse(self.partitioning).interval(required_key(self.key))
        return materialize(location, service, until=until, ledger=ledger)


def _whole(size: int | str) -> int:
    text = str(size).strip()
    if not text.isdecimal():
        raise ConfigError(f"chunk_bytes={size!r} is not a whole number.", hint="It is in bytes, such as 67108864.")
    return int(text)


def _checked(chunk: object) -> object:
    if isinstance(chunk, Mapping) and {"view", "start", "end", "since"} <= chunk.keys():
        return chunk
    raise ConfigError(
        "This is not a chunk of features.",
        detail=f"chunk={str(chunk)[:200]!r} after rendering",
        hint="Map over the output of FeastPlanMaterializationOperator: .expand(chunk=plan.output).",
    )
