"""Great Expectations on Spark, for who has it: it takes seconds to start, and pays off for data of many machines."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from airflow_mlops.engine.data.validation.batches import ParquetBatch
from airflow_mlops.exceptions import ConfigError

if TYPE_CHECKING:
    from great_expectations.execution_engine import SparkDFExecutionEngine


@contextmanager
def opened(batch: ParquetBatch) -> Iterator[SparkDFExecutionEngine]:
    """Yield an engine on the files, in the Spark session that there is, or a local one that ends with the block.

    :raises ConfigError: when Spark is not installed.
    """
    try:
        from pyspark.sql import SparkSession
        from pyspark.sql.functions import col, isnan, when
    except ImportError:
        raise ConfigError(
            "engine='spark' needs pyspark, which is not installed.",
            detail="no module 'pyspark'",
            hint='pip install "airflow-mlops[spark]", and have Java 17 or newer; or leave engine out.',
        ) from None
    from great_expectations.execution_engine import SparkDFExecutionEngine

    theirs = SparkSession.getActiveSession()
    session = theirs or SparkSession.builder.appName("airflow-mlops").config("spark.ui.enabled", "false").getOrCreate()
    zone = session.conf.get("spark.sql.session.timeZone")
    session.conf.set("spark.sql.session.timeZone", "UTC")
    try:
        frame = session.read.parquet(*map(str, batch.files)).select(*map(_quoted, batch.schema.names))
        for name, kind in frame.dtypes:  # as on the other engines, a NaN is missing, true and false count as 1 and 0
            column = col(_quoted(name))
            if kind in ("double", "float"):
                frame = frame.withColumn(name, when(~isnan(column), column))
            elif kind == "boolean":
                frame = frame.withColumn(name, column.cast("int"))
        engine = SparkDFExecutionEngine(persist=False)
        engine.load_batch_data("batch", frame.cache())
        yield engine
        frame.unpersist()
    finally:
        if theirs is None:
            session.stop()
        else:
            session.conf.set("spark.sql.session.timeZone", zone)


def _quoted(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"
