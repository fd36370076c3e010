"""How long partitions took to load, as the ledger has it: what the next ones are likely to take.

Fact ``load_pace``, one a load: subject is the dataset, or the model for its features.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import quantiles
from typing import NamedTuple

from airflow_mlops.engine.ledger import Ledger

FACT = "load_pace"
FEATURES = "features"
"""What stands for the dataset where features of a partition are meant."""

_LOADS = 50
_TENTHS = 10


class Pace(NamedTuple):
    """Seconds of one process a partition: on average, and of the quickest and the slowest tenth."""

    mean: float
    quick: float
    slow: float


def record_pace(ledger: Ledger, subject: str, seconds: Sequence[float]) -> None:
    """Write down how long the partitions of a load took, each in seconds of one process; at least one."""
    tenths = quantiles(seconds, n=_TENTHS, method="inclusive") if len(seconds) > 1 else seconds
    payload = {"partitions": len(seconds), "seconds": sum(seconds), "quick": tenths[0], "slow": tenths[-1]}
    ledger.record(FACT, subject, payload)


def pace(ledger: Ledger, subject: str) -> Pace | None:
    """Return how long a partition takes, by the latest loads; None when there was none.

    The interval is the widest of them: machines and data differ from load to load.
    """
    loads = [fact.payload for fact in ledger.facts(FACT, subject, limit=_LOADS)]
    if not loads:
        return None
    mean = sum(one["seconds"] for one in loads) / sum(one["partitions"] for one in loads)
    return Pace(mean, min(mean, *(one["quick"] for one in loads)), max(mean, *(one["slow"] for one in loads)))
