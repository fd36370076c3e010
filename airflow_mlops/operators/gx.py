"""Operators of Great Expectations."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseHook
from airflow.sdk.exceptions import AirflowNotFoundException

from airflow_mlops.exceptions import ConfigError
from airflow_mlops.operators.base import require
from airflow_mlops.operators.data import located
from airflow_mlops.operators.gx_base import GXOperator, ValidatedBatch
from airflow_mlops.operators.reports import publish_report

if TYPE_CHECKING:
    from airflow.sdk import Context, ObjectStoragePath

    from airflow_mlops.contracts import ValidationResult
    from airflow_mlops.engine.data.validation import EngineName, Suite


def _on_disk(path: Path | ObjectStoragePath) -> Path:
    if isinstance(path, Path):
        return path
    raise ConfigError(
        "Great Expectations keeps its files on this machine's disk.",
        detail=f"{path} is on object storage",
        hint="Name a folder that the workers share.",
    )


class GXValidateDataOperator(GXOperator):
    """Check Parquet files, or a table where it is, against a Great Expectations suite.

    Use it before data is sealed or trained on.

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
    :param may_be_empty: Whether files without a row pass, and are not a fault of the upstream.
    """

    template_fields = (
        *GXOperator.template_fields,
        "suite",
        "data",
        "table",
        "sql_conn_id",
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
        may_be_empty: bool = False,
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
        self.may_be_empty = may_be_empty

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
                files,
                suite,
                batch=str(self._located()),
                engine=self.engine,
                row_id=self.row_id_column or None,
                may_be_empty=self.may_be_empty,
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


class GXRunCheckpointOperator(GXOperator):
    """Run a checkpoint of an existing Great Expectations project, for those who have one.

    The project's own actions run too; the result is written down, reported and decided upon as by
    :class:`GXValidateDataOperator`.

    :param project: Folder with ``gx/great_expectations.yml``; a relative path starts at the home folder.
    :param checkpoint: Name of the checkpoint.
    :param batch_parameters: Which batch, such as ``{"year": "2013"}``.
    :param expectation_parameters: Values of the suite's ``$PARAMETER``.
    """

    template_fields = (
        *GXOperator.template_fields,
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
