"""What the operators of Great Expectations have in common: where a result goes, and what a failure does."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, TypedDict, get_args

from airflow.sdk.exceptions import AirflowSkipException

from airflow_mlops.exceptions import ConfigError, did_you_mean
from airflow_mlops.hooks.ledger import LedgerHook
from airflow_mlops.hooks.mlflow import MLflowHook
from airflow_mlops.links.gx import GXValidationReportLink
from airflow_mlops.operators.base import MlopsOperator

if TYPE_CHECKING:
    from airflow_mlops.contracts import ValidationResult

OnFailure = Literal["fail", "warn", "quarantine"]


class ValidatedBatch(TypedDict):
    """A batch that its suite does not block, or that ``on_failure="warn"`` lets through: then ``passed`` is false.

    ``batch_hash`` is the identity of the files' bytes: whoever uses them later can tell whether they are these.
    ``failed`` holds what did not hold, as ``ExpectationOutcome`` records.
    """

    suite: str
    suite_hash: str
    suite_version: str
    batch: str
    batch_hash: str
    rows: int
    expectations: int
    passed: bool
    failed: list[dict[str, Any]]


class GXOperator(MlopsOperator):
    """What every validation has in common: where its result goes, and what a failure does.

    :param on_failure: ``fail`` fails the task; ``warn`` lets the batch through and records that in the ledger;
        ``quarantine`` copies it to ``<home>/quarantine`` and skips the task and what follows, so that the day stays
        unsealed. A check that could not be computed, or a suite without checks, fails the task whatever this says.
    :param dataset: Subject of the result in the ledger; default is the suite's name.
    :param key: Partition key of the result in the ledger.
    :param mlflow_run_id: Run of MLflow to log the result into, if any.
    :param mlflow_conn_id: Airflow connection of type ``mlflow``.
    :param ledger_conn_id: Airflow connection of type ``mlops_ledger``.
    """

    template_fields = (
        *MlopsOperator.template_fields,
        "dataset",
        "key",
        "mlflow_run_id",
        "mlflow_conn_id",
        "ledger_conn_id",
    )
    operator_extra_links = (GXValidationReportLink(),)

    def __init__(
        self,
        *,
        on_failure: OnFailure = "fail",
        dataset: str = "",
        key: str = "",
        mlflow_run_id: str = "",
        mlflow_conn_id: str = MLflowHook.default_conn_name,
        ledger_conn_id: str = LedgerHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if on_failure not in get_args(OnFailure):
            raise ConfigError(
                f"{on_failure!r} is nothing to do on a failure.{did_you_mean(str(on_failure), get_args(OnFailure))}",
                detail=f"on_failure={on_failure!r}",
                hint=f"Use one of {', '.join(get_args(OnFailure))}.",
            )
        self.on_failure = on_failure
        self.dataset = dataset
        self.key = key
        self.mlflow_run_id = mlflow_run_id
        self.mlflow_conn_id = mlflow_conn_id
        self.ledger_conn_id = ledger_conn_id

    def record(self, result: ValidationResult) -> None:
        """Write a result down, in the ledger and in the run of MLflow, before anything is decided by it."""
        self._fact("validation", result, result.model_dump(mode="json"))
        if self.mlflow_run_id not in ("", "None"):
            MLflowHook(self.mlflow_conn_id).get_conn().log_validation(self.mlflow_run_id, result)

    def decide(self, result: ValidationResult) -> ValidatedBatch:
        """Return what passes; fail or skip the task over what does not."""
        from airflow_mlops.engine.data.validation import enforce, explain

        known = result.outcomes and not any(outcome.error for outcome in result.failed)
        if self.on_failure == "fail" or not known:
            enforce(result)
        if result.blocked and self.on_failure == "quarantine":
            uri = self.quarantine(result)
            self._fact("quarantine", result, {"uri": uri, "batch_hash": result.batch_hash, "suite": result.suite})
            raise AirflowSkipException(f"{result.batch} is in quarantine, {uri}:\n{explain(result)}")
        if result.blocked:
            overridden = {"batch_hash": result.batch_hash, "suite": result.suite, "suite_hash": result.suite_hash}
            self._fact("validation_overridden", result, overridden)
            self.log.warning("%s is let through by on_failure='warn':\n%s", result.batch, explain(result))
        elif result.failed:
            self.log.warning("%s passes with warnings:\n%s", result.batch, explain(result))
        self.log.info(
            "%s of %s expectations of %s hold on %s rows.",
            len(result.outcomes) - len(result.failed),
            len(result.outcomes),
            result.suite,
            result.rows,
        )
        return ValidatedBatch(
            suite=result.suite,
            suite_hash=result.suite_hash,
            suite_version=result.suite_version,
            batch=result.batch,
            batch_hash=result.batch_hash,
            rows=result.rows,
            expectations=len(result.outcomes),
            passed=not result.blocked,
            failed=[outcome.model_dump(mode="json") for outcome in result.failed],
        )

    @abstractmethod
    def quarantine(self, result: ValidationResult) -> str:
        """Put the refused batch aside and return where it is now."""

    def _fact(self, kind: str, result: ValidationResult, payload: Mapping[str, Any]) -> None:
        ledger = LedgerHook(self.ledger_conn_id).get_conn()
        ledger.record(kind, self.dataset or result.suite, payload, key="" if self.key == "None" else self.key)
