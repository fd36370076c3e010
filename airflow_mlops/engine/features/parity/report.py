"""A check of parity as the page for people: each feature is an expectation, its entities are the rows."""

from __future__ import annotations

from airflow_mlops.contracts import ExpectationOutcome, FeatureParity, ParityReport, ValidationResult, content_hash


def as_validation(report: ParityReport) -> ValidationResult:
    """Return a report as the result of a validation, which is what the pages of reports show."""
    unseen = {one.view for one in report.features} - {one.view for one in report.features if one.compared}
    return ValidationResult(
        suite=f"{report.service} is served as it is trained on",
        suite_hash=report.definition,
        batch=f"{report.service}: {report.rows} entities of {report.sample}",
        batch_hash=content_hash(report.model_dump(mode="json")),
        rows=report.rows,
        outcomes=tuple(_outcome(report, one, unseen=one.view in unseen) for one in report.features),
        engine="online store and point-in-time join",
    )


def _outcome(report: ParityReport, one: FeatureParity, *, unseen: bool) -> ExpectationOutcome:
    beyond = one in report.failed
    observed = {
        "compared": one.compared,
        "differing": one.differing,
        "missing online": one.missing_online,
        "missing offline": one.missing_offline,
        "of another type": one.wrong_type,
        "largest difference": one.largest,
    }
    return ExpectationOutcome(
        expectation="served as it is trained on",
        column=one.feature,
        severity="block",
        success=not beyond and not unseen,
        observed={what: value for what, value in observed.items() if value},
        bound={"tolerance": one.tolerance, "largest share unlike": report.max_unlike},
        unexpected_count=one.unlike,
        row_ids=one.examples,
        note=f"feature view {one.view}" + (f"; served as {', '.join(one.types)}" if one.types else ""),
        error="no entity has a value of this feature view, online or offline" if unseen and not beyond else None,
    )
