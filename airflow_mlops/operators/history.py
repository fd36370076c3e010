"""Load months and years of a pipeline's partitions, many a task."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, TypedDict

from airflow_mlops.exceptions import ConfigError, DataError
from airflow_mlops.hooks.databases import database
from airflow_mlops.hooks.feast import FeastHook
from airflow_mlops.hooks.ledger import LedgerHook
from airflow_mlops.moments import parse_day, parse_moment
from airflow_mlops.operators.base import MlopsOperator, beneath, require

if TYPE_CHECKING:
    from datetime import datetime

    from airflow.sdk import Context

    from airflow_mlops.engine.history.load import Loaded
    from airflow_mlops.pipeline import ModelPipeline


class Stretch(TypedDict):
    """Partitions that one task loads: from where to where (ISO, UTC), and how many."""

    start: str
    end: str
    partitions: int


class LoadedHistory(TypedDict):
    """What a task did; ``refused`` are the partitions that are not there, each with why."""

    sealed: int
    computed: int
    there: int
    refused: list[str]


class PlanHistoryOperator(MlopsOperator):
    """Cut a long span of time into stretches of partitions, one for each task that loads them.

    Use it to load months that landed before there was a pipeline, and map :class:`LoadHistoryOperator` over what it
    returns.

    :param pipeline: The pipeline.
    :param first: First day.
    :param last: Last day.
    :param partitions: How many partitions a task loads.
    """

    template_fields = (*MlopsOperator.template_fields, "first", "last", "partitions")

    def __init__(
        self, *, pipeline: ModelPipeline, first: str, last: str, partitions: int | str = 100, **kwargs: Any
    ) -> None:
        super().__init__(**{"multiple_outputs": False, **kwargs})  # the XCom is the list that others map over
        self.pipeline = pipeline
        self.first = first
        self.last = last
        self.partitions = partitions

    def perform(self, context: Context) -> list[Stretch]:
        """Cut, and say into what."""
        cut = self.pipeline.source.partitioning
        first, last = (parse_day(require(str(day), name, "Fill in the form."), name) for day, name in self._days())
        if last < first:
            raise ConfigError(f"The history ends on {last}, before it begins on {first}.", hint="Swap the days.")
        if not str(self.partitions).isdecimal() or int(self.partitions) < 1:
            raise ConfigError(f"{self.partitions!r} is not a number of partitions.", hint="It is 1 or more.")
        keys, many = list(cut.keys(*cut.span(first, last))), int(self.partitions)
        stretches = [keys[n : n + many] for n in range(0, len(keys), many)]
        self.log.info("%d partitions, %s to %s, in %d tasks.", len(keys), keys[0], keys[-1], len(stretches))
        return [
            Stretch(
                start=cut.interval(some[0])[0].isoformat(),
                end=cut.interval(some[-1])[1].isoformat(),
                partitions=len(some),
            )
            for some in stretches
        ]

    def _days(self) -> Iterable[tuple[str, str]]:
        return ((self.first, "first"), (self.last, "last"))


class LoadHistoryOperator(MlopsOperator):
    """Seal the landed partitions of all feeds of a stretch, and compute their features; what is there is left alone.

    Use it mapped over what :class:`PlanHistoryOperator` returns.

    Each partition passes what it would day by day: its suite, the checks against its own history, the checks of
    computed rows. One that is blocked, or has not landed, stops no other.

    :param pipeline: The pipeline.
    :param stretch: From :class:`PlanHistoryOperator`.
    :param workers: Processes at work.
    :param feast_conn_id: Airflow connection of type ``feast``.
    :param ledger_conn_id: Airflow connection of type ``mlops_ledger``.
    """

    template_fields = (*MlopsOperator.template_fields, "stretch", "feast_conn_id", "ledger_conn_id")

    def __init__(
        self,
        *,
        pipeline: ModelPipeline,
        stretch: Mapping[str, Any],
        workers: int = 1,
        feast_conn_id: str = FeastHook.default_conn_name,
        ledger_conn_id: str = LedgerHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.pipeline = pipeline
        self.stretch = stretch
        self.workers = workers
        self.feast_conn_id = feast_conn_id
        self.ledger_conn_id = ledger_conn_id

    def perform(self, context: Context) -> LoadedHistory:
        """Load, and say what was refused."""
        from airflow_mlops.engine.history.load import load_history

        ledger = LedgerHook(self.ledger_conn_id).get_conn()
        loaded = load_history(
            self.pipeline,
            self._moment("start"),
            self._moment("end"),
            location=FeastHook(self.feast_conn_id).location(self.home_path),
            store=self.partition_store(ledger),
            ledger=ledger,
            code_path=self.code_path,
            locate=partial(beneath, self.home_path),
            databases=database,
            workers=self.workers,
        )
        self.log.info("%s", loaded)
        return told(self, loaded)

    def _moment(self, name: str) -> datetime:
        return parse_moment(str(self.stretch[name]), name)


class ReportHistoryOperator(MlopsOperator):
    """List the partitions that a history refused, once all else is loaded. It fails when there are any.

    Use it last, so that one bad day stops no other and still fails the run.

    :param loaded: What the tasks of :class:`LoadHistoryOperator` returned.
    """

    template_fields = (*MlopsOperator.template_fields, "loaded")

    def __init__(self, *, loaded: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.loaded = loaded

    def perform(self, context: Context) -> LoadedHistory:
        """Add up."""
        every = list(self.loaded)
        refused = [one for loaded in every for one in loaded["refused"]]
        total = LoadedHistory(
            sealed=sum(one["sealed"] for one in every),
            computed=sum(one["computed"] for one in every),
            there=sum(one["there"] for one in every),
            refused=refused,
        )
        self.log.info("%(sealed)d partitions sealed, features of %(computed)d computed, %(there)d were there.", total)
        if refused:
            raise DataError(
                f"{len(refused)} partitions of the history were refused; all others are loaded.",
                detail="\n    ".join(refused),
                hint="Have the upstream correct them, or accept or exclude them, and trigger the same history again: "
                "what is there is not loaded twice.",
            )
        return total


def told(task: MlopsOperator, loaded: Loaded) -> LoadedHistory:
    """Return what a task did, with what was refused in its log, those alike in one line."""
    from airflow_mlops.engine.history.load import in_groups

    for refused in in_groups(loaded.refused):
        task.log.warning("%s", refused)
    return LoadedHistory(
        sealed=loaded.sealed,
        computed=loaded.computed,
        there=loaded.there,
        refused=[str(refused) for refused in loaded.refused],
    )
