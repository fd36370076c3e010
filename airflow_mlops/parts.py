"""The pieces of a :class:`~airflow_mlops.pipeline.ModelPipeline`: strict, frozen, and with errors in words.

Nothing here imports Airflow or a machine-learning library.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime
from typing import Annotated, Any, Literal, TypeVar, dataclass_transform

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass as pydantic_dataclass

from airflow_mlops.durations import parse_duration
from airflow_mlops.exceptions import ConfigError, did_you_mean
from airflow_mlops.layout import FOLDER, Layout, literal
from airflow_mlops.partitioning import DAILY, Partitioning

_Part = TypeVar("_Part", bound=type)


def _is_duration(text: str) -> str:
    parse_duration(text)
    return text


def _is_entrypoint(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", text):
        raise ConfigError(
            f"{text!r} does not name a function.",
            hint="Write 'package.module:function'; the module lies beside the DAG file (a transform's may lie in the "
            "Feast repository).",
        )
    return text


def _is_suite(text: str) -> str:
    """A suite is a function, or a file as Great Expectations writes it."""
    return text if text.endswith(".json") else _is_entrypoint(text)


def _is_name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z]\w*", text):
        raise ConfigError(
            f"{text!r} cannot be a name.",
            hint="Start with a letter and use letters, digits and '_' only: it becomes part of DAG ids and paths.",
        )
    return text


Duration = Annotated[str, AfterValidator(_is_duration)]
Entrypoint = Annotated[str, AfterValidator(_is_entrypoint)]
SuiteName = Annotated[str, AfterValidator(_is_suite)]
Name = Annotated[str, AfterValidator(_is_name)]
Cut = Annotated[Partitioning, BeforeValidator(lambda given: Partitioning.parse(given) if type(given) is str else given)]


def _explain(cls: type, error: ValidationError) -> ConfigError:
    """Turn pydantic's report into one error per config, with the nearest known key."""
    known = list(cls.__dataclass_fields__)  # type: ignore[attr-defined]
    lines, hints = [], []
    problems = error.errors(include_url=False)
    problems.sort(key=lambda problem: problem["type"] != "unexpected_keyword_argument")
    for problem in problems:
        where = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "unexpected_keyword_argument":
            lines.append(f"unknown key {where!r}.{did_you_mean(where, known)}")
            hints.append(f"{cls.__name__} knows: {', '.join(known)}.")
        elif problem["type"] in ("missing", "missing_argument"):
            lines.append(f"{where!r} is missing")
        elif problem["type"] == "sequence_str":
            lines.append(f"{where!r} is a list: write [{problem['input']!r}]")
        else:
            lines.append(f"{where}: {problem['msg']} (got {problem['input']!r})")
    return ConfigError(
        f"{cls.__name__}(...) is not valid: {lines[0]}",
        detail="; ".join(lines[1:]),
        hint=" ".join(dict.fromkeys(hints)) or f"See help({cls.__name__}).",
    )


@dataclass_transform(frozen_default=True, field_specifiers=(Field,))
def part(cls: _Part) -> _Part:
    """Make a class a strict, frozen, typed piece of configuration that explains its errors."""
    made = pydantic_dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True))(cls)
    validate: Callable[..., None] = made.__init__

    @functools.wraps(validate)
    def explained(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            validate(self, *args, **kwargs)
        except ValidationError as error:
            raise _explain(cls, error) from None

    made.__init__ = explained  # type: ignore[method-assign]
    return made  # type: ignore[return-value]


@part
class Resources:
    """Where and how Airflow runs the tasks of a stage, in Airflow's own words; what is left out stays as it is.

    :param queue: Queue of the executor, such as one whose workers have a GPU.
    :param pool: Pool that limits how many run at once.
    :param pool_slots: How many slots of the pool one takes.
    :param priority_weight: Which task goes first when slots are scarce.
    :param retries: How often a task is tried again after an error that may pass.
    :param executor: Executor, where several are configured.
    :param executor_config: For the executor, such as ``{"pod_override": V1Pod(...)}``.
    """

    queue: str | None = None
    pool: str | None = None
    pool_slots: Annotated[int, Field(gt=0)] | None = None
    priority_weight: int | None = None
    retries: Annotated[int, Field(ge=0)] | None = None
    executor: str | None = None
    executor_config: Mapping[str, Any] | None = None

    def as_arguments(self) -> dict[str, Any]:
        """Return what was given, as arguments of an operator."""
        return {name: value for name, value in vars(self).items() if value is not None}


@part
class Checks:
    """What a day is held against besides its suite: its own history of valid days, and rules across columns.

    :param slices: Columns whose every value must keep its usual share of rows; one that vanishes is noticed.
    :param label: Boolean column whose rate of positives, in all and in each slice, must stay near its usual one.
    :param unique: Columns that together identify a row; repeated rows are counted.
    :param identifiers: Columns that may be nearly unique. Any other nearly unique column is a privacy finding.
    :param volatile: Columns of numbers that differ too much from day to day to be held against earlier days, such as
        the weather's: neither their level nor their unit is judged. The suite and the invariants still are.
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
class Partitions:
    """A source that lands files a partition at a time: by default ``<uri>/2013-01-15/*`` and, last, ``_SUCCESS``.

    Readable are Parquet, CSV, JSON lines and ORC, compressed or not.

    :param uri: Where the upstream lands them; a relative path starts at ``[mlops] home``.
    :param event_time: Column whose times must lie within the partition.
    :param suite: ``module:function`` that returns the Great Expectations list a partition must meet; or a JSON file as
        Great Expectations writes it, its path from the folder of the DAG file.
    :param start: First day there is, in the zone of ``partitioning``.
    :param end: Last day there is, for a source that has ended.
    :param partitioning: How time is cut: ``daily`` in UTC, or ``Partitioning("hourly", "America/New_York")``.
    :param layout: Where a partition lies below ``uri``: ``dt={key}/*.parquet``, ``{year}/{month:02}/{day:02}/*.csv``;
        see :class:`~airflow_mlops.layout.Layout`.
    :param arrived: What tells that a partition is complete: ``marker``, ``manifest``, ``still`` (its files have not
        changed for ``still_for``), or ``event``, of the upstream's ``asset``. By default a marker where a partition has
        a folder of its own, else ``still``.
    :param marker: Name of the file that the upstream writes last, in the partition's folder; or of its manifest.
    :param still_for: See ``arrived``.
    :param asset: Name of the asset that an upstream DAG writes, for ``arrived="event"``: an event with the partition's
        key, or one without a key from after its end.
    :param naive_times: Zone of times without one; default is that of ``partitioning``.
    :param reader: Options of DuckDB's ``read_csv`` or ``read_json``: ``{"delim": ";", "encoding": "latin-1"}``.
    :param may_be_empty: Whether a partition without a row is no fault, as in the hours of a night.
    :param dataset: Name of the sealed dataset; default is the last part of ``uri``.
    :param lands_within: The source's promise: how long after the end of its day a partition may still land.
    :param checks: What a day is held against besides its suite.
    :param resources: Where its ``stage``, ``validate``, ``check`` and ``seal`` run.
    """

    uri: str
    event_time: str
    suite: SuiteName
    start: date
    end: date | None = None
    partitioning: Cut = DAILY
    layout: str = FOLDER
    arrived: Literal["marker", "manifest", "still", "event"] | None = None
    marker: str = ""
    still_for: Duration = "5m"
    asset: str = ""
    naive_times: str = ""
    reader: Mapping[str, Any] = Field(default_factory=dict)
    may_be_empty: bool = False
    dataset: Name = ""
    lands_within: Duration | None = None
    checks: Checks = Field(default_factory=Checks)
    resources: Resources = Field(default_factory=Resources)

    def __post_init__(self) -> None:
        pattern = Layout(self.layout).of(self.partitioning.key(self.starts_at), self.partitioning)
        if self.naive_times:
            Partitioning("daily", self.naive_times)
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
        if not self.dataset:
            object.__setattr__(self, "dataset", _is_name(self.uri.rstrip("/").rsplit("/", 1)[-1]))
        if self.end is not None and self.end < self.start:
            raise ConfigError(
                f"Partitions of {self.dataset!r} end before they start.",
                detail=f"start={self.start}, end={self.end}",
                hint="Swap them.",
            )

    def asked(self) -> dict[str, Any]:
        """Return what a look for a partition asks for, in the words of ``PartitionArrivalSensor``."""
        return {
            "marker": (self.marker or "_SUCCESS") if self.arrived == "marker" else None,
            "manifest": self.marker if self.arrived == "manifest" else None,
            "settle": self.still_for if self.arrived == "still" else None,
            "asset": self.asset or None,
        }

    @property
    def starts_at(self) -> datetime:
        """When the first partition begins, in UTC."""
        return self.partitioning.first(self.start)

    @property
    def ends_at(self) -> datetime | None:
        """When the last partition ends, in UTC, of a source that has ended."""
        return None if self.end is None else self.partitioning.after(self.end)


@part
class Label:
    """What is to be predicted. It is known later than the entity: in a feed of its own, or in a later column.

    :param column: Boolean column; null means unknown, which is never read as negative.
    :param source: The feed that carries it. It must have the pipeline's ``entity`` column. None: the pipeline's source
        carries it itself, and ``known_at`` says since when.
    :param matures_after: How long after the prediction time a label can still come.
    :param known_at: Column with the moment at which the label became known, for one of the pipeline's source: it counts
        from then on, and not before.
    :param min_joined: Smallest share of the matured rows that must find their label; None: only the change is judged.
    :param max_join_drop: Share of the model's usual joins that may be missing, in all, in every seven days, and in each
        value of the ``checks.slices`` of the pipeline's source.
    """

    column: str
    source: Partitions | None = None
    matures_after: Duration = "1d"
    known_at: str = ""
    min_joined: Annotated[float, Field(ge=0, le=1)] | None = None
    max_join_drop: Annotated[float, Field(ge=0, le=1)] = 0.4

    def __post_init__(self) -> None:
        if self.source is None and not self.known_at:
            raise ConfigError(
                f"Nothing says since when the label {self.column!r} is known.",
                detail="source=None, known_at=''",
                hint="Name the feed that carries it with source=Partitions(...); or, where it is a column of the "
                'pipeline\'s source, the column of times with known_at="decided_at".',
            )


@part
class Reconcile:
    """Two feeds that tell of the same things: each row of ``left``'s day must find its partner in ``right``.

    :param left: Dataset whose day is judged.
    :param right: Dataset of the partners.
    :param on: Columns of both that make a pair.
    :param back: How far before the day a partner may lie; begun days count as whole days. By default on the day only.
    :param min_match: Smallest share of the rows of ``left`` that have a partner.
    :param max_unmatched_right: Largest share of the rows of ``right`` without one; by default they are not counted.
    :param compare: Column of both → largest difference of its sums over matched keys, as a share of ``left``'s.
    :param by: Column of ``left`` in whose every value those sums must agree.
    """

    left: Name
    right: Name
    on: Annotated[Sequence[str], Field(min_length=1)]
    back: Duration | None = None
    min_match: Annotated[float, Field(ge=0, le=1)] = 0.95
    max_unmatched_right: Annotated[float, Field(ge=0, le=1)] | None = None
    compare: Mapping[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] = Field(default_factory=dict)
    by: str | None = None


@part
class Rows:
    """How many rows a transform makes of a feed's day: what comes in comes out, or is rejected for a reason.

    :param view: Feature view.
    :param dataset: Feed whose rows of the day come in.
    :param rejected: Reason → SQL expression over the feed's columns that is true of the rows left out for it. A row
        counts for the first reason that holds.
    :param ratio: Rows out for each row that is not rejected: 1 for one each, 0.3 for a sample of 30 %.
    :param tolerance: Largest deviation that passes, as a share of the rows expected.
    """

    view: str
    dataset: Name
    rejected: Mapping[str, str] = Field(default_factory=dict)
    ratio: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    tolerance: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0


@part
class FeatureService:
    """The features of the model: a Feast feature service and the code that computes its rows.

    :param name: Feature service in the Feast registry.
    :param transform: ``module:function``, beside the DAG file or in the Feast repository, that computes the feature
        views' rows of one day from the sealed partitions.
    :param suite: ``module:function`` with the expectations that a training snapshot must meet.
    :param view_suites: Feature view → ``module:function`` with the expectations that each day's computed rows must meet
        before any of them is written. Such a view is held against its own earlier days too.
    :param view_checks: Feature view → how it is held against its earlier days, where the defaults do not fit.
    :param rows: Feature views whose number of rows follows from that of a feed.
    :param keys: Join keys that are themselves inputs of the model.
    :param sources: Further feeds that ``transform`` reads, beside the pipeline's source and the label's.
    :param history: How far back ``transform`` looks.
    :param max_age: How old the newest feature readable online may be; a view's tag ``max_age`` says it for the view.
    :param parity_sample: Of how many entities, before a promotion, what is served is held against what training reads.
    :param conn_id: Airflow connection of type ``feast``.
    :param resources: Where ``compute_features``, ``materialize`` and the ``snapshot`` of a training run.
    """

    name: Name
    transform: Entrypoint
    suite: SuiteName
    view_suites: Mapping[str, SuiteName] = Field(default_factory=dict)
    view_checks: Mapping[str, Checks] = Field(default_factory=dict)
    rows: Sequence[Rows] = ()
    keys: Sequence[str] = ()
    sources: Sequence[Partitions] = ()
    history: Duration = "7d"
    max_age: Duration = "26h"
    parity_sample: Annotated[int, Field(gt=0)] = 200
    conn_id: str = "feast_default"
    resources: Resources = Field(default_factory=Resources)

    def __post_init__(self) -> None:
        for view, checks in self.view_checks.items():
            if checks.label is not None or checks.contract is not None:
                raise ConfigError(
                    f"The checks of feature view {view!r} name a label or a contract.",
                    detail=f"label={checks.label!r}, contract={checks.contract!r}",
                    hint="Computed rows have no label, and their contract is the feature repository: leave both out.",
                )


@part
class Trainer:
    """How the model is trained.

    :param entrypoint: ``module:function`` that builds the compiled Keras model.
    :param window: How much history the snapshot covers, ending where labels have matured.
    :param validation: Last part of the window before the test part: early stopping.
    :param test: Very last part of the window: evaluation only.
    :param split: ``time`` splits by prediction time; ``entity`` by the hash of ``split_column``, so that none of its
        values is on two sides, with the shares that ``validation`` and ``test`` have of the window.
    :param split_column: Column of the source to split by, for ``split="entity"``.
    :param epochs: Most passes over the training split.
    :param batch_size: Rows a step.
    :param seed: Seed of everything random.
    :param timeout: How long a training may take.
    :param params: Handed to ``entrypoint``.
    :param golden: ``module:function`` of rows that may leave the data, to be predicted and packed into the model as its
        golden predictions; it is given the test split's inputs and returns such columns. By default they are made up
        from the profile of the training split, and are nobody's.
    :param resources: Where ``train`` and ``evaluate`` run.
    """

    entrypoint: Entrypoint
    window: Duration
    validation: Duration = "7d"
    test: Duration = "7d"
    split: Literal["time", "entity"] = "time"
    split_column: str | None = None
    epochs: Annotated[int, Field(gt=0)] = 10
    batch_size: Annotated[int, Field(gt=0)] = 1024
    seed: Annotated[int, Field(ge=0)] = 0
    timeout: Duration = "2h"
    params: dict[str, Any] = Field(default_factory=dict)
    golden: Entrypoint | None = None
    resources: Resources = Field(default_factory=Resources)

    def __post_init__(self) -> None:
        if parse_duration(self.validation) + parse_duration(self.test) >= parse_duration(self.window):
            raise ConfigError(
                "The window leaves nothing to train on.",
                detail=f"window={self.window}, validation={self.validation}, test={self.test}",
                hint="Widen the window, or shorten validation and test.",
            )
        if (self.split == "entity") != (self.split_column is not None):
            raise ConfigError(
                f"Trainer(split={self.split!r}, split_column={self.split_column!r}) does not say one clear thing.",
                hint="Name the column to split by with split='entity', and none with split='time'.",
            )


@part
class Slice:
    """The values of one model input, judged one by one.

    :param column: Model input to slice by.
    :param min_n: Slices with fewer test rows are not judged: they would be noise. Values of fewer than ten rows are one
        slice together.
    """

    column: str
    min_n: Annotated[int, Field(gt=0)] = 500


METRICS = ("auc", "log_loss", "brier", "accuracy")
LOWER_IS_BETTER = frozenset({"log_loss", "brier"})


@part
class Gate:
    """One condition on a metric of the test split. All gates must pass.

    :param metric: ``auc``, ``log_loss``, ``brier`` or ``accuracy``.
    :param min: Smallest value that passes.
    :param max: Largest value that passes.
    :param vs: Compare with the ``champion`` (the version that serves) or the ``baseline``.
    :param max_drop: How much worse than ``vs`` still passes.
    :param min_gain: How much better than ``vs`` it must be.
    :param by: Judge each slice instead of the whole test split; for ``min`` and ``max``.
    """

    metric: str
    min: float | None = None
    max: float | None = None
    vs: str | None = None
    max_drop: float | None = None
    min_gain: float | None = None
    by: Slice | None = None

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise ConfigError(
                f"Gate on an unknown metric {self.metric!r}.{did_you_mean(self.metric, METRICS)}",
                hint=f"Metrics: {', '.join(METRICS)}.",
            )
        if self.vs not in (None, "champion", "baseline"):
            raise ConfigError(
                f"Gate({self.metric!r}, vs={self.vs!r}) compares with something unknown.",
                hint="vs is 'champion' or 'baseline'.",
            )
        absolute, relative = self.min is not None or self.max is not None, self.max_drop is not None
        relative = relative or self.min_gain is not None
        if absolute == relative or relative != (self.vs is not None) or (relative and self.by is not None):
            raise ConfigError(
                f"Gate({self.metric!r}) does not say one clear thing.",
                detail=f"min={self.min}, max={self.max}, vs={self.vs!r}, max_drop={self.max_drop}, "
                f"min_gain={self.min_gain}, by={self.by}",
                hint="Give min and/or max (with by= for slices), or vs with max_drop or min_gain.",
            )


@part
class Deploy:
    """Where the model serves.

    :param server: Airflow connection of type ``tf_serving``.
    :param tolerance: Largest absolute difference between a golden prediction made at training time and the
        server's answer.
    :param timeout: How long a server may take to load a version.
    :param resources: Where ``publish`` runs, which loads the model.
    :param keep: How many other versions that served well stay in the model store and can be gone back to.
    :param signature_changes: What may be different for those who call the version that serves now: nothing; new inputs
        (``additive``), which the server then demands of them; or ``any``.
    """

    server: str = "tf_serving_default"
    tolerance: Annotated[float, Field(ge=0)] = 1e-5
    timeout: Duration = "10m"
    resources: Resources = Field(default_factory=Resources)
    keep: Annotated[int, Field(gt=0)] = 3
    signature_changes: Literal["refuse", "additive", "any"] = "refuse"


@part
class Retrain:
    """When a new challenger is trained.

    :param cron: Cron expression or preset such as ``@weekly``; None trains by hand only.
    """

    cron: str | None = None
