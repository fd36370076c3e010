"""Records of a model: its manifest, evaluation, verdict, registration and deployment."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from pydantic import Field, model_validator

from airflow_mlops.contracts.record import Record
from airflow_mlops.contracts.training import Signature, SplitName, Target


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
    packages_hash: str = Field(default="", description="of all packages that were installed where it trained")
    image: str = Field(default="", description="container image that it trained in")
    classes: tuple[str, ...] = Field(default=(), description="in the order of the probabilities")
    heads: dict[str, Target] = Field(default_factory=dict, description="further labels that it predicts")
    transform: str = Field(default="", description="what the features go through before the model is asked")
    parent_version: str | None = Field(default=None, description="champion when this was trained")
    triggered_by: str
    trigger: str = Field(default="", description="what asked for the training, in words")
    special: dict[str, Any] = Field(default_factory=dict, description="what of the training was other than usual")


class EvaluatedHead(Record):
    """A further label that was predicted: its problem type, and in how many of the rows it is known."""

    problem: str
    rows: int


class Predicted(Record):
    """Mean and standard deviation of numbers, one a test row: what a model predicted, or the labels themselves."""

    mean: float
    std: float


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
    predicted: dict[str, dict[str, Predicted]] = Field(
        default_factory=dict, description="role, or labels → label or head of a number a row → its values"
    )

    def told(self) -> dict[str, Any]:
        """Return what a verdict on it depends on, as JSON has it: as verdicts were made before there were types.

        What was predicted on average decides nothing.
        """
        told = self.model_dump(mode="json", exclude={"predicted", *(["problem"] if self.problem == "binary" else [])})
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
