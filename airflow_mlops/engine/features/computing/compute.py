"""From sealed partitions to the rows of the feature views: one day at a time, by the user's transform."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import date, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, TypedDict

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.contracts import Exclusion, Partition, ValidationResult
from airflow_mlops.engine.data.arrow import arrow_type
from airflow_mlops.engine.data.complete import Span, every_partition
from airflow_mlops.engine.data.exclusions import excluded_keys, exclusions
from airflow_mlops.engine.data.labels import known_times
from airflow_mlops.engine.data.partitions import PartitionStore
from airflow_mlops.engine.data.shared import fetch_views
from airflow_mlops.engine.data.splits import TIME, between, without
from airflow_mlops.engine.features.computing.code import Code, Late, load_transform
from airflow_mlops.engine.features.computing.files import write_day
from airflow_mlops.engine.features.computing.provenance import Inputs
from airflow_mlops.engine.features.computing.sameness import compare_with_stored
from airflow_mlops.engine.features.project.schema import FeatureRepo, ViewSchema
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.engine.users_code import users_code
from airflow_mlops.exceptions import ConfigError, DataError, did_you_mean
from airflow_mlops.partitioning import DAILY, Partitioning
from airflow_mlops.parts import Checks, Rows

_TICK = timedelta(microseconds=1)
EVENT, CREATED = "event_timestamp", "created_timestamp"


class NotYetError(DataError):
    """A partition lies before the first one of a feed: nothing is wrong, and there is nothing to do."""


class ComputedFeatures(TypedDict):
    """What :func:`compute_features` wrote: the day, and view → rows."""

    key: str
    views: dict[str, int]


def compute_features(
    home: Path,
    key: str,
    *,
    store: PartitionStore,
    ledger: Ledger | None,
    repo: FeatureRepo,
    transform: str,
    code_paths: Sequence[str],
    datasets: Sequence[str],
    history: timedelta,
    start: date | Mapping[str, date],
    partitioning: Partitioning = DAILY,
    late: Late = MappingProxyType({}),
    ahead: Collection[str] = (),
    suites: Mapping[str, str] = MappingProxyType({}),
    checks: Mapping[str, Checks] = MappingProxyType({}),
    rows: Sequence[Rows] = (),
    show: Callable[[ValidationResult], None] | None = None,
) -> ComputedFeatures:
    """Compute the feature rows stamped within one partition; computing it again replaces its rows.

    What is replaced by something else is kept: see :mod:`airflow_mlops.engine.features.computing.files`.
    Rows that somebody excluded are not handed to the transform, and days that are excluded whole need not be there.
    The files say from which revisions they were computed, and by which code: see
    :mod:`airflow_mlops.engine.features.computing.provenance`.

    :param key: The partition.
    :param store: Where the sealed datasets are.
    :param ledger: Where the exclusions are; None when there is no ledger.
    :param repo: What the rows must fit.
    :param transform: ``module:function`` called with the day (of hours: the moment, in UTC, at which the hour begins)
        and dataset → rows (pandas) of the history and the partition; returns feature view → rows, each with the view's
        keys and features, ``event_timestamp`` (the moment it describes) and ``created_timestamp`` (the moment it could
        be known). A function with a parameter ``interval`` is given ``(start, end)`` of the partition, in UTC.
    :param code_paths: Folders that ``transform`` is imported from: that of the DAG file, that of the Feast repository.
        A module that is in both is refused.
    :param datasets: Sealed datasets to hand over.
    :param history: How far back they reach; begun partitions count whole. Of a dataset with larger partitions that is
        at least the last one that had ended.
    :param start: First day that the datasets have, in their zones, or dataset → its own; no history is missed before.
    :param partitioning: Of which ``key`` is one.
    :param late: Dataset → a column that is known later than its row, such as a label, and the column of when. The
        transform is given both as null where that is not before the end of the partition.
    :param ahead: Datasets whose partitions are there when their time begins: handed over up to the one that holds the
        beginning of the partition. Of others, up to the last that has ended with it.
    :param suites, checks, rows: What the rows of views must meet before any is written, and who is shown what was
        found; see :func:`~airflow_mlops.engine.features.computing.judge.judge_rows`.
    :raises NotYetError: when a dataset has no whole partition before the end of this one: it begins later.
    :raises DataError: when a partition is missing, or rows are not what the feature view needs.
    :raises ConfigError: when the transform cannot be found, or returns feature views or columns unknown to Feast.
    :raises TransientError: when the ledger does not answer, or what the transform reaches for does not: see
        :func:`~airflow_mlops.engine.users_code.is_transient`.
    """
    draft = compute_rows(
        key,
        store=store,
        ledger=ledger,
        repo=repo,
        transform=transform,
        code_paths=code_paths,
        datasets=datasets,
        history=history,
        start=start,
        partitioning=partitioning,
        late=late,
        ahead=ahead,
        suites=suites,
    )
    fetch_views(home, draft.tables)
    return write_rows(
        home,
        draft,
        store=store,
        ledger=ledger,
        repo=repo,
        checks=checks,
        rows=rows,
        show=show,
    )


class Draft(NamedTuple):
    """A partition's rows by feature view, computed and not yet judged or written; and what they were computed from."""

    key: str
    partitioning: Partitioning
    tables: dict[str, pa.Table]
    validated: dict[str, ValidationResult]
    since: datetime
    used: dict[str, list[Partition]]
    excluded: dict[str, list[Exclusion]]
    code: Code


def compute_rows(
    key: str,
    *,
    store: PartitionStore,
    ledger: Ledger | None,
    repo: FeatureRepo,
    transform: str,
    code_paths: Sequence[str],
    datasets: Sequence[str],
    history: timedelta,
    start: date | Mapping[str, date],
    partitioning: Partitioning = DAILY,
    late: Late = MappingProxyType({}),
    ahead: Collection[str] = (),
    suites: Mapping[str, str] = MappingProxyType({}),
) -> Draft:
    """Compute what :func:`compute_features` writes. Needs nothing of other partitions' features: many can be computed
    at once, and then written in order.
    """
    begin, end = partitioning.interval(key)
    excluded = {name: exclusions(ledger, name) if ledger else [] for name in datasets}
    starts = start if isinstance(start, Mapping) else dict.fromkeys(datasets, start)
    spans = {}
    for name in datasets:
        cut = store.partitioning(name)
        last = cut.counted(begin, end, ahead=name in ahead)
        spans[name] = max(cut.first(starts[name]), min(cut.floor(begin - history), cut.floor(last - _TICK))), last
    _check_begun(key, spans, starts)
    skipped = {name: excluded_keys(windows, store.partitioning(name)) for name, windows in excluded.items()}
    used = {
        name: every_partition(store.list(name, *span), name, store.partitioning(name), span, skipped[name])
        for name, span in spans.items()
    }
    data = {name: _history(store, used[name], excluded[name], late.get(name), end) for name in datasets}
    function, code = load_transform(transform, code_paths, late)
    hint = "Correct it; in a notebook it can be run on PartitionStore.read(...) of the same days."
    with users_code(DataError, f"The transform {transform!r}", f"day {key}", hint):
        day = begin if partitioning.every == "hourly" else date.fromisoformat(_day_of(key))
        computed = function(day, data, **({"interval": (begin, end)} if _takes_interval(function) else {}))
    tables = {name: _checked(name, rows, repo, begin, end) for name, rows in _views(transform, computed).items()}
    validated = {}
    if suites:
        from airflow_mlops.engine.features.computing.judge import validate_rows  # and with it Great Expectations

        validated = validate_rows(key, tables, suites, repo=repo, code_path=code_paths[0])
    return Draft(key, partitioning, tables, validated, min(span[0] for span in spans.values()), used, excluded, code)


def write_rows(
    home: Path,
    draft: Draft,
    *,
    store: PartitionStore,
    ledger: Ledger | None,
    repo: FeatureRepo,
    checks: Mapping[str, Checks] = MappingProxyType({}),
    rows: Sequence[Rows] = (),
    show: Callable[[ValidationResult], None] | None = None,
) -> ComputedFeatures:
    """Judge computed rows against the views' earlier partitions, and write them; see :func:`compute_features`."""
    key, partitioning, excluded = draft.key, draft.partitioning, draft.excluded
    begin, end = partitioning.interval(key)
    if draft.validated or checks or rows:
        from airflow_mlops.engine.features.computing.judge import judge_rows

        judge_rows(
            home,
            key,
            draft.tables,
            repo=repo,
            validated=draft.validated,
            checks=checks,
            skip={one for windows in excluded.values() for one in excluded_keys(windows, partitioning)},
            rows=rows,
            incoming=lambda name: _rows_within(store, begin, end, draft.used[name], excluded[name]),
            partitioning=partitioning,
            ledger=ledger,
            show=show,
        )
    for name, table in draft.tables.items():
        if ledger is not None:
            compare_with_stored(
                home, repo.project, name, key, table, repo.views[name].features, draft.code.of(name), ledger
            )
        inputs = Inputs.of(draft.since, end, draft.used, excluded, draft.code.of(name))
        write_day(home, name, key, inputs.written_into(table), partitioning)
    return {"key": key, "views": {name: table.num_rows for name, table in draft.tables.items()}}


def _check_begun(key: str, spans: Mapping[str, Span], starts: Mapping[str, date]) -> None:
    for name, (first, last) in spans.items():
        if first >= last:
            raise NotYetError(
                f"There is nothing to compute the features of {key} from yet: {name!r} begins on {starts[name]}.",
                hint="Features begin with the first partition that every feed has.",
            )


def _day_of(key: str) -> str:
    """Return the first day of a partition that is a day or more."""
    return key if key.count("-") == 2 else f"{key}-01"


def _takes_interval(function: Callable[..., Any]) -> bool:
    try:
        return "interval" in inspect.signature(function).parameters
    except (TypeError, ValueError):  # a callable that does not say
        return False


def _rows_within(
    store: PartitionStore,
    begin: datetime,
    end: datetime,
    partitions: Sequence[Partition],
    excluded: Sequence[Exclusion],
) -> pa.Table:
    """Return a dataset's rows within a partition's interval, as the transform was given them."""
    event_time, wanted = partitions[0].event_time, {*store.partitioning(partitions[0].dataset).keys(begin, end)}
    today = [partition for partition in partitions if partition.key in wanted]
    rows = store.read(today or partitions[:1])
    return between(without(rows, event_time, excluded), event_time, begin, end)


def _history(
    store: PartitionStore,
    partitions: Sequence[Partition],
    excluded: Sequence[Exclusion],
    late: Sequence[str] | None,
    end: datetime,
) -> pd.DataFrame:
    rows = without(store.read(partitions), partitions[0].event_time, excluded)
    timezone = store.partitioning(partitions[0].dataset).timezone
    return (rows if late is None else _as_known(rows, *late, end=end, timezone=timezone)).to_pandas()


def _as_known(rows: pa.Table, column: str, known_at: str, *more: str, end: datetime, timezone: str) -> pa.Table:
    """Return rows without what was not known yet: values, and that they would be known."""
    names = rows.schema.names
    if missing := [name for name in (column, known_at, *more) if name not in names]:
        raise DataError(
            f"There is no column {missing[0]!r} by which labels are known.{did_you_mean(missing[0], names)}",
            detail=f"columns: {', '.join(names)}",
            hint="Correct the name in Label(...).",
        )
    times = known_times(rows[known_at], timezone)
    if times is None:
        raise DataError(
            f"{known_at!r}, when the label {column!r} is known, is of type {rows[known_at].type}: no moment.",
            hint="Let the feed carry a time or a date; a text becomes one by the dataset's contract.",
        )
    known = pc.fill_null(pc.less(times, pa.scalar(end, TIME)), False)
    for name in (column, known_at, *more):
        kept = pc.if_else(known, rows[name], pa.scalar(None, rows[name].type))
        rows = rows.set_column(rows.schema.get_field_index(name), name, kept)
    return rows


def _views(transform: str, computed: Any) -> Mapping[str, pd.DataFrame]:
    if isinstance(computed, Mapping) and all(isinstance(rows, pd.DataFrame) for rows in computed.values()):
        return computed
    raise ConfigError(
        f"The transform {transform!r} returned {type(computed).__name__}.",
        detail="needed: a mapping of feature view → pandas.DataFrame",
        hint="Return {'view_name': frame, …}.",
    )


def _checked(name: str, rows: pd.DataFrame, repo: FeatureRepo, begin: datetime, end: datetime) -> pa.Table:
    """Return a view's rows as Feast will read them, in the order of their keys."""
    if name not in repo.views:
        raise ConfigError(
            f"The transform computes a feature view {name!r} that Feast does not know.{did_you_mean(name, repo.views)}",
            detail=f"Feast project {repo.project!r} has: {', '.join(sorted(repo.views))}",
            hint="Define it in the feature repository, or correct the name.",
        )
    view = repo.views[name]
    columns = [*view.keys, *view.features, EVENT, CREATED]
    for column in columns:
        if column not in rows.columns:
            raise ConfigError(
                f"The rows of feature view {name!r} lack the column {column!r}.{did_you_mean(column, rows.columns)}",
                detail=f"there are: {', '.join(map(str, rows.columns))}",
                hint="Add it in the transform, or take it out of the feature repository.",
            )
    table = _typed(name, rows[columns], view)
    _check_rows(name, table, list(view.keys), begin, end)
    return table.sort_by([(column, "ascending") for column in (EVENT, *view.keys)])


def _typed(name: str, rows: pd.DataFrame, view: ViewSchema) -> pa.Table:
    fields = []
    for column in rows.columns:
        wanted = TIME if column in (EVENT, CREATED) else (view.keys | view.features)[column]
        if column in (EVENT, CREATED) and getattr(rows[column].dtype, "tz", None) is None:
            raise DataError(
                f"{column!r} of feature view {name!r} has no time zone.",
                detail=f"dtype {rows[column].dtype}",
                hint="Use timezone-aware timestamps, in UTC.",
            )
        try:
            kind = arrow_type(wanted) if isinstance(wanted, str) else wanted
            fields.append((pa.field(column, kind), pa.Array.from_pandas(rows[column], type=kind)))
        except (pa.ArrowException, TypeError, ValueError) as error:
            raise DataError(
                f"Column {column!r} of feature view {name!r} is not of type {wanted}.",
                detail=f"dtype {rows[column].dtype}: {error}",
                hint="Convert it in the transform, or change its type in the feature repository.",
            ) from None
    return pa.Table.from_arrays([array for _, array in fields], schema=pa.schema([field for field, _ in fields]))


def _check_rows(name: str, table: pa.Table, keys: list[str], begin: datetime, end: datetime) -> None:
    for column in (*keys, EVENT, CREATED):
        if table[column].null_count:
            raise DataError(
                f"{column!r} is null in {table[column].null_count} of {table.num_rows} rows of feature view {name!r}.",
                hint="Leave such rows out in the transform.",
            )
    outside = pc.or_(
        pc.less(table[EVENT], pa.scalar(begin, TIME)), pc.greater_equal(table[EVENT], pa.scalar(end, TIME))
    )
    if strays := pc.sum(outside).as_py():
        raise DataError(
            f"{strays} of {table.num_rows} rows of feature view {name!r} are stamped outside their partition.",
            detail=f"{EVENT} must be in [{begin:%Y-%m-%d %H:%M}, {end:%Y-%m-%d %H:%M}) UTC",
            hint="Return only the rows of the partition that the transform is asked for.",
        )
    distinct = table.group_by([*keys, EVENT]).aggregate([]).num_rows
    if distinct != table.num_rows:
        raise DataError(
            f"{table.num_rows - distinct} of {table.num_rows} rows of feature view {name!r} are duplicates.",
            detail=f"one row for each of {', '.join(keys)} at each {EVENT}",
            hint="Aggregate them in the transform: which one counts would be chance.",
        )
