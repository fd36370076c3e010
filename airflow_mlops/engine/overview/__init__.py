"""What people look at: models, versions, what happened, partitions. Read-only, and from the ledger alone."""
