"""Operators that train a TensorFlow model and measure it. TensorFlow itself only runs in a child process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from airflow.sdk import conf
from airflow.sdk.exceptions import AirflowSkipException

from airflow_mlops.exceptions import ConfigError, TrainingError, TransientError
from airflow_mlops.hooks.ledger import LedgerHook
from airflow_mlops.hooks.mlflow import MLflowHook
from airflow_mlops.links.mlflow import MLflowRunLink
from airflow_mlops.operators.base import MlopsOperator, heads_of, owner_of, require, said
from airflow_mlops.resources import GPU, gpu_of, where_of

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator, Context, XComArg

    from airflow_mlops.contracts import Snapshot, TrainingSpec
    from airflow_mlops.engine.registry.live import LiveRun
    from airflow_mlops.engine.registry.registry import TrainingRun
    from airflow_mlops.engine.training.launch import TrainingProcess


class Training(TypedDict):
    """A finished training: its folder, the SavedModel in it, and how it went."""

    model: str
    training: str
    saved_model: str
    snapshot: str
    spec_hash: str
    epochs: int
    seconds: float
    examples_per_second: float


class EvaluatedModel(TypedDict):
    """Where an evaluation lies, and its metrics by role (None where undefined)."""

    model: str
    uri: str
    rows: int
    metrics: dict[str, dict[str, float | None]]
    champion_version: str | None
    unevaluated: dict[str, str]


class TensorFlowTrainOperator(MlopsOperator):
    """Train a model on a snapshot, in a fresh child process that dies with the task.

    The same spec (snapshot, code, seed, parameters, versions of TensorFlow and the like) that was trained before is not
    trained again, and one that was ended goes on from its last checkpoint. Its run in MLflow begins with it and has
    every epoch as it ends, also of a training that fails; while MLflow is away it goes on without.

    :param model: Name of the model.
    :param snapshot: Id of the training snapshot.
    :param data: Instead of it: Parquet files of one's own, with features and label in them. A file, a folder, or a
        folder with a pattern such as ``s3://aws_default@bucket/train/*.parquet``; a relative path starts at the home
        folder. They are frozen as a snapshot; see :mod:`airflow_mlops.engine.training.own_data`.
    :param validation_data: Such files to validate with; with ``test_data``, or not at all: then a tenth of ``data`` is
        taken for each, by a hash.
    :param test_data: Such files to evaluate with.
    :param label_column: Column of ``data`` that is predicted.
    :param problem: Problem type of ``data``; empty: by the label.
    :param heads: Further columns of ``data`` that the model predicts: column → problem type, empty likewise.
    :param weight: Column of ``data`` of what a row counts.
    :param group: Column of ``data`` of the rows that are ranked against each other.
    :param entity: Column of ``data`` of what a row is about, no two of which may be the same; empty: not checked.
    :param inputs: Columns of ``data`` that the model takes; empty: all that are nothing else.
    :param validation: What :class:`~airflow_mlops.operators.gx.GXValidateDataOperator` returned for the snapshot's
        folder, or for ``data``: other files than those that were validated are not trained on. None trains without
        that proof.
    :param entrypoint: ``module:function`` beside the DAG file that returns the compiled Keras model.
    :param fit: Instead of it: ``module:function`` beside the DAG file that trains the model itself,
        ``fit(data, spec, report)``; see :mod:`airflow_mlops.engine.training.fit`.
    :param script: Instead of both: a script beside the DAG file. A file tells it where the data is and where the
        SavedModel goes; see :mod:`airflow_mlops.engine.training.script`.
    :param args: Arguments of the script.
    :param python: Python that runs the script, such as ``/opt/gpu/bin/python``; default is that of the worker.
    :param seed: Seed of everything random.
    :param epochs: Most passes over the training split.
    :param batch_size: Rows a step.
    :param model_params: Handed to ``entrypoint``; a fit function finds them in ``spec.params``.
    :param golden: ``module:function`` beside the DAG file of golden inputs, from rows that may leave the data;
        None makes them up from the profile of the training split.
    :param transform: ``module:function`` beside the DAG file that the rows go through before the model sees them, here
        and wherever it is asked; see :mod:`airflow_mlops.engine.serving.transform`. It is shipped with the model.
    :param timeout: Seconds until the training is stopped, once it has saved what it has.
    :param stall_timeout: Seconds without progress until it is stopped; five times the longest so far, if that is more.
    :param gpu: GPUs that it takes, such as ``GPU(1)``: queue and pool follow from it. By default one on the queue
        ``gpu``, and none elsewhere.
    :param skip_known: Whether to skip, with the reason, where a judged version came of the very same training in
        another run: what that saves is added up in the ledger.
    :param mlflow_conn_id: Airflow connection of type ``mlflow``, where the run begins with the training; None: only
        when the model is registered.
    :param ledger_conn_id: Airflow connection of type ``mlops_ledger``: while the model is halted there, this is
        skipped. None minds no halt.
    """

    stopped_by_halt = "if known"  # a training survives an outage of the ledger
    template_fields = (
        *MlopsOperator.template_fields,
        "model",
        "snapshot",
        "data",
        "validation_data",
        "test_data",
        "label_column",
        "entity",
        "inputs",
        "validation",
        "entrypoint",
        "fit",
        "script",
        "args",
        "python",
        "seed",
        "epochs",
        "batch_size",
        "model_params",
        "golden",
        "transform",
        "mlflow_conn_id",
        "ledger_conn_id",
    )
    operator_extra_links = (MLflowRunLink(),)

    _training: TrainingProcess | None = None

    def __init__(
        self,
        *,
        model: str,
        snapshot: str = "",
        data: str = "",
        validation_data: str = "",
        test_data: str = "",
        label_column: str = "",
        problem: str = "",
        heads: Mapping[str, str] | None = None,
        weight: str = "",
        group: str = "",
        entity: str = "",
        inputs: Sequence[str] = (),
        validation: Mapping[str, Any] | XComArg | None = None,
        entrypoint: str = "",
        fit: str = "",
        script: str = "",
        args: Sequence[str] = (),
        python: str = "",
        seed: int | str = 0,
        epochs: int | str = 10,
        batch_size: int | str = 1024,
        model_params: Mapping[str, Any] | None = None,
        golden: str | None = None,
        transform: str = "",
        timeout: float = 2 * 3600,
        stall_timeout: float = 1800,
        gpu: GPU | None = None,
        skip_known: bool = False,
        mlflow_conn_id: str | None = MLflowHook.default_conn_name,
        ledger_conn_id: str | None = LedgerHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**{**where_of(gpu), **kwargs})
        if any(isinstance(one, int) and one < 1 for one in (epochs, batch_size)):
            raise ConfigError(
                f"epochs={epochs} and batch_size={batch_size} train nothing.",
                hint="Give both a whole number from 1 on.",
            )
        self.model = model
        self.snapshot = snapshot
        self.data = data
        self.validation_data = validation_data
        self.test_data = test_data
        self.label_column = label_column
        self.problem = problem
        self.heads = heads
        self.weight = weight
        self.group = group
        self.entity = entity
        self.inputs = inputs
        self.validation = validation
        self.entrypoint = entrypoint
        self.fit = fit
        self.script = script
        self.args = args
        self.python = python
        self.seed = seed
        self.epochs = epochs
        self.batch_size = batch_size
        self.model_params = model_params
        self.golden = golden
        self.transform = transform
        self.timeout = timeout
        self.stall_timeout = stall_timeout
        self.gpu = gpu
        self.skip_known = skip_known
        self.mlflow_conn_id = mlflow_conn_id
        self.ledger_conn_id = ledger_conn_id

    def perform(self, context: Context) -> Training:
        """Train and return what came out."""
        from airflow_mlops.engine.training.launch import TrainingProcess
        from airflow_mlops.operators.training_progress import ShownProgress

        spec = self._spec()
        if self.skip_known:
            skip_if_known(context, self, spec.hash)
        workdir = self.home_path / "trainings" / spec.hash[:16]
        live = self._live_run(context, spec)
        self._training = TrainingProcess(
            spec,
            workdir,
            self.log,
            gpu=gpu_of(self),
            task=f"{self.dag_id}.{self.task_id}",
            patience=self.stall_timeout,
            follow=ShownProgress(context, self.model, live, self.ledger_conn_id).follow,
            price=conf.getfloat("mlops", "price_per_hour", fallback=0.0),
        )
        try:
            result = self._training.run(self.timeout)
        except TransientError:
            if live is not None:
                live.end("KILLED")
            raise
        except TrainingError as error:
            if live is not None:
                live.fail(error)
            raise
        if live is not None:
            live.end("FINISHED", result.ended)
        return Training(
            model=spec.model,
            training=str(workdir),
            saved_model=result.saved_model,
            snapshot=spec.snapshot.id,
            spec_hash=spec.hash,
            epochs=len(next(iter(result.history.values()))),
            seconds=result.seconds,
            examples_per_second=result.examples_per_second,
        )

    def on_kill(self) -> None:
        """End the child process, which saves first: a cleared or cancelled task leaves nothing running."""
        if self._training is not None:
            self._training.stop()

    def _spec(self) -> TrainingSpec:
        from pydantic import ValidationError

        from airflow_mlops.contracts import TrainingSpec
        from airflow_mlops.engine.devices.assign import compute_of
        from airflow_mlops.engine.training.environment import environment
        from airflow_mlops.engine.training.source import code_hash

        if sum(map(bool, (self.entrypoint, self.fit, self.script))) != 1:
            raise ConfigError(
                "A training needs an entrypoint, a fit function or a script, and one of them only.",
                detail=f"entrypoint={self.entrypoint!r}, fit={self.fit!r}, script={self.script!r}",
                hint="Name the function that builds the model, or the function or the script that trains it.",
            )
        snapshot = self._snapshot()
        try:
            spec = TrainingSpec.model_validate(
                {
                    "model": self.model,
                    "entrypoint": self.entrypoint,
                    "fit": self.fit,
                    "script": self.script or None,
                    "args": [str(one) for one in self.args],
                    "python": self.python or None,
                    "code_path": self.code_path,
                    "snapshot": snapshot,
                    "seed": self.seed,
                    "epochs": self.epochs,
                    "batch_size": self.batch_size,
                    "params": dict(self.model_params or {}),
                    "golden": self.golden,
                    "transform": said(self.transform),
                    "environment": environment(),
                    "compute": compute_of(gpu_of(self)).model_dump(),
                }
            )
        except ValidationError as error:
            raise ConfigError(
                "The training's settings are not valid after rendering.",
                detail="; ".join(f"{problem['loc'][0]}: {problem['msg']}" for problem in error.errors()),
                hint="Correct them in the pipeline or in the DAG.",
            ) from None
        return spec.model_copy(update={"code_hash": code_hash(spec, self.code_path)})

    def _snapshot(self) -> Snapshot:
        """Return what is trained on, and was validated."""
        from airflow_mlops.engine.data.snapshots import check_validated, load_snapshot

        if said(self.data):
            return self._snapshot_of_files()
        snapshot_id = require(
            self.snapshot, "snapshot", "Did the task that builds the snapshot succeed? Or name files in data=."
        )
        snapshot = load_snapshot(self.home_path, snapshot_id)
        if self.validation is not None:
            check_validated(snapshot, self._validated())
        return snapshot

    def _snapshot_of_files(self) -> Snapshot:
        from airflow_mlops.engine.training.own_data import OwnColumns, check_validated_files, snapshot_of_files
        from airflow_mlops.operators.data import located

        if said(self.snapshot):
            raise ConfigError(
                "There is a snapshot to train on, and data of one's own.",
                detail=f"snapshot={self.snapshot!r}, data={self.data!r}",
                hint="Leave one of them out.",
            )
        label = require(self.label_column, "label_column", "Name the column of data= that is predicted.")
        named = {name: said(getattr(self, name)) for name in ("problem", "weight", "group", "entity")}
        more = {
            name: located(self, uri, f"{name}_data")
            for name, uri in (("validation", said(self.validation_data)), ("test", said(self.test_data)))
            if uri
        }
        columns = OwnColumns(label, **named, inputs=list(self.inputs), heads=heads_of(self.heads))
        snapshot = snapshot_of_files(self.home_path, self.model, located(self, self.data, "data"), columns, **more)
        if self.validation is not None:
            check_validated_files(snapshot, self._validated())
        return snapshot

    def _validated(self) -> str:
        """Return the identity of the files that were validated."""
        if not isinstance(self.validation, Mapping) or not self.validation.get("batch_hash"):
            raise ConfigError(
                "There is no validation of what is to be trained on.",
                detail=f"validation={self.validation!r} after rendering",
                hint="Pass validation=<task of GXValidateDataOperator>.output, or leave it out.",
            )
        return str(self.validation["batch_hash"])

    def _live_run(self, context: Context, spec: TrainingSpec) -> LiveRun | None:
        """Return the run that MLflow is to have of this training while it trains."""
        from airflow_mlops.engine.registry.live import LiveRun

        if self.mlflow_conn_id is None:
            return None
        hook = MLflowHook(self.mlflow_conn_id)

        def opened(run: TrainingRun) -> None:
            MLflowRunLink.persist(context, hook.run_url(run.experiment_id, run.run_id))

        return LiveRun(hook.get_conn, spec, run_tags(context, self), opened, self.log)


class TensorFlowEvaluateModelOperator(MlopsOperator):
    """Measure a trained model on its snapshot's test split, beside the champion and the baseline.

    Models are run by TensorFlow's C++ loader, as the model server does, without importing TensorFlow.

    :param model: Name of the model in the registry.
    :param training: Folder of the finished training.
    :param saved_model: Instead of it, of a model that was not trained here: folder of the SavedModel; and
    :param snapshot: id of the snapshot to measure it on.
    :param slices: Model inputs by whose values the challenger is measured too.
    :param mlflow_conn_id: Airflow connection of type ``mlflow``, where the champion is.
    :param ledger_conn_id: Airflow connection of type ``mlops_ledger``: what a champion that somebody else logged
        consists of is written down there.
    """

    template_fields = (
        *MlopsOperator.template_fields,
        "model",
        "training",
        "saved_model",
        "snapshot",
        "slices",
        "mlflow_conn_id",
        "ledger_conn_id",
    )

    def __init__(
        self,
        *,
        model: str,
        training: str = "",
        saved_model: str = "",
        snapshot: str = "",
        slices: Sequence[str] = (),
        mlflow_conn_id: str = MLflowHook.default_conn_name,
        ledger_conn_id: str = LedgerHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.training = training
        self.saved_model = saved_model
        self.snapshot = snapshot
        self.slices = slices
        self.mlflow_conn_id = mlflow_conn_id
        self.ledger_conn_id = ledger_conn_id

    def perform(self, context: Context) -> EvaluatedModel:
        """Evaluate and return the metrics."""
        from airflow_mlops.engine.evaluation.evaluate import evaluate
        from airflow_mlops.engine.ledger import as_json
        from airflow_mlops.engine.registry.elsewhere import fetch_version
        from airflow_mlops.engine.registry.registry import CHAMPION
        from airflow_mlops.engine.training.workdir import Workdir

        folder, saved_model, snapshot = self._what()
        registry = MLflowHook(self.mlflow_conn_id).get_conn()
        champion, fetched = registry.find_alias(self.model, CHAMPION), None
        if champion is not None:
            cache = registry_cache(self.home_path, self.model, champion.version)
            ledger = LedgerHook(self.ledger_conn_id).get_conn()
            fetched = fetch_version(registry, ledger, self.model, int(champion.version), cache).saved_model
        evaluation = evaluate(
            snapshot,
            saved_model,
            fetched,
            champion.version if champion else None,
            slices=list(self.slices),
        )
        return EvaluatedModel(
            model=self.model,
            uri=str(Workdir(folder).keep(evaluation)),
            rows=evaluation.rows,
            metrics=as_json(evaluation.metrics),
            champion_version=evaluation.champion_version,
            unevaluated=evaluation.unevaluated,
        )

    def _what(self) -> tuple[Path, Path, Snapshot]:
        """Return where the evaluation is kept, the SavedModel, and what it is measured on."""
        from airflow_mlops.engine.data.files import tree_hash
        from airflow_mlops.engine.data.shared import fetch
        from airflow_mlops.engine.data.snapshots import load_snapshot
        from airflow_mlops.engine.training.workdir import finished_training

        if bool(said(self.training)) == bool(said(self.saved_model)):
            raise ConfigError(
                "What to measure is not said in one way.",
                detail=f"training={self.training!r}, saved_model={self.saved_model!r} after rendering",
                hint="Give the folder of a training; or, of a model made elsewhere, saved_model= and snapshot=.",
            )
        if said(self.training):
            folder = Path(self.training)
            spec, result = finished_training(folder)
            return folder, Path(result.saved_model), spec.snapshot
        snapshot = load_snapshot(
            self.home_path, require(self.snapshot, "snapshot", "Did the task that builds the snapshot succeed?")
        )
        saved_model = Path(self.saved_model)
        fetch(saved_model)
        return self.home_path / "evaluations" / tree_hash(saved_model), saved_model, snapshot


def skip_if_known(context: Context, task: TensorFlowTrainOperator, spec_hash: str) -> None:
    """End a training here that another run has made: the same data, code, parameters and environment.

    Without a ledger that answers nothing is known, and it goes on: that costs time, and nothing else.
    """
    from airflow_mlops.engine.retraining.registered import record_saved, trained_before

    if task.ledger_conn_id is None:
        return
    ledger, run = LedgerHook(task.ledger_conn_id).get_conn(), f"{task.dag_id} {context['ti'].run_id}"
    try:
        before = trained_before(ledger, task.model, spec_hash, run)
        if before is not None:
            record_saved(ledger, before, run)
    except TransientError:
        return
    if before is not None:
        held = (
            f"Version {before.version} of {task.model} is this very training: the same snapshot {before.snapshot}, "
            f"code, parameters and environment. {round(before.seconds)} s of training are saved."
        )
        context["ti"].xcom_push("held", held)
        raise AirflowSkipException(held)


def registry_cache(home: Path, model: str, version: int | str) -> Path:
    """Return where a version's SavedModel is kept once it was fetched from the registry."""
    return home / "registry" / model / str(version)


def run_tags(context: Context, task: BaseOperator) -> dict[str, str]:
    """Return the tags that lead from an MLflow run to its Airflow run, to who asked for it and who answers for it."""
    from airflow_mlops.engine.registry.registry import OWNER

    ti, owner = context["ti"], owner_of(task)
    user = getattr(context.get("dag_run"), "triggering_user_name", None) or owner or "airflow"
    told = {"airflow.dag_id": ti.dag_id, "airflow.run_id": ti.run_id, "mlflow.user": user}
    return {**told, **({OWNER: owner} if owner else {})}
