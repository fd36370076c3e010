"""Load a span of a pipeline's partitions: seal every feed's, then compute their features. What is there is left alone.

What is sealed is replaced by nothing that nobody asked for: other bytes that landed are refused. A partition that is
blocked, or has not landed, stops no other; it is listed at the end. Killed anywhere, the next call goes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_mlops.engine.data.partitions import PartitionStore
from airflow_mlops.engine.data.shared import fetch_views
from airflow_mlops.engine.data.validation import load_suite
from airflow_mlops.engine.features.computing.compute import Draft, NotYetError, write_rows
from airflow_mlops.engine.features.computing.provenance import read_inputs, stale_days
from airflow_mlops.engine.features.governance.apply import ensure_applied
from airflow_mlops.engine.features.project.schema import feature_file
from airflow_mlops.engine.history.ahead import Ahead, Answer
from airflow_mlops.engine.history.answers import code_of, computed, keep, prepared
from airflow_mlops.engine.history.pace import FEATURES, record_pace
from airflow_mlops.engine.history.sealing import Databases, Locate, Prepared, located, settle, within
from airflow_mlops.engine.history.tables import unchanged
from airflow_mlops.engine.history.workers import at_once
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.exceptions import ConfigError, DataError
from airflow_mlops.feeds import SQLSource

if TYPE_CHECKING:
    from datetime import date

    from airflow_mlops.engine.data.tables.database import Database
    from airflow_mlops.engine.features.project.location import Location
    from airflow_mlops.engine.features.project.schema import FeatureRepo
    from airflow_mlops.feeds import Feed
    from airflow_mlops.pipeline import ModelPipeline

Took = Callable[[str, str, str, float], None]
"""Told of each partition that was worked on, or was there already: its dataset or ``features``, its key, why it was
refused (empty: it was not), and the seconds of work. What it raises ends the load."""

_NAMED = 10


class Refused(NamedTuple):
    """A partition that is not there afterwards, why, and what to do. ``dataset`` is ``features`` for its features."""

    dataset: str
    key: str
    why: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.dataset} {self.key}: {self.why}"


def in_groups(refused: Sequence[Refused]) -> list[str]:
    """Return refusals in words: those of a dataset with the same remedy together, the first one told in full."""
    groups: dict[tuple[str, str], list[Refused]] = {}
    for one in refused:
        groups.setdefault((one.dataset, one.hint), []).append(one)
    lines = []
    for (dataset, hint), [first, *more] in groups.items():
        keys = ", ".join(one.key for one in more[:_NAMED]) + (" …" if more[_NAMED:] else "")
        also = f" So are {len(more)} more: {keys}." if more else ""
        lines.append(f"{dataset} {first.key}: {first.why}{also}{f' → {hint}' if hint else ''}")
    return lines


@dataclass
class Loaded:
    """What a call did: partitions sealed and features computed, those that were there already, those before the first
    partition of a feed, those worked out ahead of their turn, and those refused.
    """

    sealed: int = 0
    computed: int = 0
    there: int = 0
    early: int = 0
    ahead: int = 0
    refused: list[Refused] = field(default_factory=list)

    @property
    def worked(self) -> int:
        """How many partitions were sealed, and features computed."""
        return self.sealed + self.computed

    def __str__(self) -> str:
        early = f"{self.early} lie before a feed begins, " if self.early else ""
        early += f"{self.ahead} made ready for their turn, " if self.ahead else ""
        return (
            f"{self.sealed} partitions sealed, features of {self.computed} computed, {self.there} were there, {early}"
            f"{len(self.refused)} refused"
        )


def no_database(conn_id: str) -> Database:
    """Open no database: of feeds that are files.

    :raises ConfigError: always.
    """
    raise ConfigError(
        f"Nothing says how the database of {conn_id!r} is opened.",
        hint="Pass databases=airflow_mlops.hooks.databases.database.",
    )


def load_history(
    pipeline: ModelPipeline,
    first: date | datetime,
    last: date | datetime,
    *,
    location: Location,
    store: PartitionStore,
    ledger: Ledger,
    code_path: str,
    locate: Locate,
    databases: Databases = no_database,
    workers: int = 1,
    again: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> Loaded:
    """Seal the landed partitions of all feeds of a span, and compute the features of the span.

    Each passes the suite, the checks against its own history and the checks of computed rows, in the order of time, as
    it would day by day; what was found goes into the same ledger. It brings nothing online: the next run of
    ``<model>.features`` does, from where it was.

    :param first, last: Two bounds, as :meth:`~airflow_mlops.partitioning.Partitioning.span` takes them.
    :param code_path: Folder of the DAG file.
    :param locate: Turns the ``uri`` of a feed into a path.
    :param databases: Turns the Airflow connection of a feed into its database.
    :param workers: Processes at work; 1 is this one alone.
    :param again: Whether what is sealed is sealed again: where other bytes have landed, or after a change of the
        contract. Without it other bytes are refused.
    :param say: Told how far it is.
    :raises ConfigError: when a setting is wrong, for all partitions alike.
    :raises TransientError: when the ledger or a storage does not answer.
    """
    if not isinstance(first, datetime) and not isinstance(last, datetime) and last < first:
        raise ConfigError(
            f"The history ends on {last}, before it begins on {first}.",
            detail=f"{pipeline.source.dataset!r} starts on {pipeline.source.start}",
            hint="Swap the days; without --from it begins with the source.",
        )
    load = _Load(pipeline, location, store, ledger, code_path, locate, databases, workers, say, again, replaces=again)
    cut = pipeline.source.partitioning
    begin, end = cut.span(first, last)
    keys = list(cut.keys(begin, min(end, cut.floor(datetime.now(UTC)))))  # what has not ended has not landed
    # What is wrong with the definitions, or with a name, is said before the work, not after.
    ensure_applied(location, ledger)
    load_suite(pipeline.features.suite, code_path)
    load.seal(partitions_under(pipeline, keys))
    load.compute(keys)
    return load.loaded


def load_partitions(
    pipeline: ModelPipeline,
    sealing: Sequence[tuple[Feed, str]],
    computing: Sequence[str],
    *,
    location: Location,
    store: PartitionStore,
    ledger: Ledger,
    code_path: str,
    locate: Locate,
    databases: Databases = no_database,
    workers: int = 1,
    took: Took = lambda *_: None,
    ahead: Ahead | None = None,
) -> Loaded:
    """Seal just these partitions, and then compute the features of those, in the order given.

    :param sealing: Feeds of the pipeline, each with the key of a partition.
    :param computing: Keys of the source.
    :param took: Told of each; what it raises ends the load.
    :param ahead: What was worked out before by :func:`load_ahead`.

    The other parameters and errors are those of :func:`load_history`.
    """
    load = _Load(pipeline, location, store, ledger, code_path, locate, databases, workers, took=took, ahead=ahead)
    if sealing:
        load.seal(sealing)
    if computing:
        load.compute(computing)
    return load.loaded


def load_ahead(
    pipeline: ModelPipeline,
    sealing: Sequence[tuple[Feed, str]],
    computing: Sequence[str],
    *,
    location: Location,
    store: PartitionStore,
    ledger: Ledger,
    code_path: str,
    locate: Locate,
    databases: Databases = no_database,
    ahead: Ahead,
    going: Callable[[], None] = lambda: None,
) -> int:
    """Work out and keep all of :func:`load_partitions` that needs no partition before; return of how many.

    What is kept already is left alone. One that would be refused is not kept: that is said when its turn comes.

    :param going: Called after each; what it raises ends the work.

    The other parameters and errors are those of :func:`load_partitions`.
    """
    load = _Load(pipeline, location, store, ledger, code_path, locate, databases, 1)
    return sum(load.work_ahead(ahead, sealing, computing, going))


def compute_history(
    pipeline: ModelPipeline,
    first: date | datetime,
    last: date | datetime,
    *,
    location: Location,
    store: PartitionStore,
    ledger: Ledger,
    code_path: str,
    workers: int = 1,
    say: Callable[[str], None] = lambda _: None,
) -> Loaded:
    """Compute the features of the sealed partitions of a span that have none, or those of other data or code than now.

    So a feature is added, or code corrected, without a run of the DAG for each partition. What is the same as before
    stays the same, also to the models that read it: see :mod:`airflow_mlops.engine.features.computing.sameness`.
    The parameters and errors are those of :func:`load_history`.
    """
    load = _Load(pipeline, location, store, ledger, code_path, None, no_database, workers, say)
    source = pipeline.source
    load.compute([one.key for one in store.list(source.dataset, *source.partitioning.span(first, last))])
    return load.loaded


def partitions_under(pipeline: ModelPipeline, keys: Sequence[str]) -> list[tuple[Feed, str]]:
    """Return the partitions of all feeds that those of the source stand on, in the order in which they end.

    :param keys: Of the source, one after the other.
    """
    if not keys:
        return []
    interval = pipeline.source.partitioning.interval
    begin = interval(keys[0])[0]
    jobs = []
    for feed in pipeline.feeds:
        cut = feed.partitioning
        first = begin if cut == pipeline.source.partitioning else cut.interval(cut.last_ended(begin))[0]
        ahead = feed.dataset in pipeline.ahead
        if ahead:
            first = cut.floor(begin)
        last = cut.counted(*interval(keys[-1]), ahead=ahead)
        wanted = [key for key in cut.keys(first, last) if within(feed, key)]
        jobs += [(cut.interval(key)[0 if ahead else 1], feed, key) for key in wanted]
    return [(feed, key) for _, feed, key in sorted(jobs, key=lambda job: job[0])]


class _Load:
    def __init__(  # noqa: PLR0917
        self,
        pipeline: ModelPipeline,
        location: Location,
        store: PartitionStore,
        ledger: Ledger,
        code_path: str,
        locate: Locate | None,
        databases: Databases,
        workers: int,
        say: Callable[[str], None] = lambda _: None,
        again: bool = False,
        took: Took = lambda *_: None,
        ahead: Ahead | None = None,
        replaces: bool = True,
    ) -> None:
        self.pipeline, self.location, self.store, self.ledger = pipeline, location, store, ledger
        self.code_path, self.locate, self.databases = code_path, locate, databases
        self.workers, self.say, self.again, self.took, self.ahead = workers, say, again, took, ahead
        self.replaces, self.loaded = replaces, Loaded()
        self.seconds: dict[str, list[float]] = {}

    def seal(self, landed: Sequence[tuple[Feed, str]]) -> None:
        """Seal partitions of feeds, one after the other."""
        jobs = self._without_unchanged(landed)
        with closing(at_once(self._preparing(), jobs, self.workers)) as outcomes:
            for n, ((feed, key), (answer, seconds)) in enumerate(outcomes, 1):
                self._take(feed.dataset, key, answer, partial(self._settle, feed, key), seconds)
                self.say(f"sealed {n} of {len(jobs)} partitions, up to {key}")
        self._record_pace()

    def work_ahead(
        self, ahead: Ahead, sealing: Sequence[tuple[Feed, str]], computing: Sequence[str], going: Callable[[], None]
    ) -> Iterator[bool]:
        """Keep what can be worked out of partitions before their turn; yield of each whether there is something."""
        if sealing:
            prepare = self._preparing()
            for feed, key in self._without_unchanged(sealing):
                yield keep(ahead, feed.dataset, key, prepare, (feed, key))
                going()
        if computing:
            repo = ensure_applied(self.location, self.ledger)
            compute = self._computing(repo)
            for key in self._uncomputed(computing, repo):
                yield keep(ahead, FEATURES, key, compute, key)
                going()

    def _preparing(self) -> Callable[[tuple[Feed, str]], Answer]:
        return partial(
            prepared, home=self.location.home, root=self.store.root, code_path=self.code_path, locate=self.locate,
            databases=self.databases, pipeline=self.pipeline, again=self.again, ahead=self.ahead,
        )  # fmt: skip

    def _computing(self, repo: FeatureRepo) -> Callable[[str], Answer]:
        return partial(
            computed, pipeline=self.pipeline, location=self.location, root=self.store.root, ledger_url=self.ledger.url,
            code_path=self.code_path, repo=repo, ahead=self.ahead,
        )  # fmt: skip

    def _without_unchanged(self, jobs: Sequence[tuple[Feed, str]]) -> list[tuple[Feed, str]]:
        """Return the jobs without those of tables that say that nothing changed; all where they are read again."""
        if self.again:
            return list(jobs)
        known: set[tuple[str, str]] = set()
        for feed in self.pipeline.feeds:
            keys = sorted(key for one, key in jobs if one is feed)
            if isinstance(feed, SQLSource) and keys:
                database = self.databases(feed.conn_id)
                same = unchanged(feed, keys, self.store, database=database, code_path=self.code_path)
                known |= {(feed.dataset, key) for key in same}
        self.loaded.there += len(known)
        for dataset, key in known:
            self.took(dataset, key, "", 0.0)
        return [(feed, key) for feed, key in jobs if (feed.dataset, key) not in known]

    def compute(self, keys: Sequence[str]) -> None:
        """Compute the features that are missing, or of other data or code than now."""
        repo = ensure_applied(self.location, self.ledger)
        wanted = self._uncomputed(keys, repo)
        self.loaded.there += len(keys) - len(wanted)
        for key in {*keys} - {*wanted}:
            self.took(FEATURES, key, "", 0.0)
        with closing(at_once(self._computing(repo), wanted, self.workers)) as outcomes:
            for n, (key, (answer, seconds)) in enumerate(outcomes, 1):
                self._take(FEATURES, key, answer, partial(self._write, repo), seconds)
                self.say(f"computed the features of {n} of {len(wanted)} partitions, up to {key}")
        self._record_pace()

    def _uncomputed(self, keys: Sequence[str], repo: FeatureRepo) -> list[str]:
        if not keys:
            return []
        interval, home = self.pipeline.source.partitioning.interval, self.location.home
        span = interval(min(keys))[0], interval(max(keys))[1]
        code = code_of(self.pipeline, self.code_path, self.location)
        every = repo.service(self.pipeline.features.name).views
        fetch_views(home, every)
        views = [view for view in every if feature_file(home, view, "*").parent.is_dir()]  # others are not ours
        there = read_inputs(home, views, *span)
        stale = set(stale_days(home, self.store, views, *span, ledger=self.ledger, code=code))
        return [key for key in keys if key in stale or not views or any((view, key) not in there for view in views)]

    def _settle(self, feed: Feed, key: str, prepared: Prepared | None) -> None:
        if prepared is None:
            self.loaded.there += 1
            return
        if not self.replaces:
            self._check_same(feed.dataset, key, prepared)
        landed = located(prepared.landed, self.locate)
        settle(
            feed,
            key,
            prepared,
            landed,
            store=self.store,
            ledger=self.ledger,
            code_path=self.code_path,
            pipeline=self.pipeline,
        )
        self.loaded.sealed += 1

    def _check_same(self, dataset: str, key: str, prepared: Prepared) -> None:
        """Refuse to replace what is sealed.

        :raises DataError: then.
        """
        sealed = self.store.current(dataset, key) if self.store.partitioning(dataset).is_key(key) else None
        landed = prepared.result.batch_hash[: len(sealed or "")]
        if sealed and sealed != landed:
            raise DataError(
                f"{dataset} {key} is sealed, and other bytes have landed.",
                detail=f"sealed {sealed}, landed {landed}",
                hint=f"`airflow-mlops backfill plan`, or {self.pipeline.model}.backfill, says who saw what is sealed, "
                "and replaces it. To replace it unasked: `airflow-mlops history ... --again`.",
            )

    def _write(self, repo: FeatureRepo, draft: Draft) -> None:
        features = self.pipeline.features
        write_rows(
            self.location.home,
            draft,
            store=self.store,
            ledger=self.ledger,
            repo=repo,
            checks=features.view_checks,
            rows=features.rows,
        )
        self.loaded.computed += 1

    def _take(self, dataset: str, key: str, answer: Answer, take: Callable[[Any], None], seconds: float) -> None:
        """Do with an answer what is to be done; write down what is wrong with one partition, and go on."""
        began, why, before = time.monotonic(), "", self.loaded.worked
        try:
            if isinstance(answer.said, DataError):
                raise answer.said
            take(answer.said)
        except NotYetError:
            self.loaded.early += 1
        except DataError as error:
            why = f"{error.headline} {error.detail}".strip()
            self.loaded.refused.append(Refused(dataset, key, why, error.hint))
        finally:
            if self.ahead is not None:
                self.ahead.forget(dataset, key)  # refused too: it may be corrected
        seconds += answer.seconds + time.monotonic() - began
        if self.loaded.worked > before:  # what was there already says nothing of the next
            self.seconds.setdefault(dataset, []).append(seconds)
        self.took(dataset, key, why, seconds)

    def _record_pace(self) -> None:
        for dataset, seconds in self.seconds.items():
            record_pace(self.ledger, self.pipeline.model if dataset == FEATURES else dataset, seconds)
        self.seconds = {}
