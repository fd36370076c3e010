"""What one run of a model's DAG had to do with: its request, its partition, the version that it made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select

from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.engine.ledger.models import FactRow
from airflow_mlops.engine.overview.partitions import Cell, calendar
from airflow_mlops.engine.overview.versions import Detail, detail
from airflow_mlops.engine.retraining.registered import FACT as REGISTERED
from airflow_mlops.engine.retraining.registered import saved
from airflow_mlops.engine.retraining.requests import Request, requests


@dataclass(frozen=True)
class RunFacts:
    """What the ledger has of a run."""

    requests: tuple[Request, ...]
    version: Detail | None
    partitions: tuple[tuple[str, Cell], ...]


@dataclass(frozen=True)
class Cost:
    """What the trainings of a model took, all that became versions together. ``saved``: not trained again."""

    trainings: int
    seconds: float
    cost: float
    saved: int


def of_run(ledger: Ledger, model: str, run: str, datasets: Sequence[str], key: str = "") -> RunFacts:
    """Return what the ledger has of a run.

    :param run: DAG and run.
    :param datasets: What the model is trained on.
    :param key: Partition that the run is of; empty: of none.
    :raises TransientError: when the ledger does not answer.
    """
    query = select(FactRow.key).where(FactRow.kind == REGISTERED, FactRow.subject == model)
    query = query.where(FactRow.payload["run"].as_string() == run).order_by(FactRow.id.desc()).limit(1)
    with ledger.reading():
        with ledger.transaction() as connection:
            number = connection.execute(query).scalar()
        cells = [(name, _cell(ledger, name, key)) for name in datasets] if key else []
        return RunFacts(
            tuple(requests(ledger, model, run=run)),
            detail(ledger, model, int(number)) if number is not None else None,
            tuple((name, cell) for name, cell in cells if cell is not None),
        )


def cost_of(ledger: Ledger, model: str) -> Cost:
    """Return what the trainings of a model took.

    :raises TransientError: when the ledger does not answer.
    """
    made = (FactRow.payload["seconds"].as_float(), FactRow.payload["cost"].as_float())
    query = select(*made).where(FactRow.kind == REGISTERED, FactRow.subject == model)
    with ledger.transaction() as connection:
        rows = connection.execute(query).all()
    seconds, costs = sum(row[0] or 0.0 for row in rows), sum(row[1] or 0.0 for row in rows)
    return Cost(len(rows), seconds, costs, saved(ledger, model).trainings)


def _cell(ledger: Ledger, dataset: str, key: str) -> Cell | None:
    found = calendar(ledger, dataset, period=key[: len("2026-01" if "T" in key else "2026")])
    return next((cell for cell in found.cells if cell.key == key), None) if found is not None else None
