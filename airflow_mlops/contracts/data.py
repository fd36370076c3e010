"""Records of the data side: partitions, their validation and profiles, announcements, halts and exclusions."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from airflow_mlops.contracts.record import Record

Severity = Literal["info", "warn", "block"]
ColumnKind = Literal["number", "time", "category", "boolean", "other"]


class PartitionFile(Record):
    """One Parquet file of a partition; ``name`` is relative to the partition's ``uri``."""

    name: str
    sha256: str
    bytes: int
    rows: int


class Receipt(Record):
    """What was received: where from, its hash and size, and when its newest file was written."""

    uri: str
    sha256: str
    files: int
    bytes: int
    written_at: datetime | None = None
    manifest_sha256: str | None = Field(default=None, description="of the upstream's own manifest, if it wrote one")
    changed_at: datetime | None = Field(
        default=None, description="newest `updated_at` of a table's rows, if it has one"
    )


class Partition(Record):
    """A sealed, immutable partition. ``revision`` is the content hash: the same bytes give the same revision."""

    dataset: str
    key: str
    revision: str
    uri: str
    rows: int
    bytes: int
    files: tuple[PartitionFile, ...]
    columns: dict[str, str] = Field(description="column name → Arrow type")
    event_time: str = Field(description="name of the event-time column")
    min_event_time: datetime
    max_event_time: datetime
    receipt: Receipt
    suite_hash: str | None = Field(default=None, description="suite that the bytes passed before sealing")


class ExpectationOutcome(Record):
    """What one expectation, or one check of our own, said: observed aggregates, bounds and counts, no raw values."""

    expectation: str
    column: str | None
    severity: Severity
    success: bool
    observed: Any = None
    bound: dict[str, Any] = Field(default_factory=dict)
    unexpected_count: int | None = None
    row_ids: tuple[str, ...] = Field(default=(), description="ids of failing rows, only when they were asked for")
    note: str = Field(default="", description="in words: which slice, which models are affected, what to look at")
    error: str | None = Field(default=None, description="the check itself broke: UNKNOWN, never a pass")


class ValidationResult(Record):
    """The outcome of one suite on one batch. ``rows`` equals the rows of the batch."""

    suite: str
    suite_hash: str
    suite_version: str = ""
    batch: str
    batch_hash: str
    rows: int
    outcomes: tuple[ExpectationOutcome, ...]
    engine: str = Field(default="", description="what computed it: duckdb, pandas, postgresql, spark, profile")

    @property
    def failed(self) -> tuple[ExpectationOutcome, ...]:
        """Outcomes that did not succeed, worst severity first."""
        order = {"block": 0, "warn": 1, "info": 2}
        return tuple(sorted((o for o in self.outcomes if not o.success), key=lambda o: order[o.severity]))

    @property
    def blocked(self) -> bool:
        """True when a ``block`` expectation failed, any could not be checked, or there was none."""
        return not self.outcomes or any(o.severity == "block" or o.error is not None for o in self.failed)


class ColumnProfile(Record):
    """Mergeable statistics of one column. Times are microseconds since the epoch."""

    type: str = Field(description="Arrow type")
    kind: ColumnKind
    count: int = Field(description="rows, nulls included")
    nulls: int
    nans: int = 0
    infinities: int = 0
    min: float | None = None
    max: float | None = None
    mean: float | None = Field(default=None, description="of the finite values; of booleans, the share of trues")
    m2: float | None = Field(default=None, description="sum of squared deviations from the mean (Welford)")
    distinct: str = Field(default="", description="base64: the smallest hashes of the distinct values (KMV sketch)")
    quantiles: str = Field(default="", description="base64: KLL sketch of the finite values")
    top: dict[str, int] = Field(default_factory=dict, description="most frequent values → count; none if near-unique")
    top_error: int = Field(
        default=0, description="each count in `top` is at most this much too low; other values occur at most this often"
    )


class SliceProfile(Record):
    """Rows of one slice, and what their labels are like."""

    rows: int
    labelled: int = 0
    positives: int = Field(default=0, description="labels that are true, or not zero")
    classes: dict[str, int] = Field(default_factory=dict, description="of labels that are texts: class → rows")
    mean: float | None = Field(default=None, description="of labels that are numbers; finite ones only")
    m2: float = Field(default=0.0, description="sum of their squared distances from the mean")


class Profile(Record):
    """What a partition, or several merged, looks like. Drift and volume compare profiles, never rescan data."""

    dataset: str
    revisions: dict[str, str] = Field(description="partition key → revision of what was profiled")
    rows: int
    columns: dict[str, ColumnProfile]
    slices: dict[str, dict[str, SliceProfile]] = Field(
        default_factory=dict, description="slice column → value → rows and labels; null is the value '∅'"
    )
    duplicates: int | None = Field(
        default=None, description="rows whose unique key was there before; exact a partition"
    )
    unique: tuple[str, ...] = Field(default=(), description="columns of the unique key that `duplicates` counts")
    label: str | None = None
    partitioning: str = Field(default="daily", description="of which the keys are")


class Announcement(Record):
    """What an upstream said of itself. While it is ``degraded``, nothing downstream trains."""

    dataset: str
    state: Literal["degraded", "ok"]
    reason: str
    who: str
    at: datetime


class Halt(Record):
    """Nothing new comes of a model until ``until``, or until somebody resumes: who said so, and why."""

    model: str
    who: str
    reason: str
    at: datetime
    until: datetime | None = None

    def __str__(self) -> str:
        until = "until somebody resumes" if self.until is None else f"until {self.until:%Y-%m-%d %H:%M} UTC"
        return f"{self.model} is halted by {self.who} {until}: {self.reason}"


class Exclusion(Record):
    """Rows of a dataset with event times in ``[start, end)`` that no training set may contain, and why."""

    id: str
    dataset: str
    start: datetime
    end: datetime
    reason: str
    who: str
