"""Read features for training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypedDict

from airflow_mlops.durations import parse_duration
from airflow_mlops.exceptions import ConfigError, did_you_mean
from airflow_mlops.hooks.feast import FeastHook
from airflow_mlops.hooks.ledger import LedgerHook
from airflow_mlops.links.gx import GXValidationReportLink
from airflow_mlops.moments import parse_day, parse_moment
from airflow_mlops.operators.base import MlopsOperator, heads_of, require
from airflow_mlops.operators.data import located_rows
from airflow_mlops.operators.reports import publish_report

if TYPE_CHECKING:
    import pyarrow as pa
    from airflow.sdk import Context

    from airflow_mlops.contracts import Snapshot, SplitRule


class TrainingData(TypedDict):
    """A snapshot: its id and folder, rows by split, rows left out for want of a label or because somebody excluded
    them, its two cuts (ISO, UTC).
    """

    id: str
    uri: str
    rows: dict[str, int]
    unlabelled_rows: int
    excluded_rows: int
    as_of: str
    label_cut: str


class FeastGetTrainingDataOperator(MlopsOperator):
    """Freeze a training set, called a snapshot: rows, their features as known at prediction time, and labels that are
    final.

    Use it first in a DAG that trains. Training and evaluation read what it made, by its ``id``.

    The same moment and the same data give the same snapshot. It is written down in the ledger, so that late data
    finds the models that have not seen it. Windows that somebody excluded are left out.

    With ``entities``, the rows are one's own, and nothing has to be sealed: what the log then says cannot be promised.
    ``source_dataset``, ``label_dataset``, ``label_known_at``, ``matures_after``, ``window``, ``start``, ``as_of``,
    ``transform``, ``slices`` and the bounds of joins then have no meaning.

    :param model: Name of the model.
    :param entity: Column that identifies a row of both datasets.
    :param entities: Rows of one's own, with entity, time, label, inputs and what the service is asked with: a Parquet
        file, a folder of them, or a query for DuckDB; such as the XCom of a task before.
    :param source_dataset: Sealed dataset with a row an entity.
    :param event_time: Its column with the prediction time.
    :param keys: Its columns that are inputs of the model themselves.
    :param service: Feast feature service.
    :param label_dataset: Sealed dataset with the label.
    :param label_column: Its column of what is predicted; null where unknown.
    :param label_known_at: Its column of when a label became known; default is its event time. With it, the label may be
        a column of ``source_dataset`` itself.
    :param problem: Problem type: ``binary``, ``multiclass``, ``regression`` or ``ranking``; empty: by the label's type.
    :param heads: Further labels beside it that the same model predicts: column → problem type, empty likewise; null in
        a row where it is not known.
    :param weight: Column of ``source_dataset``, or of ``entities``, of what a row counts.
    :param group: Its column of the rows that are ranked against each other, for ``ranking``.
    :param matures_after: How long after the prediction time a label can still come, such as ``1d``.
    :param window: How much history, ending where labels have matured.
    :param validation: The part before the last part of the window: early stopping.
    :param test: The last part of the window: evaluation only.
    :param start: First day that the datasets have (ISO).
    :param as_of: Moment (ISO, with time zone) of which knowledge is used, cut to where a partition of
        the labels begins.
    :param split: ``time`` splits by prediction time; ``entity`` by the hash of ``split_column``, with the shares that
        ``validation`` and ``test`` have of ``window``.
    :param split_column: Column of ``source_dataset`` of which no value may be in two splits, for ``split="entity"``.
    :param transform: ``module:function`` that computes the features: those that other code computed are refused. None
        refuses only features of which some days were computed by other code than the rest.
    :param slices: Columns of ``source_dataset`` in whose every value rows must find their label as usual.
    :param min_joined: Smallest share of the rows that must find their label; None: only the change is judged.
    :param max_join_drop: Share of the usual joins that may be missing, in all and in each slice.
    :param exclude: Windows of ``source_dataset`` that only this snapshot leaves out: records
        :class:`~airflow_mlops.contracts.Exclusion` as dicts.
    :param without_slices: Column → values, as text, of rows that only this snapshot leaves out.
    :param feast_conn_id: Airflow connection of type ``feast``.
    :param ledger_conn_id: Airflow connection of type ``mlops_ledger``.
    """

    stopped_by_halt = "surely"
    template_fields = (
        *MlopsOperator.template_fields,
        "model",
        "entity",
        "entities",
        "source_dataset",
        "event_time",
        "keys",
        "service",
        "label_dataset",
        "label_column",
        "label_known_at",
        "matures_after",
        "window",
        "validation",
        "test",
        "start",
        "as_of",
        "split",
        "split_column",
        "transform",
        "slices",
        "min_joined",
        "max_join_drop",
        "weight",
        "exclude",
        "without_slices",
        "feast_conn_id",
        "ledger_conn_id",
    )

    operator_extra_links = (GXValidationReportLink(),)

    def __init__(
        self,
        *,
        model: str,
        entity: str,
        event_time: str,
        service: str,
        label_column: str,
        validation: str,
        test: str,
        entities: str = "",
        source_dataset: str = "",
        label_dataset: str = "",
        keys: Sequence[str] = (),
        matures_after: str = "",
        window: str = "",
        start: str = "",
        as_of: str = "",
        split: str = "time",
        split_column: str | None = None,
        transform: str | None = None,
        slices: Sequence[str] = (),
        min_joined: float | None = None,
        max_join_drop: float = 0.4,
        label_known_at: str = "",
        problem: str = "",
        heads: Mapping[str, str] | None = None,
        weight: str = "",
        group: str = "",
        exclude: Sequence[Mapping[str, Any]] = (),
        without_slices: Mapping[str, Sequence[str]] | None = None,
        feast_conn_id: str = FeastHook.default_conn_name,
        ledger_conn_id: str = LedgerHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.entity = entity
        self.entities = entities
        self.source_dataset = source_dataset
        self.event_time = event_time
        self.keys = keys
        self.service = service
        self.label_dataset = label_dataset
        self.label_column = label_column
        self.label_known_at = label_known_at
        self.problem = problem
        self.heads = heads
        self.weight = weight
        self.group = group
        self.matures_after = matures_after
        self.window = window
        self.validation = validation
        self.test = test
        self.start = start
        self.as_of = as_of
        self.split = split
        self.split_column = split_column
        self.transform = transform
        self.slices = slices
        self.min_joined = min_joined
        self.max_join_drop = max_join_drop
        self.exclude = exclude
        self.without_slices = without_slices
        self.feast_conn_id = feast_conn_id
        self.ledger_conn_id = ledger_conn_id

    def perform(self, context: Context) -> TrainingData:
        """Build the snapshot."""
        entities = _named(self.entities)
        if entities is not None:
            return _training_data(self._of_own_rows(entities))
        for name in ("source_dataset", "label_dataset", "matures_after", "window", "start", "as_of"):
            require(getattr(self, name), name, f"Give {name}, or rows of your own in entities.")
        return _training_data(self._of_sealed_rows(context))

    def _of_own_rows(self, entities: str) -> Snapshot:
        from airflow_mlops.engine.features.training.own_rows import build_snapshot_of_rows

        return build_snapshot_of_rows(
            FeastHook(self.feast_conn_id).location(self.home_path),
            read_own_rows(self, entities),
            model=self.model,
            entity=self.entity,
            event_time=self.event_time,
            service=self.service,
            label=self.label_column,
            validation=parse_duration(self.validation),
            test=parse_duration(self.test),
            keys=self.keys,
            **self._learned(),
            split_rule=_split_rule(self.split, self.split_column),
            without_slices=self.without_slices or {},
            ledger=LedgerHook(self.ledger_conn_id).get_conn(),
        )

    def _learned(self) -> dict[str, Any]:
        """Return what is learned beside the label."""
        named = {name: _named(getattr(self, name)) or "" for name in ("problem", "weight", "group")}
        return {**named, "heads": heads_of(self.heads)}

    def _of_sealed_rows(self, context: Context) -> Snapshot:
        from airflow_mlops.contracts import Exclusion
        from airflow_mlops.engine.features.computing.code import code_identity, import_folders
        from airflow_mlops.engine.features.training.training_data import build_training_snapshot

        ledger = LedgerHook(self.ledger_conn_id).get_conn()
        location = FeastHook(self.feast_conn_id).location(self.home_path)
        transform = _named(self.transform)
        known_at = _named(self.label_known_at)
        late = {self.label_dataset: [self.label_column, known_at, *heads_of(self.heads)]} if known_at else {}
        folders = import_folders(self.code_path, location)
        code = None if transform is None else code_identity(transform, folders, late)
        return build_training_snapshot(
            location,
            store=self.partition_store(ledger),
            ledger=ledger,
            model=self.model,
            source_dataset=self.source_dataset,
            entity=self.entity,
            event_time=self.event_time,
            keys=self.keys,
            service=self.service,
            label_dataset=self.label_dataset,
            label=self.label_column,
            label_known_at=_named(self.label_known_at) or "",
            **self._learned(),
            matures_after=parse_duration(self.matures_after),
            window=parse_duration(self.window),
            validation=parse_duration(self.validation),
            test=parse_duration(self.test),
            as_of=parse_moment(self.as_of, "as_of"),
            start=parse_day(self.start, "start"),
            split_rule=_split_rule(self.split, self.split_column),
            code=code,
            slices=self.slices,
            min_joined=self.min_joined,
            max_join_drop=self.max_join_drop,
            without=[Exclusion.model_validate(one) for one in self.exclude],
            without_slices=self.without_slices or {},
            report=partial(publish_report, self, context),
        )


def read_own_rows(task: MlopsOperator, entities: str) -> pa.Table:
    """Return rows of one's own: of Parquet, its path relative to the home folder; or what DuckDB answers to a query."""
    from airflow_mlops.engine.features.training.own_rows import read_rows

    return read_rows(located_rows(task, entities))


def _split_rule(split: str, column: str | None) -> SplitRule:
    from airflow_mlops.contracts import SplitRule

    if split not in ("time", "entity"):
        raise ConfigError(
            f"split={split!r} is no way to split.{did_you_mean(split, ('time', 'entity'))}",
            hint="Write 'time', or 'entity' with a split_column.",
        )
    named = _named(column)
    if (split == "entity") != (named is not None):
        raise ConfigError(
            f"split={split!r} with split_column={named!r} does not say one clear thing.",
            hint="Name the column to split by with 'entity', and none with 'time'.",
        )
    return SplitRule(kind=split, column=named)


def _named(rendered: str | None) -> str | None:
    """Return a rendered name; a template says None in words."""
    return None if rendered in ("", "None") else rendered


class FeastRebuildTrainingDataOperator(MlopsOperator):
    """Build a training set of the past again, byte for byte, from the partitions, feature files and exclusions of then.

    Use it when a snapshot was removed and is needed again, or to show that it can be rebuilt.

    What the snapshot was is read from its manifest, or, when that is lost, from a training on it. A snapshot whose
    files are there comes out as it is: that proves that it can be rebuilt.

    :param snapshot: Id of the snapshot.
    :param source_dataset: The sealed dataset with its entities.
    :param label_dataset: The sealed dataset with its labels.
    :param feast_conn_id: Airflow connection of type ``feast``.
    """

    template_fields = (*MlopsOperator.template_fields, "snapshot", "source_dataset", "label_dataset", "feast_conn_id")

    def __init__(
        self,
        *,
        snapshot: str,
        source_dataset: str,
        label_dataset: str,
        feast_conn_id: str = FeastHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.snapshot = snapshot
        self.source_dataset = source_dataset
        self.label_dataset = label_dataset
        self.feast_conn_id = feast_conn_id

    def perform(self, context: Context) -> TrainingData:
        """Rebuild it, or say what is missing or differs."""
        from airflow_mlops.engine.data.snapshots import find_snapshot
        from airflow_mlops.engine.features.training.training_data import rebuild_snapshot

        snapshot = rebuild_snapshot(
            FeastHook(self.feast_conn_id).location(self.home_path),
            find_snapshot(self.home_path, self.snapshot),
            store=self.partition_store(),
            source_dataset=self.source_dataset,
            label_dataset=self.label_dataset,
        )
        return _training_data(snapshot)


def _training_data(snapshot: Snapshot) -> TrainingData:
    return {
        "id": snapshot.id,
        "uri": snapshot.uri,
        "rows": {name: split.rows for name, split in snapshot.splits.items()},
        "unlabelled_rows": snapshot.unlabelled_rows,
        "excluded_rows": snapshot.excluded_rows,
        "as_of": snapshot.as_of.isoformat(),
        "label_cut": snapshot.label_cut.isoformat(),
    }
