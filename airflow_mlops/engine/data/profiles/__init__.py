"""Mergeable statistics of every column of a partition, computed in one pass, and what can be read from them."""

from airflow_mlops.engine.data.profiles.collect import profile_files, profile_table
from airflow_mlops.engine.data.profiles.merge import merge
from airflow_mlops.engine.data.profiles.read import (
    EXACT_BELOW,
    Histogram,
    distinct,
    histogram,
    label_rate,
    near_unique,
    null_rate,
    quantiles,
    std,
)

__all__ = [
    "EXACT_BELOW",
    "Histogram",
    "distinct",
    "histogram",
    "label_rate",
    "merge",
    "near_unique",
    "null_rate",
    "profile_files",
    "profile_table",
    "quantiles",
    "std",
]
