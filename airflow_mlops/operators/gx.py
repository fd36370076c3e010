"""Operators of Great Expectations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypedDict

from airflow_mlops.operators.base import MlopsOperator, require
from airflow_mlops.operators.data import located

if TYPE_CHECKING:
    from airflow.sdk import Context


class ValidatedBatch(TypedDict):
    """A batch that its suite does not block. ``failed`` holds the warnings, as ``ExpectationOutcome`` records.

    ``batch_hash`` is the identity of the files' bytes: whoever uses them later can tell whether they are these.
    """

    suite: str
    suite_hash: str
    batch: str
    batch_hash: str
    rows: int
    expectations: int
    failed: list[dict[str, Any]]


class GXValidateDataOperator(MlopsOperator):
    """Check Parquet files against a Great Expectations suite, and fail when it blocks them.

    An expectation of severity ``critical`` that does not hold, and any that could not be computed, fails the
    task; ``warning`` and ``info`` are logged and returned. Values that fail are counted, never shown.

    :param data: Folder, file or glob of Parquet files; a relative path starts at the home folder.
    :param suite: ``module:function`` that returns the list of expectations; the module lies beside the DAG file
        or is installed.
    """

    template_fields = (*MlopsOperator.template_fields, "data", "suite")

    def __init__(self, *, data: str, suite: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.data = data
        self.suite = suite

    def perform(self, context: Context) -> ValidatedBatch:
        """Validate, and return what holds."""
        from airflow_mlops.engine.data.parquet import parquet_files
        from airflow_mlops.engine.data.validation import enforce, explain, validate
        from airflow_mlops.engine.entrypoints import load_object

        data = located(self, self.data, "data")
        suite = require(self.suite, "suite", "Name a function: suite='package.module:function'.")
        expectations = load_object(suite, self.code_path)()
        result = validate(parquet_files(data), expectations, suite_name=suite, batch=str(data))
        enforce(result)
        if result.failed:
            self.log.warning("%s passes with warnings:\n%s", data, explain(result))
        self.log.info("%s rows meet %s expectations of %s.", result.rows, len(result.outcomes), suite)
        return ValidatedBatch(
            suite=result.suite,
            suite_hash=result.suite_hash,
            batch=result.batch,
            batch_hash=result.batch_hash,
            rows=result.rows,
            expectations=len(result.outcomes),
            failed=[outcome.model_dump(mode="json") for outcome in result.failed],
        )
