"""A version copied to another registered model, in the same registry or in another one.

In the same registry the copy is MLflow's own: a version of the other model with the same files. Into another registry
the files go along, byte for byte, with their checksums and the manifest; and a run with the parameters, metrics and
documents of the one that made the version. The same copy again is the version that is there already.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from airflow_mlops.contracts import RegisteredModel, content_hash
from airflow_mlops.engine.data.files import checksums
from airflow_mlops.engine.registry.connection import first_line, talking_to, without_credentials
from airflow_mlops.engine.registry.lookup import find_version, versions_of
from airflow_mlops.engine.registry.manifest import MANIFEST_FILE
from airflow_mlops.engine.registry.packaging import CHECKSUMS_FILE, SAVED_MODEL
from airflow_mlops.engine.registry.registry import Registry, logged_name
from airflow_mlops.exceptions import ConfigError, DataError, MlopsError, TransientError

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

T = TypeVar("T")

COPIED_FROM = "mlops.copied_from"
COPY_ID = "mlops.copy_id"
DOCUMENTS = (MANIFEST_FILE.name, "evaluation.json", "verdict.json")
"""What is copied of a run's files: other files of it may be of any size."""
_PARAMS_A_CALL = 100
_METRICS_A_CALL = 1000


@dataclass(frozen=True)
class Original:
    """A version as it was taken out of a registry: its files in ``folder``, the documents of its run in ``documents``.

    ``id`` is what :func:`copy_id` says of it.
    """

    id: str
    model: str
    version: int
    uri: str
    version_tags: dict[str, str]
    description: str
    run: Run | None
    folder: Path
    documents: Path


@dataclass(frozen=True)
class Copy:
    """A copy, made now or earlier, and of which version it is."""

    made: RegisteredModel
    of: str


def copy_within(registry: Registry, model: str, wanted: str, to_model: str) -> Copy:
    """Copy a version to another registered model of the same registry; that model is made if need be.

    :param wanted: Number or alias of the version.
    :raises ConfigError: when it is the same model.
    :raises DataError: when there is no such model, alias or version.
    """
    if to_model == model:
        raise ConfigError(
            f"A copy of {model!r} within one registry needs another name.",
            detail=f"to_model={to_model!r}, and the same MLflow",
            hint="Name another registered model, or the connection of another MLflow.",
        )
    version = find_version(registry, model, wanted)
    uri = f"models:/{model}/{version.version}"
    with talking_to(registry.tracking_uri):
        files = _files(registry, version)
        # By their files too: the same number may be of another model, which had this name before.
        earlier = (one for one in versions_of(registry, to_model) if one.source == uri)
        copy = next((one for one in earlier if _files(registry, one) == files), None)
        copy = copy or registry.client.copy_model_version(uri, to_model)
        registry.client.set_model_version_tag(to_model, copy.version, COPIED_FROM, uri)
    return Copy(registry.version(to_model, str(copy.version)), uri)


def copy_id(registry: Registry, model: str, wanted: str) -> str:
    """Return what tells a version from every other version of any registry.

    :param wanted: Number or alias of the version.
    :raises DataError: when there is no such model, alias or version.
    """
    return _id(find_version(registry, model, wanted))


def find_copy(registry: Registry, identity: str, to_model: str) -> Copy | None:
    """Return the copy of a version that :func:`put` made earlier, or None.

    :param identity: What :func:`copy_id` said of the version.
    """
    for earlier in versions_of(registry, to_model):
        if earlier.tags.get(COPY_ID) == identity:
            return Copy(registry.version(to_model, str(earlier.version)), earlier.tags[COPIED_FROM])
    return None


def take(registry: Registry, model: str, wanted: str, folder: Path) -> Original:
    """Fetch a version and what its run says, to :func:`put` them into another registry.

    :param wanted: Number or alias of the version.
    :param folder: An empty folder.
    :raises DataError: when there is no such model, alias or version, or it has no files.
    :raises TransientError: when MLflow does not answer, or what arrived is not what was logged.
    """
    version = find_version(registry, model, wanted)
    documents = folder / "documents"
    documents.mkdir(parents=True)
    files = _fetch(registry, version, folder / "model")
    run = None
    with talking_to(registry.tracking_uri):
        if version.run_id:
            run = registry.client.get_run(version.run_id)
            for file in registry.client.list_artifacts(version.run_id):
                if file.path in DOCUMENTS:
                    registry.client.download_artifacts(version.run_id, file.path, str(documents))
    number = int(version.version)
    return Original(
        id=_id(version),
        model=model,
        version=number,
        uri=f"{without_credentials(registry.tracking_uri)} models:/{model}/{number}",
        version_tags=dict(version.tags),
        description=version.description or "",
        run=run,
        folder=files,
        documents=documents,
    )


def put(registry: Registry, original: Original, to_model: str) -> Copy:
    """Register what :func:`take` fetched as a version of a model, which is made if need be.

    Killed anywhere, the next one goes on with the same run and makes one version.

    :raises TransientError: when MLflow does not answer.
    """
    from mlflow.entities import LoggedModelOutput

    client = registry.client
    if (earlier := find_copy(registry, original.id, to_model)) is not None:
        return earlier
    with talking_to(registry.tracking_uri):
        experiment_id = registry._experiment(to_model)
        run_id = _run_of(registry, original, experiment_id)
        registry._make_registered_model(to_model)
        logged = client.create_logged_model(experiment_id, logged_name(to_model), source_run_id=run_id)
        client.log_model_artifacts(logged.model_id, str(original.folder))
        client.finalize_logged_model(logged.model_id, "READY")
        client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
        made = client.create_model_version(
            to_model,
            source=f"models:/{logged.model_id}",
            run_id=run_id,
            model_id=logged.model_id,
            tags={**original.version_tags, COPIED_FROM: original.uri, COPY_ID: original.id},
            description=original.description,
        )
        client.set_terminated(run_id, "FINISHED")
    return Copy(registry.version(to_model, str(made.version)), original.uri)


def _id(version: ModelVersion) -> str:
    return content_hash([version.name, int(version.version), version.creation_timestamp, version.source])


def _files(registry: Registry, version: ModelVersion) -> str:
    return str(registry.client.get_model_version_download_uri(version.name, version.version))


def _fetch(registry: Registry, version: ModelVersion, folder: Path) -> Path:
    """Fetch the files of a version; of one that this package registered, hold them against their checksums."""
    from mlflow.artifacts import download_artifacts

    where, uri = f"version {version.version} of {version.name!r}", version.source
    folder.mkdir()
    try:
        with talking_to(registry.tracking_uri):
            uri = _files(registry, version)
            fetched = Path(download_artifacts(uri, dst_path=str(folder), tracking_uri=registry.tracking_uri))
    except MlopsError:
        raise
    except Exception as error:  # of whatever storage the files are in
        raise TransientError(
            f"The files of {where} cannot be read.",
            detail=f"{without_credentials(uri)}: {first_line(error)}",
            hint="Check that the worker may read this storage, and has the library for it.",
        ) from None
    if not any(path.is_file() for path in fetched.rglob("*")):
        raise DataError(
            f"There are no files of {where}.",
            detail=without_credentials(uri),
            hint="They were removed from the artifact store, or never logged: train and register it again.",
        )
    told = fetched / CHECKSUMS_FILE
    if told.is_file() and checksums(fetched / SAVED_MODEL) != json.loads(told.read_bytes()):
        shutil.rmtree(folder)
        raise TransientError(
            f"The files of {where} did not arrive as they were logged.",
            detail=f"{without_credentials(uri)}: files differ from their checksums",
            hint="Run the task again; if it stays so, the artifact store has lost bytes: train again.",
        )
    return fetched


def _run_of(registry: Registry, original: Original, experiment_id: str) -> str:
    """Return the run of a copy, found again or made new, with what the original's run says."""
    from mlflow.entities import Metric, Param, RunTag

    client = registry.client
    found = client.search_runs([experiment_id], f"tags.`{COPY_ID}` = '{original.id}'", max_results=1)
    run = found[0] if found else client.create_run(experiment_id, tags={COPY_ID: original.id})
    said = original.run
    tags = {"mlflow.runName": f"{original.model} {original.version}", COPIED_FROM: original.uri, COPY_ID: original.id}
    if said is not None:
        tags = {name: value for name, value in said.data.tags.items() if name.startswith("mlops.")} | tags
        for some in _batches([Param(name, value) for name, value in said.data.params.items()], _PARAMS_A_CALL):
            client.log_batch(run.info.run_id, params=some)
        # One moment for all, so that repeating it keeps nothing twice.
        at = said.info.end_time or said.info.start_time
        finite = [Metric(name, value, at, 0) for name, value in said.data.metrics.items() if math.isfinite(value)]
        for values in _batches(finite, _METRICS_A_CALL):
            client.log_batch(run.info.run_id, metrics=values)
    client.log_batch(run.info.run_id, tags=[RunTag(name, value) for name, value in tags.items()])
    client.log_artifacts(run.info.run_id, str(original.documents))
    return str(run.info.run_id)


def _batches(of: Sequence[T], size: int) -> Iterator[list[T]]:
    rest = iter(of)
    while some := list(islice(rest, size)):
        yield some
