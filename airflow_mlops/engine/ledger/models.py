"""The ledger's tables, as the newest migration leaves them."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, Index
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """Base of the ledger's tables."""

    type_annotation_map = {dict[str, Any]: JSON}


class FactRow(Base):
    """A fact. Triggers in the database refuse UPDATE and DELETE."""

    __tablename__ = "mlops_fact"
    __table_args__ = (
        Index("ix_mlops_fact_lookup", "kind", "subject", "key", "id"),
        Index("ix_mlops_fact_newest", "kind", "id"),
        Index("ix_mlops_fact_subject_newest", "kind", "subject", "id"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    subject: Mapped[str]
    key: Mapped[str] = mapped_column(server_default="")
    at: Mapped[str]
    payload: Mapped[dict[str, Any]]


class PointerRow(Base):
    """A pointer's present value."""

    __tablename__ = "mlops_pointer"
    __table_args__ = (Index("ix_mlops_pointer_prefix", "name", postgresql_ops={"name": "varchar_pattern_ops"}),)

    name: Mapped[str] = mapped_column(primary_key=True)
    revision: Mapped[int]
    value: Mapped[dict[str, Any]]


class TrainingRequestRow(Base):
    """A request for training, and what became of it: see :mod:`airflow_mlops.engine.retraining.requests`."""

    __tablename__ = "mlops_training_request"
    __table_args__ = (
        Index("ux_mlops_training_request", "model", "key", unique=True),
        Index("ix_mlops_training_request_state", "model", "state"),
        Index("ix_mlops_training_request_newest", "model", "id"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    model: Mapped[str]
    key: Mapped[str]
    reason: Mapped[str]
    detail: Mapped[str]
    priority: Mapped[int]
    as_of: Mapped[str]
    special: Mapped[dict[str, Any]]
    asked_at: Mapped[str]
    asked_by: Mapped[str]
    state: Mapped[str]
    said: Mapped[str]
    run: Mapped[str]
    changed_at: Mapped[str]
    started_at: Mapped[str]
