"""The trigger that waits for training data; and the one look that it shares with its sensor."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypedDict

from airflow_mlops.exceptions import ConfigError, TransientError
from airflow_mlops.hooks.ledger import LedgerHook
from airflow_mlops.moments import parse_day, parse_moment
from airflow_mlops.operators.base import open_home, partition_store
from airflow_mlops.triggers.base import PollTrigger

if TYPE_CHECKING:
    from airflow_mlops.engine.ledger import Ledger

log = logging.getLogger(__name__)


class ReadyData(TypedDict):
    """Data that may be trained on: the cut (ISO, UTC), and dataset → until when it is complete (ISO, UTC)."""

    as_of: str
    watermarks: dict[str, str]


class Look(NamedTuple):
    """What one look found: why training must hold, or the data."""

    reasons: list[str]
    ready: ReadyData | None


def look(ledger: Ledger, home: Path, feeds: Sequence[Mapping[str, str]], as_of: str, model: str | None = None) -> Look:
    """Look once whether the data known at a moment is all there and healthy.

    :param feeds: For each dataset its name and first day, ``{"dataset", "start"}``, ``end`` if it has ended, and
        ``ahead`` (anything) if its partitions are there when their time begins.
    :param as_of: Moment (ISO, with time zone), cut to where a partition begins, as a snapshot is. Empty: the latest
        one for which all data is complete.
    :param model: A model whose halt is a reason to hold.
    :raises ConfigError: when a value cannot be read.
    """
    from airflow_mlops.engine.data.readiness import Source, latest_complete, readiness, watermark
    from airflow_mlops.partitioning import finest_of

    if not feeds or not all(each.get("dataset") and each.get("start") for each in feeds):
        raise ConfigError(
            "Nothing says which data a training waits for.",
            detail=f"sources={[dict(each) for each in feeds]}",
            hint='Name at least one: sources=[{"dataset": "departures", "start": "2013-01-01"}].',
        )
    store = partition_store(home, ledger)
    sources = [
        Source(each["dataset"], parse_day(each["start"], "start"), _end(each), bool(each.get("ahead")))
        for each in feeds
    ]
    try:
        cuts = {source.dataset: store.partitioning(source.dataset) for source in sources}
        if as_of:
            cut = finest_of(cuts.values()).floor(parse_moment(as_of, "as_of"))
        else:
            cut = latest_complete(store, ledger, sources)
    except TransientError as error:
        return Look([*_halt(ledger, model), f"{error.headline} {error.detail.partition(chr(10))[0]}".rstrip()], None)
    needs = [source.need(cut, cuts[source.dataset]) for source in sources]
    reasons = [*_halt(ledger, model), *readiness(store, ledger, needs)]
    if reasons:
        return Look(reasons, None)
    watermarks = {need.dataset: watermark(store, ledger, need.dataset, need.start).isoformat() for need in needs}
    return Look([], ReadyData(as_of=cut.isoformat(), watermarks=watermarks))


def _halt(ledger: Ledger, model: str | None) -> list[str]:
    """Return the halt of the model in words. A ledger that does not answer is told of as of the data."""
    from airflow_mlops.engine.halts import halted

    if model is None:
        return []
    try:
        halt = halted(ledger, model)
    except TransientError as error:
        return [f"{model}: {error.headline}"]
    return [] if halt is None else [str(halt)]


def _end(source: Mapping[str, str]) -> date | None:
    return parse_day(source["end"], "end") if source.get("end") else None


class TrainingDataTrigger(PollTrigger):
    """Wait until all data known at a moment is sealed, and none of it announced degraded.

    :param home: Where partitions are kept: a folder, or a prefix on object storage.
    :param sources: For each dataset its name and first day, ``{"dataset", "start"}``, and ``end`` if it has ended.
    :param as_of: Moment (ISO, with time zone), cut to where a partition begins.
    :param model: A model whose halt is a reason to hold.
    :param ledger_conn_id: Airflow connection of type ``mlops_ledger``.
    :param poll_interval: Seconds between polls.
    :param deadline: Wall-clock time at which to give up.
    """

    def __init__(
        self,
        *,
        home: str,
        sources: Sequence[Mapping[str, str]],
        as_of: str,
        model: str | None,
        ledger_conn_id: str,
        poll_interval: float,
        deadline: float,
    ) -> None:
        super().__init__(
            poll_interval=poll_interval,
            deadline=deadline,
            home=home,
            sources=sources,
            as_of=as_of,
            model=model,
            ledger_conn_id=ledger_conn_id,
        )
        self._hook = LedgerHook(ledger_conn_id)
        self._home = home
        self._sources = sources
        self._as_of = as_of
        self._model = model
        self._ledger: Ledger | None = None
        self._reasons: list[str] = []

    async def prepare(self) -> None:
        """Look the connection up."""
        await self._hook.prefetch()

    def poll(self) -> ReadyData | None:
        """Look once; what holds the training back is logged whenever it changes."""
        if self._ledger is None:
            self._ledger = self._hook.get_conn()
        reasons, ready = look(self._ledger, open_home(self._home), self._sources, self._as_of, self._model)
        if reasons != self._reasons:
            self._reasons = reasons
            log.info("Training holds: %s", "; ".join(reasons) or "no longer")
        return ready
