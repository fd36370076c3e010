"""Hold what is served against what training reads, before a version is promoted."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypedDict

from airflow_mlops.exceptions import ConfigError, DataError
from airflow_mlops.hooks.feast import FeastHook
from airflow_mlops.hooks.ledger import LedgerHook
from airflow_mlops.links.gx import GXValidationReportLink
from airflow_mlops.operators.base import MlopsOperator, require, whole_version
from airflow_mlops.operators.feast.training_data import read_own_rows
from airflow_mlops.operators.reports import publish_report

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_mlops.engine.features.online.reader import OnlineReader
    from airflow_mlops.engine.features.parity.check import Entities
    from airflow_mlops.engine.ledger import Ledger


class CheckedParity(TypedDict):
    """A feature service that serves what training reads: ``unlike`` is feature → entities for which it does not, of
    ``rows``, none of them too many.
    """

    service: str
    status: str
    rows: int
    features: int
    unlike: dict[str, int]


class FeastCheckParityOperator(MlopsOperator):
    """Fail when a feature service serves other values than training reads: training/serving skew.

    Use it before a version is promoted, or on a schedule while it serves.

    A sample of entities is read online, and computed by way of the offline store at the moment at which the online
    store stands; on-demand features too. Every value and its type must be the same. The entities are the newest rows
    of a sealed dataset, or requests that were really answered, with the features that the model got. Nothing to
    compare is no pass.

    The report is linked from the task, and is fact ``parity`` of the model's version in the ledger, passed or not;
    without a model, of the service. It works on any Feast repository. Of views that something else brings online, the
    ledger does not know how far they are: say it in ``as_of``.

    :param service: Feast feature service.
    :param model: Name of the model that is to be promoted.
    :param version: Version of it.
    :param source_dataset: Sealed dataset with a row an entity: the service's join keys and request columns.
    :param entities: In its place, rows of one's own: a Parquet file, a folder of them, or a query for DuckDB.
    :param entity: Its column whose values name, in the report and in the log, some entities that are not alike; empty
        names nobody.
    :param sample_rows: How many entities to read.
    :param seed: Of the sample: the same partitions and seed give the same one.
    :param served: Parquet file of answered requests, to hold against training in place of recent entities: the
        columns of ``source_dataset``, ``served_at``, and features as the model got them.
    :param served_at: Its column with the moment at which those features stood.
    :param as_of: Moment (ISO) up to which a view is online of which the ledger does not know it, because something
        else writes the online store.
    :param tolerance: Largest absolute difference of numbers; default is next to nothing. A tag ``parity_tolerance`` of
        the feature or its view goes before it.
    :param max_unlike: Largest share of the entities of which a feature may be unlike.
    :param feast_conn_id: Airflow connection of type ``feast``.
    :param ledger_conn_id: Airflow connection of type ``mlops_ledger``.
    """

    template_fields = (
        *MlopsOperator.template_fields,
        "model",
        "version",
        "service",
        "source_dataset",
        "entities",
        "entity",
        "sample_rows",
        "seed",
        "served",
        "served_at",
        "as_of",
        "max_unlike",
        "feast_conn_id",
        "ledger_conn_id",
    )
    operator_extra_links = (GXValidationReportLink(),)

    def __init__(
        self,
        *,
        service: str,
        model: str = "",
        version: int | str = "",
        source_dataset: str = "",
        entities: str = "",
        entity: str = "",
        sample_rows: int | str = 200,
        seed: int | str = 0,
        served: str = "",
        served_at: str = "event_time",
        as_of: str = "",
        tolerance: float | None = None,
        max_unlike: float | str = 0.0,
        feast_conn_id: str = FeastHook.default_conn_name,
        ledger_conn_id: str = LedgerHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.version = version
        self.service = service
        self.source_dataset = source_dataset
        self.entities = entities
        self.entity = entity
        self.sample_rows = sample_rows
        self.seed = seed
        self.served = served
        self.served_at = served_at
        self.as_of = as_of
        self.tolerance = tolerance
        self.max_unlike = max_unlike
        self.feast_conn_id = feast_conn_id
        self.ledger_conn_id = ledger_conn_id

    def perform(self, context: Context) -> CheckedParity:
        """Check, write it down, and only then fail."""
        from airflow_mlops.engine.features.online.reader import OnlineReader
        from airflow_mlops.engine.features.parity.check import check_parity, enforce_parity
        from airflow_mlops.engine.features.parity.report import as_validation
        from airflow_mlops.moments import parse_moment

        subject, key = self.service, ""
        if self.model not in ("", "None"):
            subject, key = self.model, str(whole_version(self.version))
        seed = _whole(self.seed, "seed", 0)
        location = FeastHook(self.feast_conn_id).location(self.home_path)
        ledger = LedgerHook(self.ledger_conn_id).get_conn()
        reader = OnlineReader(location, self.service)
        report = check_parity(
            location,
            self.service,
            self._entities(reader, ledger, seed),
            ledger=ledger,
            as_of=parse_moment(self.as_of, "as_of") if self.as_of not in ("", "None") else None,
            max_unlike=_share(self.max_unlike, "max_unlike"),
            tolerance=self.tolerance,
            seed=seed,
            reader=reader,
        )
        publish_report(self, context, as_validation(report))
        ledger.record("parity", subject, report.model_dump(mode="json"), key=key)
        enforce_parity(report)
        return {
            "service": report.service,
            "status": str(report.status),
            "rows": report.rows,
            "features": len(report.features),
            "unlike": {one.feature: one.unlike for one in report.features if one.unlike},
        }

    def _entities(self, reader: OnlineReader, ledger: Ledger, seed: int) -> Entities:
        from airflow_mlops.engine.features.parity.check import logged_entities, own_entities, recent_entities

        entity = self.entity or None
        rows = _whole(self.sample_rows, "sample_rows", 1)
        if self.served in ("", "None"):
            if self.entities not in ("", "None"):
                return own_entities(reader, read_own_rows(self, self.entities), entity=entity, rows=rows, seed=seed)
            dataset = require(self.source_dataset, "source_dataset", "Name it, or give rows of your own in entities.")
            return recent_entities(reader, self.partition_store(ledger), dataset, entity=entity, rows=rows, seed=seed)
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            log = pq.read_table(self.served)
        except (OSError, pa.ArrowException) as error:
            raise DataError(
                "The log of served features cannot be read.",
                detail=f"{self.served}: {type(error).__name__}: {error}",
                hint="Give a Parquet file, or a folder of them, as the workers see it.",
            ) from None
        return logged_entities(reader, log, entity=entity, event_time=self.served_at, rows=rows, seed=seed)


def _whole(value: int | str, name: str, least: int) -> int:
    text = str(value).strip()
    if not text.isdecimal() or int(text) < least:
        raise ConfigError(f"{name}={value!r} cannot be.", hint=f"Give a whole number from {least} on.")
    return int(text)


def _share(value: float | str, name: str) -> float:
    try:
        share = float(value)
    except ValueError:
        share = math.nan
    if not 0 <= share < 1:
        raise ConfigError(f"{name}={value!r} is no share.", hint="Give a number from 0 on and below 1, such as 0.01.")
    return share
