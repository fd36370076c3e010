"""Trainings in pods, by the operator of Airflow's Kubernetes provider."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY
from datetime import timedelta
from typing import Any, ClassVar, Literal

from pydantic import Field

from airflow_mlops.durations import parse_duration
from airflow_mlops.exceptions import ConfigError
from airflow_mlops.launchers.base import RemoteJob, RemoteLauncher
from airflow_mlops.typed import Duration, part

_NUMBER = r"(\d*\.?\d+)"
_CPUS = re.compile(rf"{_NUMBER}m?")
_BYTES = re.compile(rf"{_NUMBER}(k|[MGTPE]|[KMGTPE]i)?")  # m as well, for Kubernetes: 512m is half a byte
_CONTAINER = "base"
"""Name of the container that the provider's operator runs the command in."""


@part
class Kubernetes(RemoteLauncher):
    """A pod of a cluster, by ``KubernetesPodOperator`` in deferred mode: no worker waits for it.

    The pod has the same name for the same training. A task whose worker was lost finds it again; one that is ended
    deletes it, and the training saves before it goes.

    :param image: Image to run, such as that of target ``train`` of ``docker/Dockerfile``; by default option
        ``[mlops] train_image`` of Airflow's configuration.
    :param environment: Further environment variables of the pod. They are shown in the UI: no secrets.
    :param price_per_hour: What an hour of its machine costs; by default option ``[mlops] price_per_hour``.
    :param conn_id: Airflow connection of type ``kubernetes``. Without one of that name, the cluster that Airflow runs
        in, or the one of ``~/.kube/config``.
    :param namespace: Namespace of the pod; by default that of the connection.
    :param cpu: CPUs that it asks for, such as ``"4"`` or ``"500m"``.
    :param memory: Memory that it asks for and gets no more of, such as ``"16Gi"``.
    :param gpu_resource: What the cluster calls a GPU.
    :param node_selector: Labels of the nodes that it may run on.
    :param tolerations: Taints that it tolerates, as in a pod's spec.
    :param service_account_name: Service account, by which the pod may have its role for the bucket.
    :param secrets: Secrets of the namespace whose keys become environment variables, such as ``AWS_ACCESS_KEY_ID``.
    :param labels: Further labels of the pod.
    :param image_pull_policy: When the image is pulled.
    :param pod: The rest, as the manifest of a pod has it: ``{"spec": {"volumes": [...]}}``. Its first container is
        called ``base``. What is said otherwise comes before it.
    :param starts_within: How long the pod may wait for a node; and then for its image and its start.
    :param saves_within: How long a pod that is deleted has to save.
    :param on_finish_action: What becomes of the pod when it has ended.
    """

    operator: ClassVar[str] = "airflow.providers.cncf.kubernetes.operators.pod.KubernetesPodOperator"
    extra: ClassVar[str] = "kubernetes"

    _: KW_ONLY
    conn_id: str = "kubernetes_default"
    namespace: str | None = None
    cpu: str | None = None
    memory: str | None = None
    gpu_resource: str = "nvidia.com/gpu"
    node_selector: Mapping[str, str] = Field(default_factory=dict)
    tolerations: Sequence[Mapping[str, Any]] = ()
    service_account_name: str | None = None
    secrets: Sequence[str] = ()
    labels: Mapping[str, str] = Field(default_factory=dict)
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = None
    pod: Mapping[str, Any] = Field(default_factory=dict)
    starts_within: Duration = "30m"
    saves_within: Duration = "30s"
    on_finish_action: Literal["delete_pod", "delete_succeeded_pod", "keep_pod"] = "delete_pod"

    def __post_init__(self) -> None:
        for what, value, form in ("cpu", self.cpu, _CPUS), ("memory", self.memory, _BYTES):
            found = None if value is None else form.fullmatch(value)
            if value is not None and not (found and float(found[1])):
                raise ConfigError(
                    f"Kubernetes({what}={value!r}) is no quantity that a pod can ask for.",
                    hint='CPUs are such as "4" or "500m", memory is such as "16Gi" or "512Mi".',
                )
        containers = self.pod.get("spec", {}).get("containers", ())
        if any(one.get("name") != _CONTAINER for one in containers[:1]):
            raise ConfigError(
                "The first container of pod= is the one that trains, and has another name.",
                detail=f"name is {containers[0].get('name')!r}",
                hint=f"Call it {_CONTAINER!r}.",
            )

    @property
    def latest(self) -> timedelta:
        """How long a job may take beyond its own timeout: to be scheduled, started and ended."""
        return 2 * parse_duration(self.starts_within) + parse_duration(self.saves_within) + timedelta(minutes=5)

    def arguments(self, job: RemoteJob) -> dict[str, Any]:
        """Return the arguments of ``KubernetesPodOperator`` that run a job: deferred, and never twice."""
        starts_within = math.ceil(parse_duration(self.starts_within).total_seconds())
        return {
            "kubernetes_conn_id": self.conn_id,
            "namespace": self.namespace,
            "name": job.name,
            "random_name_suffix": False,
            "image": self.image,
            "image_pull_policy": self.image_pull_policy,
            # `arguments` would leave it to the image's entrypoint: another one may have none, or one of its own.
            "cmds": job.command,
            "env_vars": dict(job.environment),
            "labels": {"app.kubernetes.io/managed-by": "airflow-mlops", **self.labels},
            "container_resources": self._resources(job.gpus),
            "node_selector": dict(self.node_selector),
            "tolerations": [dict(one) for one in self.tolerations],
            "service_account_name": self.service_account_name,
            "env_from": [{"secretRef": {"name": name}} for name in self.secrets],
            "pod_template_dict": dict(self.pod),
            "schedule_timeout_seconds": starts_within,
            "startup_timeout_seconds": starts_within,
            "termination_grace_period": math.ceil(parse_duration(self.saves_within).total_seconds()),
            "on_finish_action": self.on_finish_action,
            "deferrable": True,
            "get_logs": True,
            "logging_interval": 30,
            "log_events_on_failure": True,
        }

    def _resources(self, gpus: int) -> dict[str, dict[str, str]]:
        """Return what a pod asks for: GPUs and memory and no more of them, and CPUs."""
        limits = {self.gpu_resource: str(gpus)} if gpus else {}
        asked = {"cpu": self.cpu} if self.cpu else {}
        if self.memory:
            limits["memory"] = asked["memory"] = self.memory
        return {"limits": limits, "requests": asked}
