"""What was decided and what is true: append-only facts and compare-and-set pointers."""

from airflow_mlops.engine.ledger.ledger import Fact, Ledger, Pointer

__all__ = ["Fact", "Ledger", "Pointer"]
