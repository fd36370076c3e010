"""Where data comes from: files that land, or a table of a database; and what both are held to.

Nothing here imports Airflow or a machine-learning library.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY
from datetime import date, datetime
from fnmatch import fnmatchcase
from typing import Any, Literal

from pydantic import Field

from airflow_mlops.exceptions import ConfigError, did_you_mean
from airflow_mlops.formats import check_options
from airflow_mlops.layout import FOLDER, Layout, literal
from airflow_mlops.partitioning import DAILY, Partitioning, is_finer
from airflow_mlops.resources import Resources
from airflow_mlops.typed import Cut, Duration, Entrypoint, Name, SuiteName, is_name, part


@part
class Checks:
    """What a day is held against besides its suite: its own history of valid days, and rules across columns.

    :param slices: Columns whose every value must keep its usual share of rows; one that vanishes is noticed.
    :param label: Column whose labels must stay as usual, in all and in each slice: the rate of truths, the share of
        each class (texts, or whole numbers where ``Label(problem="multiclass")`` says so), or the mean of numbers.
    :param unique: Columns that together identify a row; repeated rows are counted.
    :param identifiers: Columns that may be nearly unique. Any other nearly unique column is a privacy finding.
    :param volatile: Columns that differ too much from day to day to be held against earlier days, as the weather does:
        neither level and unit of numbers nor the mix of texts is judged. The suite and the invariants still are.
    :param invariants: Name → SQL expression over the columns that must hold in every row where it is not null.
    :param contract: ``module:function`` that returns the dataset's ``SchemaContract``.
    :param history: How far back the days lie that a day is compared with; same weekdays first.
    """

    slices: Sequence[str] = ()
    label: str | None = None
    unique: Sequence[str] = ()
    identifiers: Sequence[str] = ()
    volatile: Sequence[str] = ()
    invariants: Mapping[str, str] = Field(default_factory=dict)
    contract: Entrypoint | None = None
    history: Duration = "56d"


@part
class Feed:
    """What every feed has: :class:`Partitions` of files, or a :class:`SQLSource`.

    :param event_time: Column whose times must lie within the partition.
    :param suite: ``module:function`` that returns the Great Expectations list a partition must meet; or a JSON file as
        Great Expectations writes it, its path from the folder of the DAG file.
    :param start: First day there is, in the zone of ``partitioning``.
    :param end: Last day there is, for a source that has ended.
    :param partitioning: How time is cut: ``daily`` in UTC, or ``Partitioning("hourly", "America/New_York")``.
    :param naive_times: Zone of times without one; default is that of ``partitioning``.
    :param may_be_empty: Whether a partition without a row is no fault, as in the hours of a night.
    :param dataset: Name of the sealed dataset; default is the last part of ``uri``, or the table.
    :param checks: What a day is held against besides its suite.
    :param resources: Where its tasks run that read rows.
    """

    _: KW_ONLY
    event_time: str
    suite: SuiteName
    start: date
    end: date | None = None
    partitioning: Cut = DAILY
    naive_times: str = ""
    may_be_empty: bool = False
    dataset: Name = ""
    checks: Checks = Field(default_factory=Checks, kw_only=True)
    resources: Resources = Field(default_factory=Resources, kw_only=True)

    def __post_init__(self) -> None:
        if self.naive_times:
            Partitioning("daily", self.naive_times)
        if not self.dataset:
            object.__setattr__(self, "dataset", is_name(self._called()))
        if self.end is not None and self.end < self.start:
            raise ConfigError(
                f"Partitions of {self.dataset!r} end before they start.",
                detail=f"start={self.start}, end={self.end}",
                hint="Swap them.",
            )

    def _called(self) -> str:
        """Return the name of the dataset, where none was given."""
        return ""

    @property
    def promise(self) -> str | None:
        """How long after the end of a partition it may take until it is complete."""
        return None

    @property
    def starts_at(self) -> datetime:
        """When the first partition begins, in UTC."""
        return self.partitioning.first(self.start)

    @property
    def ends_at(self) -> datetime | None:
        """When the last partition ends, in UTC, of a source that has ended."""
        return None if self.end is None else self.partitioning.after(self.end)


DATABASES = frozenset({"postgres", "postgresql", "mysql", "mariadb", "mssql", "oracle", "sqlite", "snowflake"})
"""What addresses of databases begin with."""


@part
class Partitions(Feed):
    """A source that lands files a partition at a time: by default ``<uri>/2013-01-15/*`` and, last, ``_SUCCESS``.

    Readable are Parquet, CSV, JSON lines and ORC, compressed or not. What every feed has: :class:`Feed`.

    :param uri: Where the upstream lands them; a relative path starts at ``[mlops] home``.
    :param layout: Where a partition lies below ``uri``: ``dt={key}/*.parquet``, ``{year}/{month:02}/{day:02}/*.csv``;
        see :class:`~airflow_mlops.layout.Layout`.
    :param lands: How the upstream cuts what it lands, where that is finer than ``partitioning``: ``hourly`` files make
        a day, ``daily`` ones a week. The times in ``layout`` are then those of a piece; a partition is complete when
        each of its pieces is.
    :param ahead: Whether a partition is there when its time begins, such as the price list of a week. What is promised
        then counts from its beginning, and each run takes the one that its own time begins in.
    :param arrived: What tells that a partition is complete: ``marker``, ``manifest``, ``still`` (its files have not
        changed for ``still_for``), or ``event``, of the upstream's ``asset``. By default a marker where a partition has
        a folder of its own, else ``still``.
    :param marker: Name of the file that the upstream writes last, in the partition's folder; or of its manifest.
    :param still_for: See ``arrived``.
    :param asset: Name of the asset that an upstream DAG writes, for ``arrived="event"``: an event with the partition's
        key, or one without a key from after its end.
    :param reader: Options of DuckDB's ``read_csv`` or ``read_json``: ``{"delim": ";", "encoding": "latin-1"}``.
    :param lands_within: The source's promise: how long after the end of its day a partition may still land.
    """

    uri: str
    layout: str = FOLDER
    lands: Cut | None = None
    ahead: bool = False
    arrived: Literal["marker", "manifest", "still", "event"] | None = None
    marker: str = ""
    still_for: Duration = "5m"
    asset: str = ""
    reader: Mapping[str, Any] = Field(default_factory=dict)
    lands_within: Duration | None = None

    def __post_init__(self) -> None:
        scheme, there, _ = self.uri.partition("://")
        if there and scheme.partition("+")[0] in DATABASES:
            raise ConfigError(
                "Partitions(...) are files, and this is a database.",
                detail=f"the URL begins with {scheme}://",
                hint='Take a table of it: SQLSource("<Airflow connection>", table="orders").',
            )
        if self.lands is not None and not is_finer(self.lands, self.partitioning):
            raise ConfigError(
                "What lands is not finer than the partitions that are made of it.",
                detail=f"lands={str(self.lands)!r}, partitioning={str(self.partitioning)!r}",
                hint="Leave lands out where each partition lands as one; or make partitioning larger.",
            )
        check_options(self.reader, self.layout)
        pattern = self.placed.of(self.partitioning.key(self.starts_at), self.partitioning)[0]
        if self.arrived is None:
            # A folder of its own may hold a marker; files of many partitions beside each other have nowhere to put one.
            own = "{" in literal(self.layout)[0] and "{" not in literal(self.layout)[1]
            object.__setattr__(self, "arrived", "marker" if own else "still")
        if self.arrived == "manifest" and not self.marker:
            raise ConfigError(
                f"The manifest of {pattern!r} has no name.",
                detail="arrived='manifest', marker=''",
                hint="Name it in marker='manifest.json'.",
            )
        if (self.arrived == "event") != bool(self.asset):
            raise ConfigError(
                f"Partitions(arrived={self.arrived!r}, asset={self.asset!r}) does not say one clear thing.",
                hint="Name the upstream's asset with arrived='event', and none otherwise.",
            )
        super().__post_init__()

    def _called(self) -> str:
        return self.uri.rstrip("/").rsplit("/", 1)[-1]

    @property
    def placed(self) -> Layout:
        """Where its partitions lie."""
        return Layout(self.layout, self.lands)

    @property
    def promise(self) -> str | None:
        """See ``lands_within``."""
        return self.lands_within

    def meets(self, other: Partitions) -> bool:
        """Return whether a file may belong to a partition of this feed and of another."""
        if self.uri.rstrip("/") != other.uri.rstrip("/"):
            return False
        starts = max(self.starts_at, other.starts_at)
        one, two = (feed.placed.of(feed.partitioning.key(starts), feed.partitioning)[0] for feed in (self, other))
        # A name that fits one pattern, tried on the other.
        return fnmatchcase(one.replace("*", "x").replace("?", "x"), two) or fnmatchcase(
            two.replace("*", "x").replace("?", "x"), one
        )

    def asked(self) -> dict[str, Any]:
        """Return what a look for a partition asks for, in the words of ``PartitionArrivalSensor``."""
        return {
            "marker": (self.marker or "_SUCCESS") if self.arrived == "marker" else None,
            "manifest": self.marker if self.arrived == "manifest" else None,
            "settle": self.still_for if self.arrived == "still" else None,
            "asset": self.asset or None,
        }


@part
class SQLSource(Feed):
    """A table of a database, or a query, of which each partition is extracted. What every feed has: :class:`Feed`.

    :param conn_id: Airflow connection of the database.
    :param table: Table or view, with its schema where needed: ``shop.orders``. Names are taken as the database keeps
        them. Rows without an event time belong to no partition.
    :param query: Instead of ``table``: a query with ``{start}`` and ``{end}``, which are bound as parameters. It must
        return the rows whose event time is not before the one, and before the other.
    :param columns: Columns of ``table`` to read; default is all.
    :param updated_at: Column of when a row was last changed: a history loaded again extracts only what changed since.
    :param complete_after: How long after its end a partition is complete; default is at once.
    """

    conn_id: str
    table: str = ""
    query: str = ""
    columns: Sequence[str] = ()
    updated_at: str = ""
    complete_after: Duration | None = None

    def __post_init__(self) -> None:
        if bool(self.table) == bool(self.query):
            raise ConfigError(
                "SQLSource(...) names both a table and a query." if self.table else "SQLSource(...) names no table.",
                detail=f"conn_id={self.conn_id!r}",
                hint='Name one: table="orders", or query="SELECT ... WHERE at >= {start} AND at < {end}".',
            )
        check_bounds(self.query)
        if self.query and self.columns:
            raise ConfigError(
                "SQLSource(query=..., columns=...) says twice which columns there are.",
                detail=f"columns={list(self.columns)}",
                hint="Name them in the query.",
            )
        for name in filter(None, (self.event_time, self.updated_at)):
            if self.columns and name not in self.columns:
                raise ConfigError(
                    f"SQLSource(columns=...) leaves out {name!r}.{did_you_mean(name, self.columns)}",
                    detail=f"columns={list(self.columns)}",
                    hint="The columns of event_time and updated_at are needed: add it.",
                )
        super().__post_init__()

    def _called(self) -> str:
        if self.query:
            raise ConfigError(
                "A query gives its dataset no name.",
                detail=f"SQLSource({self.conn_id!r}, query=...)",
                hint='Name it: SQLSource(..., dataset="orders").',
            )
        return self.table.rsplit(".", 1)[-1]

    @property
    def promise(self) -> str | None:
        """See ``complete_after``."""
        return self.complete_after


def check_bounds(query: str) -> None:
    """See that a query asks for one partition.

    :raises ConfigError: when it does not.
    """
    if quoted := re.search(r"(['\"])\{(start|end)\}\1", query):
        raise ConfigError(
            f"The query has {quoted[0]} in quotes: that is a text, and no bound.",
            detail=re.sub(r"\s+", " ", query)[:200],
            hint="Leave the quotes out: WHERE ordered_at >= {start} AND ordered_at < {end}. They become parameters.",
        )
    missing = [bound for bound in ("{start}", "{end}") if query and bound not in query]
    if missing:
        raise ConfigError(
            f"The query has no {' and no '.join(missing)}: it would read the whole table for every partition.",
            detail=re.sub(r"\s+", " ", query)[:200],
            hint="Bind them to the event time: WHERE ordered_at >= {start} AND ordered_at < {end}. They become "
            "parameters: no quotes around them.",
        )
