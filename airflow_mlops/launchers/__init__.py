"""Where a training runs: in a child process of the worker, or as a job of a cluster.

A launcher says with what arguments the operator of a provider runs a job. That is imported when a DAG that uses it is
built, and in no other: nothing here imports Airflow.
"""

from __future__ import annotations

from airflow_mlops.exceptions import ConfigError, did_you_mean
from airflow_mlops.launchers.aws import Batch, SageMaker
from airflow_mlops.launchers.base import Launcher, Local, RemoteJob, RemoteLauncher
from airflow_mlops.launchers.kubernetes import Kubernetes

__all__ = [
    "LAUNCHERS",
    "Batch",
    "Kubernetes",
    "Launcher",
    "Local",
    "RemoteJob",
    "RemoteLauncher",
    "SageMaker",
    "launcher_of",
]

LAUNCHERS: dict[str, type[Launcher]] = {
    "local": Local,
    "kubernetes": Kubernetes,
    "sagemaker": SageMaker,
    "batch": Batch,
}
"""By the word that means one with its defaults."""


def launcher_of(launcher: Launcher | str) -> Launcher:
    """Return a launcher by its word, with its defaults; one that is given as such is returned as it is.

    :raises ConfigError: when there is none of that name.
    """
    if isinstance(launcher, Launcher):
        return launcher
    if launcher not in LAUNCHERS:
        raise ConfigError(
            f"There is no launcher {launcher!r}.{did_you_mean(str(launcher), LAUNCHERS)}",
            hint=f"Launchers: {', '.join(LAUNCHERS)}; or one with settings, such as Kubernetes(image=...), from "
            "airflow_mlops.",
        )
    return LAUNCHERS[launcher]()
