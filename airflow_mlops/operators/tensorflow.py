"""Operators that train a TensorFlow model and measure it. TensorFlow itself only runs in a child process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from airflow.sdk import conf

from airflow_mlops.exceptions import ConfigError, TrainingError, TransientError
from airflow_mlops.hooks.ledger import LedgerHook
from airflow_mlops.hooks.mlflow import MLflowHook
from airflow_mlops.links.mlflow import MLflowRunLink
from airflow_mlops.operators.base import MlopsOperator, positive, require, said
from airflow_mlops.operators.training_spec import Training, TrainingOperator, trained
from airflow_mlops.resources import gpu_of

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_mlops.contracts import Snapshot, TrainingProgress
    from airflow_mlops.engine.training.launch import TrainingProcess


class EvaluatedModel(TypedDict):
    """Where an evaluation lies, and its metrics by role (None where undefined)."""

    model: str
    uri: str
    rows: int
    metrics: dict[str, dict[str, float | None]]
    champion_version: str | None
    unevaluated: dict[str, str]


class TensorFlowTrainOperator(TrainingOperator):
    """Train a model on a snapshot, or on Parquet files of your own, in a fresh child process that dies with the task.

    Use it where the worker is to train. For a pod or a job of AWS, ``training_tasks`` takes its place.

    The same spec (snapshot, code, seed, parameters, versions of TensorFlow and the like) that was trained before is not
    trained again, and one that was ended goes on from its last checkpoint. Its run in MLflow begins with it and has
    every epoch as it ends, also of a training that fails; while MLflow is away it goes on without.
    """

    operator_extra_links = (MLflowRunLink(),)

    _training: TrainingProcess | None = None

    def perform(self, context: Context) -> Training:
        """Train and return what came out."""
        from airflow_mlops.engine.training.environment import environment
        from airflow_mlops.engine.training.launch import TrainingProcess
        from airflow_mlops.engine.training.watch import read_progress
        from airflow_mlops.engine.training.workdir import Workdir
        from airflow_mlops.operators.training_progress import ShownProgress, live_run
        from airflow_mlops.operators.training_tries import RetryWhileItGetsFurther

        spec = self.spec(environment())
        self.mind_known(context, spec)
        workdir = self.home_path / "trainings" / spec.hash[:16]
        tries = None
        if isinstance(self.retry_policy, RetryWhileItGetsFurther):
            before = read_progress(Workdir(workdir))
            tries = self.retry_policy.begin(context, before.examples if before else 0)
        live = live_run(context, self, self.mlflow_conn_id, spec)
        shown = ShownProgress(context, self.model, live, self.ledger_conn_id)

        def follow(progress: TrainingProgress) -> None:
            if tries is not None:
                tries.reached(progress.examples)
            shown.follow(progress)

        self._training = TrainingProcess(
            spec,
            workdir,
            self.log,
            gpu=gpu_of(self),
            task=f"{self.dag_id}.{self.task_id}",
            patience=self.stall_timeout,
            follow=follow,
            price=conf.getfloat("mlops", "price_per_hour", fallback=0.0),
            max_cost=positive(self.max_cost, "max_cost"),
            checkpoint_every=self.checkpoint_every,
            checkpoint_epochs=self.checkpoint_epochs,
            tensorboard=self.tensorboard,
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
        return trained(spec, workdir, result)

    def on_kill(self) -> None:
        """End the child process, which saves first: a cleared or cancelled task leaves nothing running."""
        if self._training is not None:
            self._training.stop()


class TensorFlowEvaluateModelOperator(MlopsOperator):
    """Measure a trained model on the test rows of its snapshot, beside the champion (the version that serves) and the
    baseline (what one would predict without a model).

    Use it after training: gates are judged by what it measured.

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


def registry_cache(home: Path, model: str, version: int | str) -> Path:
    """Return where a version's SavedModel is kept once it was fetched from the registry."""
    return home / "registry" / model / str(version)
