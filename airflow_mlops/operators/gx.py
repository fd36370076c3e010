"""Operators of Great Expectations."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, get_args

from airflow.sdk import BaseHook
from airflow.sdk.exceptions import AirflowNotFoundException, AirflowSkipException

from airflow_mlops.exceptions import ConfigError, did_you_mean
from airflow_mlops.hooks.ledger import LedgerHook
from airflow_mlops.hooks.mlflow import MLflowHook
from airflow_mlops.links.gx import GXValidationReportLink
from airflow_mlops.operators.base import MlopsOperator, require
from airflow_mlops.operators.data import located
from airflow_mlops.operators.reports import publish_report

if TYPE_CHECKING:
    from airflow.sdk import Context, ObjectStoragePath

    from airflow_mlops.contracts import ValidationResult
    from airflow_mlops.engine.data.validation import EngineName, Suite

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


class _GXOperator(MlopsOperator):
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


def _on_disk(path: Path | ObjectStoragePath) -> Path:
    if isinstance(path, Path):
        return path
    raise ConfigError(
        "Great Expectations keeps its files on this machine's disk.",
        detail=f"{path} is on object storage",
        hint="Name a folder that the workers share.",
    )


class GXValidateDataOperator(_GXOperator):
    """Check Parquet files, or a table where it is, against a Great Expectations suite.

    An expectation of severity ``critical`` that does not hold, and any that could not be computed, fails the
    task; ``warning`` and ``info`` are logged and returned. Values that fail are counted, never shown.

    :param suite: ``module:function`` that returns the expectations, or a JSON file as Great Expectations writes it;
        both lie beside the DAG file, or the module is installed.
    :param data: Folder, file or glob of Parquet files; a relative path starts at the home folder.
    :param table: Instead of ``data``: ``table`` or ``schema.table``.
    :param sql_conn_id: Airflow connection of type ``postgres`` to the table's database.
    :param engine: ``auto``, ``duckdb``, ``pandas``, or ``spark`` with the extra of that name.
    :param row_id_column: Column of ids, of which up to 20 are shown for each expectation that fails.
    :param data_docs: Folder for Great Expectations' own Data Docs, if they are wanted.
    """

    template_fields = (
        *_GXOperator.template_fields,
        "suite",
        "data",
        "table",
        "sql_conn_id",
        "row_id_column",
        "data_docs",
    )

    def __init__(
        self,
        *,
        suite: str,
        data: str = "",
        table: str = "",
        sql_conn_id: str = "",
        engine: EngineName = "auto",
        row_id_column: str = "",
        data_docs: str = "",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if data != "" and table != "":
            raise ConfigError(
                "A validation has files or a table, not both.",
                detail=f"data={data!r}, table={table!r}",
                hint="Leave one out.",
            )
        if (table == "") != (sql_conn_id == ""):
            raise ConfigError(
                "table and sql_conn_id belong together.",
                detail=f"table={table!r}, sql_conn_id={sql_conn_id!r}",
                hint="Name the table and the connection to its database.",
            )
        if table != "" and (engine != "auto" or self.on_failure == "quarantine"):
            raise ConfigError(
                "A table is validated by its own database, and cannot be put aside.",
                detail=f"table={table!r}, engine={engine!r}, on_failure={self.on_failure!r}",
                hint="Leave engine out, and use on_failure='fail' or 'warn'.",
            )
        self.suite = suite
        self.data = data
        self.table = table
        self.sql_conn_id = sql_conn_id
        self.engine = engine
        self.row_id_column = row_id_column
        self.data_docs = data_docs

    def perform(self, context: Context) -> ValidatedBatch:
        """Validate, write down, and return what holds."""
        from airflow_mlops.engine.data.validation import load_suite

        spec = require(self.suite, "suite", "Name a function, 'package.module:function', or a JSON file.")
        suite = load_suite(spec, self.code_path)
        if self.table:
            result = self._of_table(suite)
            self.record(result)
            publish_report(self, context, result)
        else:
            result = self._of_files(suite, context)
        if self.data_docs:
            from airflow_mlops.engine.data.validation.data_docs import build_data_docs

            folder = _on_disk(located(self, self.data_docs, "data_docs"))
            self.log.info("Data Docs: %s", build_data_docs(result, suite, folder))
        return self.decide(result)

    def quarantine(self, result: ValidationResult) -> str:
        """Copy the files aside."""
        from airflow_mlops.engine.data import storage
        from airflow_mlops.engine.data.validation.publishing import file_name, quarantine

        folder = self.home_path / "quarantine" / file_name(self.dataset or result.batch) / file_name(self.key or "-")
        with storage.on_disk(self._files()) as files:
            return str(quarantine(result, files, folder))

    def _of_files(self, suite: Suite, context: Context) -> ValidationResult:
        from airflow_mlops.engine.data import storage
        from airflow_mlops.engine.data.profiles import profile_files
        from airflow_mlops.engine.data.validation import validate

        with storage.on_disk(self._files()) as files:
            result = validate(
                files, suite, batch=str(self._located()), engine=self.engine, row_id=self.row_id_column or None
            )
            self.record(result)
            profile = profile_files(files, dataset=self.dataset or suite.name, key=self.key, revision=result.batch_hash)
        publish_report(self, context, result, profile)
        return result

    def _of_table(self, suite: Suite) -> ValidationResult:
        from airflow_mlops.engine.data.validation import validate_table

        try:
            connection = BaseHook.get_connection(self.sql_conn_id)
        except AirflowNotFoundException:
            raise ConfigError(
                f"There is no Airflow connection {self.sql_conn_id!r}.",
                detail=f"sql_conn_id={self.sql_conn_id!r}",
                hint="Add one of type postgres under Admin → Connections.",
            ) from None
        if connection.conn_type != "postgres":
            raise ConfigError(
                f"Connection {self.sql_conn_id!r} has type {connection.conn_type!r}, not 'postgres'.",
                detail=f"sql_conn_id={self.sql_conn_id!r}",
                hint="Only PostgreSQL is validated in place. Land other tables as Parquet.",
            )
        url = connection.get_uri().replace("postgres://", "postgresql://", 1)
        batch = f"{self.sql_conn_id}/{self.table}"
        return validate_table(url, self.table, suite, batch=batch, row_id=self.row_id_column or None)

    def _located(self) -> Any:
        return located(self, self.data, "data")

    def _files(self) -> list[Any]:
        from airflow_mlops.engine.data.parquet import parquet_files

        return list(parquet_files(self._located()))


class GXRunCheckpointOperator(_GXOperator):
    """Run a checkpoint of an existing Great Expectations project, for those who have one.

    The project's own actions run too; the result is written down, reported and decided upon as by
    :class:`GXValidateDataOperator`.

    :param project: Folder with ``gx/great_expectations.yml``; a relative path starts at the home folder.
    :param checkpoint: Name of the checkpoint.
    :param batch_parameters: Which batch, such as ``{"year": "2013"}``.
    :param expectation_parameters: Values of the suite's ``$PARAMETER``.
    """

    template_fields = (
        *_GXOperator.template_fields,
        "project",
        "checkpoint",
        "batch_parameters",
        "expectation_parameters",
    )

    def __init__(
        self,
        *,
        project: str,
        checkpoint: str,
        batch_parameters: Mapping[str, Any] | None = None,
        expectation_parameters: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if self.on_failure == "quarantine":
            raise ConfigError(
                "A checkpoint's batch cannot be put aside.",
                detail="on_failure='quarantine': where the batch lies is known to the project alone",
                hint="Use on_failure='fail' or 'warn'.",
            )
        self.project = project
        self.checkpoint = checkpoint
        self.batch_parameters = batch_parameters
        self.expectation_parameters = expectation_parameters

    def perform(self, context: Context) -> ValidatedBatch:
        """Run the checkpoint, write all its results down, and return the worst of them."""
        from airflow_mlops.engine.data.validation.checkpoints import run_checkpoint

        results = run_checkpoint(
            _on_disk(located(self, self.project, "project")),
            require(self.checkpoint, "checkpoint", "Name a checkpoint of the project."),
            batch_parameters=self.batch_parameters,
            expectation_parameters=self.expectation_parameters,
        )
        # The worst one last: its report is the one that the link shows.
        results.sort(key=lambda result: (result.blocked, len(result.failed)))
        for result in results:
            self.record(result)
            publish_report(self, context, result)
        decided = [self.decide(result) for result in reversed(results)]
        return decided[0]

    def quarantine(self, result: ValidationResult) -> str:
        """Never called: the constructor refuses it."""
        raise NotImplementedError
