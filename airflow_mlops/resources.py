"""Where Airflow runs the tasks of a stage, and the GPUs that a training takes there.

Nothing here imports Airflow or a machine-learning library.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY
from typing import Annotated, Any, Literal

from pydantic import Field

from airflow_mlops.exceptions import ConfigError
from airflow_mlops.typed import Duration, part

GPU_QUEUE = "gpu"
"""Queue, and pool, of what needs a GPU."""


@part
class Resources:
    """Where and how Airflow runs the tasks of a stage, in Airflow's own words; what is left out stays as it is.

    :param queue: Queue of the executor.
    :param pool: Pool that limits how many run at once.
    :param pool_slots: How many slots of the pool one takes.
    :param priority_weight: Which task goes first when slots are scarce.
    :param retries: How often a task is tried again after an error that may pass; of a training, how often in a row
        without getting further than before.
    :param executor: Executor, where several are configured.
    :param executor_config: For the executor, such as ``{"pod_override": V1Pod(...)}``.
    """

    _: KW_ONLY
    queue: str | None = None
    pool: str | None = None
    pool_slots: Annotated[int, Field(gt=0)] | None = None
    priority_weight: int | None = None
    retries: Annotated[int, Field(ge=0)] | None = None
    executor: str | None = None
    executor_config: Mapping[str, Any] | None = None

    def as_arguments(self) -> dict[str, Any]:
        """Return what was given, as arguments of an operator."""
        names = Resources.__dataclass_fields__
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def beside(self) -> dict[str, Any]:
        """Return the same for a task that goes with it and computes little."""
        return self.as_arguments()


@part
class GPU(Resources):
    """GPUs for a training: whole ones that nobody else has meanwhile, on a worker of the queue and pool ``gpu``.

    :param count: How many. A model function trains over several by ``MirroredStrategy``.
    :param workers: Processes of this machine that train together, each with ``count`` GPUs, by a fit function: they
        find each other by ``TF_CONFIG``, for ``MultiWorkerMirroredStrategy``.
    :param or_cpu: Without as many GPUs on the worker, train on its CPU and say so, rather than fail.
    :param shared: Share the GPUs with other trainings that say so too.
    :param free_within: How long to wait for GPUs that other trainings have.
    :param memory_limit: MiB of each GPU that TensorFlow may take; by default it takes what it comes to need.
    :param precision: Keras's policy: what layers compute in. Weights stay in ``float32``.
    :param xla: Compile with XLA whatever of a graph can be.
    """

    count: Annotated[int, Field(gt=0)] = 1
    _: KW_ONLY
    workers: Annotated[int, Field(gt=0)] = 1
    or_cpu: bool = False
    shared: bool = False
    free_within: Duration = "10m"
    memory_limit: Annotated[int, Field(gt=0)] | None = None
    precision: Literal["float32", "mixed_float16", "mixed_bfloat16"] = "float32"
    xla: bool = False
    queue: str | None = GPU_QUEUE
    pool: str | None = GPU_QUEUE

    def __post_init__(self) -> None:
        if self.shared and self.all > 1:
            raise ConfigError(
                f"GPU({self.count}, workers={self.workers}, shared=True) asks for shares of several GPUs.",
                hint="Share one, GPU(1, shared=True); or take them whole.",
            )

    @property
    def all(self) -> int:
        """How many GPUs that is."""
        return self.count * self.workers

    def as_arguments(self) -> dict[str, Any]:
        """Return it as arguments of an operator: a slot of its pool for each GPU."""
        slots = {"pool_slots": self.all} if self.pool == GPU_QUEUE else {}
        return slots | super().as_arguments() | {"gpu": self}

    def beside(self) -> dict[str, Any]:
        """Return nothing: what needs no GPU stays off the workers that have one."""
        return {}


def where_of(gpu: GPU | None) -> dict[str, Any]:
    """Return the arguments of an operator that say where it gets such GPUs.

    :raises ConfigError: when these are no GPUs.
    """
    if gpu is None:
        return {}
    if not isinstance(gpu, GPU):
        raise ConfigError(f"gpu={gpu!r} says no GPUs.", hint="Write gpu=GPU(1), from airflow_mlops import GPU.")
    return {name: value for name, value in gpu.as_arguments().items() if name != "gpu"}


def gpu_of(task: Any) -> GPU | None:
    """Return the GPUs of a task: those that it names, or one on the queue of those that need one."""
    return task.gpu or (GPU() if task.queue == GPU_QUEUE else None)
