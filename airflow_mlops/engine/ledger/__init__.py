"""What was decided and what is true: append-only facts and compare-and-set pointers."""

from airflow_mlops.engine.ledger.ledger import Fact, Ledger, Pointer
from airflow_mlops.engine.ledger.payloads import as_json

__all__ = ["Fact", "Ledger", "Pointer", "as_json"]
