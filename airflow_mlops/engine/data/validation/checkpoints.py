"""Checkpoints of an existing Great Expectations project, run as they are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_mlops.contracts import ValidationResult, content_hash
from airflow_mlops.engine.data.validation import library
from airflow_mlops.engine.data.validation.results import outcome
from airflow_mlops.engine.data.validation.running import Answer, raised_type
from airflow_mlops.engine.data.validation.suites import Suite
from airflow_mlops.exceptions import ConfigError, did_you_mean

if TYPE_CHECKING:
    from great_expectations import Checkpoint, ExpectationSuite
    from great_expectations.core import ExpectationSuiteValidationResult, ExpectationValidationResult


def run_checkpoint(
    project: Path,
    name: str,
    *,
    batch_parameters: Mapping[str, Any] | None = None,
    expectation_parameters: Mapping[str, Any] | None = None,
) -> list[ValidationResult]:
    """Run a checkpoint of a project with a file context, its actions included.

    :param project: The project's folder, or the folder with ``great_expectations.yml`` in it.
    :param batch_parameters: Which batch, such as ``{"year": "2013", "month": "01"}``.
    :param expectation_parameters: Values of the suite's ``$PARAMETER``.
    :returns: One result for each validation definition of the checkpoint.
    :raises ConfigError: when the project or the checkpoint is not there, or the library cannot run it.
    """
    library.prepare()
    from great_expectations.exceptions import GreatExpectationsError

    checkpoint = _checkpoint(project, name)
    try:
        ran = checkpoint.run(
            batch_parameters=dict(batch_parameters or {}) or None,
            expectation_parameters=dict(expectation_parameters or {}) or None,
        )
    except Exception as error:  # not every error in a data source's own code is caught by the library
        said = f": {error}" if isinstance(error, GreatExpectationsError) else ""  # else it may quote raw values
        raise ConfigError(
            f"Great Expectations could not run checkpoint {name!r}.",
            detail=f"{project}: {type(error).__name__}{said}",
            hint="Run it in the project's own environment to see where it breaks.",
        ) from None
    suites = {definition.suite.name: definition.suite for definition in checkpoint.validation_definitions}
    return [_result(name, found, suites[str(found.suite_name)]) for found in ran.run_results.values()]


def _checkpoint(project: Path, name: str) -> Checkpoint:
    import great_expectations as gx

    # Asked for a project that is not there, the library makes a new one.
    found = [folder for folder in (project, project / "gx") if (folder / "great_expectations.yml").is_file()]
    if not found:
        raise ConfigError(
            "There is no Great Expectations project.",
            detail=f"neither {project} nor {project / 'gx'} holds a great_expectations.yml",
            hint="Pass project=<the folder that holds gx/great_expectations.yml>.",
        )
    context = gx.get_context(mode="file", context_root_dir=found[0])
    known = [checkpoint.name for checkpoint in context.checkpoints.all()]
    if name not in known:
        raise ConfigError(
            f"There is no checkpoint {name!r}.{did_you_mean(name, known)}",
            detail=f"{found[0]} has {', '.join(map(repr, sorted(known))) or 'none'}",
            hint="Name a checkpoint of the project.",
        )
    return context.checkpoints.get(name)


def _result(checkpoint: str, found: ExpectationSuiteValidationResult, suite: ExpectationSuite) -> ValidationResult:
    meta = found.meta or {}
    definition = meta.get("active_batch_definition") or {}
    return ValidationResult(
        suite=suite.name,
        suite_hash=Suite(suite.name, "", tuple(suite.expectations)).hash,
        suite_version=str((suite.meta or {}).get("version", "")),
        batch=f"{checkpoint}: {definition.get('data_asset_name', suite.name)}",
        batch_hash=content_hash([definition, meta.get("batch_markers")]),
        rows=max((_rows(result.result or {}) for result in found.results), default=0),
        outcomes=tuple(
            outcome(_configuration(result), Answer(result, raised_type(result.exception_info)), None)
            for result in found.results
        ),
        engine="checkpoint",
    )


def _configuration(result: ExpectationValidationResult) -> dict[str, Any]:
    return dict(result.expectation_config.to_json_dict())


def _rows(details: Mapping[str, Any]) -> int:
    """Return how many rows an expectation of rows saw: the whole batch, unless it has a row condition."""
    return int(details.get("element_count") or 0)
