"""The newest facts of many subjects in one query, however many facts there are of each."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from sqlalchemy import JSON, RowMapping, select, text

from airflow_mlops.engine.ledger.ledger import Fact, Ledger
from airflow_mlops.engine.ledger.models import TrainingRequestRow

# Each step asks the index for the next subject: DISTINCT would read every fact.
_SUBJECTS = """
WITH RECURSIVE found(subject) AS (
    SELECT min(subject) FROM mlops_fact WHERE kind = :kind
    UNION ALL
    SELECT (SELECT min(subject) FROM mlops_fact WHERE kind = :kind AND subject > found.subject)
    FROM found WHERE found.subject IS NOT NULL
)
SELECT subject FROM found WHERE subject IS NOT NULL
"""
_NAMES = {
    "postgresql": "json_array_elements_text(CAST(:wanted AS json)) AS wanted(value)",
    "sqlite": "json_each(:wanted) AS wanted",
}
_NEWEST = {
    "postgresql": """
SELECT fact.id, fact.subject, fact.key, fact.at, fact.payload
FROM {names}
CROSS JOIN LATERAL (
    SELECT id, subject, key, at, {payload} AS payload FROM mlops_fact
    WHERE kind = :kind AND subject = wanted.value ORDER BY id DESC LIMIT :most
) AS fact
""",
    "sqlite": """
SELECT fact.id, fact.subject, fact.key, fact.at, {payload} AS payload
FROM {names} JOIN mlops_fact AS fact ON fact.id IN (
    SELECT id FROM mlops_fact WHERE kind = :kind AND subject = wanted.value ORDER BY id DESC LIMIT :most
) ORDER BY fact.id DESC
""",
}


def subjects(ledger: Ledger, kind: str) -> list[str]:
    """Return all subjects that have a fact of a kind, in order."""
    with ledger.transaction() as connection:
        return list(connection.execute(text(_SUBJECTS), {"kind": kind}).scalars())


def newest(ledger: Ledger, kind: str, wanted: Iterable[str], most: int = 1, *, only: str = "") -> dict[str, list[Fact]]:
    """Return subject → its newest facts of a kind, newest first; of those that have any.

    :param most: At most so many of each subject.
    :param only: The one entry of the payload that is read; empty: all of it.
    """
    with ledger.transaction() as connection:
        payload = f"payload -> '{only}'" if only else "payload"
        dialect = connection.dialect.name
        query = text(_NEWEST[dialect].format(payload=payload, names=_NAMES[dialect])).columns(payload=JSON)
        given = {"kind": kind, "wanted": json.dumps(list(wanted)), "most": most}
        rows = connection.execute(query, given).all()
    found: dict[str, list[Fact]] = {}
    for row in rows:
        told = {only: row.payload} if only else row.payload
        fact = Fact(row.id, kind, row.subject, row.key, datetime.fromisoformat(row.at), told)
        found.setdefault(row.subject, []).append(fact)
    return found


def last_keys(ledger: Ledger, kind: str, wanted: Iterable[str]) -> dict[str, str]:
    """Return subject → the last key, in order of text, that has a fact of a kind."""
    return _of_each(ledger, "SELECT max(key) FROM mlops_fact WHERE kind = :kind AND subject", wanted, kind=kind)


def last_runs(ledger: Ledger, models: Iterable[str]) -> list[RowMapping]:
    """Return of each model the request for training that was written last of those which a run answers."""
    ids = _of_each(ledger, "SELECT max(id) FROM mlops_training_request WHERE run <> '' AND model", models)
    query = select(TrainingRequestRow.__table__).where(TrainingRequestRow.id.in_(ids.values()))
    with ledger.transaction() as connection:
        return list(connection.execute(query).mappings())


def _of_each(ledger: Ledger, query: str, wanted: Iterable[str], **given: str) -> dict[str, Any]:
    """Return name → the one value that a query finds of it; of those of which it finds one."""
    with ledger.transaction() as connection:
        names = _NAMES[connection.dialect.name]
        each = text(f"SELECT wanted.value, ({query} = wanted.value) FROM {names}")
        rows = connection.execute(each, {"wanted": json.dumps(list(wanted)), **given}).all()
    return {name: value for name, value in rows if value is not None}
