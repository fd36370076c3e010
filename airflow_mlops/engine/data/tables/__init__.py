"""Partitions of a table: asked of a database in one statement, and written as Parquet a batch at a time."""
