"""Alembic migrations of the ledger's tables: one file a version, never changed once released."""
