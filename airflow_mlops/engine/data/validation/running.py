"""Asking the library: one graph of metrics for a whole suite, no sample of failing values computed."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from great_expectations.validator.metrics_calculator import MetricsCalculator
from great_expectations.validator.validation_graph import ExpectationValidationGraph, ValidationGraph

from airflow_mlops.engine.data.validation.configured import configured_once, remembered

if TYPE_CHECKING:
    from great_expectations.core import ExpectationValidationResult
    from great_expectations.execution_engine import ExecutionEngine
    from great_expectations.expectations.expectation import Expectation
    from great_expectations.validator.metric_configuration import MetricConfigurationID
    from great_expectations.validator.validation_graph import MetricEdge

MOST_ROW_IDS = 20

_FORMAT = {"result_format": {"result_format": "BASIC", "partial_unexpected_count": 0}}
# Metrics that only hold samples of failing values: a query each, which no verdict needs.
_SAMPLES = (".unexpected_values", ".unexpected_rows", "unexpected_rows_query.table")


_MISSING = "column.distinct_values.missing_from_column"


@dataclass(frozen=True)
class Answer:
    """What the library said of one expectation, or the type of what it raised.

    :param missing: Values of the expectation's own set that the column does not have.
    """

    result: ExpectationValidationResult | None = None
    raised: str | None = None
    missing: tuple[str, ...] = ()


def ask(engine: ExecutionEngine, expectations: Sequence[Expectation], shape: Hashable) -> list[Answer]:
    """Evaluate expectations on the engine's batch, in order.

    :param shape: Name of the engine, and the types of the columns: of batches alike in it the same metrics are asked.

    The library's own validator asks for the same metrics and for samples besides (29 queries for 28 expectations
    instead of 10), takes a fingerprint of the data, and hides what was raised in text.
    """
    with configured_once(expectations):
        return _ask(engine, expectations, shape)


def _ask(engine: ExecutionEngine, expectations: Sequence[Expectation], shape: Hashable) -> list[Answer]:
    calculator = MetricsCalculator(execution_engine=engine, show_progress_bars=False)
    graphs: list[ExpectationValidationGraph | str] = []
    samples: dict[Any, Any] = {}
    for expectation in expectations:
        try:
            unneeded, edges = remembered(expectation, shape, partial(_needs, calculator, engine, expectation))
            samples |= {key: [] for key in unneeded}
            graph = ValidationGraph(engine, list(edges))
            graphs.append(ExpectationValidationGraph(expectation.configuration, graph))
        except Exception as error:  # a user's expectation may raise anything
            graphs.append(type(error).__name__)
    every = [edge for found in graphs if not isinstance(found, str) for edge in found.graph.edges]
    resolved, aborted = calculator.resolve_validation_graph(ValidationGraph(engine, every), _FORMAT)
    resolved |= samples
    return [
        Answer(raised=graph) if isinstance(graph, str) else _answer(engine, expectation, graph, resolved, aborted)
        for expectation, graph in zip(expectations, graphs, strict=True)
    ]


def _needs(
    calculator: MetricsCalculator, engine: ExecutionEngine, expectation: Expectation
) -> tuple[list[MetricConfigurationID], list[MetricEdge]]:
    """Return the samples that an expectation asks for, and what it needs of what, without them."""
    wanted = expectation.get_validation_dependencies(engine, _FORMAT).get_metric_configurations()
    samples = [metric.id for metric in wanted if metric.metric_name.endswith(_SAMPLES)]
    metrics = [metric for metric in wanted if metric.id not in samples]
    return samples, calculator.build_metric_dependency_graph(metrics, _FORMAT).edges


def failing_ids(engine: ExecutionEngine, expectation: Expectation, row_id: str) -> tuple[str, ...]:
    """Return the ids of the first rows that fail an expectation of rows; none for one of aggregates."""
    wanted_format = {
        "result_format": {
            "result_format": "SUMMARY",
            "unexpected_index_column_names": [row_id],
            "partial_unexpected_count": MOST_ROW_IDS,
            "return_unexpected_index_query": False,
        }
    }
    name = f"{getattr(expectation, 'map_metric', None)}.unexpected_index_list"
    wanted = expectation.get_validation_dependencies(engine, wanted_format).metric_configurations.get(name)
    if wanted is None:
        return ()
    calculator = MetricsCalculator(execution_engine=engine, show_progress_bars=False)
    graph = calculator.build_metric_dependency_graph([wanted], wanted_format)
    resolved, _ = calculator.resolve_validation_graph(graph, wanted_format)
    rows = resolved.get(wanted.id) or []
    return tuple(str(row[row_id]) for row in rows[:MOST_ROW_IDS] if isinstance(row, Mapping))


def _answer(
    engine: ExecutionEngine,
    expectation: Expectation,
    graph: ExpectationValidationGraph,
    resolved: dict[Any, Any],
    aborted: dict[Any, Any],
) -> Answer:
    broken = graph.get_exception_info(aborted)
    missing = [edge.left.id for edge in graph.graph.edges if edge.left.id not in resolved]
    if broken or missing:
        return Answer(raised=raised_type(broken) or "MetricError")
    try:
        absent = {
            str(value)
            for edge in graph.graph.edges
            if edge.left.metric_name == _MISSING
            for value in resolved[edge.left.id]
        }
        return Answer(expectation.metrics_validate(resolved, _FORMAT, engine), missing=tuple(sorted(absent)))
    except Exception as error:  # such as a bound that cannot be compared with what was observed
        return Answer(raised=type(error).__name__)


def raised_type(info: Mapping[str, Any]) -> str | None:
    """Return the type of what a metric raised. It hides in the library's answer, one level deep or two.

    Only its type: the message may quote the values that it stumbled over.
    """
    traceback = info.get("exception_traceback")
    if traceback:
        lines = str(traceback).splitlines()
        raised = (line for line in lines if line and not line.startswith((" ", "Traceback")))
        return next(raised, "error").partition(":")[0].rpartition(".")[2]
    nested = (raised_type(value) for value in info.values() if isinstance(value, Mapping))
    return next((name for name in nested if name is not None), None)
