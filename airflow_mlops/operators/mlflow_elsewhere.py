"""Operators for models that were made elsewhere: register a SavedModel, fetch any version of any registered model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_mlops.exceptions import ConfigError
from airflow_mlops.hooks.ledger import LedgerHook
from airflow_mlops.hooks.mlflow import MLflowHook
from airflow_mlops.links.mlflow import MLflowModelVersionLink, MLflowRunLink
from airflow_mlops.operators.base import MlopsOperator, owner_of, path_of, require, run_tags, said, whole_version
from airflow_mlops.operators.mlflow import FetchedVersion, RegisteredVersion
from airflow_mlops.operators.tensorflow import registry_cache

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_mlops.engine.data.storage import AnyPath


class MLflowRegisterSavedModelOperator(MlopsOperator):
    """Register a model that some other job wrote: a SavedModel, or an MLflow model with a SavedModel or a Keras file.

    Use it for a model that was bought, or trained where this package is not.

    Its golden predictions are recorded now, by the engine that will serve it, from sample requests. The same files are
    registered once, however often this is repeated; the newest version is ``challenger``.

    :param model: Name of the model in the registry.
    :param source: Folder of the SavedModel, here or on object storage such as ``s3://aws_default@bucket/model``; or a
        model in MLflow: ``runs:/<run id>/model``, ``models:/<name>/<version or @alias>``.
    :param samples: File of sample requests, a Parquet or a JSON file as TensorFlow Serving takes it. Empty takes
        MLflow's input example or the warm-up records of the SavedModel, if there are any.
    :param mlflow_conn_id: Airflow connection of type ``mlflow``.
    :param ledger_conn_id: Airflow connection of type ``mlops_ledger``: while the model is halted there, this is
        skipped. None minds no halt.
    """

    stopped_by_halt = "if known"  # it needs nothing else of the ledger
    template_fields = (*MlopsOperator.template_fields, "model", "source", "samples", "mlflow_conn_id", "ledger_conn_id")
    operator_extra_links = (MLflowRunLink(), MLflowModelVersionLink())

    def __init__(
        self,
        *,
        model: str,
        source: str,
        samples: str = "",
        mlflow_conn_id: str = MLflowHook.default_conn_name,
        ledger_conn_id: str | None = LedgerHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.source = source
        self.samples = samples
        self.mlflow_conn_id = mlflow_conn_id
        self.ledger_conn_id = ledger_conn_id

    def perform(self, context: Context) -> RegisteredVersion:
        """Find the model, prove that it answers, register it, and return the version."""
        import tempfile

        from airflow_mlops.engine.data.storage import on_disk
        from airflow_mlops.engine.registry.elsewhere import brought, make_servable

        source = require(self.source, "source", "Did the task that writes the model succeed?")
        hook = MLflowHook(self.mlflow_conn_id)
        registry = hook.get_conn()
        with tempfile.TemporaryDirectory() as scratch, on_disk(_files(self.samples)) as samples:
            if source.startswith(("runs:/", "models:/", "mlflow-artifacts:/")):
                folder = registry.download_uri(source, Path(scratch) / "fetched")
            else:
                folder = brought(path_of(source), Path(scratch) / "fetched")
            made = make_servable(folder, Path(scratch) / "saved_model", samples[0] if samples else None)
            registered = registry.register_made_elsewhere(
                self.model, made.saved_model, made.signature, source, run_tags(context, self)
            )
        if owner := owner_of(self):
            registry.set_owner(self.model, owner)
        MLflowRunLink.persist(context, hook.run_url(registered.experiment_id, registered.run_id))
        MLflowModelVersionLink.persist(context, hook.version_url(self.model, registered.version))
        self.log.info("Version %s of %s, %d golden rows", registered.version, self.model, made.golden)
        return RegisteredVersion(
            model=registered.model,
            version=int(registered.version),
            run_id=registered.run_id,
            experiment_id=registered.experiment_id,
            source=registered.source,
        )


class MLflowFetchModelOperator(MlopsOperator):
    """Fetch any version of any registered model, whoever logged it, ready to be published.

    Use it first in a DAG that serves a model that somebody else logged.

    A Keras file, as ``mlflow.tensorflow.log_model`` keeps it, becomes a SavedModel. The files are written down in the
    ledger at first sight; a version whose files are others later is refused. What passed its gates is fetched by
    :class:`~airflow_mlops.operators.mlflow.MLflowFetchApprovedModelOperator` instead.

    :param model: Name of the model in the registry.
    :param version: Number of the version; empty takes that of ``alias``.
    :param alias: Alias of the version, looked up once.
    :param samples: File of sample requests to record golden predictions from, of a version that has none; see
        :class:`MLflowRegisterSavedModelOperator`.
    :param mlflow_conn_id: Airflow connection of type ``mlflow``.
    :param ledger_conn_id: Airflow connection of type ``mlops_ledger``.
    """

    template_fields = (
        *MlopsOperator.template_fields,
        "model",
        "version",
        "alias",
        "samples",
        "mlflow_conn_id",
        "ledger_conn_id",
    )
    operator_extra_links = (MLflowModelVersionLink(),)

    def __init__(
        self,
        *,
        model: str,
        version: int | str = "",
        alias: str = "",
        samples: str = "",
        mlflow_conn_id: str = MLflowHook.default_conn_name,
        ledger_conn_id: str = LedgerHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.version = version
        self.alias = alias
        self.samples = samples
        self.mlflow_conn_id = mlflow_conn_id
        self.ledger_conn_id = ledger_conn_id

    def perform(self, context: Context) -> FetchedVersion:
        """Fetch it and return where its SavedModel lies."""
        from airflow_mlops.engine.data.shared import fetch, send
        from airflow_mlops.engine.data.storage import on_disk
        from airflow_mlops.engine.registry.elsewhere import fetch_version
        from airflow_mlops.engine.registry.lookup import find_version

        if bool(said(self.version)) == bool(said(self.alias)):
            raise ConfigError(
                "Which version to fetch is not said in one way.",
                detail=f"version={self.version!r}, alias={self.alias!r}",
                hint="Give a number or an alias.",
            )
        hook = MLflowHook(self.mlflow_conn_id)
        registry = hook.get_conn()
        wanted = said(self.alias) or str(whole_version(self.version))
        version = int(find_version(registry, self.model, wanted).version)
        MLflowModelVersionLink.persist(context, hook.version_url(self.model, str(version)))
        folder = registry_cache(self.home_path, self.model, version)
        fetch(folder)
        ledger = LedgerHook(self.ledger_conn_id).get_conn()
        with on_disk(_files(self.samples)) as samples:
            made = fetch_version(registry, ledger, self.model, version, folder, samples=samples[0] if samples else None)
        send(folder)  # whoever publishes it may be another worker
        self.log.info("Version %d of %s, %d golden rows", version, self.model, made.golden)
        return FetchedVersion(model=self.model, version=version, saved_model=str(folder), passed=[])


def _files(samples: str) -> list[AnyPath]:
    return [path_of(said(samples))] if said(samples) else []
