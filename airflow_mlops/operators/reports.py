"""The report of a validation, written where Airflow's web server finds it, and linked from the task."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_mlops.links.gx import GXValidationReportLink

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_mlops.contracts import Profile, ValidationResult
    from airflow_mlops.operators.base import MlopsOperator


def publish_report(
    task: MlopsOperator,
    context: Context,
    result: ValidationResult,
    profile: Profile | None = None,
    reference: Profile | None = None,
) -> None:
    """Write ``<home>/reports/<batch>-<suite>.html`` in one rename, and push the link to it.

    To be called before a task fails over the result: that is when somebody wants to read it.

    :param profile: Of the batch, to draw its distributions.
    :param reference: Of earlier batches, to draw beside them.
    """
    from airflow_mlops.engine.data.report import render
    from airflow_mlops.engine.data.shared import publishing

    name = f"{result.batch_hash[:16]}-{result.suite_hash[:8]}.html"
    with publishing(task.home_path / "reports" / name) as page:
        page.write_text(render(result, profile, reference), encoding="utf-8")
    GXValidationReportLink.persist(context, f"/mlops/reports/{name}")
