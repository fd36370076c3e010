"""The typed records that pass between the parts: what each says, and nothing else.

Every record is frozen, refuses unknown fields, and travels as JSON (``to_json`` / ``from_json``). Times are
timezone-aware UTC. Paths are strings, local or URI. The rules that go with each record are in
``docs/contracts.md``.
"""

from __future__ import annotations

import hashlib
import json
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Severity = Literal["info", "warn", "block"]
SplitName = Literal["train", "validation", "test"]


def content_hash(value: Any) -> str:
    """Return the SHA-256 hex digest of a JSON-able value, independent of the order of its keys."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(canonical.encode()).hexdigest()


class Record(BaseModel):
    """A frozen JSON record."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=True, ser_json_inf_nan="constants")

    def to_json(self) -> str:
        """Return the record as indented JSON text."""
        return self.model_dump_json(indent=2)

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read a record back. Raises ``pydantic.ValidationError`` on anything unknown or missing."""
        return cls.model_validate_json(text)


# --- data -------------------------------------------------------------------------------------------------


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


ColumnKind = Literal["number", "time", "category", "boolean", "other"]


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


class SplitRule(Record):
    """How rows are split: by time alone, or by the hash of ``column`` so that each of its values is on one side.

    With ``kind="entity"``, the test split is the hash range ``[0, test)`` and validation ``[test, test + validation)``,
    both as shares of 1; ``salt`` makes another draw.
    """

    kind: Literal["time", "entity"] = "time"
    column: str | None = None
    validation: float | None = None
    test: float | None = None
    salt: str = ""


class Target(Record):
    """What is predicted of one label: its problem type, and its classes in the order of the probabilities."""

    problem: str = Field(description="problem type: see airflow_mlops.problems")
    classes: tuple[str, ...] = ()


class HeadRows(Record):
    """The rows of a split in which the label of a head is known; ``positives`` and ``labels`` as of the split."""

    rows: int
    positives: int = 0
    labels: dict[str, float] = Field(default_factory=dict)


class Split(Record):
    """One split of a snapshot: rows of prediction times in ``[start, end)``."""

    file: str
    sha256: str
    rows: int
    positives: int
    start: datetime
    end: datetime
    labels: dict[str, float] = Field(
        default_factory=dict, description="rows of each class, or mean, std, min, max of numbers; of truths: positives"
    )
    heads: dict[str, HeadRows] = Field(default_factory=dict, description="further label → the rows that have it")


class Snapshot(Record):
    """A training set, frozen: what went in, as known when, and how it was split. ``id`` hashes all of it."""

    id: str
    uri: str
    model: str
    partitions: dict[str, dict[str, str]] = Field(description="dataset → partition key → revision")
    feature_service: str
    feature_project: str = Field(default="", description="Feast project of the service")
    feature_definition: str = Field(default="", description="what the service meant: see FeatureRepo.definition_hash")
    feature_code: dict[str, str] = Field(
        default_factory=dict, description="stored feature view → identity of the code that computed it"
    )
    feature_files: dict[str, dict[str, str]] = Field(
        default_factory=dict,
        description="feature view → day → revision of the file of rows that was read; no part of the id",
    )
    files: dict[str, str] = Field(
        default_factory=dict,
        description="split → where the files lay of a training set that was brought along; no part of the id",
    )
    features: dict[str, str] = Field(description="model input → Arrow type, in order")
    entity: str
    event_time: str
    label: str
    label_known_at: str = Field(default="", description="column of when a label became known; '': the event time")
    problem: str = Field(default="binary", description="problem type: see airflow_mlops.problems")
    classes: tuple[str, ...] = Field(default=(), description="of a label of classes, in the order of the probabilities")
    heads: dict[str, Target] = Field(
        default_factory=dict, description="further labels that the model predicts: column → what it is"
    )
    weight: str = Field(default="", description="column of what a row counts; '': all the same")
    group: str = Field(default="", description="column of the rows that are ranked against each other")
    as_of: datetime = Field(description="knowledge cut: nothing known later is in here")
    label_cut: datetime = Field(description="prediction times at or after this have no matured label yet")
    unlabelled_rows: int = Field(description="rows in the window whose label is unknown: left out, never negative")
    exclusions: tuple[Exclusion, ...] = ()
    excluded_rows: int = 0
    split_rule: SplitRule = SplitRule()
    splits: dict[SplitName, Split]

    @property
    def targets(self) -> dict[str, Target]:
        """All that is predicted, by column: the label, and then the heads."""
        return {self.label: Target(problem=self.problem, classes=self.classes), **self.heads}

    def told(self, exclude: Any = None) -> dict[str, Any]:
        """Return what identifies it, as JSON has it: as ids were made before some fields were part of them."""
        told = self.model_dump(mode="json", exclude=exclude)
        told.pop("files", None)  # what is in them counts
        for name in ("label_known_at", "problem", "classes", "heads", "weight", "group"):
            if told.get(name) == Snapshot.model_fields[name].default or not told.get(name):
                told.pop(name, None)
        for split in told.get("splits", {}).values():
            for name in ("labels", "heads"):
                if not split[name]:
                    del split[name]
        return told


# --- training ---------------------------------------------------------------------------------------------


class Compute(Record):
    """How a training computes, of what changes its weights; which GPU it is on does not count."""

    precision: str = Field(default="float32", description="Keras's policy: what layers compute in")
    xla: bool = False
    replicas: int = Field(default=1, description="of a worker, among which every batch is divided")
    workers: int = Field(default=1, description="processes that train together")


class TrainingSpec(Record):
    """All a trainer needs. The same spec and seed on CPU give identical weights."""

    model: str
    entrypoint: str = Field(default="", description="'package.module:function' that builds the Keras model")
    fit: str = Field(default="", description="instead: 'package.module:function' that trains the model itself")
    script: str | None = Field(default=None, description="instead: a script beside the DAG file")
    args: tuple[str, ...] = Field(default=(), description="of the script")
    python: str | None = Field(default=None, description="that runs the script; None: the worker's")
    code_path: str | None = Field(default=None, description="folder put on sys.path for the entrypoint")
    code_hash: str | None = Field(default=None, description="hash of the entrypoint's source files")
    snapshot: Snapshot
    seed: int
    epochs: int = Field(gt=0)
    batch_size: int = Field(gt=0)
    params: dict[str, Any] = Field(default_factory=dict, description="passed on to the entrypoint")
    golden: str | None = Field(
        default=None, description="'package.module:function' that returns golden inputs; None: made from the profile"
    )
    transform: str = Field(
        default="", description="'package.module:function' that the rows go through before the model; '': none"
    )
    environment: dict[str, str] = Field(
        default_factory=dict, description="package → version of what the result depends on; empty: not said"
    )
    compute: Compute = Compute()

    @property
    def wanted(self) -> str:
        """What the model takes, in words."""
        return (
            f"the columns that the transform {self.transform!r} gives" if self.transform else "the snapshot's features"
        )

    @property
    def named(self) -> str:
        """What is trained with, in words."""
        if self.fit:
            return f"fit function {self.fit!r}"
        return f"script {self.script!r}" if self.script else f"entrypoint {self.entrypoint!r}"

    @property
    def hash(self) -> str:
        """Identity of the training: where code lies and where files are written do not count."""
        told = self.model_dump(mode="json", exclude={"code_path", "snapshot"})
        told["snapshot"] = self.snapshot.told({"uri", "feature_files"})
        # As trainings were named before these were part of them: what is kept of those stays to be found.
        for name in ("golden", "environment", "fit", "script", "args", "python", "transform"):
            if not told[name]:
                del told[name]
        if self.compute == Compute():
            del told["compute"]
        return content_hash(told)


class TensorSpec(Record):
    """One input or output of a serving signature; -1 in ``shape`` is any size."""

    dtype: str
    shape: tuple[int, ...]


class Signature(Record):
    """The ``serving_default`` signature of a SavedModel."""

    inputs: dict[str, TensorSpec]
    outputs: dict[str, TensorSpec]


class TrainingProgress(Record):
    """How far a training is, that runs or ran."""

    at: datetime
    spec_hash: str
    epoch: int = Field(description="that is being made, from 1 on")
    epochs: int
    step: int = Field(description="batches of the epoch that are done")
    examples: int = Field(description="seen in all epochs")
    examples_left: int
    examples_per_second: float
    seconds_left: float | None = Field(description="if all epochs are made; None: nothing moves")
    oldest_event_time: datetime | None
    newest_event_time: datetime | None
    metrics: dict[str, float]
    history: dict[str, list[float]] = Field(description="metric → value of each epoch that is done")
    times: tuple[float, ...] = Field(description="when each ended, in seconds since 1970; empty: not known")

    def __str__(self) -> str:
        left = "" if self.seconds_left is None else f", {timedelta(seconds=round(self.seconds_left))} left"
        values = "".join(f", {name} {value:.4f}" for name, value in self.metrics.items())
        return (
            f"epoch {self.epoch}/{self.epochs}, step {self.step}: {self.examples_per_second:,.0f} examples/s, "
            f"{self.examples_left:,} rows left{left}{values}"
        )


class TrainingResult(Record):
    """What came out of a training: a SavedModel and the record of how it went."""

    spec_hash: str
    snapshot_id: str
    saved_model: str = Field(description="folder of the exported SavedModel")
    signature: Signature
    history: dict[str, list[float]] = Field(description="Keras history: metric → value per epoch")
    examples: int
    seconds: float
    examples_per_second: float
    oldest_event_time: datetime
    newest_event_time: datetime
    hardware: str
    versions: dict[str, str]
    started: datetime | None = Field(default=None, description="in the first try")
    ended: datetime | None = None
    times: tuple[float, ...] = Field(default=(), description="when each epoch ended, in seconds since 1970")
    resources: dict[str, float] = Field(default_factory=dict, description="what it took, such as cpu_seconds")


class ModelManifest(Record):
    """Where a model comes from. Logged to MLflow and packed into the SavedModel (``assets.extra/``)."""

    model: str
    snapshot_id: str
    spec_hash: str
    seed: int
    feature_service: str
    feature_project: str = ""
    feature_definition: str = ""
    feature_code: dict[str, str] = Field(default_factory=dict)
    signature: Signature
    code_version: str = Field(description="git sha of the code path, or 'unknown'")
    code_dirty: bool
    lock_hash: str | None = None
    hardware: str
    versions: dict[str, str]
    classes: tuple[str, ...] = Field(default=(), description="in the order of the probabilities")
    heads: dict[str, Target] = Field(default_factory=dict, description="further labels that it predicts")
    transform: str = Field(default="", description="what the features go through before the model is asked")
    parent_version: str | None = Field(default=None, description="champion when this was trained")
    triggered_by: str


# --- evaluation -------------------------------------------------------------------------------------------


class EvaluatedHead(Record):
    """A further label that was predicted: its problem type, and in how many of the rows it is known."""

    problem: str
    rows: int


class Evaluation(Record):
    """Metrics of one or more models on the same test split.

    ``metrics`` is model role (``challenger``, ``champion``, ``baseline``) → metric → value; ``slices`` is
    column → slice value → ``{"n": ..., metric: value}`` of the challenger. Those of a head are ``<head>.<metric>``, and
    ``<head>.n`` are the rows of a slice in which its label is known. A champion has none of a head that it lacks.
    """

    snapshot_id: str
    split: SplitName
    rows: int
    metrics: dict[str, dict[str, float]]
    slices: dict[str, dict[str, dict[str, float]]] = Field(default_factory=dict)
    champion_version: str | None = None
    unevaluated: dict[str, str] = Field(default_factory=dict, description="role → why it could not be scored")
    problem: str = Field(default="binary", description="problem type: says what the metrics are")
    heads: dict[str, EvaluatedHead] = Field(default_factory=dict, description="further labels that were predicted")

    def told(self) -> dict[str, Any]:
        """Return what a verdict on it depends on, as JSON has it: as verdicts were made before there were types."""
        told = self.model_dump(mode="json", exclude={"problem"} if self.problem == "binary" else None)
        if not self.heads:
            del told["heads"]
        return told


class VerdictStatus(StrEnum):
    """Only ``PASS`` promotes."""

    PASS = "PASS"
    FAIL = "FAIL"
    NOT_EVALUATED = "NOT_EVALUATED"


class GateCheck(Record):
    """One gate on one metric (and slice): what was seen, what was asked."""

    gate: str
    passed: bool
    metric: str
    observed: float | None
    bound: float | None
    slice: str | None = None
    n: int | None = None
    reason: str


class Verdict(Record):
    """The judgement on a challenger. Repeating it on the same inputs (``inputs_hash``) repeats it."""

    model: str
    status: VerdictStatus
    checks: tuple[GateCheck, ...]
    inputs_hash: str


# --- training and serving alike ---------------------------------------------------------------------------


class FeatureParity(Record):
    """One feature of the sampled entities: as it is served, held against as it would be trained on.

    ``differing`` are values of the right type further apart than ``tolerance``; ``wrong_type`` values of another type
    than the feature has, such as whole numbers where training sees floats. A value that both sides lack is alike, and
    not ``compared``.
    """

    feature: str
    view: str
    compared: int = Field(description="entities for which both sides have a value")
    differing: int = 0
    missing_online: int = 0
    missing_offline: int = 0
    wrong_type: int = 0
    tolerance: float = Field(description="largest absolute difference allowed; floats have a relative one besides")
    largest: float | None = Field(default=None, description="largest difference of two numbers")
    types: tuple[str, ...] = Field(default=(), description="what was served of another type than the feature has")
    examples: tuple[str, ...] = Field(
        default=(), description="ids of entities that are not alike, only when they were asked for"
    )

    @property
    def unlike(self) -> int:
        """Entities whose values are not alike."""
        return self.differing + self.missing_online + self.missing_offline + self.wrong_type


class ParityReport(Record):
    """Whether a feature service answers online what it would have answered in training: ``PASS`` alone promotes.

    A sample without rows, or a feature view of which nothing could be compared, is ``NOT_EVALUATED``.
    """

    project: str
    service: str
    definition: str = Field(description="what the service means: see FeatureRepo.definition_hash")
    sample: str = Field(description="where the entities are from")
    rows: int
    seed: int
    moments: dict[str, datetime] = Field(description="feature view → moment at which both sides were read")
    max_unlike: float = Field(description="largest share of entities of which a feature may be unlike")
    features: tuple[FeatureParity, ...]
    status: VerdictStatus
    reason: str = ""

    @property
    def failed(self) -> tuple[FeatureParity, ...]:
        """The features that are unlike for too many entities, worst first."""
        beyond = [one for one in self.features if one.unlike > self.max_unlike * self.rows]
        return tuple(sorted(beyond, key=lambda one: -one.unlike))


# --- registry and serving ---------------------------------------------------------------------------------


class RegisteredModel(Record):
    """A version in the MLflow registry."""

    model: str
    version: str
    run_id: str
    experiment_id: str
    source: str
    alias: str | None = None


class Pin(Record):
    """A version that goes on serving, whatever else passes its gates: who said so, why, and until when."""

    version: int
    who: str
    reason: str
    at: datetime
    until: datetime | None = Field(default=None, description="None: until it is lifted")

    def holds(self, now: datetime) -> bool:
        """Whether the pin has not run out."""
        return self.until is None or now < self.until

    def __str__(self) -> str:
        until = "until it is lifted" if self.until is None else f"until {self.until:%Y-%m-%d %H:%M} UTC"
        return f"version {self.version} is pinned by {self.who} {until}: {self.reason}"


class Deployment(Record):
    """Desired state of one model on one server: what is loaded, where the label ``stable`` points, what is pinned."""

    server: str
    model: str
    stable: int | None = None
    previous: int | None = Field(default=None, description="version that the label pointed to before")
    good: tuple[int, ...] = Field(
        default=(), description="other versions that served and were not rolled back, the last one first"
    )
    loaded: tuple[int, ...] = ()
    rolled_back: tuple[int, ...] = Field(
        default=(), description="versions that rollbacks took out: they stay out until one is asked for by number"
    )
    asked: tuple[int, ...] = Field(
        default=(), description="versions that somebody asked for by number, until they serve or a rollback takes over"
    )
    pin: Pin | None = None
    reason: str = ""

    @model_validator(mode="before")
    @classmethod
    def _as_once_written(cls, value: Any) -> Any:
        """Read what was written when only the last rollback was kept, and only one version to go back to."""
        if isinstance(value, dict) and not isinstance(value.get("rolled_back", ()), (list, tuple)):
            out, previous = value["rolled_back"], value.get("previous")
            good = [] if previous in (None, out) else [previous]
            return {"good": good, **value, "rolled_back": [] if out is None else [out]}
        return value
