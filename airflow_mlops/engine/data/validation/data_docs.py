"""Great Expectations' own pages of a result, for those who are used to them."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_mlops.contracts import ExpectationOutcome, ValidationResult
from airflow_mlops.engine.data.validation import library
from airflow_mlops.engine.data.validation.publishing import file_name

if TYPE_CHECKING:
    from great_expectations.core import ExpectationSuiteValidationResult

    from airflow_mlops.engine.data.validation.suites import Suite


def build_data_docs(result: ValidationResult, suite: Suite, folder: Path) -> Path:
    """Build a Data Docs site in a folder, and return its first page.

    The site shows what the record holds: aggregates and counts, no samples of failing values.
    """
    library.prepare()
    import great_expectations as gx
    from great_expectations.core.run_identifier import RunIdentifier
    from great_expectations.data_context.types.base import ProgressBarsConfig
    from great_expectations.data_context.types.resource_identifiers import (
        ExpectationSuiteIdentifier,
        ValidationResultIdentifier,
    )

    context = gx.get_context(mode="ephemeral")
    context.config.progress_bars = ProgressBarsConfig(globally=False)
    for site in list(context.get_site_names()):
        context.delete_data_docs_site(site)
    context.add_data_docs_site(
        "local_site",
        {
            "class_name": "SiteBuilder",
            "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(folder)},
            "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
        },
    )
    name = file_name(result.suite)
    context.suites.add(gx.ExpectationSuite(name, list(suite.expectations)))
    identifier = ValidationResultIdentifier(
        expectation_suite_identifier=ExpectationSuiteIdentifier(name),
        run_id=RunIdentifier(run_name=result.batch_hash[:16], run_time=datetime.now(UTC)),
        batch_identifier=file_name(result.batch),
    )
    context.validation_results_store.add(identifier, _answers(result, suite, name))
    context.build_data_docs()
    return folder / "index.html"


def _answers(result: ValidationResult, suite: Suite, name: str) -> ExpectationSuiteValidationResult:
    from great_expectations.core import ExpectationSuiteValidationResult, ExpectationValidationResult

    held = sum(outcome.success for outcome in result.outcomes)
    return ExpectationSuiteValidationResult(
        success=not result.failed,
        results=[
            ExpectationValidationResult(
                success=outcome.success,
                expectation_config=expectation.configuration,
                result=_details(outcome, result.rows),
                exception_info={
                    "raised_exception": outcome.error is not None,
                    "exception_message": outcome.error,
                    "exception_traceback": None,
                },
            )
            for expectation, outcome in zip(suite.expectations, result.outcomes, strict=True)
        ],
        suite_name=name,
        statistics={
            "evaluated_expectations": len(result.outcomes),
            "successful_expectations": held,
            "unsuccessful_expectations": len(result.outcomes) - held,
            "success_percent": 100 * held / len(result.outcomes) if result.outcomes else None,
        },
        meta={"batch": result.batch, "batch_hash": result.batch_hash, "suite_hash": result.suite_hash},
    )


def _details(outcome: ExpectationOutcome, rows: int) -> dict[str, Any]:
    if outcome.unexpected_count is None:
        return {"observed_value": outcome.observed}
    percent = outcome.observed.get("unexpected_percent") if isinstance(outcome.observed, dict) else None
    return {
        "element_count": rows,
        "unexpected_count": outcome.unexpected_count,
        "unexpected_percent": percent,
        "partial_unexpected_list": [],
    }
