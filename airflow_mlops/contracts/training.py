"""Records of a training: its snapshot, its spec, its signature, how far it is, what came out."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Literal

from pydantic import Field

from airflow_mlops.contracts.data import Exclusion
from airflow_mlops.contracts.record import Record, content_hash

SplitName = Literal["train", "validation", "test"]


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
    without_slices: dict[str, tuple[str, ...]] = Field(
        default_factory=dict, description="column → values, as text, of the rows that only this training set leaves out"
    )
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
        for name in ("label_known_at", "problem", "classes", "heads", "weight", "group", "without_slices"):
            if told.get(name) == Snapshot.model_fields[name].default or not told.get(name):
                told.pop(name, None)
        for split in told.get("splits", {}).values():
            for name in ("labels", "heads"):
                if not split[name]:
                    del split[name]
        return told


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
    experimental: bool = Field(default=False, description="to try something: what comes out is never registered")

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
        for name in ("golden", "environment", "fit", "script", "args", "python", "transform", "experimental"):
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
    usage: dict[str, float] = Field(
        default_factory=dict, description="what it uses of its machine now: see airflow_mlops.engine.devices.usage"
    )

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
    packages_hash: str = Field(default="", description="of all installed packages and their versions")
    image: str = Field(default="", description="container image that it ran in, as MLOPS_IMAGE names it")
