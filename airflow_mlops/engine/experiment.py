"""A pipeline's training without Airflow, to try something: in a notebook, or by ``airflow-mlops experiment``.

It goes the way that ``<model>.train`` goes: the same snapshot, the same child process, the same evaluation and gates,
and ends before the registry. Its runs lie in MLflow beside those of production, with the tag ``mlops.experimental``;
what it trains can be compared, and never be registered.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_mlops.contracts import Evaluation, Snapshot, SplitRule, TrainingResult, TrainingSpec, Verdict
from airflow_mlops.durations import parse_duration
from airflow_mlops.engine.data.readiness import Source, latest_complete
from airflow_mlops.engine.devices.assign import compute_of
from airflow_mlops.engine.evaluation.evaluate import evaluate
from airflow_mlops.engine.evaluation.gates import judge
from airflow_mlops.engine.features.computing.code import code_identity, import_folders
from airflow_mlops.engine.features.training.training_data import build_training_snapshot
from airflow_mlops.engine.registry.elsewhere import fetch_version
from airflow_mlops.engine.training.environment import environment
from airflow_mlops.engine.training.launch import train
from airflow_mlops.engine.training.source import code_hash
from airflow_mlops.engine.training.workdir import Workdir
from airflow_mlops.resources import GPU

if TYPE_CHECKING:
    from airflow_mlops.engine.data.partitions import PartitionStore
    from airflow_mlops.engine.features.project.location import Location
    from airflow_mlops.engine.ledger import Ledger
    from airflow_mlops.engine.registry.registry import Registry
    from airflow_mlops.pipeline import ModelPipeline


@dataclass(frozen=True)
class Experiment:
    """What came out of one.

    :param folder: Where the training lies, with its SavedModel.
    :param run_id: Of its run in MLflow; None when it went without.
    """

    spec: TrainingSpec
    result: TrainingResult
    evaluation: Evaluation
    verdict: Verdict
    folder: Path
    run_id: str | None = None

    @property
    def snapshot(self) -> Snapshot:
        """What it was trained and measured on."""
        return self.spec.snapshot

    def __str__(self) -> str:
        """The metrics beside those of the champion and the baseline, and what the gates would say."""
        roles = {role: found for role, found in self.evaluation.metrics.items() if found}
        names = list(roles["challenger"])
        width = max(map(len, [*names, "metric"])) + 2
        table = [["metric", *roles], *([name, *(_number(one.get(name)) for one in roles.values())] for name in names)]
        lines = [first.ljust(width) + "".join(one.rjust(14) for one in others) for first, *others in table]
        reasons = [f"  {check.reason}" for check in self.verdict.checks if not check.passed]
        rows, as_of = self.snapshot.splits["train"].rows, self.snapshot.as_of
        told = f"{rows} rows to train on, as of {as_of:%Y-%m-%d %H:%M} UTC; {self.result.seconds:.0f} s; {self.folder}"
        return "\n".join([*lines, f"gates: {self.verdict.status}", *reasons, told])


def run_experiment(
    pipeline: ModelPipeline,
    *,
    location: Location,
    store: PartitionStore,
    ledger: Ledger,
    code_path: str,
    registry: Registry | None = None,
    as_of: datetime | None = None,
    log: logging.Logger | Any = None,
) -> Experiment:
    """Train and judge as the pipeline says, and register nothing.

    :param location: Home folder and feature repository.
    :param code_path: Folder of the DAG file, beside which the named functions lie.
    :param registry: MLflow: the champion is measured too, and a run is kept. None: neither.
    :param as_of: What is known at this moment counts; None: up to where all data is complete.
    :raises MlopsError: whatever ends ``<model>.train``.
    """
    if as_of is None:
        feeds = [(feed.dataset, feed.start, feed.end, feed.dataset in pipeline.ahead) for feed in pipeline.feeds]
        as_of = min(latest_complete(store, ledger, [Source(*feed) for feed in feeds]), datetime.now(UTC))
    code = code_identity(pipeline.features.transform, import_folders(code_path, location), pipeline.late)
    snapshot = _snapshot(pipeline, location, store, ledger, as_of=as_of, code=code)
    spec = _spec(pipeline, snapshot, code_path)
    folder = location.home / "experiments" / spec.hash[:16]
    given = pipeline.train.resources
    result = train(
        spec,
        folder,
        parse_duration(pipeline.train.timeout).total_seconds(),
        log,
        gpu=given if isinstance(given, GPU) else None,
        patience=parse_duration(pipeline.train.stall_timeout).total_seconds(),
    )
    champion, version = _champion(pipeline, registry, ledger, location.home)
    slices = sorted({gate.by.column for gate in pipeline.gates if gate.by})
    evaluation = evaluate(snapshot, Path(result.saved_model), champion, version, slices=slices)
    verdict = judge(pipeline.model, [asdict(gate) for gate in pipeline.gates], evaluation)
    Workdir(folder).keep(evaluation)
    run_id = None if registry is None else registry.log_experiment(spec, result, evaluation, verdict)
    return Experiment(spec, result, evaluation, verdict, folder, run_id)


def _snapshot(
    pipeline: ModelPipeline, location: Location, store: PartitionStore, ledger: Ledger, **known: Any
) -> Snapshot:
    source, label, features, of = pipeline.source, pipeline.label, pipeline.features, pipeline.train
    return build_training_snapshot(
        location,
        store=store,
        ledger=ledger,
        model=pipeline.model,
        source_dataset=source.dataset,
        entity=pipeline.entity,
        event_time=source.event_time,
        keys=features.keys,
        service=features.name,
        label_dataset=pipeline.label_feed.dataset,
        label=label.column,
        label_known_at=label.known_at,
        problem=label.problem,
        heads=label.heads,
        weight=label.weight,
        group=label.group,
        matures_after=parse_duration(label.matures_after),
        window=parse_duration(of.window),
        validation=parse_duration(of.validation),
        test=parse_duration(of.test),
        start=pipeline.begins_on,
        split_rule=SplitRule(kind=of.split, column=of.split_column),
        slices=source.checks.slices,
        min_joined=label.min_joined,
        max_join_drop=label.max_join_drop,
        **known,
    )


def _spec(pipeline: ModelPipeline, snapshot: Snapshot, code_path: str) -> TrainingSpec:
    of = pipeline.train
    spec = TrainingSpec(
        model=pipeline.model,
        entrypoint=of.entrypoint or "",
        fit=of.fit or "",
        script=of.script or None,
        args=tuple(of.args),
        python=of.python or None,
        code_path=code_path,
        snapshot=snapshot,
        seed=of.seed,
        epochs=of.epochs,
        batch_size=of.batch_size,
        params=of.params,
        golden=of.golden,
        transform=of.transform or "",
        environment=environment(),
        compute=compute_of(of.resources if isinstance(of.resources, GPU) else None),
        experimental=True,
    )
    return spec.model_copy(update={"code_hash": code_hash(spec, code_path)})


def _champion(
    pipeline: ModelPipeline, registry: Registry | None, ledger: Ledger, home: Path
) -> tuple[Path | None, str | None]:
    """Return the SavedModel of the version that serves, and its number; nothing when there is none, or no registry."""
    from airflow_mlops.engine.registry.registry import CHAMPION

    found = None if registry is None else registry.find_alias(pipeline.model, CHAMPION)
    if registry is None or found is None:
        return None, None
    cache = home / "registry" / pipeline.model / str(found.version)
    return fetch_version(registry, ledger, pipeline.model, int(found.version), cache).saved_model, found.version


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
