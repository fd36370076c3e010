"""The partitions of a dataset after one, as the ledger has them."""

from __future__ import annotations

from typing import Any

from airflow_mlops.engine.data.exclusions import left_out
from airflow_mlops.engine.data.partitions import FACT, PartitionStore
from airflow_mlops.engine.ledger import Ledger


class Fresh:
    """What was sealed after a partition, without what a person excluded; read once for all triggers of a look."""

    def __init__(self, ledger: Ledger, store: PartitionStore) -> None:
        self._ledger, self._store = ledger, store
        self._known: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}

    def after(self, dataset: str, key: str) -> dict[str, dict[str, Any]]:
        """Return key → what was written down when the revision that counts was sealed."""
        if (dataset, key) not in self._known:
            facts = self._ledger.facts(FACT, dataset, after_key=key, limit=None)
            skip = left_out(self._ledger, dataset, self._store.partitioning(dataset))
            self._known[dataset, key] = {one.key: one.payload for one in reversed(facts) if one.key not in skip}
        return self._known[dataset, key]
