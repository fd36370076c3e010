"""The configuration a user writes: one typed :class:`ModelPipeline` in a DAG file.

Nothing here imports Airflow or a machine-learning library: building a pipeline costs milliseconds, and
:meth:`ModelPipeline.dags` hands over to :mod:`airflow_mlops.templates`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import date
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from airflow_mlops.durations import parse_duration
from airflow_mlops.exceptions import ConfigError, did_you_mean
from airflow_mlops.feeds import Feed, Partitions
from airflow_mlops.partitioning import is_finer
from airflow_mlops.parts import (
    Deploy,
    FeatureService,
    Gate,
    Label,
    Reconcile,
    Trainer,
)
from airflow_mlops.problems import head_of, metrics_of
from airflow_mlops.retraining import Retrain
from airflow_mlops.typed import Duration, Name, part

if TYPE_CHECKING:
    from airflow.sdk import DAG

    from airflow_mlops.batch import BatchPredict
    from airflow_mlops.engine.experiment import Experiment
else:
    BatchPredict = Any  # built by those who use it: see its module

DagName = Literal[
    "features", "train", "deploy", "retrain", "runbook", "rollback", "roll_through", "exclude", "sources", "history",
    "backfill", "batch_predict",
]  # fmt: skip
"""The DAGs of a pipeline whose runs may have a deadline."""


@part
class ModelPipeline:
    """A model's whole life, from landed data to a served prediction that can be rolled back.

    :param model: Name of the model: in DAG ids, in MLflow and on the model server.
    :param source: One row an entity to predict, known before the prediction time (``source.event_time``).
    :param entity: Column that identifies a row of ``source`` and of the label's feed.
    :param label: What is predicted.
    :param features: What it is predicted from.
    :param train: How it is trained.
    :param batch: Whether each partition is predicted too, and how; None makes no DAG of it.
    :param reconcile: Feeds of the pipeline that must agree with each other, each day, before anything is computed.
    :param gates: What it must meet before it may serve; by default those of its problem type: better than the baseline,
        and not worse than what serves.
    :param deploy: Where it serves.
    :param retrain: When it is trained again, and how old what serves may become.
    :param mlflow_conn_id: Airflow connection of type ``mlflow``.
    :param ledger_conn_id: Airflow connection of type ``mlops_ledger``.
    :param tags: Extra tags of the DAGs.
    :param owner: Who answers for the model: owner of the DAGs, in the extra of the model's assets, and tag
        ``mlops.owner`` of its experiment, runs and registered model in MLflow.
    :param notify: Airflow notifiers, or functions that take a context: told of a task that failed, a partition that was
        blocked, a challenger that was rejected, a deadline that was missed and a pin that is about to run out; see
        :mod:`airflow_mlops.notifications`.
    :param deadlines: DAG → how long after it was queued a run may take before that is told: ``{"features": "5h"}``.
    """

    model: Name
    source: Feed
    entity: str
    label: Label
    features: FeatureService
    train: Trainer
    gates: Sequence[Gate] = ()
    deploy: Deploy = Field(default_factory=Deploy)
    retrain: Retrain = Field(default_factory=Retrain)
    reconcile: Sequence[Reconcile] = ()
    batch: BatchPredict | None = None
    mlflow_conn_id: str = "mlflow_default"
    ledger_conn_id: str = "mlops_ledger_default"
    tags: Sequence[str] = ()
    owner: str = ""
    notify: Sequence[Callable[..., Any]] = ()
    deadlines: Mapping[DagName, Duration] = Field(default_factory=dict)

    def __post_init__(self) -> None:
        for gate in self.gates:
            self._check_gate(gate)
        if self.label.heads:
            self._check_heads()
        if self.label.source is not None and self.source.dataset == self.label.source.dataset:
            raise ConfigError(
                f"Source and label of {self.model!r} are the same dataset {self.source.dataset!r}.",
                hint="Name another feed with Partitions(..., dataset=...); or, where the label is a column of the "
                "source itself, leave its source out and say since when it is known: Label(..., known_at=...).",
            )
        datasets = [feed.dataset for feed in self.feeds]
        if repeated := sorted({name for name in datasets if datasets.count(name) > 1}):
            raise ConfigError(
                f"Model {self.model!r} has several feeds of dataset {repeated[0]!r}.",
                detail=f"source, label and FeatureService(sources=...) are: {', '.join(datasets)}",
                hint="Leave out of sources what is the source or the label's feed already, or name the other one with "
                "Partitions(..., dataset=...).",
            )

        self._check_feeds(datasets)
        self._check_window()
        self._check_batch()
        self._check_retrain()
        if self.deadlines and not self.notify:
            raise ConfigError(
                f"Model {self.model!r} has deadlines, and nobody is told when one is missed.",
                detail=f"deadlines={dict(self.deadlines)}",
                hint="Name a notifier in notify=[...], or leave deadlines out.",
            )

    def _check_gate(self, gate: Gate) -> None:
        heads, head = self.label.heads, head_of(gate.metric)
        if head and head not in heads:
            raise ConfigError(
                f"The label of {self.model!r} has no head {head!r}.{did_you_mean(head, heads)}",
                detail=f"a gate is on {gate.metric!r}; heads: {', '.join(heads) or 'none'}",
                hint="Name one of Label(heads={...}); metrics of the label itself have no dot.",
            )
        self._check_metric(gate.metric, head, heads[head] if head else self.label.problem, "gates")

    def _check_metric(self, metric: str, head: str, problem: str, where: str) -> None:
        known = list(metrics_of({head: problem})) if problem else [metric]
        if metric not in known:
            raise ConfigError(
                f"A {problem} has no metric {metric!r}.{did_you_mean(metric, known)}",
                detail=f"{where} of {self.model!r}",
                hint=f"Metrics: {', '.join(known)}.",
            )

    def _check_retrain(self) -> None:
        """Refuse triggers that can never ask for anything, or that a training itself sets off."""
        retrain = self.retrain
        if retrain.rollup is not None:
            retrain.rollup.check(self.model, self.source.partitioning.every)
        if retrain.decay is not None:
            self._check_metric(retrain.decay[0], "", self.label.problem, "Retrain(decay=...)")
            if self.batch is None or self.label.problem == "ranking":
                raise ConfigError(
                    f"The decay of {self.model!r} cannot be measured.",
                    detail="it is that of what was predicted of each partition in time, held against its labels: of "
                    "truths, classes and numbers",
                    hint="Let each partition be predicted: ModelPipeline(batch=BatchPredict()); or leave decay out.",
                )
        own = [f"{self.model}.challenger", f"{self.model}.champion"]
        if loop := next((name for name in retrain.on_assets if name in own), None):
            raise ConfigError(
                f"A training of {self.model!r} would ask for the next one.",
                detail=f"Retrain(on_assets=[{loop!r}]): a training is what makes its events",
                hint="Leave it out.",
            )
        if retrain.max_age and parse_duration(retrain.max_age) <= parse_duration(self.label.matures_after):
            raise ConfigError(
                f"What serves {self.model!r} would be too old on the day it is trained.",
                detail=f"Retrain(max_age={retrain.max_age!r}); labels mature after {self.label.matures_after}",
                hint="A model knows nothing newer than its labels: give it more time.",
            )

    def _check_heads(self) -> None:
        """Refuse a head that is something else too: what is predicted must not be told to the model."""
        label = self.label
        others: dict[str, Sequence[str]] = {
            "the label": [label.column],
            "when it is known": [label.known_at],
            "the weight": [label.weight],
            "the group": [label.group],
            "the entity": [self.entity],
            "the event time": [self.source.event_time],
            "what is split by": [self.train.split_column or ""],
            "an input of the model, by FeatureService(keys=...),": self.features.keys,
        }
        for what, names in others.items():
            if both := [name for name in label.heads if name in names]:
                raise ConfigError(
                    f"The head {both[0]!r} of {self.model!r} is {what} too.",
                    detail=f"heads: {', '.join(label.heads)}",
                    hint="A head is a column of its own that is known only with the label: rename one of the two.",
                )

    def _check_window(self) -> None:
        """Refuse feeds that end before there is anything to train on."""
        first = self.label_feed.partitioning.first(self.begins_on)
        ends = [feed.ends_at for feed in (self.source, self.label_feed) if feed.ends_at]
        held_out = parse_duration(self.train.validation) + parse_duration(self.train.test)
        if ends and min(ends) - first <= held_out:
            raise ConfigError(
                f"The labels of {self.model!r} never reach far enough to train on anything.",
                detail=f"they are there from {first:%Y-%m-%d} to {min(ends):%Y-%m-%d}, of which the end is held out: "
                f"validation={self.train.validation}, test={self.train.test}",
                hint="Shorten validation and test in Trainer(...), or correct start= and end= of the feeds.",
            )

    def _check_batch(self) -> None:
        if self.batch is None:
            return
        from airflow_mlops.batch import BatchPredict

        if not isinstance(self.batch, BatchPredict):
            raise ConfigError(
                f"batch of {self.model!r} is {self.batch!r}.",
                hint="Write batch=BatchPredict(), or leave it out.",
            )

    def _check_feeds(self, datasets: Sequence[str]) -> None:
        for feed in self.feeds:
            if is_finer(feed.partitioning, self.source.partitioning):
                raise ConfigError(
                    f"Feed {feed.dataset!r} of {self.model!r} is cut finer than its source.",
                    detail=f"{self.source.dataset!r} is {self.source.partitioning}, {feed.dataset!r} is "
                    f"{feed.partitioning}",
                    hint="Features are computed a partition of the source at a time. Make such partitions of what "
                    f"lands: Partitions(..., partitioning={str(self.source.partitioning)!r}, "
                    f"lands={str(feed.partitioning)!r}).",
                )
        files = [feed for feed in self.feeds if isinstance(feed, Partitions)]  # one table may hold orders and outcomes
        for one, other in combinations(files, 2):
            if one.meets(other):
                raise ConfigError(
                    f"Two feeds of {self.model!r} have the same files.",
                    detail=f"{one.dataset!r} lies in {one.uri}/{one.layout}, {other.dataset!r} in {other.layout}",
                    hint="Tell them apart with layout=, such as 'orders-{key}.csv' and 'prices-{key}.csv'.",
                )
        pairs = [(pair.left, pair.right) for pair in self.reconcile]
        if twice := next((pair for pair in pairs if pairs.count(pair) > 1), None):
            raise ConfigError(
                f"Two Reconcile of {self.model!r} are of the same pair: {twice[0]!r} with {twice[1]!r}.",
                hint="Make one of them.",
            )
        named = [("reconcile", name) for pair in self.reconcile for name in (pair.left, pair.right)]
        named += [("FeatureService(rows=...)", rows.dataset) for rows in self.features.rows]
        for where, name in named:
            if name not in datasets:
                raise ConfigError(
                    f"Model {self.model!r} has no feed of dataset {name!r}.{did_you_mean(name, datasets)}",
                    detail=f"{where} names it; the feeds are: {', '.join(datasets)}",
                    hint="Correct the name, or add the feed to FeatureService(sources=[...]).",
                )

    @property
    def feeds(self) -> tuple[Feed, ...]:
        """All feeds that land for this model: the source, the label's, and the further ones of its features."""
        labels = [] if self.label.source is None else [self.label.source]
        return (self.source, *labels, *self.features.sources)

    @property
    def label_feed(self) -> Feed:
        """The feed that carries the label."""
        return self.label.source or self.source

    @property
    def late(self) -> dict[str, list[str]]:
        """Dataset → the label's column and that of when it is known, where the label is a column of the source; and
        then the heads', which are known by then too.
        """
        label = self.label
        return {self.label_feed.dataset: [label.column, label.known_at, *label.heads]} if label.known_at else {}

    def needs(self, feed: Feed) -> list[str]:
        """Return the columns of a feed that the pipeline names."""
        label, train = self.label, self.train
        of_source = [self.entity, *self.features.keys, label.weight, label.group, train.split_column or ""]
        of_label = [self.entity, *label.columns, label.known_at]
        named = [*(of_source if feed is self.source else []), *(of_label if feed is self.label_feed else [])]
        return list(dict.fromkeys(filter(None, named)))

    @property
    def ahead(self) -> list[str]:
        """The datasets whose partitions are there when their time begins."""
        return [feed.dataset for feed in self.feeds if isinstance(feed, Partitions) and feed.ahead]

    @property
    def begins_on(self) -> date:
        """The first day on which all feeds are there: features and training begin with it."""
        return max(feed.start for feed in self.feeds)

    @classmethod
    def from_yaml(cls, file: str | Path, name: str = "") -> ModelPipeline:
        """Return the pipeline that a YAML file says: the same arguments, part by part.

        :param file: Path of the file: ``Path(__file__).with_name("churn.yaml")`` lies beside the DAG file.
        :param name: Where the file has several pipelines, below a name each: the one that is meant.
        :raises ConfigError: when it cannot be read, or says no valid pipeline.
        """
        from airflow_mlops.pipeline_yaml import read_pipeline

        return read_pipeline(Path(file), name)

    def derive(self, **changes: Any) -> ModelPipeline:
        """Return a pipeline like this one, but for some arguments of it or of its parts.

        ::

            weekly = daily.derive(model="churn_weekly", window="90d", retrain={"cron": "@weekly"})
            slower = daily.derive(model="churn_slow", deploy={"timeout": "20m"}, source={"lands_within": "6h"})

        :param changes: Arguments of :class:`ModelPipeline`; arguments of one of its parts, where only that has it; or
            a part with a dict of its arguments.
        :raises ConfigError: when no part has such an argument, or several have it; when another model would seal other
            data as a dataset of this one; or what comes out is not valid.
        """
        from airflow_mlops.changes import changed, check_datasets

        other = changed(self, changes)
        check_datasets(self, other)
        return other

    def run(
        self,
        stage: Literal["train"] = "train",
        *,
        code_path: str | Path = "dags",
        home: str | None = None,
        ledger: str | None = None,
        repo: str | Path | None = None,
        mlflow_conn_id: str = "",
        as_of: str | None = None,
        **changes: Any,
    ) -> Experiment:
        """Try something, in a notebook: train and judge as ``<model>.train`` does, and register nothing.

        ::

            print(churn.run(window="30d", train={"seed": 3}))

        :param stage: ``train``: snapshot, training, evaluation, verdict.
        :param code_path: Folder of the DAG file, beside which the named functions lie.
        :param home: Home folder; default is option ``[mlops] home``, else ``.mlops``.
        :param ledger: SQLAlchemy URL; default is that of the laptop stack, else of ``mlops_ledger_default``.
        :param repo: Feast repository; default is that of ``feast_default``, else ``feature_repo``.
        :param mlflow_conn_id: Airflow connection of MLflow: the champion is measured too, and a run is kept, with the
            tag ``mlops.experimental``. Empty: neither.
        :param as_of: Train on what was known at this moment; default is all that is complete.
        :param changes: Other settings, as :meth:`derive` takes them.
        :raises MlopsError: whatever would end ``<model>.train``.
        """
        from argparse import Namespace

        from airflow_mlops.commands.experiment import run

        if stage != "train":
            raise ConfigError(f"There is no stage {stage!r} to try.", hint='Write run("train").')
        where = Namespace(
            home=home, ledger=ledger, repo=None if repo is None else Path(repo), mlflow=mlflow_conn_id, as_of=as_of
        )
        return run(self.derive(**changes), Path(code_path).resolve(), where)

    def dags(self) -> dict[str, DAG]:
        """Return the pipeline's DAGs by a Python name, for ``globals().update(...)`` in a DAG file."""
        from airflow_mlops.templates import build_dags

        return build_dags(self)
