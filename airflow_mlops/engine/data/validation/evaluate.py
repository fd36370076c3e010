"""Validating a batch: which engine answers which expectation, and the one result of all answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from airflow_mlops.contracts import ExpectationOutcome, ValidationResult
from airflow_mlops.engine.data.validation.batches import ParquetBatch, TableBatch, parquet_batch, table_batch
from airflow_mlops.engine.data.validation.choosing import (
    adapted,
    beyond_judging,
    fits_sql,
    is_of_the_table,
    named_columns,
    only_in_sql,
    used_columns,
)
from airflow_mlops.engine.data.validation.results import missing_column, outcome
from airflow_mlops.engine.data.validation.suites import Suite, as_suite
from airflow_mlops.exceptions import ConfigError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterator

    from great_expectations import ExpectationSuite
    from great_expectations.execution_engine import ExecutionEngine
    from great_expectations.expectations.expectation import Expectation

    from airflow_mlops.engine.data.validation.running import Answer

EngineName = Literal["auto", "duckdb", "pandas", "spark"]


def validate(
    files: Sequence[Path],
    suite: Suite | ExpectationSuite | Sequence[Expectation],
    *,
    suite_name: str = "",
    batch: str,
    engine: EngineName = "auto",
    row_id: str | None = None,
    may_be_empty: bool = False,
) -> ValidationResult:
    """Check all rows of some Parquet files, as one table, against a suite.

    :param suite: Expectations; their ``severity`` says what a failure does: ``critical`` blocks, ``warning`` warns,
        ``info`` informs.
    :param suite_name: What the suite is called in reports, if it is a plain list.
    :param batch: What the batch is called in reports.
    :param engine: ``auto`` is DuckDB, and pandas for those expectations alone that DuckDB would answer otherwise or
        not at all. The others do everything themselves, as they do it.
    :param row_id: Column whose values identify rows: of every failed expectation, up to 20 are returned.
    :param may_be_empty: Whether no rows at all pass; the suite is not asked then, for it would pass most of it.
    :raises DataError: when the files cannot be read, disagree on their columns, have no rows, or change meanwhile.
    :raises ConfigError: when ``suite`` is not a list of expectations, or the engine is not there.
    """
    checked = as_suite(suite, suite_name)
    if engine not in get_args(EngineName):
        raise ConfigError(
            f"There is no engine {engine!r}.{did_you_mean(str(engine), get_args(EngineName))}",
            detail=f"engine={engine!r}",
            hint=f"Use one of {', '.join(get_args(EngineName))}.",
        )
    found = parquet_batch(files, may_be_empty=may_be_empty)
    if not found.rows:
        return _empty(found, checked, batch)
    result = _Validation(found, checked, engine, row_id).result(batch)
    found.unchanged()
    return result


def validate_table(
    url: str,
    table: str,
    suite: Suite | ExpectationSuite | Sequence[Expectation],
    *,
    suite_name: str = "",
    batch: str = "",
    row_id: str | None = None,
) -> ValidationResult:
    """Check a table where it is: PostgreSQL or DuckDB computes, and only aggregates leave it.

    Expectations that SQL would answer otherwise fetch the columns they need.

    :param url: SQLAlchemy URL of the database.
    :param table: ``table`` or ``schema.table``; a view will do.
    :raises ConfigError: when there is no such table.
    :raises DataError: when it is empty.
    :raises TransientError: when the database does not answer.
    """
    checked = as_suite(suite, suite_name)
    with table_batch(url, table) as found:
        return _Validation(found, checked, "auto", row_id).result(batch or table)


def _empty(found: ParquetBatch, suite: Suite, batch: str) -> ValidationResult:
    """Return that nothing was there, and nothing had to be."""
    note = "there are no rows, as may be of this feed: nothing else was asked"
    return ValidationResult(
        suite=suite.name,
        suite_hash=suite.hash,
        suite_version=suite.version,
        batch=batch,
        batch_hash=found.hash,
        rows=0,
        outcomes=(
            ExpectationOutcome(expectation="may_be_empty", column=None, severity="info", success=True, note=note),
        ),
        engine="duckdb",
    )


class _Validation:
    """One suite on one batch: the answers so far, and who gave them."""

    def __init__(self, batch: ParquetBatch | TableBatch, suite: Suite, engine: EngineName, row_id: str | None) -> None:
        self.batch = batch
        self.suite = suite
        self.engine = engine
        self.row_id = row_id
        self.types = batch.types
        self.kinds = batch.kinds
        self.answers: dict[int, Answer] = {}
        self.row_ids: dict[int, tuple[str, ...]] = {}
        self.engines: set[str] = set()
        if row_id is not None and row_id not in self.types:
            raise ConfigError(
                f"There is no column {row_id!r}.{did_you_mean(row_id, self.types)}",
                detail=f"row_id={row_id!r}",
                hint="Name a column whose values identify the rows.",
            )

    def result(self, batch: str) -> ValidationResult:
        """Ask every expectation, and return the outcomes in the order of the suite."""
        self._note_what_cannot_be_asked()
        for name, opened, takes in self._engines():
            waiting = [n for n in range(len(self.suite.expectations)) if n not in self.answers]
            chosen = [n for n in waiting if takes(self.suite.expectations[n])]
            if chosen:
                self._ask(name, opened(chosen), chosen)
        return ValidationResult(
            suite=self.suite.name,
            suite_hash=self.suite.hash,
            suite_version=self.suite.version,
            batch=batch,
            batch_hash=self.batch.hash,
            rows=self.batch.rows,
            outcomes=tuple(
                outcome(expectation.configuration.to_json_dict(), self.answers[n], self.types, self.row_ids.get(n, ()))
                for n, expectation in enumerate(self.suite.expectations)
            ),
            engine="+".join(sorted(self.engines)),
        )

    def _engines(self) -> Iterator[tuple[str, Callable[[list[int]], Any], Callable[[Expectation], bool]]]:
        """Yield the engines in the order in which they are asked, and what each of them takes."""
        if self.engine == "spark":
            yield "spark", self._spark, lambda _: True
        if self.engine == "duckdb":
            yield "duckdb", lambda _: self.batch.sql(), lambda _: True
        if self.engine == "auto":
            yield self.batch.name, lambda _: self.batch.sql(), self._fits_sql
        yield "pandas", self._pandas, lambda _: True

    def _fits_sql(self, expectation: Expectation) -> bool:
        try:
            return fits_sql(adapted(expectation, self.kinds, sql=True), self.kinds)
        except ValueError:
            return False

    def _note_what_cannot_be_asked(self) -> None:
        from airflow_mlops.engine.data.validation.running import Answer

        for n, expectation in enumerate(self.suite.expectations):
            needed = [] if is_of_the_table(expectation) else used_columns(expectation) or named_columns(expectation)
            why = missing_column(needed, self.types) or beyond_judging(expectation, self.types)
            if why is not None:
                self.answers[n] = Answer(raised=why)

    def _ask(self, name: str, engine: AbstractContextManager[ExecutionEngine], chosen: list[int]) -> None:
        from airflow_mlops.engine.data.validation.running import Answer, ask, failing_ids

        asked: dict[int, Expectation] = {}
        for n in chosen:
            try:
                asked[n] = adapted(self.suite.expectations[n], self.kinds, sql=name != "pandas")
            except ValueError as error:  # a bound that is no time
                self.answers[n] = Answer(raised=type(error).__name__)
        with engine as running:
            shape = name, tuple(sorted(self.types.items()))
            answers = dict(zip(asked, ask(running, list(asked.values()), shape), strict=True))
            for n, answer in answers.items():
                again = self.engine == "auto" and name != "pandas" and not only_in_sql(asked[n])
                if answer.raised is None or not again:
                    self.answers[n] = answer
                if self.row_id is not None and answer.result is not None and not answer.result.success:
                    self.row_ids[n] = failing_ids(running, asked[n], self.row_id)
        if self.answers.keys() & set(chosen):
            self.engines.add(name)

    @contextmanager
    def _pandas(self, chosen: list[int]) -> Iterator[ExecutionEngine]:
        """Open the columns that some expectations need; all of them if one does not say."""
        from great_expectations.execution_engine import PandasExecutionEngine

        used = [used_columns(self.suite.expectations[n]) for n in chosen]
        columns = None if None in used else {name for names in used if names is not None for name in names}
        if columns is not None and self.row_id is not None:
            columns.add(self.row_id)
        engine = PandasExecutionEngine()
        engine.load_batch_data("batch", self.batch.frame(columns))
        yield engine

    def _spark(self, _: list[int]) -> AbstractContextManager[ExecutionEngine]:
        from airflow_mlops.engine.data.validation.spark import opened

        assert isinstance(self.batch, ParquetBatch)
        return opened(self.batch)
