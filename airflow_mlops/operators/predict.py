"""Predictions of many rows at once: by a model server, or by the model itself in the task."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from airflow.sdk.exceptions import AirflowSkipException

from airflow_mlops.exceptions import ConfigError, DataError
from airflow_mlops.hooks.feast import FeastHook
from airflow_mlops.hooks.ledger import LedgerHook
from airflow_mlops.hooks.mlflow import MLflowHook
from airflow_mlops.hooks.tf_serving import TFServingHook
from airflow_mlops.links.gx import GXValidationReportLink
from airflow_mlops.links.mlflow import MLflowModelVersionLink
from airflow_mlops.links.tf_serving import TFServingModelLink
from airflow_mlops.operators.base import MlopsOperator, require, required_key, said, whole_version
from airflow_mlops.operators.data import PARTITION_KEY, located, located_rows
from airflow_mlops.operators.reports import publish_report
from airflow_mlops.operators.tensorflow import registry_cache
from airflow_mlops.partitioning import Partitioning

if TYPE_CHECKING:
    from airflow.sdk import BaseOperatorLink, Context

    from airflow_mlops.engine.data.partitions import PartitionStore
    from airflow_mlops.engine.ledger import Ledger
    from airflow_mlops.engine.prediction.plan import Plan
    from airflow_mlops.engine.prediction.rows import Rows
    from airflow_mlops.engine.prediction.scorers import Scorer


class PredictedPartition(TypedDict):
    """A sealed partition of predictions, and the version that made them.

    ``taken_up`` of its ``shards`` were there from an earlier attempt; ``nan`` says in how many rows an output is NaN.
    """

    dataset: str
    key: str
    revision: str
    rows: int
    uri: str
    model: str
    version: str
    shards: int
    taken_up: int
    nan: dict[str, int]


class PredictOperator(MlopsOperator):
    """Base of the operators that predict rows and seal the predictions as a partition.

    The rows are those of a sealed partition, or one's own. What comes out has a row each with ``entity``,
    ``event_time`` and ``columns``, every output of the model under its name, and ``model``, ``version`` and
    ``predicted_at``. It is written in shards: a retry takes up those that were finished. A partition that holds the
    same rows by the same version already is left as it is.

    :param model: Name of the model.
    :param entity: Column that identifies a row; it goes along.
    :param source_dataset: Sealed dataset whose partition ``key`` is predicted.
    :param entities: Instead of it, rows of one's own: a Parquet file, a folder of them or a pattern, here or on object
        storage; or a query for DuckDB; such as the XCom of a task before.
    :param event_time: Column of the rows' times, which must lie within the partition; it goes along. Default is that of
        ``source_dataset``. Rows of one's own without it get a column ``event_time``: when the partition begins.
    :param columns: Further columns of the rows that go along.
    :param service: Feast feature service of the inputs that the rows do not have, read as known at each row's time.
    :param suite: What the predictions must meet before they are sealed, as for
        :class:`~airflow_mlops.operators.gx.GXValidateDataOperator`.
    :param dataset: Dataset of the predictions; default is ``<model>.predictions``.
    :param key: Partition key.
    :param partitioning: Of which ``key`` is one: ``daily``, ``hourly@Europe/Berlin``; default is that of
        ``source_dataset``, or daily.
    :param skip_unserved: Skip, instead of failing, where no version has the alias or the label yet.
    :param batch_rows: Rows that the model is asked for at once.
    :param shard_rows: Rows that a retry finds finished, or predicts again.
    :param feast_conn_id: Airflow connection of type ``feast``.
    :param ledger_conn_id: Airflow connection of type ``mlops_ledger``.
    """

    template_fields = (
        *MlopsOperator.template_fields,
        "model",
        "entity",
        "source_dataset",
        "entities",
        "event_time",
        "columns",
        "service",
        "suite",
        "dataset",
        "key",
        "feast_conn_id",
        "ledger_conn_id",
    )
    operator_extra_links: Collection[BaseOperatorLink] = (GXValidationReportLink(),)

    def __init__(
        self,
        *,
        model: str,
        entity: str,
        source_dataset: str = "",
        entities: str = "",
        event_time: str = "",
        columns: Sequence[str] = (),
        service: str = "",
        suite: str = "",
        dataset: str = "",
        key: str = PARTITION_KEY,
        partitioning: str = "",
        skip_unserved: bool = False,
        batch_rows: int = 8_192,
        shard_rows: int = 262_144,
        feast_conn_id: str = FeastHook.default_conn_name,
        ledger_conn_id: str = LedgerHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.entity = entity
        self.source_dataset = source_dataset
        self.entities = entities
        self.event_time = event_time
        self.columns = columns
        self.service = service
        self.suite = suite
        self.dataset = dataset
        self.key = key
        self.partitioning = partitioning
        self.skip_unserved = skip_unserved
        self.batch_rows = batch_rows
        self.shard_rows = shard_rows
        self.feast_conn_id = feast_conn_id
        self.ledger_conn_id = ledger_conn_id

    def perform(self, context: Context) -> PredictedPartition:
        """Predict, seal, and return what is there now."""
        from airflow_mlops.engine.data.validation import load_suite
        from airflow_mlops.engine.prediction.batch import predict_partition

        key = required_key(self.key)
        model = require(self.model, "model", "Check the template: it must render to the model's name.")
        dataset = said(self.dataset) or f"{model}.predictions"
        suite = load_suite(said(self.suite), self.code_path) if said(self.suite) else None
        ledger = LedgerHook(self.ledger_conn_id).get_conn()
        store = self.partition_store(ledger)
        store.declare(dataset, self._cut(store))
        with self._rows(store, key) as rows, self.scorer(context) as scorer:
            made = predict_partition(
                self._plan(rows, scorer, store, ledger, key),
                home=self.home_path,
                store=store,
                ledger=ledger,
                dataset=dataset,
                key=key,
                suite=suite,
                report=partial(publish_report, self, context),
            )
        partition = made.partition
        self.log.info(
            "Sealed %s %s: %s predictions by version %s of %s, revision %s.",
            dataset,
            key,
            partition.rows,
            made.version,
            made.model,
            partition.revision,
        )
        return PredictedPartition(
            dataset=partition.dataset,
            key=partition.key,
            revision=partition.revision,
            rows=partition.rows,
            uri=partition.uri,
            model=made.model,
            version=made.version,
            shards=made.shards,
            taken_up=made.taken_up,
            nan=dict(made.nan),
        )

    @abstractmethod
    def scorer(self, context: Context) -> AbstractContextManager[Scorer]:
        """Return who predicts, for the length of a block."""

    @contextmanager
    def looking_up(self) -> Iterator[None]:
        """Skip where there is no version yet, if that is what is asked for."""
        try:
            yield
        except DataError as error:
            if not self.skip_unserved:
                raise
            raise AirflowSkipException(f"Nothing is predicted: {error.headline}") from None

    def _cut(self, store: PartitionStore) -> Partitioning:
        """Return how the predictions are cut into partitions."""
        source = said(self.source_dataset)
        if bool(source) == bool(said(self.entities)):
            raise ConfigError(
                "Rows to predict are those of a sealed dataset, or one's own.",
                detail=f"source_dataset={self.source_dataset!r}, entities={self.entities!r} after rendering",
                hint="Give one of them. Did the task whose XCom it comes from succeed?",
            )
        if source and not self.partitioning:
            return store.partitioning(source)
        return Partitioning.parse(self.partitioning or "daily")

    def _rows(self, store: PartitionStore, key: str) -> AbstractContextManager[Rows]:
        from airflow_mlops.engine.prediction.rows import rows_of_entities, rows_of_partition

        if source := said(self.source_dataset):
            return rows_of_partition(store, source, key)
        return rows_of_entities(located_rows(self, said(self.entities)))

    def _plan(self, rows: Rows, scorer: Scorer, store: PartitionStore, ledger: Ledger, key: str) -> Plan:
        from airflow_mlops.engine.prediction.plan import Plan

        event_time, source = said(self.event_time), said(self.source_dataset)
        if source and not event_time:
            event_time = store.get(source, key).event_time
        features = None
        entity = require(self.entity, "entity", "Name the column that identifies a row.")
        if service := said(self.service):
            from airflow_mlops.engine.prediction.features import PointInTime

            features = PointInTime(
                FeastHook(self.feast_conn_id).location(self.home_path),
                rows,
                service=service,
                entity=entity,
                event_time=require(event_time, "event_time", "Features are read as known at a row's time: name it."),
                inputs=scorer.signature.inputs,
                span=self._cut(store).interval(key),
                store=store,
                ledger=ledger,
            )
        return Plan(
            rows,
            scorer,
            entity=entity,
            event_time=event_time,
            columns=tuple(self.columns),
            features=features,
            batch_rows=self.batch_rows,
            shard_rows=self.shard_rows,
        )


class TensorFlowPredictOperator(PredictOperator):
    """Predict rows by the model itself, without a server, and seal the predictions as a partition.

    Use it for many rows at once, where there is no model server or it is to have no load.

    The model is run by TensorFlow's C++ loader, as the model server does, without importing TensorFlow. Rows are read
    and written a batch at a time: memory does not grow with them.

    :param version: Version in the registry; empty: the one with the alias.
    :param alias: Alias of the version, looked up once.
    :param saved_model: Instead of a registry: folder of a SavedModel. ``version`` is then what is written beside the
        predictions; by default the folder's name if it is a number, or else the hash of its files.
    :param mlflow_conn_id: Airflow connection of type ``mlflow``.
    """

    template_fields = (*PredictOperator.template_fields, "version", "alias", "saved_model", "mlflow_conn_id")
    operator_extra_links = (*PredictOperator.operator_extra_links, MLflowModelVersionLink())

    def __init__(
        self,
        *,
        version: int | str = "",
        alias: str = "champion",
        saved_model: str = "",
        mlflow_conn_id: str = MLflowHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.version = version
        self.alias = alias
        self.saved_model = saved_model
        self.mlflow_conn_id = mlflow_conn_id

    @contextmanager
    def scorer(self, context: Context) -> Iterator[Scorer]:
        """Yield the loaded model."""
        from airflow_mlops.engine.prediction.scorers import InProcess

        folder, version = self._of_folder() if said(self.saved_model) else self._of_registry(context)
        with InProcess(folder, model=self.model, version=version) as model:
            yield model

    def _of_folder(self) -> tuple[Path, str]:
        folder = located(self, self.saved_model, "saved_model")
        if not isinstance(folder, Path):
            raise ConfigError(
                "A SavedModel is loaded from this machine's disk.",
                detail=f"{folder} is on object storage",
                hint="Register the model and name its version or alias, or copy the folder to where workers see it.",
            )
        return folder, said(self.version)

    def _of_registry(self, context: Context) -> tuple[Path, str]:
        from airflow_mlops.engine.registry.elsewhere import fetch_version

        hook = MLflowHook(self.mlflow_conn_id)
        registry = hook.get_conn()
        if said(self.version):
            version = str(whole_version(self.version))
        else:
            alias = require(self.alias, "alias", "Name an alias such as champion, or a version.")
            with self.looking_up():
                version = registry.by_alias(self.model, alias).version
        MLflowModelVersionLink.persist(context, hook.version_url(self.model, version))
        cache = registry_cache(self.home_path, self.model, version)
        ledger = LedgerHook(self.ledger_conn_id).get_conn()
        return fetch_version(registry, ledger, self.model, int(version), cache).saved_model, version


class TFServingPredictOperator(PredictOperator):
    """Predict rows by a model server, in batches, and seal the predictions as a partition.

    Use it for many rows at once, where the answers are to be those of the server, or a worker has no room for the
    model.

    Batches that the server does not answer are sent again, a few times. Where the label points is asked once: a
    promotion meanwhile mixes no versions. A version's transform is applied here, before the server is asked: it is
    found in the connection's ``model_base_path``.

    :param version: Version on the server; empty: the one with the label.
    :param version_label: Label of the version.
    :param in_flight: How many batches may be with the server at once.
    :param tf_serving_conn_id: Airflow connection of type ``tf_serving``.
    """

    template_fields = (*PredictOperator.template_fields, "version", "version_label", "tf_serving_conn_id")
    operator_extra_links = (*PredictOperator.operator_extra_links, TFServingModelLink())

    def __init__(
        self,
        *,
        version: int | str = "",
        version_label: str = "stable",
        in_flight: int = 4,
        tf_serving_conn_id: str = TFServingHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.version = version
        self.version_label = version_label
        self.in_flight = in_flight
        self.tf_serving_conn_id = tf_serving_conn_id

    @contextmanager
    def scorer(self, context: Context) -> Iterator[Scorer]:
        """Yield the version on the server."""
        from airflow_mlops.engine.prediction.scorers import ThroughServer

        hook = TFServingHook(self.tf_serving_conn_id)
        TFServingModelLink.persist(context, hook.model_url(self.model))
        version = whole_version(self.version) if said(self.version) else None
        label = None if version else require(self.version_label, "version_label", "Name one such as stable.")
        store = hook.versions_folder(self.model)
        with hook.get_conn() as client:
            with self.looking_up():
                model = ThroughServer(
                    client, model=self.model, version=version, label=label, store=store, in_flight=self.in_flight
                )
            yield model
