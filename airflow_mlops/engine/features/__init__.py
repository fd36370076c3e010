"""Features: computed from sealed partitions, kept in Feast, read as they were known at the time."""
