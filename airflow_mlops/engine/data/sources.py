"""The datasets there are, those of which a partition was ever sealed, and what was said of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_mlops.contracts import Announcement
from airflow_mlops.engine.data.announcements import FACT
from airflow_mlops.engine.data.storage import subfolders
from airflow_mlops.exceptions import DataError, did_you_mean

if TYPE_CHECKING:
    from airflow_mlops.engine.data.partitions import PartitionStore
    from airflow_mlops.engine.ledger import Ledger

_RECENT = 2000


def known_datasets(ledger: Ledger) -> list[str]:
    """Return the names of the datasets among the partitions sealed last."""
    return sorted({fact.subject for fact in ledger.facts("partition", limit=_RECENT)})


def require_dataset(ledger: Ledger, dataset: str) -> None:
    """Refuse a name under which nothing was ever sealed: a slip of the pen would be announced to nobody.

    :raises DataError: with the nearest name there is.
    """
    if ledger.facts("partition", dataset, limit=1):
        return
    known = known_datasets(ledger)
    raise DataError(
        f"There is no dataset {dataset!r}.{did_you_mean(dataset, known)}",
        detail="no partition of it was ever sealed",
        hint=f"Datasets: {', '.join(known) or 'none yet; the features DAG seals them'}.",
    )


def no_partitions(store: PartitionStore, dataset: str) -> DataError:
    """Return what to raise for a dataset of which a store has no partition, with the nearest name there is."""
    known = subfolders(store.root)
    return DataError(
        f"There are no partitions of {dataset!r}.{did_you_mean(dataset, known)}",
        detail=str(store.root),
        hint=f"Datasets there: {', '.join(known) or 'none'}. Another place: --home, or option [mlops] partitions.",
    )


def announcements(ledger: Ledger, dataset: str, limit: int = 20) -> list[Announcement]:
    """Return the latest announcements about a dataset, newest first."""
    facts = ledger.facts(FACT, dataset, limit=limit)
    return [Announcement(dataset=dataset, at=fact.at, **fact.payload) for fact in facts]
