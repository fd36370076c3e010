"""``<model>.features``: wait for a day's data, make it fit or extract it, validate, check and seal it, compute its
features, bring them online.

Trigger by hand with a partition key such as `2013-01-15`, or without one for the last that has ended; backfill by
partition date. `materialize` runs once for each
feature view and span of time that is due; when nothing is, it is skipped, and freshness is checked all the same.
`remind_of_pin` tells the pipeline's notifiers, once, that a pin is about to run out.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

from airflow.sdk import CronPartitionTimetable, TaskGroup, TriggerRule, conf

from airflow_mlops.assets import features_asset, partitions_asset
from airflow_mlops.durations import parse_duration
from airflow_mlops.exceptions import ConfigError, did_you_mean
from airflow_mlops.feeds import SQLSource
from airflow_mlops.operators.base import doc_of
from airflow_mlops.operators.data import CheckPartitionOperator, SealPartitionOperator
from airflow_mlops.operators.extract import ExtractPartitionOperator
from airflow_mlops.operators.feast import (
    FeastApplyOperator,
    FeastComputeFeaturesOperator,
    FeastMaterializeOperator,
    FeastPlanMaterializationOperator,
)
from airflow_mlops.operators.gx import GXValidateDataOperator
from airflow_mlops.operators.reconcile import ReconcilePartitionsOperator
from airflow_mlops.operators.stage import StagePartitionOperator
from airflow_mlops.partitioning import aligned, latest
from airflow_mlops.sensors.data import PartitionArrivalSensor, PartitionEndSensor
from airflow_mlops.sensors.feast import FeastFeatureFreshnessSensor
from airflow_mlops.templates.base import Stage, pipeline_dag, refused_as, remind_of_pin, result, stage
from airflow_mlops.templates.own import OwnTask, validated_by

if TYPE_CHECKING:
    from airflow.sdk import DAG, BaseOperator

    from airflow_mlops.feeds import Feed, Partitions
    from airflow_mlops.pipeline import ModelPipeline


_DAY, _NONE = timedelta(days=1), timedelta(0)
_OURS: Mapping[str, OwnTask] = MappingProxyType({})
_MACROS = {"aligned": aligned, "latest": latest}


def features_dag(pipeline: ModelPipeline) -> DAG:
    """Return the DAG that turns each day's landed data into fresh features."""
    source = pipeline.source
    cron, timezone = source.partitioning.cron
    with pipeline_dag(
        pipeline,
        "features",
        __doc__,
        schedule=CronPartitionTimetable(
            cron, timezone=timezone, run_offset=-1, key_format=source.partitioning.key_format
        ),
        user_defined_macros=_MACROS,
        start_date=source.starts_at,
        end_date=source.ends_at,
    ) as dag:
        _features(pipeline)
        remind_of_pin(pipeline)
    return dag


def features_group(
    pipeline: ModelPipeline, group_id: str = "features", *, key: str = "", validate: Mapping[str, OwnTask] = _OURS
) -> Stage:
    """Return the tasks of ``<model>.features`` as a group, for a DAG of one's own.

    :param group_id: Name of the group.
    :param key: Of which partition, as an expression of a template, such as ``ds`` or ``params.day``; by default the
        run's own, or the last that has ended.
    :param validate: Dataset → what validates it instead of its suite: a function that takes ``data``, the landed files,
        and ``key``, and returns a task, such as one decorated by ``@task``. What it refuses it fails on.
    :raises ConfigError: when the pipeline has no such dataset.
    """
    with stage(pipeline, group_id, _MACROS) as group:
        group.output = _features(pipeline, key, validate).output
    return group


def partitions_group(
    pipeline: ModelPipeline, group_id: str = "partitions", *, key: str = "", validate: Mapping[str, OwnTask] = _OURS
) -> Stage:
    """Return the first tasks of ``<model>.features`` as a group, up to the sealed partitions: without Feast.

    Its ``output`` is that of the source's ``seal``: ``output["uri"]`` is the folder of the partition's files.

    :param group_id: Name of the group.
    :param key: See :func:`features_group`; ``validate`` too.
    """
    with stage(pipeline, group_id, _MACROS) as group:
        group.output = _partitions(pipeline, key, validate, feast_conn_id="")[0].output
    return group


def _features(
    pipeline: ModelPipeline, key: str = "", validate: Mapping[str, OwnTask] = _OURS
) -> FeastFeatureFreshnessSensor:
    """Add the tasks from landed data to fresh features; return the last one.

    :param key: Expression of the source's key.
    """
    source, features = pipeline.source, pipeline.features
    cut, source_key = str(source.partitioning), _key_of(source, pipeline, key)
    conns: dict[str, Any] = {"feast_conn_id": features.conn_id, "ledger_conn_id": pipeline.ledger_conn_id}
    apply = FeastApplyOperator(
        task_id="apply",
        pool=conf.get("mlops", "feast_pool", fallback="default_pool"),
        # The tasks of a feed that begins later are skipped until it does.
        trigger_rule=TriggerRule.NONE_FAILED_MIN_ONE_SUCCESS,
        **conns,
    )
    compute = FeastComputeFeaturesOperator(
        task_id="compute_features",
        transform=features.transform,
        datasets=[feed.dataset for feed in pipeline.feeds],
        history=features.history,
        start={feed.dataset: feed.start.isoformat() for feed in pipeline.feeds},
        partitioning=cut,
        key=source_key,
        late=pipeline.late,
        ahead=pipeline.ahead,
        suites=dict(features.view_suites),
        checks={view: dict(vars(checks)) for view, checks in features.view_checks.items()},
        rows=[dict(vars(rows)) for rows in features.rows],
        **conns,
        **features.resources.as_arguments(),
    )
    plan = FeastPlanMaterializationOperator(
        task_id="plan_materialization", service=features.name, key=source_key, partitioning=cut, **conns
    )
    materialize = FeastMaterializeOperator.partial(
        doc_md=doc_of(FeastMaterializeOperator), task_id="materialize", **conns, **features.resources.as_arguments()
    ).expand(chunk=plan.output)
    fresh = FeastFeatureFreshnessSensor(
        task_id="check_freshness",
        service=features.name,
        max_age=features.max_age,
        key=source_key,
        partitioning=cut,
        feast_conn_id=features.conn_id,
        deferrable=True,
        poke_interval=10,
        timeout=600,
        outlets=[features_asset(pipeline.model, pipeline.owner)],
        # An empty plan skips `materialize`: then `plan_materialization` is the one that succeeded.
        trigger_rule=TriggerRule.NONE_FAILED_MIN_ONE_SUCCESS,
    )
    for last in _partitions(pipeline, key, validate, features.conn_id):
        last >> apply
    apply >> compute >> plan
    [plan, materialize] >> fresh
    return fresh


def _partitions(
    pipeline: ModelPipeline, key: str, validate: Mapping[str, OwnTask], feast_conn_id: str
) -> list[SealPartitionOperator | ReconcilePartitionsOperator]:
    """Add the tasks from landed data to sealed partitions that agree; return the last ones, the source's first."""
    source = pipeline.source
    used = {source.dataset: [source.event_time, *pipeline.features.keys]}
    used.setdefault(pipeline.label_feed.dataset, []).extend(pipeline.label.columns)
    datasets = [feed.dataset for feed in pipeline.feeds]
    if unknown := next((name for name in validate if name not in datasets), None):
        raise ConfigError(
            f"Model {pipeline.model!r} has no feed of dataset {unknown!r}.{did_you_mean(unknown, datasets)}",
            detail=f"validate={{{unknown!r}: ...}}; the feeds are: {', '.join(datasets)}",
            hint="Correct the name.",
        )
    sealed: dict[str, SealPartitionOperator] = {}
    for feed in pipeline.feeds:
        entity = [pipeline.entity] if feed.dataset in used else []
        columns = [*entity, *used.get(feed.dataset, [feed.event_time])]
        checked = {"columns_used": columns, "feast_conn_id": feast_conn_id}
        sealed[feed.dataset] = _sealed(feed, pipeline, key, validate.get(feed.dataset), checked)
    agree, feeds = [], {feed.dataset: feed for feed in pipeline.feeds}
    for pair in pipeline.reconcile:
        reconcile = ReconcilePartitionsOperator(
            task_id=f"reconcile_{pair.left}_with_{pair.right}",
            reconcile=dict(vars(pair)),
            start=feeds[pair.right].start.isoformat(),
            key=_key_of(feeds[pair.left], pipeline, key),
            ledger_conn_id=pipeline.ledger_conn_id,
            **refused_as(pipeline, "partition_blocked"),
        )
        [sealed[pair.left], sealed[pair.right]] >> reconcile
        agree.append(reconcile)
    return [*sealed.values(), *agree]


def _key_of(feed: Feed, pipeline: ModelPipeline, key: str) -> str:
    """Return the template of a feed's key: of one with larger partitions, the one that counts for the run's."""
    source = pipeline.source
    cut, own = str(source.partitioning), str(feed.partitioning)
    key = key or f"partition_key or latest('{cut}', '{source.end or ''}')"
    return (
        f"{{{{ {key} }}}}"
        if own == cut
        else f"{{{{ aligned({key}, '{cut}', '{own}', {feed.dataset in pipeline.ahead}) }}}}"
    )


def _sealed(
    feed: Feed, pipeline: ModelPipeline, key: str, validated: OwnTask | None, checked: dict[str, Any]
) -> SealPartitionOperator:
    """Add the tasks that take one feed's day from landing to a sealed partition; return the last one.

    :param validated: What validates it instead of its suite.
    :param checked: More arguments of its checks.
    """
    own, key = str(feed.partitioning), _key_of(feed, pipeline, key)
    told = {**refused_as(pipeline, "partition_blocked"), **feed.resources.as_arguments()}
    with TaskGroup(feed.dataset):
        wait, staged = _taken(feed, key, told)
        landed = result(staged, "uri")
        common = {"data": landed, "dataset": feed.dataset, "key": key, "ledger_conn_id": pipeline.ledger_conn_id}
        validate = (
            validated_by(validated, staged, **common, **told)
            if validated
            else GXValidateDataOperator(
                task_id="validate", suite=feed.suite, may_be_empty=feed.may_be_empty, **common, **told
            )
        )
        check = CheckPartitionOperator(
            task_id="check",
            dataset=feed.dataset,
            key=key,
            uri=landed,
            event_time=feed.event_time,
            partitioning=own,
            validation=validate.output,
            checks=dict(vars(feed.checks)),
            model=pipeline.model,
            service=pipeline.features.name,
            label_column=pipeline.label.column if feed is pipeline.label_feed else "",
            problem=pipeline.label.problem,
            heads=dict(pipeline.label.heads),
            needs=pipeline.needs(feed),
            known_at=pipeline.label.known_at if feed is pipeline.label_feed else "",
            ledger_conn_id=pipeline.ledger_conn_id,
            **checked,
            **told,
        )
        seal = SealPartitionOperator(
            task_id="seal",
            dataset=feed.dataset,
            key=key,
            uri=landed,
            event_time=feed.event_time,
            partitioning=own,
            may_be_empty=feed.may_be_empty,
            validation=validate.output,
            ledger_conn_id=pipeline.ledger_conn_id,
            outlets=[partitions_asset(feed.dataset)],
            **told,
        )
        # staged >> validate >> check: each takes what the one before returned.
        wait >> staged
        check >> seal
    return seal


def _taken(feed: Feed, key: str, told: dict[str, Any]) -> tuple[BaseOperator, BaseOperator]:
    """Return the tasks that wait for a partition of a feed, and that make Parquet of it."""
    own: dict[str, Any] = {"key": key, "partitioning": str(feed.partitioning)}
    there: dict[str, Any] = {"first": feed.start.isoformat(), "last": feed.end.isoformat() if feed.end else None}
    made: dict[str, Any] = {
        "dataset": feed.dataset,
        "event_time": feed.event_time,
        "contract": feed.checks.contract,
        "naive_times": feed.naive_times,
        "row_id_column": feed.checks.unique[0] if len(feed.checks.unique) == 1 else "",
        **told,
    }
    if isinstance(feed, SQLSource):
        ended = PartitionEndSensor(
            task_id="wait",
            **own,
            **there,
            complete_after=feed.complete_after,
            deferrable=True,
            timeout=(_DAY + (parse_duration(feed.complete_after) if feed.complete_after else _NONE)).total_seconds(),
        )
        extract = ExtractPartitionOperator(
            task_id="extract",
            sql_conn_id=feed.conn_id,
            table=feed.table,
            query=feed.query,
            columns=list(feed.columns),
            updated_at=feed.updated_at,
            **own,
            **made,
        )
        return ended, extract
    files = cast("Partitions", feed)
    lands = str(files.lands or "")
    arrived = PartitionArrivalSensor(
        task_id="wait",
        uri=files.uri,
        late_after=files.lands_within,
        layout=files.layout,
        lands=lands,
        ahead=files.ahead,
        **own,
        **there,
        **files.asked(),
        # An asset's events can be read in the worker only.
        **({"mode": "reschedule", "poke_interval": 30} if files.asset else {"deferrable": True, "poke_interval": 5}),
    )
    staged = StagePartitionOperator(
        task_id="stage", uri=files.uri, layout=files.layout, lands=lands, reader=dict(files.reader), **own, **made
    )
    return arrived, staged
