"""Partitions and snapshots: what may be read, and what was checked before it may."""
