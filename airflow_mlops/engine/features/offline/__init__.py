"""Feast's offline store: the point-in-time join over Parquet files."""
