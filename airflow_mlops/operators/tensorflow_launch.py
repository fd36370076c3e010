"""Trainings that run elsewhere: a task that prepares, the provider's own operator, and a task that collects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar, TypedDict, cast

from airflow.sdk import BaseOperator, TaskGroup, TriggerRule, conf
from airflow.sdk.definitions.retry_policy import RetryDecision

from airflow_mlops.exceptions import ConfigError, TransientError
from airflow_mlops.hooks.ledger import LedgerHook
from airflow_mlops.hooks.mlflow import MLflowHook
from airflow_mlops.launchers import Launcher, RemoteJob, RemoteLauncher, launcher_of
from airflow_mlops.links.mlflow import MLflowRunLink
from airflow_mlops.operators.base import MlopsOperator, default_home, open_home, positive, require
from airflow_mlops.operators.tensorflow import TensorFlowTrainOperator
from airflow_mlops.operators.training_spec import Training, TrainingOperator, trained
from airflow_mlops.operators.training_tries import RetryWhileItGetsFurther, more_retries
from airflow_mlops.resources import GPU, Resources

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_mlops.engine.training.jobs import Job


class PreparedTraining(TypedDict):
    """A training to do elsewhere: its id, the name of the job, the command that does it, and the bucket of its home."""

    model: str
    job: str
    name: str
    command: list[str]
    image: str
    bucket: str


class TensorFlowPrepareTrainingOperator(TrainingOperator):
    """Write into the home what a training elsewhere needs: its spec, its snapshot and the user's code.

    Use it with :class:`TensorFlowCollectTrainingOperator` and a task of yours between them, for a cluster that no
    launcher knows.

    The image counts where :class:`~airflow_mlops.operators.tensorflow.TensorFlowTrainOperator` has the versions of the
    worker: with another one, it is another training. The run in MLflow begins here.

    :param image: Image that trains.
    :param price_per_hour: What an hour of its machine costs; None: option ``[mlops] price_per_hour``.
    """

    takes_gpus: ClassVar[bool] = False
    template_fields = (*TrainingOperator.template_fields, "image", "price_per_hour")
    operator_extra_links = (MLflowRunLink(),)

    def __init__(self, *, image: str, price_per_hour: float | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.image = image
        self.price_per_hour = price_per_hour

    def perform(self, context: Context) -> PreparedTraining:
        """Publish the training, and return how it is done."""
        from airflow_mlops.engine.training.jobs import job_name, publish
        from airflow_mlops.engine.training.remote import bucket_of, command
        from airflow_mlops.operators.training_progress import live_run

        image = require(self.image, "image", "Name the image that trains.")
        spec = self.spec({"image": image})
        self.mind_known(context, spec)
        job = publish(self.home_path, spec)
        live = live_run(context, self, self.mlflow_conn_id, spec)
        if live is not None:
            live.open()
        return PreparedTraining(
            model=spec.model,
            job=job.id,
            name=job_name(job, spec),
            command=command(
                self.home or default_home(),
                job,
                image=image,
                timeout=self.timeout,
                stall_timeout=self.stall_timeout,
                price=conf.getfloat("mlops", "price_per_hour", fallback=0.0)
                if self.price_per_hour is None
                else float(self.price_per_hour),
                max_cost=positive(self.max_cost, "max_cost"),
                checkpoint_every=self.checkpoint_every,
                checkpoint_epochs=self.checkpoint_epochs,
                tensorboard=self.tensorboard,
                gpu=self.gpu,
            ),
            image=image,
            bucket=bucket_of(self.home or default_home()),
        )


class TensorFlowCollectTrainingOperator(MlopsOperator):
    """Fetch the result of a training elsewhere, or say why there is none. Its run in MLflow ends here.

    :param model: Name of the model.
    :param job: Id of the training, as :class:`TensorFlowPrepareTrainingOperator` returned it.
    :param mlflow_conn_id: Airflow connection of type ``mlflow``, where the run of the training is; None: there is none.
    :param ledger_conn_id: Airflow connection of type ``mlops_ledger``, which is told how the training went. None: no
        ledger is.
    """

    template_fields = (*MlopsOperator.template_fields, "model", "job", "mlflow_conn_id", "ledger_conn_id")
    operator_extra_links = (MLflowRunLink(),)

    def __init__(
        self,
        *,
        model: str,
        job: str,
        mlflow_conn_id: str | None = MLflowHook.default_conn_name,
        ledger_conn_id: str | None = LedgerHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.job = job
        self.mlflow_conn_id = mlflow_conn_id
        self.ledger_conn_id = ledger_conn_id

    def perform(self, context: Context) -> Training:
        """Fetch the training, and return what ``TensorFlowTrainOperator`` would have."""
        from airflow_mlops.engine.data.shared import fetch
        from airflow_mlops.engine.training.jobs import Job
        from airflow_mlops.operators.training_progress import ShownProgress, live_run

        job = Job(self.home_path, require(self.job, "job", "Did the task that prepares the training succeed?"))
        spec = job.spec()
        live = live_run(context, self, self.mlflow_conn_id, spec)
        progress = job.progress()
        if progress is not None:
            ShownProgress(context, self.model, live, self.ledger_conn_id).follow(progress)
        fetch(job.workdir.path)
        result = job.workdir.finished(spec.hash)
        if result is not None:
            if live is not None:
                live.open()
                live.end("FINISHED", result.ended)
            return trained(spec, job.workdir.path, result)
        error = job.error() or TransientError(
            "The training ended, and neither a result nor an error of it is in the home.",
            detail=f"training {job.id}; {progress or 'it never began to train'}",
            hint="It was killed from outside: lack of memory, a machine that went. The task before has its log. Clear "
            "that: the training goes on from its last checkpoint.",
        )
        if live is not None:
            live.open()
            live.end("KILLED") if error.retryable else live.fail(error)
        raise error


class RetryJobWhileItGetsFurther(RetryWhileItGetsFurther):
    """The same of a job elsewhere; never one that says in the home that the user's code failed: that would again.

    :param task_id: Of the task that prepared the job.
    :param home: Home of the job; None: the configured one.
    :param retries: How many in a row may get no further than any try before.
    """

    def __init__(self, task_id: str, home: str | None, retries: int) -> None:
        super().__init__(retries)
        self.task_id, self.home = task_id, home

    def evaluate(
        self, exception: BaseException, try_number: int, max_tries: int, context: Context | None = None
    ) -> RetryDecision:
        """Look into the home, and decide."""
        job = None if context is None else self._job(context)
        error = None if job is None else job.error()
        if error is not None and not error.retryable:
            return RetryDecision.fail(error.headline)
        return super().evaluate(exception, try_number, max_tries, context)

    def reached(self, context: Context) -> int:
        """Return how many examples the job has done."""
        job = self._job(context)
        progress = None if job is None else job.progress()
        return 0 if progress is None else progress.examples

    def _job(self, context: Context) -> Job | None:
        from airflow_mlops.engine.training.jobs import Job

        found = context["ti"].xcom_pull(task_ids=self.task_id, key="job")
        return Job(open_home(self.home), str(found)) if found else None


def training_tasks(
    *,
    task_id: str = "train",
    launcher: Launcher | str = "local",
    resources: Resources | None = None,
    gpu: GPU | None = None,
    model: str,
    timeout: float = 2 * 3600,
    **arguments: Any,
) -> BaseOperator:
    """Add the tasks of a training to a DAG, and return the one that has the result.

    On the worker that is one task; elsewhere it is a group of three: ``prepare``, ``run``, and ``collect``.

    :param task_id: Of the task, or of the group.
    :param launcher: Where it runs: ``"local"``, ``"kubernetes"``, ``"sagemaker"``, ``"batch"``; or one with settings,
        such as ``Kubernetes(...)``.
    :param resources: GPUs that it takes, such as ``GPU(1)``; or queue, pool and the like of the tasks.
    :param gpu: GPUs alone, as the operator has them.
    :param model: Name of the model.
    :param timeout: Seconds that the training may take.
    :param arguments: Others of :class:`~airflow_mlops.operators.tensorflow.TensorFlowTrainOperator`.
    :raises ConfigError: when there is no such launcher, or the home is a folder.
    """
    where, given = launcher_of(launcher), resources or gpu or Resources()
    if not isinstance(where, RemoteLauncher):
        train = {"execution_timeout": timedelta(seconds=timeout) + timedelta(minutes=5), **given.as_arguments()}
        task = TensorFlowTrainOperator(
            task_id=task_id, model=model, timeout=timeout, max_active_tis_per_dag=1, **{**train, **arguments}
        )
        if task.retry_policy is None:
            task.retry_policy = RetryWhileItGetsFurther(more_retries(task))
        return task
    return _remote(task_id, where, given, {"model": model, "timeout": timeout, **arguments})


def _remote(task_id: str, launcher: RemoteLauncher, resources: Resources, arguments: Mapping[str, Any]) -> BaseOperator:
    home = arguments.get("home") or conf.get("mlops", "home", fallback="")
    if home and "://" not in home:
        raise ConfigError(
            f"{type(launcher).__name__} needs a home that it can reach, and this one is of one machine.",
            detail=f"home is {home!r}",
            hint="Put it in a bucket: AIRFLOW__MLOPS__HOME=s3://aws_default@bucket/prefix. Or train with "
            'launcher="local".',
        )
    launcher, where = _configured(launcher), resources.beside()
    gpu = resources if isinstance(resources, GPU) else None
    with TaskGroup(task_id, tooltip=f"Trained by {type(launcher).__name__}"):
        prepare = TensorFlowPrepareTrainingOperator(
            task_id="prepare",
            image=launcher.trains_in,
            price_per_hour=launcher.price_per_hour,
            gpu=gpu,
            **where,
            **arguments,
        )
        timeout, prepared = timedelta(seconds=prepare.timeout), cast("Any", prepare.output)
        job = RemoteJob(
            name=str(prepared["name"]),
            command=prepared["command"],
            bucket=str(prepared["bucket"]),
            environment=launcher.environment,
            gpus=0 if gpu is None else gpu.all,
            timeout=timeout,
        )
        again = {} if resources.retries is None else {"retries": resources.retries}
        run = _operator(launcher)(
            task_id="run",
            **launcher.arguments(job),
            execution_timeout=timeout + launcher.latest,
            **{**where, **again},
        )
        run.retry_policy = RetryJobWhileItGetsFurther(prepare.task_id, prepare.home, more_retries(run))
        collect = TensorFlowCollectTrainingOperator(
            task_id="collect",
            model=prepare.model,
            job=prepared["job"],
            mlflow_conn_id=prepare.mlflow_conn_id,
            ledger_conn_id=prepare.ledger_conn_id,
            home=prepare.home,
            # It says why a job failed. A training that is done counts, whatever became of the task that waited for it.
            trigger_rule=TriggerRule.ALL_DONE_MIN_ONE_SUCCESS,
            **where,
        )
        prepare >> run >> collect
    return collect


def _configured(launcher: RemoteLauncher) -> RemoteLauncher:
    """Return a launcher with what Airflow's configuration says in its place.

    :raises ConfigError: when nobody says it.
    """
    name = type(launcher).__name__
    configured: dict[str, Any] = {}
    for what, option in launcher.options.items():
        value = getattr(launcher, what) or conf.get("mlops", option, fallback="")
        if not value:
            raise ConfigError(
                f"{name}() has no {what}.",
                detail=f"option `{option}` in section [mlops] of the Airflow configuration is empty",
                hint=f"Say it, {name}({what}=...), or set AIRFLOW__MLOPS__{option.upper()}.",
            )
        configured[what] = value
    return replace(launcher, **configured)


def _operator(launcher: RemoteLauncher) -> type[BaseOperator]:
    """Return the provider's operator.

    :raises ConfigError: when its provider is not installed.
    """
    from airflow.sdk.module_loading import import_string

    try:
        return cast("type[BaseOperator]", import_string(launcher.operator))
    except ImportError as error:
        raise ConfigError(
            f"{type(launcher).__name__}() needs a provider that is not installed here.",
            detail=str(error),
            hint=f"Install airflow-mlops[{launcher.extra}] where DAG files are read and where tasks run.",
        ) from None
