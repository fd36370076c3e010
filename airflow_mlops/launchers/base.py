"""What all launchers share. Nothing here imports Airflow, nor a client of a cluster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from datetime import timedelta
from typing import Annotated, Any, ClassVar

from pydantic import Field

from airflow_mlops.typed import part


@part
class Launcher:
    """Where a training runs."""


@part
class Local(Launcher):
    """A child process of the worker that has the task."""


@dataclass(frozen=True)
class RemoteJob:
    """What a cluster is to run.

    :param name: Name of the job, a template: the same training has the same one. Letters, digits and ``-``, at most 63.
    :param command: The command and its arguments; a template, or the output of a task, that becomes them.
    :param environment: Environment variables; none is secret.
    :param gpus: How many it needs.
    :param timeout: When the job stops itself, counted from when it begins.
    :param bucket: Where the home is, a template: ``s3://bucket/prefix``.
    """

    name: str
    command: Any
    environment: Mapping[str, str] = field(default_factory=dict)
    gpus: int = 0
    timeout: timedelta = timedelta(hours=2)
    bucket: str = ""


@part
class RemoteLauncher(Launcher):
    """Base of those that run an image elsewhere. Home, snapshots and trainings must be in a bucket that it reaches.

    :param image: Image to run, such as that of target ``train`` of ``docker/Dockerfile``; by default option
        ``[mlops] train_image`` of Airflow's configuration.
    :param environment: Further environment variables of the job. They are shown in the UI: no secrets.
    :param price_per_hour: What an hour of its machine costs; by default option ``[mlops] price_per_hour``.
    """

    operator: ClassVar[str] = ""
    """The provider's operator that runs a job: dotted path of its class, imported where a DAG uses it."""
    extra: ClassVar[str] = ""
    """Extra of this package that installs the provider."""
    options: ClassVar[Mapping[str, str]] = {"image": "train_image"}
    """What must be said → option in section ``[mlops]`` of Airflow's configuration that says it instead."""

    _: KW_ONLY
    image: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    price_per_hour: Annotated[float, Field(ge=0)] | None = None

    @property
    def trains_in(self) -> str:
        """What the job runs in: another one makes it another training."""
        return self.image

    @property
    def latest(self) -> timedelta:
        """How long a job may take beyond its own timeout: to be scheduled, started and ended."""
        return timedelta(minutes=15)

    def arguments(self, job: RemoteJob) -> dict[str, Any]:
        """Return the arguments of :attr:`operator` that run a job: deferred, and never twice."""
        raise NotImplementedError
