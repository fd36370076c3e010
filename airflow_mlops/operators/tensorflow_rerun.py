"""An operator that trains a registered version again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypedDict

from airflow_mlops.hooks.mlflow import MLflowHook
from airflow_mlops.operators.base import MlopsOperator, whole_version
from airflow_mlops.resources import GPU, gpu_of, where_of

if TYPE_CHECKING:
    from airflow.sdk import Context


class RerunVersion(TypedDict):
    """A version that came out the same again; metrics are those of its test split."""

    model: str
    version: str
    metrics: dict[str, float]
    other: list[str]


class TensorFlowRerunOperator(MlopsOperator):
    """Train a registered version again, in a fresh child process, and say whether the same comes out.

    Use it in an audit, to show that a version follows from its data and code.

    Nothing is registered. It fails when the weights or the metrics are others, and when something is missing: the
    snapshot, the code of then, the record of the training. Code that has changed since is taken from git.

    :param model: Name of the model in the registry.
    :param version: Its version.
    :param timeout: Seconds until the training is stopped.
    :param gpu: GPUs that it takes, as :class:`~airflow_mlops.operators.tensorflow.TensorFlowTrainOperator` does.
    :param mlflow_conn_id: Airflow connection of type ``mlflow``.
    """

    template_fields = (*MlopsOperator.template_fields, "model", "version", "mlflow_conn_id")

    def __init__(
        self,
        *,
        model: str,
        version: int | str,
        timeout: float = 2 * 3600,
        gpu: GPU | None = None,
        mlflow_conn_id: str = MLflowHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**{**where_of(gpu), **kwargs})
        self.model = model
        self.version = version
        self.timeout = timeout
        self.gpu = gpu
        self.mlflow_conn_id = mlflow_conn_id

    def perform(self, context: Context) -> RerunVersion:
        """Train, compare, and return what is the same."""
        from airflow_mlops.engine.training.rerun import rerun

        version = whole_version(self.version)
        registry = MLflowHook(self.mlflow_conn_id).get_conn()
        again = rerun(
            registry,
            self.home_path,
            self.model,
            str(version),
            timeout=self.timeout,
            gpu=gpu_of(self),
            log=self.log,
            task=f"{self.dag_id}.{self.task_id}",
        )
        for line in str(again).splitlines():
            self.log.info("%s", line)
        again.check()
        return RerunVersion(
            model=self.model,
            version=again.version,
            metrics={name: then for name, (then, _) in again.metrics.items()},
            other=list(again.other),
        )
