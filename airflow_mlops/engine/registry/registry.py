"""The model registry and the record of every training, in MLflow.

One MLflow run a training, found again by the tag ``mlops.training_id`` (the hash of its spec): whatever is
repeated ends in the same run and the same version. Aliases say the role of a version: ``challenger`` (newest),
``champion`` (serves), ``previous`` (served before).
"""

from __future__ import annotations

import json
import logging
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_mlops.contracts import (
    Evaluation,
    ModelManifest,
    RegisteredModel,
    Signature,
    TrainingResult,
    TrainingSpec,
    Verdict,
)
from airflow_mlops.engine.data.files import checksums, identity, temporary_sibling, tree_hash
from airflow_mlops.engine.registry.connection import NO_SUCH_THING, make_client, talking_to, without_credentials
from airflow_mlops.engine.registry.manifest import MANIFEST_FILE
from airflow_mlops.engine.registry.packaging import CHECKSUMS_FILE, SAVED_MODEL, write_mlmodel
from airflow_mlops.engine.registry.records import data_of, metric_batches, milliseconds, params_of, tags_of
from airflow_mlops.engine.training.workdir import TENSORBOARD
from airflow_mlops.exceptions import DataError, MlopsError, TransientError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

    from airflow_mlops.contracts import ValidationResult

_NOT_FOUND = re.compile(r"\b404\b|No such artifact|does not exist", re.IGNORECASE)

_MOST_LOGS = 100_000_000
"""Bytes of logs for TensorBoard that MLflow gets of a training."""

CHALLENGER = "challenger"
CHAMPION = "champion"
PREVIOUS = "previous"
TRAINING_ID = "mlops.training_id"
VERDICT = "mlops.verdict"
ERROR = "mlops.error"
OWNER = "mlops.owner"
EXPERIMENTAL = "mlops.experimental"
CONTENT = "mlops.content"
"""Tag of a version that was made elsewhere and registered here: the hash of its files."""
SOURCE = "mlops.source"
SPEC_FILE = "spec.json"

log = logging.getLogger(__name__)


def logged_name(model: str) -> str:
    """Return what a logged model is called: its name takes less than a registered one's."""
    return re.sub(r"[/:.%\"']", "_", model)


@dataclass(frozen=True)
class TrainingRun:
    """The MLflow run of a training."""

    run_id: str
    experiment_id: str
    started: int


class Registry:
    """MLflow behind a tracking URI. Connects on first use.

    :param tracking_uri: Of the tracking server, ``http://…``, or of its database, ``sqlite:///…``.
    :param registry_uri: Of the model registry, when it is another.
    :param lookups_only: No file is up- or downloaded; the credentials stay out of the process's environment.
    :param credentials: ``username`` and ``password``, or ``token``.
    """

    def __init__(
        self,
        tracking_uri: str,
        registry_uri: str | None = None,
        *,
        lookups_only: bool = False,
        **credentials: str | None,
    ) -> None:
        self.tracking_uri = tracking_uri
        self._client = make_client(tracking_uri, registry_uri, **credentials, lookups_only=lookups_only)

    @property
    def client(self) -> MlflowClient:
        """MLflow's own client; what it raises is MLflow's too, outside :func:`talking_to`."""
        return self._client

    def check(self) -> str:
        """Ask for one experiment and say who answered."""
        with talking_to(self.tracking_uri):
            self._client.search_experiments(max_results=1)
        return "MLflow answers"

    # --- runs ------------------------------------------------------------------------------------------

    def open_run(
        self, spec: TrainingSpec, tags: Mapping[str, str] | None = None, *, started: datetime | None = None
    ) -> TrainingRun:
        """Return the run of a training, found by its id or made new.

        :param tags: More tags, such as the Airflow run, and ``mlflow.user``.
        :param started: When the training began; None: now.
        """
        with talking_to(self.tracking_uri):
            experiment_id = self._experiment(spec.model)
            found = self._client.search_runs([experiment_id], f"tags.`{TRAINING_ID}` = '{spec.hash}'", max_results=1)
            if found:
                run = found[0]
            else:
                named = {TRAINING_ID: spec.hash, "mlflow.runName": f"{spec.model} {spec.snapshot.id[:12]}"}
                run = self._client.create_run(experiment_id, milliseconds(started), {**(tags or {}), **named})
            self._client.log_batch(run.info.run_id, params=params_of(spec), tags=tags_of(spec, tags or {}))
            self._client.log_inputs(run.info.run_id, data_of(spec.snapshot))
            self._client.log_text(run.info.run_id, spec.to_json(), SPEC_FILE)
        return TrainingRun(run.info.run_id, experiment_id, run.info.start_time)

    def log_failure(self, run: TrainingRun, error: MlopsError) -> None:
        """Record that a training failed, and why."""
        with talking_to(self.tracking_uri):
            self._client.set_tag(run.run_id, ERROR, error.headline)
            self._client.log_text(run.run_id, str(error), "error.txt")
            self._client.set_terminated(run.run_id, "FAILED")

    def log_validation(self, run_id: str, result: ValidationResult) -> None:
        """Log a validation into a run that is open."""
        from airflow_mlops.engine.data.validation.publishing import log_to_mlflow

        with talking_to(self.tracking_uri):
            log_to_mlflow(result, run_id, self._client)

    def register(
        self,
        run: TrainingRun,
        result: TrainingResult,
        manifest: ModelManifest,
        evaluation: Evaluation,
        *,
        challenger: bool = True,
    ) -> RegisteredModel:
        """Log a training's outcome and return its registered version.

        :param challenger: Whether it becomes ``challenger``, unless a newer one is.
        :raises TransientError: when MLflow does not answer. Repeating it goes on with the same run and version.
        """
        with talking_to(self.tracking_uri):
            for batch in metric_batches(result, evaluation, run.started):
                self._client.log_batch(run.run_id, metrics=batch)
            self._client.log_text(run.run_id, manifest.to_json(), MANIFEST_FILE.name)
            self._client.log_text(run.run_id, evaluation.to_json(), "evaluation.json")
            version = self._version_of(manifest.model, run) or self._make_version(
                run,
                manifest.model,
                Path(result.saved_model),
                manifest.signature,
                manifest.versions,
                tags={"mlops.snapshot_id": manifest.snapshot_id, TRAINING_ID: manifest.spec_hash},
            )
            self._log_tensorboard(run, Path(result.saved_model).parent / TENSORBOARD)
            self._client.set_terminated(run.run_id, "FINISHED", milliseconds(result.ended))
            if ERROR in self._client.get_run(run.run_id).data.tags:
                self._client.delete_tag(run.run_id, ERROR)
        return self._challenger(version) if challenger else self._registered(version)

    def log_experiment(
        self, spec: TrainingSpec, result: TrainingResult, evaluation: Evaluation, verdict: Verdict
    ) -> str:
        """Keep the run of an experiment beside those of production, and return its id. It makes no version.

        :raises TransientError: when MLflow does not answer.
        """
        run = self.open_run(spec, {EXPERIMENTAL: "true"}, started=result.started)
        with talking_to(self.tracking_uri):
            for batch in metric_batches(result, evaluation, run.started):
                self._client.log_batch(run.run_id, metrics=batch)
            self._client.log_text(run.run_id, evaluation.to_json(), "evaluation.json")
            self._client.log_text(run.run_id, verdict.to_json(), "verdict.json")
            self._client.set_terminated(run.run_id, "FINISHED", milliseconds(result.ended))
        return run.run_id

    def _log_tensorboard(self, run: TrainingRun, folder: Path) -> None:
        """Log a training's logs for TensorBoard, unless they are too large for an artifact."""
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        if size > _MOST_LOGS:
            log.warning(
                "%s has %d MB: more than %d MB do not go to MLflow.", folder, size // 1_000_000, _MOST_LOGS // 1_000_000
            )
        elif size:
            self._client.log_artifacts(run.run_id, str(folder), TENSORBOARD)

    def register_made_elsewhere(
        self,
        model: str,
        saved_model: Path,
        signature: Signature,
        source: str,
        tags: Mapping[str, str] | None = None,
    ) -> RegisteredModel:
        """Register a SavedModel that was not trained here, in a run of its own; the newest one becomes ``challenger``.

        The same files are one version, however often this is repeated.

        :param source: Where it is from, in words or as a URI.
        :param tags: More tags of the run.
        :raises TransientError: when MLflow does not answer.
        """
        content = tree_hash(saved_model)
        with talking_to(self.tracking_uri):
            experiment_id = self._experiment(model)
            found = self._client.search_runs([experiment_id], f"tags.`{CONTENT}` = '{content}'", max_results=1)
            told = {CONTENT: content, SOURCE: source, "mlflow.runName": f"{model} {content[:12]}"}
            info = (found[0] if found else self._client.create_run(experiment_id, tags={**told, **(tags or {})})).info
            run = TrainingRun(info.run_id, experiment_id, info.start_time)
            version = self._version_of(model, run) or self._make_version(
                run, model, saved_model, signature, {}, tags={CONTENT: content, SOURCE: source}
            )
            self._client.set_terminated(run.run_id, "FINISHED")
        return self._challenger(version)

    def _challenger(self, version: ModelVersion) -> RegisteredModel:
        """Let a version be ``challenger`` unless a newer one is, and return it."""
        current = self.find_alias(version.name, CHALLENGER)
        if current is None or int(current.version) < int(version.version):
            self._point(version.name, CHALLENGER, version.version)
        return self._registered(version)

    def log_verdict(self, model: str, version: str, verdict: Verdict) -> RegisteredModel:
        """Put a verdict on a version and on its run, and return the version."""
        registered = self.version(model, version)
        with talking_to(self.tracking_uri):
            self._client.log_text(registered.run_id, verdict.to_json(), "verdict.json")
            self._client.set_tag(registered.run_id, VERDICT, verdict.status.value)
            self._client.set_model_version_tag(model, version, VERDICT, verdict.status.value)
        return registered

    # --- versions and aliases --------------------------------------------------------------------------

    def version(self, model: str, version: str) -> RegisteredModel:
        """Return a version.

        :raises DataError: when there is none of that number.
        """
        with talking_to(self.tracking_uri):
            return self._registered(self._client.get_model_version(model, version))

    def by_alias(self, model: str, alias: str) -> RegisteredModel:
        """Return the version that an alias points to.

        :raises DataError: when there is no such alias.
        """
        found = self.find_alias(model, alias)
        if found is None:
            raise DataError(
                f"No version of model {model!r} has the alias {alias!r}.",
                detail=f"tracking URI {without_credentials(self.tracking_uri)}",
                hint="A version becomes challenger when it is registered, and champion when it serves.",
            )
        return found

    def find_alias(self, model: str, alias: str) -> RegisteredModel | None:
        """Return the version that an alias points to, or None when there is none."""
        from mlflow.exceptions import MlflowException

        with talking_to(self.tracking_uri):
            try:
                version = self._client.get_registered_model(model).aliases.get(alias)
            except MlflowException as error:
                if error.error_code != NO_SUCH_THING:
                    raise
                return None
            if version is None:
                return None
            found = self._client.get_model_version(model, version)
        return self._registered(found, alias)

    def set_alias(self, model: str, version: str, alias: str) -> RegisteredModel:
        """Point an alias to a version. The version that stops being ``champion`` becomes ``previous``.

        :raises DataError: when there is no such version.
        """
        registered = self.version(model, version)
        if alias == CHAMPION:
            old = self.find_alias(model, CHAMPION)
            if old is not None and old.version != registered.version:
                self._point(model, PREVIOUS, old.version)
        self._point(model, alias, registered.version)
        return registered.model_copy(update={"alias": alias})

    def _point(self, model: str, alias: str, version: str) -> None:
        with talking_to(self.tracking_uri):
            self._client.set_registered_model_alias(model, alias, version)

    def set_owner(self, model: str, owner: str) -> None:
        """Say on a registered model and on its experiment who answers for it."""
        with talking_to(self.tracking_uri):
            self._client.set_experiment_tag(self._experiment(model), OWNER, owner)
            self._client.set_registered_model_tag(model, OWNER, owner)

    # --- files -----------------------------------------------------------------------------------------

    def download(self, model: str, version: str, destination: Path) -> Path:
        """Fetch a version's SavedModel into ``destination``, whole or not at all, and return that folder.

        What is there already with the right bytes stays.

        :raises DataError: when there is no such version.
        :raises TransientError: when MLflow does not answer, or what arrived is not what was logged.
        """
        from mlflow.artifacts import download_artifacts

        with talking_to(self.tracking_uri):
            uri = self._client.get_model_version_download_uri(model, version)
            temporary = temporary_sibling(destination)
            try:
                expected = self._fetch_json(f"{uri}/{CHECKSUMS_FILE}", temporary)
                if destination.is_dir() and checksums(destination) == expected:
                    return destination
                fetched = Path(
                    download_artifacts(f"{uri}/{SAVED_MODEL}", dst_path=str(temporary), tracking_uri=self.tracking_uri)
                )
                if checksums(fetched) != expected:
                    raise TransientError(
                        f"Version {version} of {model!r} did not arrive as it was logged.",
                        detail=f"{uri}: files differ from their checksums",
                        hint="Run the task again; if it stays so, the artifact store has lost bytes: train again.",
                    )
                shutil.rmtree(destination, ignore_errors=True)
                fetched.rename(destination)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
        return destination

    def training_of(self, model: str, version: str) -> str:
        """Return the hash of the spec that a version was trained by; nothing for one that was made elsewhere.

        :raises DataError: when there is no such version.
        """
        with talking_to(self.tracking_uri):
            return str(self._client.get_model_version(model, version).tags.get(TRAINING_ID, ""))

    def training_spec(self, model: str, version: str) -> TrainingSpec:
        """Return what a version was trained by.

        :raises DataError: when there is no such version, it was made elsewhere, or its run is gone.
        """
        if not self.training_of(model, version):
            raise DataError(
                f"Version {version} of {model!r} was not trained here.",
                detail="it has no record of a training",
                hint="Only a version that MLflowRegisterModelOperator has registered can be trained again.",
            )
        with talking_to(self.tracking_uri):
            run_id = self._client.get_model_version(model, version).run_id
        with tempfile.TemporaryDirectory() as folder:
            file = self.download_uri(f"runs:/{run_id}/{SPEC_FILE}", Path(folder))
            return TrainingSpec.from_json(file.read_bytes())

    def content_hash(self, model: str, version: str) -> str:
        """Return the hash of a version's SavedModel, as :func:`~airflow_mlops.engine.data.files.tree_hash` gives it.

        :raises DataError: when there is no such version.
        """
        with talking_to(self.tracking_uri), tempfile.TemporaryDirectory() as folder:
            uri = self._client.get_model_version_download_uri(model, version)
            return identity(self._fetch_json(f"{uri}/{CHECKSUMS_FILE}", Path(folder)))

    def is_ours(self, model: str, version: str) -> bool:
        """Return whether a version was registered here, with a file of checksums beside its SavedModel.

        :raises DataError: when there is no such version.
        """
        with talking_to(self.tracking_uri):
            tags = self._client.get_model_version(model, version).tags
        return TRAINING_ID in tags or CONTENT in tags

    def download_files(self, model: str, version: str, folder: Path) -> Path:
        """Fetch all that a version has, into a folder, whoever registered it.

        :raises DataError: when there is no such version, or its files are gone.
        :raises TransientError: when MLflow does not answer.
        """
        with talking_to(self.tracking_uri):
            uri = self._client.get_model_version_download_uri(model, version)
        return self.download_uri(uri, folder)

    def download_uri(self, uri: str, folder: Path) -> Path:
        """Fetch what lies behind ``runs:/…``, ``models:/…`` or the URI of an artifact into a folder.

        :raises DataError: when nothing is there.
        :raises TransientError: when MLflow does not answer.
        """
        from mlflow.artifacts import download_artifacts
        from mlflow.exceptions import MlflowException

        folder.mkdir(parents=True, exist_ok=True)
        gone = DataError(
            "The model's files are gone.",
            detail=f"nothing lies at {without_credentials(uri)}",
            hint="Its run or its artifacts were deleted: log the model again, and register that.",
        )
        with talking_to(self.tracking_uri):
            try:
                fetched = Path(download_artifacts(uri, dst_path=str(folder), tracking_uri=self.tracking_uri))
            except FileNotFoundError:
                raise gone from None
            except MlflowException as error:
                if _NOT_FOUND.search(str(error)):  # of each file, inside an error without a code
                    raise gone from None
                raise
        if not any(path.is_file() for path in (fetched, *fetched.rglob("*"))):
            raise gone
        return fetched

    def _fetch_json(self, uri: str, folder: Path) -> Any:
        from mlflow.artifacts import download_artifacts

        path = download_artifacts(uri, dst_path=str(folder), tracking_uri=self.tracking_uri)
        return json.loads(Path(path).read_bytes())

    # --- how a version comes to be ---------------------------------------------------------------------

    def _experiment(self, model: str) -> str:
        """Return the id of the model's experiment, made if need be; another may make it at the same time."""
        from mlflow.exceptions import MlflowException

        found = self._client.get_experiment_by_name(model)
        if found is None:
            try:
                return str(self._client.create_experiment(model))
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                found = self._client.get_experiment_by_name(model)
        return str(found.experiment_id)

    def _version_of(self, model: str, run: TrainingRun) -> ModelVersion | None:
        versions = self._client.search_model_versions(f"run_id = '{run.run_id}'")
        return next((one for one in versions if one.name == model), None)

    def _make_version(  # noqa: PLR0917
        self,
        run: TrainingRun,
        model: str,
        saved_model: Path,
        signature: Signature,
        versions: Mapping[str, str],
        tags: Mapping[str, str],
    ) -> ModelVersion:
        from mlflow.entities import LoggedModelOutput

        logged = self._client.create_logged_model(run.experiment_id, logged_name(model), source_run_id=run.run_id)
        with tempfile.TemporaryDirectory() as folder:
            ids = {"run_id": run.run_id, "model_id": logged.model_id}
            write_mlmodel(Path(folder), saved_model, signature, versions, **ids)
            self._client.log_model_artifacts(logged.model_id, folder)
        self._client.log_model_artifacts(logged.model_id, str(saved_model), SAVED_MODEL)
        self._client.finalize_logged_model(logged.model_id, "READY")
        self._client.log_outputs(run.run_id, [LoggedModelOutput(logged.model_id, step=0)])
        self._make_registered_model(model)
        version = self._client.create_model_version(
            model, source=f"models:/{logged.model_id}", run_id=run.run_id, model_id=logged.model_id, tags=dict(tags)
        )
        shown = [{"name": model, "version": version.version}]
        self._client.set_logged_model_tags(logged.model_id, {"mlflow.modelVersions": json.dumps(shown)})
        return version

    def _make_registered_model(self, model: str) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_registered_model(model)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _registered(self, version: ModelVersion, alias: str | None = None) -> RegisteredModel:
        with talking_to(self.tracking_uri):
            experiment_id = self._client.get_run(version.run_id).info.experiment_id if version.run_id else ""
        return RegisteredModel(
            model=version.name,
            version=str(version.version),
            run_id=version.run_id or "",
            experiment_id=experiment_id,
            source=version.source,
            alias=alias,
        )
