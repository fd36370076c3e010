"""What there is now of each partition of a window, and of its features: what has landed against what is sealed.

Bytes are read only where names, sizes and times of what landed are not those that were sealed.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, cast

from airflow_mlops.contracts import Partition, content_hash
from airflow_mlops.durations import parse_duration
from airflow_mlops.engine.backfill.plan import State, Step
from airflow_mlops.engine.data.arrival import look
from airflow_mlops.engine.data.exclusions import excluded_keys, exclusions
from airflow_mlops.engine.data.partitions import PartitionStore
from airflow_mlops.engine.data.shared import fetch_views
from airflow_mlops.engine.features.computing.code import code_identity, import_folders
from airflow_mlops.engine.features.computing.provenance import (
    ByFile,
    compare,
    list_used,
    other_code,
    other_windows,
    read_inputs,
    revisions,
)
from airflow_mlops.engine.features.governance.apply import last_applied
from airflow_mlops.engine.features.project.schema import feature_file
from airflow_mlops.engine.history.load import no_database, partitions_under
from airflow_mlops.engine.history.pace import FEATURES
from airflow_mlops.engine.history.sealing import Databases, Locate, landed_files, same_bytes
from airflow_mlops.engine.history.tables import states_of
from airflow_mlops.feeds import SQLSource

if TYPE_CHECKING:
    from airflow_mlops.contracts import Exclusion
    from airflow_mlops.engine.data.storage import Entry
    from airflow_mlops.engine.features.computing.code import Code
    from airflow_mlops.engine.features.project.location import Location
    from airflow_mlops.engine.ledger import Ledger
    from airflow_mlops.feeds import Feed, Partitions
    from airflow_mlops.pipeline import ModelPipeline

Sealed = Mapping[str, Mapping[str, Partition]]
"""Dataset → key → the partition that counts."""


@dataclass(frozen=True)
class Site:
    """Where a backfill works.

    :param code_path: Folder of the DAG file.
    :param locate: Turns the ``uri`` of a feed into a path.
    :param databases: Turns the Airflow connection of a feed into its database.
    """

    pipeline: ModelPipeline
    location: Location
    store: PartitionStore
    ledger: Ledger
    code_path: str
    locate: Locate
    databases: Databases = no_database

    @property
    def code(self) -> Code:
        """Identity of the code that computes the features."""
        features = self.pipeline.features
        return code_identity(features.transform, import_folders(self.code_path, self.location), self.pipeline.late)

    def feed(self, dataset: str) -> Feed:
        """Return the feed of a dataset."""
        return next(feed for feed in self.pipeline.feeds if feed.dataset == dataset)


def survey(site: Site, begin: datetime, end: datetime) -> list[Step]:
    """Return what there is of a window ``[begin, end)`` of the source, and of the features that read it.

    Features of later partitions are among them where they read some that has changed, or were computed with other days
    excluded than are now.

    :raises DataError: when what has landed cannot be read.
    :raises TransientError: when the ledger, a storage or a database does not answer.
    """
    keys = list(site.pipeline.source.partitioning.keys(begin, end))
    history = parse_duration(site.pipeline.features.history)
    excluded = {feed.dataset: exclusions(site.ledger, feed.dataset) for feed in site.pipeline.feeds}
    wanted: dict[str, list[str]] = {}
    for feed, key in partitions_under(site.pipeline, keys):
        wanted.setdefault(feed.dataset, []).append(key)
    sealed = {
        name: {one.key: one for one in site.store.list(name, *_wider(site.feed(name), some, history))}
        for name, some in wanted.items()
    }
    found: dict[tuple[str, str], Step] = {}
    for name, some in wanted.items():
        feed, left_out = site.feed(name), excluded_keys(excluded[name], site.feed(name).partitioning)
        there = [key for key in some if key not in left_out]
        steps = {step.key: step for step in _of_feed(site, feed, there, sealed[name])}
        left = {key: _excluded(name, key, sealed[name].get(key)) for key in some if key in left_out}
        found |= {(name, key): one for key, one in (steps | left).items()}
    features = _of_features(site, keys, (begin, end), history, sealed, excluded, found)
    in_order = [found[feed.dataset, key] for feed, key in partitions_under(site.pipeline, keys)]
    return [*in_order, *features]


def look_again(site: Site, steps: Iterable[Step]) -> list[Step]:
    """Return what there is now of some partitions that a plan names; features are left out."""
    keys: dict[str, list[str]] = {}
    for step in steps:
        if step.dataset != FEATURES:
            keys.setdefault(step.dataset, []).append(step.key)
    found: list[Step] = []
    for name, some in keys.items():
        feed, cut = site.feed(name), site.feed(name).partitioning
        span = cut.interval(min(some))[0], cut.interval(max(some))[1]
        sealed = {one.key: one for one in site.store.list(name, *span)}
        left_out = excluded_keys(exclusions(site.ledger, name), cut)
        found += [_excluded(name, key, sealed.get(key)) for key in some if key in left_out]
        found += _of_feed(site, feed, sorted({*some} - left_out), sealed)
    return found


def stale_after(site: Site, end: datetime, replaced: Container[tuple[str, str]]) -> list[str]:
    """Return which partitions after a window have features that read replaced ones, as they were before.

    :param replaced: Dataset and key of each.
    """
    inputs = read_inputs(site.location.home, _views(site), end, end + parse_duration(site.pipeline.features.history))
    reading = {at: one for at, one in inputs.items() if one is not None and _reads(one.partitions, replaced)}
    return compare(reading, revisions(list_used(site.store, reading)), {})


def _wider(feed: Feed, keys: Sequence[str], history: timedelta) -> tuple[datetime, datetime]:
    """Return a span with all that features of some partitions, and those that read them, can have read."""
    interval = feed.partitioning.interval
    return feed.partitioning.floor(interval(keys[0])[0] - history), interval(keys[-1])[1] + history


def _excluded(dataset: str, key: str, sealed: Partition | None) -> Step:
    return Step(dataset, key, "excluded", sealed.revision if sealed else "", rows=sealed.rows if sealed else None)


def _of_feed(site: Site, feed: Feed, keys: Sequence[str], sealed: Mapping[str, Partition]) -> list[Step]:
    if isinstance(feed, SQLSource):
        return _of_table(site, feed, keys, sealed)
    return _of_files(site, cast("Partitions", feed), keys, sealed)


def _of_files(site: Site, feed: Partitions, keys: Sequence[str], sealed: Mapping[str, Partition]) -> list[Step]:
    place, per_byte = site.locate(feed.uri), _rows_a_byte(sealed.values())
    asked = {name: value for name, value in feed.asked().items() if name in ("marker", "manifest")}
    steps = []
    for key in keys:
        files, partition = landed_files(feed, key, place), sealed.get(key)
        size = sum(file.bytes for file in files)
        landed = _identity(files)
        if partition is not None:
            same = not files or _looks_like(partition, files) or same_bytes(partition, files, place)
            state: State = "present" if same else "changed"
            steps.append(Step(feed.dataset, key, state, partition.revision, landed, partition.rows, size))
            continue
        whole = bool(files)
        if whole and feed.arrived in ("marker", "manifest"):
            whole = look(place, key, partitioning=feed.partitioning, layout=feed.placed, **asked).arrival is not None
        rows = None if per_byte is None else round(size * per_byte)
        steps.append(Step(feed.dataset, key, "missing" if whole else "absent", "", landed, rows, size))
    return steps


def _of_table(site: Site, feed: SQLSource, keys: Sequence[str], sealed: Mapping[str, Partition]) -> list[Step]:
    if not feed.updated_at:
        return [
            Step(feed.dataset, key, "unknown", one.revision, "", one.rows, one.bytes)
            if (one := sealed.get(key))
            else Step(feed.dataset, key, "missing")
            for key in keys
        ]
    now = states_of(feed, keys, site.databases(feed.conn_id))
    steps = []
    for key in keys:
        partition, changed_at = sealed.get(key), now[key].changed_at
        landed = f"{now[key].rows} {changed_at.isoformat() if changed_at else ''}".strip()
        if partition is None:
            found: State = "missing" if now[key].rows or feed.may_be_empty else "absent"
            steps.append(Step(feed.dataset, key, found, "", landed, now[key].rows))
        else:
            found = "present" if now[key] == (partition.rows, partition.receipt.changed_at) else "changed"
            steps.append(Step(feed.dataset, key, found, partition.revision, landed, now[key].rows, partition.bytes))
    return steps


def _identity(files: Sequence[Entry]) -> str:
    """Return the identity of names, sizes and times; empty when there are no files."""
    told = [[str(file.path), file.bytes, str(file.modified)] for file in files]
    return content_hash(told)[:16] if told else ""


def _looks_like(partition: Partition, files: Sequence[Entry]) -> bool:
    """Return whether as many files of as many bytes, none written later, lie there as were sealed: as rsync looks."""
    receipt = partition.receipt
    written = [file.modified for file in files]
    return (
        (len(files), sum(file.bytes for file in files)) == (receipt.files, receipt.bytes)
        and None not in written
        and max(cast("list[datetime]", written)) == receipt.written_at
    )


def _rows_a_byte(sealed: Iterable[Partition]) -> float | None:
    """Return how many rows a landed byte is, by what is sealed; None when nothing is."""
    known = [(one.rows, one.receipt.bytes) for one in sealed]
    size = sum(each for _, each in known)
    return sum(rows for rows, _ in known) / size if size else None


def _of_features(  # noqa: PLR0917
    site: Site,
    keys: Sequence[str],
    span: tuple[datetime, datetime],
    history: timedelta,
    sealed: Sealed,
    excluded: Mapping[str, list[Exclusion]],
    found: Mapping[tuple[str, str], Step],
) -> list[Step]:
    cut = site.pipeline.source.partitioning
    changed, unknown = ({one for one, step in found.items() if step.state == of} for of in ("changed", "unknown"))
    views = _views(site)
    inputs = read_inputs(site.location.home, views, span[0], span[1] + history)
    stale = _stale(site, inputs, sealed, excluded)
    reading: dict[str, State] = {}
    for (_, key), one in inputs.items():
        if one is not None and (_reads(one.partitions, changed) or other_windows(one, excluded)):
            reading[key] = "changed"
        elif one is not None and _reads(one.partitions, unknown):
            reading.setdefault(key, "unknown")
    left_out = excluded_keys(excluded[site.pipeline.source.dataset], cut)
    steps = []
    for key in keys:
        if not _begun(site, *cut.interval(key)):
            continue
        there = bool(views) and all((view, key) in inputs for view in views)
        of_source = found.get((site.pipeline.source.dataset, key))
        if there:  # also of an excluded partition: rows after it can read them
            steps.append(Step(FEATURES, key, "changed" if key in stale else reading.get(key, "present")))
        elif key in left_out:
            steps.append(Step(FEATURES, key, "excluded"))
        else:
            steps.append(Step(FEATURES, key, "absent" if of_source and of_source.state == "absent" else "missing"))
    return [*steps, *(Step(FEATURES, key, reading[key]) for key in sorted({*reading} - {*keys}))]


def _begun(site: Site, begin: datetime, end: datetime) -> bool:
    """Return whether every feed has a whole partition by then: features begin with the first that has."""
    return all(
        feed.starts_at < feed.partitioning.counted(begin, end, ahead=feed.dataset in site.pipeline.ahead)
        for feed in site.pipeline.feeds
    )


def _views(site: Site) -> list[str]:
    """Return the feature views of the pipeline whose rows lie here."""
    repo, home = last_applied(site.location, site.ledger), site.location.home
    if repo is None or site.pipeline.features.name not in repo.services:
        return []
    every = repo.service(site.pipeline.features.name).views
    fetch_views(home, every)
    return [view for view in every if feature_file(home, view, "*").parent.is_dir()]  # others are not ours


def _stale(site: Site, inputs: ByFile, sealed: Sealed, excluded: Mapping[str, list[Exclusion]]) -> set[str]:
    present = revisions({name: found.values() for name, found in sealed.items()})
    return {*compare(inputs, present, excluded), *other_code(inputs, site.code)}


def _reads(partitions: Mapping[str, Iterable[str]], changed: Container[tuple[str, str]]) -> bool:
    return any((name, key) in changed for name, keys in partitions.items() for key in keys)
