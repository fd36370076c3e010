"""Months and years of a pipeline's data in one go: the daily DAG's own steps, many partitions at a time."""
