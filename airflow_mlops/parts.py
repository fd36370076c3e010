"""The pieces of a :class:`~airflow_mlops.pipeline.ModelPipeline` beside its feeds: strict, and with errors in words.

Nothing here imports Airflow or a machine-learning library.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from airflow_mlops.durations import parse_duration
from airflow_mlops.exceptions import ConfigError, did_you_mean
from airflow_mlops.feeds import Checks, Feed
from airflow_mlops.launchers import Launcher, launcher_of
from airflow_mlops.problems import METRICS, check_groups, head_of, of_head
from airflow_mlops.resources import GPU, Resources
from airflow_mlops.typed import Duration, Entrypoint, Name, SuiteName, part

STALL_TIMEOUT = "30m"
"""How long a training may stand still, where nobody says."""


@part
class Label:
    """What is to be predicted. It is known later than the entity: in a feed of its own, or in a later column.

    :param column: Column of true and false, of classes, or of numbers; null means unknown, which is never read as
        negative.
    :param problem: ``binary``, ``multiclass``, ``regression`` or ``ranking``. By default it follows from the column:
        truth values, and the numbers 0 and 1, are binary, texts are classes, floats a regression. Of other whole
        numbers it must be said.
    :param heads: Further labels that the same model predicts: column of the same feed → problem type, empty where it
        follows from the column. They are known when the label is. A row in which one is null counts nothing for it.
    :param weight: Column of the pipeline's source of what a row counts, in training and in evaluation.
    :param group: Column of the pipeline's source of the rows that are ranked against each other, for ``ranking``.
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
    source: Feed | None = None
    matures_after: Duration = "1d"
    known_at: str = ""
    min_joined: Annotated[float, Field(ge=0, le=1)] | None = None
    max_join_drop: Annotated[float, Field(ge=0, le=1)] = 0.4
    problem: str = ""
    weight: str = ""
    group: str = ""
    heads: Mapping[Name, str] = Field(default_factory=dict)

    def __post_init__(self) -> None:
        said = f"Label({self.column!r}, problem={self.problem!r}, group={self.group!r})"
        check_groups([self.problem, *self.heads.values()], self.group, said)
        if self.source is None and not self.known_at:
            raise ConfigError(
                f"Nothing says since when the label {self.column!r} is known.",
                detail="source=None, known_at=''",
                hint="Name the feed that carries it with source=Partitions(...); or, where it is a column of the "
                'pipeline\'s source, the column of times with known_at="decided_at".',
            )

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of all that is predicted: the label, and then the heads."""
        return (self.column, *self.heads)


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
    sources: Sequence[Feed] = ()
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
    :param fit: Instead of it: ``module:function`` that trains the model itself, ``fit(data, spec, report)``; see
        :mod:`airflow_mlops.engine.training.fit`.
    :param script: Instead of both: a script beside the DAG file, of any framework that exports a SavedModel.
    :param args: Arguments of the script.
    :param python: Python that runs the script; default is that of the worker.
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
    :param stall_timeout: How long it may stand still; five times its longest pause so far, if that is more.
    :param max_cost: What a training may cost in all its tries, in the currency of option ``[mlops] price_per_hour`` of
        the workers: then it is stopped, once it has saved.
    :param min_rows_share: Smallest share of the rows of the model's last training that is trained on, such as 0.5. By
        default they are not compared.
    :param checkpoint_every: How often a model function's training is saved. By default as seldom as that takes a
        fiftieth of the time at most.
    :param checkpoint_epochs: Likewise, after so many epochs each.
    :param tensorboard: Whether logs for TensorBoard go with the model to MLflow: those of a model function, or what a
        fit function or a script writes to the folder that it is told.
    :param params: Handed to ``entrypoint``; a fit function finds them in ``spec.params``.
    :param golden: ``module:function`` of rows that may leave the data, to be predicted and packed into the model as its
        golden predictions; it is given the test split's inputs and returns such columns. By default they are made up
        from the profile of the training split, and are nobody's.
    :param transform: ``module:function`` that every row goes through before the model sees it, in training and wherever
        the model is asked; it is shipped with the model. Not that of :class:`FeatureService`, which computes features.
    :param resources: Where ``train`` and ``evaluate`` run; or the GPUs of ``train``, such as ``GPU(1)``.
    :param launcher: Where a training runs: ``local`` in a child process of the worker, ``kubernetes`` in a pod,
        ``sagemaker`` or ``batch`` as a job of AWS; or one with settings, such as ``Kubernetes(image=...)``.
    """

    entrypoint: Entrypoint | None = None
    window: Duration = ""
    fit: Entrypoint | None = None
    script: str = ""
    args: Sequence[str] = ()
    python: str = ""
    validation: Duration = "7d"
    test: Duration = "7d"
    split: Literal["time", "entity"] = "time"
    split_column: str | None = None
    epochs: Annotated[int, Field(gt=0)] = 10
    batch_size: Annotated[int, Field(gt=0)] = 1024
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    timeout: Duration = "2h"
    stall_timeout: Duration = STALL_TIMEOUT
    max_cost: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    min_rows_share: Annotated[float, Field(gt=0, le=1)] | None = None
    checkpoint_every: Duration | None = None
    checkpoint_epochs: Annotated[int, Field(ge=1)] | None = None
    tensorboard: bool = False
    params: dict[str, Any] = Field(default_factory=dict)
    golden: Entrypoint | None = None
    transform: Entrypoint | None = None
    resources: GPU | Resources = Field(default_factory=Resources)
    launcher: Launcher | str = "local"

    def __post_init__(self) -> None:
        launcher_of(self.launcher)
        if sum(map(bool, (self.entrypoint, self.fit, self.script))) != 1:
            raise ConfigError(
                "Trainer(...) needs an entrypoint, a fit function or a script, and one of them only.",
                detail=f"entrypoint={self.entrypoint!r}, fit={self.fit!r}, script={self.script!r}",
                hint='Name the function that builds the model, Trainer("code:build"); or one that trains it, '
                'fit="code:fit"; or a script, script="train.py".',
            )
        if not self.window:
            raise ConfigError("Trainer(...) has no window.", hint='Say how much history to train on: window="60d".')
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
        if isinstance(self.resources, GPU) and self.resources.workers > 1 and not self.fit:
            raise ConfigError(
                f"Only a fit function trains in {self.resources.workers} processes.",
                detail=f"entrypoint={self.entrypoint!r}, script={self.script!r}, workers={self.resources.workers}",
                hint='Write one, fit="code:fit", with a loop under tf.distribute.MultiWorkerMirroredStrategy(); or '
                "train in one process: GPU(2).",
            )
        try:
            json.dumps(self.params, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ConfigError(
                "Trainer(params=...) cannot be written down as JSON.",
                detail=f"{error}",
                hint="Give numbers, texts, truth values, lists and dictionaries; your function makes the rest of them.",
            ) from None
        self._check_times()

    def _check_times(self) -> None:
        """Refuse spans of time that can never come to pass within the timeout."""
        timeout = parse_duration(self.timeout)
        if (self.checkpoint_every or self.checkpoint_epochs) and not self.entrypoint:
            given = "checkpoint_every" if self.checkpoint_every else "checkpoint_epochs"
            raise ConfigError(
                f"Trainer({given}={getattr(self, given)!r}) is for a model function.",
                detail=f"fit={self.fit!r}, script={self.script!r}",
                hint="A fit function or a script saves when it likes, in its folder of checkpoints: leave it out.",
            )
        if self.checkpoint_every and parse_duration(self.checkpoint_every) >= timeout:
            raise ConfigError(
                "The training would be stopped before its first checkpoint.",
                detail=f"timeout={self.timeout}, checkpoint_every={self.checkpoint_every}",
                hint="Save more often, or raise the timeout.",
            )
        if self.stall_timeout != STALL_TIMEOUT and parse_duration(self.stall_timeout) >= timeout:
            raise ConfigError(
                "The training would be stopped before it can have stood still so long.",
                detail=f"timeout={self.timeout}, stall_timeout={self.stall_timeout}",
                hint="Shorten stall_timeout, or raise the timeout.",
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


@part
class Gate:
    """One condition on a metric of the test split. All gates must pass.

    :param metric: One of the problem type's: ``auc``, ``log_loss``, ``brier``, ``accuracy`` where the label is true or
        false; see :mod:`airflow_mlops.problems` for the others. Of a head ``<head>.<metric>``, such as ``refund.rmse``.
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
        known = [of_head(head_of(self.metric), metric) for metric in METRICS]
        if self.metric not in known:
            raise ConfigError(
                f"Gate on an unknown metric {self.metric!r}.{did_you_mean(self.metric, known)}",
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
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ConfigError(
                f"No model ever passes Gate({self.metric!r}).",
                detail=f"min={self.min} is more than max={self.max}",
                hint="Swap them, or leave one out.",
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
    :param code: Of which code a version may be that is deployed: ``any``, or only what is in a commit of git.
    """

    server: str = "tf_serving_default"
    tolerance: Annotated[float, Field(ge=0)] = 1e-5
    timeout: Duration = "10m"
    resources: Resources = Field(default_factory=Resources)
    keep: Annotated[int, Field(gt=0)] = 3
    signature_changes: Literal["refuse", "additive", "any"] = "refuse"
    code: Literal["any", "committed"] = "any"
