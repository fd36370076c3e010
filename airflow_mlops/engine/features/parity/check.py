"""Training and serving held against each other: the same entities, read online and computed offline, value by value.

The online store stands where its last materialisation left it, each feature view at its own watermark. Offline the
point-in-time join says what was to be there at that moment. Times to live hold on both sides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pyarrow as pa

from airflow_mlops.contracts import FeatureParity, ParityReport, VerdictStatus
from airflow_mlops.engine.data.partitions import PartitionStore
from airflow_mlops.engine.data.shared import fetch_views
from airflow_mlops.engine.features.materialization.watermarks import watermarks
from airflow_mlops.engine.features.online.reader import OnlineReader, check_moment
from airflow_mlops.engine.features.parity.offline import offline_values
from airflow_mlops.engine.features.parity.values import Comparison, Tolerances
from airflow_mlops.engine.features.project.location import Location
from airflow_mlops.engine.features.project.schema import FeatureRepo, describe
from airflow_mlops.engine.ledger import Ledger
from airflow_mlops.exceptions import ConfigError, DataError, did_you_mean

SAMPLE = 200
_TICK = timedelta(microseconds=1)


@dataclass(frozen=True)
class Entities:
    """Entities to read: a row each with the columns that the service asks for, where they are from, and ids by
    which a report names some of them: none, and it names nobody.

    ``served`` are the values that a model really got, feature → values, when they were logged.
    """

    rows: Sequence[Mapping[str, Any]]
    origin: str
    ids: Sequence[str] = ()
    moments: Sequence[datetime] | None = None
    served: Mapping[str, Sequence[Any]] | None = None


def recent_entities(
    reader: OnlineReader,
    store: PartitionStore,
    dataset: str,
    *,
    entity: str | None = None,
    rows: int = SAMPLE,
    seed: int = 0,
    until: date | None = None,
) -> Entities:
    """Return a sample of the newest rows of a sealed dataset; the same sample for the same partitions and seed.

    :param reader: Says which columns the service asks for.
    :param entity: Column whose values name rows in a report, which is kept and shown; None names nobody.
    :param rows: Size of the sample; fewer when the newest partitions together have fewer.
    :param until: Last day to take rows of.
    :raises ConfigError: when the dataset lacks a column.
    :raises DataError: when there is no partition.
    """
    columns = list(dict.fromkeys([*([entity] if entity else []), *reader.keys, *reader.request]))
    chosen, known = [], 0
    for key in sorted((key for key in store.keys(dataset) if until is None or key <= str(until)), reverse=True):
        partition = store.get(dataset, key)
        if missing := [name for name in columns if name not in partition.columns]:
            raise ConfigError(
                f"Dataset {dataset!r} has no column {missing[0]!r}.{did_you_mean(missing[0], partition.columns)}",
                detail=f"missing: {', '.join(missing)}; asked for by feature service {reader.plan.name!r}",
                hint="Sample a dataset with the service's join keys and request columns.",
            )
        chosen.append(partition)
        known += partition.rows
        if known >= rows:
            break
    if not chosen:
        raise DataError(
            f"There is no sealed partition of {dataset!r} to sample.", hint="Run the features DAG for a day first."
        )
    origin = f"{dataset} {chosen[-1].key} to {chosen[0].key}"
    # Of a service without keys all columns: a table of none forgets how many rows it has.
    return own_entities(reader, store.read(chosen, columns or None), entity=entity, rows=rows, seed=seed, origin=origin)


def own_entities(
    reader: OnlineReader,
    table: pa.Table,
    *,
    entity: str | None = None,
    rows: int = SAMPLE,
    seed: int = 0,
    origin: str = "rows of one's own",
) -> Entities:
    """Return a sample of rows that have what the service asks for; the same sample for the same rows and seed.

    :param entity: Column whose values name rows in a report, which is kept and shown; None names nobody.
    :param origin: Where the rows are from, for the report.
    :raises ConfigError: when a column is missing.
    """
    import numpy as np

    columns = list(dict.fromkeys([*([entity] if entity else []), *reader.keys, *reader.request]))
    if missing := [name for name in columns if name not in table.column_names]:
        raise ConfigError(
            f"The entities have no column {missing[0]!r}.{did_you_mean(missing[0], table.column_names)}",
            detail=f"missing: {', '.join(missing)}; asked for by feature service {reader.plan.name!r}",
            hint="Give rows with the service's join keys and request columns.",
        )
    picked = np.sort(np.random.default_rng(seed).permutation(table.num_rows)[:rows])
    table = table.take(pa.array(picked, pa.int64()))
    return Entities(
        rows=table.select([*reader.keys, *reader.request]).to_pylist(), ids=_texts(table, entity), origin=origin
    )


def logged_entities(
    reader: OnlineReader,
    log: pa.Table,
    *,
    entity: str | None = None,
    event_time: str,
    rows: int = SAMPLE,
    seed: int = 0,
) -> Entities:
    """Return a sample of what was really served: a row a request, with its features as the model got them.

    :param log: Columns: those that the service asks for, ``event_time``, any of its features, and ``entity``.
    :param entity: Column whose values name rows in a report, which is kept and shown; None names nobody.
    :param event_time: Column with the moment (with time zone) at which the features stood: when the request was
        answered, or up to when the online store was materialised then, if that is what training is to be held against.
    :raises ConfigError: when a column is missing, or none is a feature.
    """
    import numpy as np

    sent = [*reader.keys, *reader.request]
    features = [name for name in reader.plan.outputs if name in log.column_names]
    needed = list(dict.fromkeys([*([entity] if entity else []), event_time, *sent]))
    missing = [name for name in needed if name not in log.column_names]
    if missing or not features:
        what = (
            f"has no column {missing[0]!r}.{did_you_mean(missing[0], log.column_names)}"
            if missing
            else "has no feature."
        )
        raise ConfigError(
            f"The log of served features {what}",
            detail=f"service {reader.plan.name!r}; columns: {', '.join(log.column_names)}",
            hint=f"It needs {', '.join(needed)}, and features of the service.",
        )
    picked = np.sort(np.random.default_rng(seed).permutation(log.num_rows)[:rows])
    table = log.take(pa.array(picked, pa.int64()))
    moments = table[event_time].to_pylist()
    if any(not isinstance(moment, datetime) or moment.tzinfo is None for moment in moments):
        raise ConfigError(
            f"Column {event_time!r} of the log of served features holds moments without a time zone, or none.",
            detail=f"type {table[event_time].type}",
            hint="Write it as timestamp[us, tz=UTC].",
        )
    return Entities(
        rows=table.select(sent).to_pylist(),
        ids=_texts(table, entity),
        origin="logged requests",
        moments=moments,
        served={name: table[name].to_pylist() for name in features},
    )


def _texts(table: pa.Table, entity: str | None) -> list[str]:
    return [str(value) for value in table[entity].to_pylist()] if entity else []


def check_parity(
    location: Location,
    service: str,
    entities: Entities,
    *,
    ledger: Ledger | None,
    as_of: datetime | None = None,
    max_unlike: float = 0.0,
    tolerance: float | None = None,
    seed: int = 0,
    reader: OnlineReader | None = None,
) -> ParityReport:
    """Hold what is served against what training would read, for each feature of each entity.

    Entities that were logged are held against what was known at their own moments. Others are read online, and
    offline at the moment up to which their view was materialised; on-demand features are computed on both sides, by
    the serving path and by the training path.

    :param entities: See :func:`recent_entities` and :func:`logged_entities`.
    :param ledger: Knows each view's watermark; None when ``as_of`` says the moment.
    :param as_of: Moment for the views without a watermark.
    :param max_unlike: Largest share of the entities of which a feature may be unlike.
    :param tolerance: Largest absolute difference of numbers; default is next to nothing. A tag ``parity_tolerance`` of
        the feature or its view goes before it.
    :param seed: Of the sample, for the record.
    :param reader: One that is open already.
    :raises ConfigError: when the service is unknown, a column is, no moment is known for a view, or ``as_of`` has no
        time zone.
    :raises DataError: when the offline store loses rows, or an on-demand view fails.
    :raises TransientError: when the registry, the ledger or the online store does not answer.
    """
    check_moment(as_of)
    reader = reader or OnlineReader(location, service)
    repo = describe(reader.store)
    fetch_views(location.home, repo.service(service).views)
    if not entities.rows:
        moments: dict[str, datetime] = {}
        compared: dict[str, Comparison] = {}
    elif entities.served is None:
        moments = _moments(reader, ledger, as_of)
        served: Mapping[str, Sequence[Any]] = _columns(reader.read_at(entities.rows, moments))
        trained = offline_values(reader, repo, entities.rows, moments, as_known=False)
        compared = _compare(reader, repo, served, trained, tolerance)
    else:
        at = list(entities.moments or ())
        moments = dict.fromkeys((view.name for view in reader.plan.stored), max(at))
        trained = offline_values(reader, repo, entities.rows, dict.fromkeys(moments, at), as_known=True)
        compared = _compare(reader, repo, entities.served, trained, tolerance)
    features = tuple(one.to_record(entities.ids) for one in compared.values())
    report = ParityReport(
        project=reader.store.project,
        service=service,
        definition=repo.definition_hash(service),
        sample=entities.origin,
        rows=len(entities.rows),
        seed=seed,
        moments=moments,
        max_unlike=max_unlike,
        features=features,
        status=VerdictStatus.PASS,
    )
    status, reason = _verdict(report)
    return report.model_copy(update={"status": status, "reason": reason})


def enforce_parity(report: ParityReport) -> None:
    """Refuse what does not pass, naming the features, how many entities, and some of them if they have ids.

    :raises DataError: when the report is no ``PASS``.
    """
    if report.status is VerdictStatus.PASS:
        return
    lines = [_line(one, report.rows) for one in report.failed[:12]]
    if len(report.failed) > len(lines):
        lines.append(f"and {len(report.failed) - len(lines)} more features")
    raise DataError(
        f"What is served is not what the model was trained on: {report.reason}",
        detail="\n    ".join(
            [f"service {report.service!r}, {report.rows} entities of {report.sample}, seed {report.seed}", *lines]
        ),
        hint="Materialise the days in question again. If it stays, serving computes the feature in another way than "
        "training: see the report.",
    )


def _line(one: FeatureParity, rows: int) -> str:
    said = {
        "differ": one.differing,
        "missing online": one.missing_online,
        "missing offline": one.missing_offline,
        f"of another type ({', '.join(one.types)})": one.wrong_type,
    }
    counts = ", ".join(f"{count} {what}" for what, count in said.items() if count)
    largest = f", by up to {one.largest:.4g}" if one.differing and one.largest is not None else ""
    named = f"; such as {', '.join(one.examples[:3])}" if one.examples else ""
    return f"{one.feature} ({one.view}): of {rows}, {counts}{largest}{named}"


def _verdict(report: ParityReport) -> tuple[VerdictStatus, str]:
    if not report.rows:
        return VerdictStatus.NOT_EVALUATED, "there was no entity to read"
    if report.failed:
        names = ", ".join(one.feature for one in report.failed[:5])
        more = f" and {len(report.failed) - 5} more" if len(report.failed) > 5 else ""
        return VerdictStatus.FAIL, f"{names}{more}"
    seen = {one.view for one in report.features if one.compared}
    unseen = sorted({one.view for one in report.features} - seen)
    if unseen or not report.features:
        return VerdictStatus.NOT_EVALUATED, f"no value to compare of: {', '.join(unseen) or 'any feature'}"
    return VerdictStatus.PASS, ""


def _moments(reader: OnlineReader, ledger: Ledger | None, as_of: datetime | None) -> dict[str, datetime]:
    """Return the moment of each stored view: the last one before its watermark."""
    names = {view.name: view.table.name for view in reader.plan.stored}
    known = watermarks(ledger, reader.store.project, set(names.values())) if ledger else {}
    moments: dict[str, datetime] = {}
    for name, table in names.items():
        until = known[table].newest if table in known else None
        moment = until - _TICK if until is not None else as_of
        if moment is None:
            raise ConfigError(
                f"It is not known up to when feature view {table!r} is online.",
                detail=f"the ledger has no watermark of it in project {reader.store.project!r}",
                hint="Materialise it with the features DAG; or, if something else writes the online store, say as_of.",
            )
        moments[name] = moment.astimezone(UTC)
    return moments


def _columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in rows] for name in rows[0]}


def _compare(
    reader: OnlineReader,
    repo: FeatureRepo,
    served: Mapping[str, Sequence[Any]],
    trained: Mapping[str, Sequence[Any]],
    tolerance: float | None,
) -> dict[str, Comparison]:
    plan, types = reader.plan, repo.service(reader.plan.name).features
    tolerances = Tolerances.of(repo, tolerance)
    computed_by = {name: view.name for view in plan.on_demand for name in view.outputs}
    tables = {view.name: view.table.name for view in plan.stored}
    found = {}
    for name, stored in plan.outputs.items():
        if name not in served:
            continue  # a log need not have all
        view = tables[stored] if stored is not None else computed_by[name]
        found[name] = one = Comparison(name, view, tolerances.for_feature(view, name))
        one.hold(served[name], trained[name], types[name])
    return found
