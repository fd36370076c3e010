"""Which features are the same though other code computes them: their values were compared, day by day.

A partition that is computed again by other code is held against the rows it replaces. The ledger keeps, as a fact
``features_compared``, which features came out equal. So a feature that is added to a view leaves the others what they
were, and a model that was trained on these can go on reading them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from airflow_mlops.engine.data.parquet import readable
from airflow_mlops.engine.features.computing.provenance import read_code
from airflow_mlops.engine.features.project.schema import feature_file

if TYPE_CHECKING:
    from airflow_mlops.engine.ledger import Ledger

KIND = "features_compared"

Edges = Mapping[tuple[str, str], frozenset[str]]
"""(code before, code after) → the features that came out equal."""


def compare_with_stored(  # noqa: PLR0917
    home: Path, project: str, view: str, key: str, rows: pa.Table, features: Iterable[str], code: str, ledger: Ledger
) -> None:
    """Hold rows against those of the same partition that other code computed, and write down which features are equal.

    :param rows: Those that are about to be written.
    :param features: Columns of the view that are no key and no time.
    :param code: Identity of the code that computed them.
    """
    file = feature_file(home, view, key)
    before = read_code(file) if file.exists() else None
    if before in (None, code):
        return
    with readable(file):
        stored = pq.read_table(file)
    payload = {"before": before, "after": code, "equal": sorted(_equal(stored, rows, [*features]))}
    ledger.record(KIND, f"{project}:{view}", payload, key=key)


def equal_features(ledger: Ledger, project: str, view: str, codes: tuple[str, str], keys: Pinned) -> frozenset[str]:
    """Return the features of a view that two codes compute equally, in every partition of a span.

    :param codes: The code of then and that of now.
    :param keys: First and last partition, and how many there are: each must have been compared.
    """
    first, last, count = keys
    by_key: dict[str, dict[tuple[str, str], frozenset[str]]] = {}
    for fact in ledger.facts(KIND, f"{project}:{view}", limit=None):
        if first <= fact.key <= last:
            step = fact.payload["before"], fact.payload["after"]
            by_key.setdefault(fact.key, {}).setdefault(step, frozenset(fact.payload["equal"]))
    if not by_key or len(by_key) < count:
        return frozenset()
    return frozenset.intersection(*(_along(edges, *codes) for edges in by_key.values()))


Pinned = tuple[str, str, int]
"""First and last partition that a model saw, and how many there are."""


def _along(edges: Edges, start: str, goal: str) -> frozenset[str]:
    """Return the features that stayed equal on some way from one code to another."""
    reached: dict[str, frozenset[str]] = {}
    waiting: list[tuple[str, frozenset[str] | None]] = [(start, None)]
    while waiting:
        code, kept = waiting.pop()
        for (before, after), equal in edges.items():
            now = equal if kept is None else kept & equal
            if before == code and not now <= reached.get(after, frozenset()):
                reached[after] = reached.get(after, frozenset()) | now
                waiting.append((after, now))
    return reached.get(goal, frozenset())


def _equal(stored: pa.Table, rows: pa.Table, features: list[str]) -> list[str]:
    """Return the features with the same values in the same rows."""
    about = [name for name in rows.schema.names if name not in features]
    same = stored.num_rows == rows.num_rows and set(about) <= set(stored.schema.names)
    if not same or not all(_same(stored, rows, name) for name in about):
        return []
    return [name for name in features if name in stored.schema.names and _same(stored, rows, name)]


def _same(stored: pa.Table, rows: pa.Table, name: str) -> bool:
    one, other = (table[name].combine_chunks() for table in (stored, rows))
    # As bytes of a file would be: NaN is NaN.
    return one.type == other.type and one.to_pandas().equals(other.to_pandas())
