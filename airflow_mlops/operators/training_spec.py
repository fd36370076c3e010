"""What operators of a training share: what is trained, on what, and with what settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypedDict

from airflow.sdk.exceptions import AirflowSkipException

from airflow_mlops.exceptions import ConfigError, TransientError
from airflow_mlops.hooks.ledger import LedgerHook
from airflow_mlops.hooks.mlflow import MLflowHook
from airflow_mlops.operators.base import MlopsOperator, heads_of, positive, require, said
from airflow_mlops.resources import GPU, gpu_of, where_of

if TYPE_CHECKING:
    from airflow.sdk import Context, XComArg

    from airflow_mlops.contracts import Snapshot, TrainingResult, TrainingSpec


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


def trained(spec: TrainingSpec, workdir: Path, result: TrainingResult) -> Training:
    """Return what a task hands on of a finished training."""
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


class TrainingOperator(MlopsOperator):
    """Base of the operators that know all of a training.

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
    :param max_cost: What all tries together may cost, in the currency of option ``[mlops] price_per_hour``; it is
        stopped then, once it has saved, and not tried again. None: no limit.
    :param min_rows_share: Smallest share of the rows of the model's last training that is trained on, such as 0.5;
        None: they are not compared.
    :param checkpoint_every: Seconds between two checkpoints of a model function; None: as seldom as saving takes a
        fiftieth of the time at most.
    :param checkpoint_epochs: Epochs between two of them; with ``checkpoint_every``, whichever comes first.
    :param tensorboard: Whether logs for TensorBoard go with the model to MLflow. Those of a model function are written;
        a fit function finds a folder for its own in ``report.tensorboard``, a script in its file.
    :param gpu: GPUs that it takes, such as ``GPU(1)``: queue and pool follow from it. By default one on the queue
        ``gpu``, and none elsewhere.
    :param skip_known: Whether to skip, with the reason, where a judged version came of the very same training in
        another run: what that saves is added up in the ledger.
    :param mlflow_conn_id: Airflow connection of type ``mlflow``, where the run begins with the training; None: only
        when the model is registered.
    :param ledger_conn_id: Airflow connection of type ``mlops_ledger``: while the model is halted there, this is
        skipped. None minds no halt.
    """

    takes_gpus: ClassVar[bool] = True
    """Whether the task itself computes on its GPUs: queue and pool then follow from them."""
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
        "max_cost",
        "min_rows_share",
        "mlflow_conn_id",
        "ledger_conn_id",
    )

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
        max_cost: float | str | None = None,
        min_rows_share: float | str | None = None,
        checkpoint_every: float | None = None,
        checkpoint_epochs: int | None = None,
        tensorboard: bool = False,
        gpu: GPU | None = None,
        skip_known: bool = False,
        mlflow_conn_id: str | None = MLflowHook.default_conn_name,
        ledger_conn_id: str | None = LedgerHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**{**(where_of(gpu) if self.takes_gpus else {}), **kwargs})
        if checkpoint_epochs is not None and checkpoint_epochs < 1:
            raise ConfigError(
                f"checkpoint_epochs={checkpoint_epochs} saves nothing.", hint="Give a whole number from 1 on."
            )
        if any(isinstance(one, int) and one < 1 for one in (epochs, batch_size)):
            raise ConfigError(
                f"epochs={epochs} and batch_size={batch_size} train nothing.",
                hint="Give both a whole number from 1 on.",
            )
        if checkpoint_every is not None and not (isinstance(checkpoint_every, int | float) and checkpoint_every > 0):
            raise ConfigError(
                f"checkpoint_every={checkpoint_every!r} is no number of seconds.",
                hint="Give a number above 0, such as 120. Trainer(checkpoint_every='2m') takes a duration.",
            )
        if checkpoint_every is not None and checkpoint_every >= timeout:
            raise ConfigError(
                f"checkpoint_every={checkpoint_every:g} saves nothing within timeout={timeout:g}.",
                hint="Give a number of seconds below the timeout, or raise the timeout.",
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
        self.max_cost = max_cost
        self.min_rows_share = min_rows_share
        self.checkpoint_every = checkpoint_every
        self.checkpoint_epochs = checkpoint_epochs
        self.tensorboard = tensorboard
        self.gpu = gpu
        self.skip_known = skip_known
        self.mlflow_conn_id = mlflow_conn_id
        self.ledger_conn_id = ledger_conn_id

    def spec(self, environment: Mapping[str, str]) -> TrainingSpec:
        """Return what is to be trained.

        :param environment: What the result depends on: package → version, or the image.
        :raises ConfigError: when the rendered settings are none of a training.
        :raises TrainingError: when there are fewer rows than ``min_rows_share`` allows.
        """
        from pydantic import ValidationError

        from airflow_mlops.contracts import TrainingSpec
        from airflow_mlops.engine.devices.assign import compute_of
        from airflow_mlops.engine.training.shrinkage import check_rows
        from airflow_mlops.engine.training.source import code_hash

        if sum(map(bool, (self.entrypoint, self.fit, self.script))) != 1:
            raise ConfigError(
                "A training needs an entrypoint, a fit function or a script, and one of them only.",
                detail=f"entrypoint={self.entrypoint!r}, fit={self.fit!r}, script={self.script!r}",
                hint="Name the function that builds the model, or the function or the script that trains it.",
            )
        snapshot = self._snapshot()
        if (share := positive(self.min_rows_share, "min_rows_share")) is not None:
            check_rows(self.home_path, snapshot, share)
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
                    "environment": dict(environment),
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

    def mind_known(self, context: Context, spec: TrainingSpec) -> None:
        """End here, skipped, where ``skip_known`` says so and another run has made this very training.

        Without a ledger that answers nothing is known, and it goes on: that costs time, and nothing else.
        """
        from airflow_mlops.engine.retraining.registered import record_saved, trained_before

        if not self.skip_known or self.ledger_conn_id is None:
            return
        ledger, run = LedgerHook(self.ledger_conn_id).get_conn(), f"{self.dag_id} {context['ti'].run_id}"
        try:
            before = trained_before(ledger, self.model, spec.hash, run)
            if before is None:
                return
            record_saved(ledger, before, run)
        except TransientError:
            return
        held = (
            f"Version {before.version} of {self.model} is this very training: the same snapshot {before.snapshot}, "
            f"code, parameters and environment. {round(before.seconds)} s of training are saved."
        )
        context["ti"].xcom_push("held", held)
        raise AirflowSkipException(held)

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
